import io
import json
import threading
from collections import Counter

import pytest
from hypothesis import given, settings

from cluster.ray import metrics
from cluster.scheduling.workers import Event, Progress, Workers
from pipeline.errors import UserError
from pipeline.events import log
from pipeline.events.progress import Display, RunProgress, check_log, duration, prompt_and_method_of, prompt_of
from tests.support.worker_events import Instrument, any_events, taken


@pytest.fixture
def lines():
    return []


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def progress(lines, clock):
    return RunProgress(2, "evaluate", lines.append, str, Workers(lambda: clock[0]))


def watch(progress, event):
    progress.watch(event, progress.workers.take(event))


def steps(progress, clock, done, total, seconds=1.0, start=0):
    for step in range(start + 1, done + 1):
        clock[0] += seconds
        watch(progress, Event("progress", "generate", 0, "cube", Progress(step, total)))


def test_each_important_event_is_one_line(progress, lines, clock):
    watch(progress, Event("starting", "generate", 0))
    watch(progress, Event("ready", "generate", 0, pid=77))
    watch(progress, Event("started", "generate", 0, "cube"))
    watch(progress, Event("preparing", "generate", 0, "cube", Progress(0, 20), note="compiling the U-Net"))
    steps(progress, clock, 20, 20, seconds=3)
    watch(progress, Event("finished", "generate", 0, "cube"))
    watch(progress, Event("started", "evaluate", 0, "cube"))
    watch(progress, Event("progress", "evaluate", 0, "cube", Progress(1, 4)))
    watch(progress, Event("finished", "evaluate", 0, "cube"))
    watch(progress, Event("retried", "generate", 0, "ball", note="its process died"))
    watch(progress, Event("died", "generate", 0, note="its process died"))
    watch(progress, Event("failed", "generate", 1, "ball", note="the prompt is empty"))
    assert lines == [
        "generate 0: starting",
        "generate 0: ready (process 77)",
        "generate 0: cube: started",
        "generate 0: cube: compiling the U-Net",
        "evaluate 0: cube: started",
        "evaluate 0: cube: done (1 of 2)",
        "generate 0: ball: its process died; retrying",
        "generate 1: ball: failed: the prompt is empty (2 of 2)",
    ]


def test_summary_reports_totals_and_the_progress_of_each_worker(progress, clock):
    watch(progress, Event("starting", "evaluate", 0))
    for worker, item in enumerate(("cube", "ball")):
        watch(progress, Event("started", "generate", worker, item))
    for step in (100, 101):
        clock[0] += 2.0
        watch(progress, Event("progress", "generate", 0, "cube", Progress(step, 200, "3,000 Gaussians", 3 * 2**30)))
    watch(progress, Event("started", "generate", 2, "cone"))
    watch(progress, Event("failed", "generate", 2, "cone", note="no"))
    assert progress.summary() == (
        "1 of 2 finished (1 failed), about 2 s left; "
        "generate 0: cube, step 101 of 200, 2 s/step, 3,000 Gaussians, 3.0 GiB; generate 1: ball; evaluate 0: starting"
    )


def test_summary_is_one_line_for_any_number_of_workers(progress):
    for worker in range(1000):
        watch(progress, Event("started", "generate", worker, f"cube {worker}"))
    watch(progress, Event("ready", "evaluate", 0))
    assert progress.summary() == (
        "0 of 2 finished; generate 0: cube 0; generate 1: cube 1; generate 2: cube 2; generate 3: cube 3; 996 more"
    )


class WaitingLog(io.StringIO):
    """A log that sets `found` when `text` is written."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text = threading.Event(), text

    def write(self, text):
        super().write(text)
        if self.text in text:
            self.found.set()


def test_summary_lines_are_printed_without_worker_events(run_of):
    out, before = WaitingLog("] 0 of 1 finished; generate 0: a red cube\n"), threading.active_count()
    with Display(1, "evaluate", out=out, summary_seconds=0.001) as display:
        display.watcher(Event("started", "generate", 0, run_of().jobs[0]))
        assert out.found.wait(60)
    assert threading.active_count() == before


@pytest.mark.parametrize("log", ["table", "json"])
def test_table_and_json_have_no_summary_lines(log):
    before = threading.active_count()
    with Display(1, "evaluate", out=io.StringIO(), log=log, summary_seconds=0.001):
        assert threading.active_count() == before + (log == "table")


@pytest.mark.parametrize(
    ("log", "expected"), [("lines", ["[0 s] stopping; press Ctrl-C again to kill immediately"]), ("json", [])]
)
def test_interruption_is_reported_before_workers_are_stopped(log, expected):
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Display(1, "evaluate", out=out, log=log):
        raise KeyboardInterrupt
    assert out.getvalue().splitlines() == expected


def test_time_left_of_a_resumed_item_uses_the_steps_since_it_resumed(progress, clock):
    watch(progress, Event("started", "generate", 0, "cube"))
    steps(progress, clock, 110, 200, seconds=2, start=100)
    assert progress.workers.views["generate", 0].seconds_left == pytest.approx(2 * 90)


def test_time_left_is_unknown_before_the_speed_is_known(progress, clock):
    watch(progress, Event("started", "generate", 0, "cube"))
    assert progress.workers.views["generate", 0].seconds_left is None
    steps(progress, clock, 1, 200)
    assert progress.workers.views["generate", 0].seconds_left is None


def test_lost_worker_without_an_item_is_removed_and_the_reason_reported(progress, lines):
    watch(progress, Event("starting", "generate", 0))
    watch(progress, Event("died", "generate", 0, note="its node was lost"))
    assert progress.workers.views == {}
    assert lines == ["generate 0: starting", "generate 0: its node was lost"]


def test_reason_of_a_failed_item_is_reported_once(progress, lines):
    watch(progress, Event("failed", "generate", 0, "cube", note="its process died"))
    watch(progress, Event("died", "generate", 0, note="its process died"))
    assert lines == ["generate 0: cube: failed: its process died (1 of 2)"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.7, "1 min 0 s"), (125, "2 min 5 s"), (7261, "2 h 1 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
    assert duration(seconds, brief=True) == (text if "h" in text else text.split(" min ")[0] + " min" * ("min" in text))


def test_items_are_named_by_their_prompts(run_of):
    job = run_of().jobs[0]
    assert prompt_of(job) == "a red cube"
    assert prompt_and_method_of(job) == "a red cube (sctd)"
    assert prompt_of(run_of(texts=("x" * 100,)).jobs[0]) == "x" * 47 + "…"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_table_has_a_row_per_worker_with_its_time_left(run_of):
    from rich.console import Console

    job = run_of(texts=("a [red] cube",)).jobs[0]
    out = Terminal()
    with Display(1, "evaluate", out=out) as display:
        display.watcher(Event("starting", "evaluate", 0))
        display.watcher(Event("started", "generate", 0, job))
        for step in (1, 2):
            display.watcher(Event("progress", "generate", 0, job, Progress(step, 300, "3,000 Gaussians")))
        console = Console(file=io.StringIO(), width=120)
        console.print(display.render())
    shown = console.file.getvalue()
    assert "0 of 1 finished" in shown
    generate, evaluate = [line for line in shown.splitlines() if line.strip().startswith(("generate", "evaluate"))]
    assert "a [red] cube" in generate
    assert "2/300" in generate
    assert "3,000 Gaussians" in generate
    assert " 0 s" in generate
    assert "starting" in evaluate


def test_narrow_table_shortens_the_prompt_and_keeps_speed_memory_and_gaussians(run_of, monkeypatch):
    from rich.console import Console

    monkeypatch.setenv("COLUMNS", "80")
    job = run_of(texts=("a red cube that is on top of a very large yellow sphere",)).jobs[0]
    with Display(2, "evaluate", out=Terminal()) as display:
        display.watcher(Event("started", "generate", 0, job))
        for step in (1500, 2500):
            display.watcher(
                Event("progress", "generate", 0, job, Progress(step, 5000, "81,920 Gaussians", 3 * 2**30, 9))
            )
        console = Console(file=io.StringIO(), width=80)
        console.print(display.render())
    (row,) = [line for line in console.file.getvalue().splitlines() if line.startswith("generate")]
    assert "a red " in row
    for fact in ("…", "2500/5000", "3.0 GiB", "81,920 Gaussians"):
        assert fact in row
    assert len(row) <= 80


def test_without_a_terminal_each_event_is_a_line_with_the_elapsed_time(run_of):
    out = io.StringIO()
    with Display(1, "evaluate", out=out) as display:
        display.watcher(Event("started", "generate", 0, run_of().jobs[0]))
    assert out.getvalue() == "[0 s] generate 0: a red cube: started\n"


def test_before_the_first_event_each_form_says_what_it_waits_for(run_of):
    from rich.console import Console

    def title(display):
        console = Console(file=io.StringIO(), width=120)
        console.print(display.render())
        return " ".join(console.file.getvalue().partition("worker")[0].split())  # a narrow table breaks its title

    started, waits = Event("started", "generate", 0, run_of().jobs[0]), "Ray to start on this machine"
    out = WaitingLog(f"] 0 of 1 finished, waiting for {waits}\n")
    with Display(1, "evaluate", out=out, summary_seconds=0.001, waits_for=waits) as display:
        assert out.found.wait(60)
        assert out.getvalue().splitlines()[0] == f"[0 s] waiting for {waits}"
        assert title(display).endswith(f"elapsed · waiting for {waits}")
        display.watcher(started)
        assert "waiting" not in display.progress.summary()
        assert "waiting" not in title(display)
    with Display(1, "evaluate", out=(json_out := io.StringIO()), log="json", waits_for=waits) as display:
        display.watcher(started)
    assert [json.loads(line)["kind"] for line in json_out.getvalue().splitlines()] == ["started"]


def drawn(display):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=160)
    console.print(display.render())
    return console.file.getvalue()


def test_table_and_json_show_each_compilation_before_the_first_step(run_of):
    job, notes, out = run_of().jobs[0], ["compiling the U-Net for batches of 4", "of 8"], io.StringIO()
    with Display(1, "evaluate", out=out, log="json") as display:
        for note in notes:
            beat = Progress(0, 900, note, is_preparing=True)
            display.watcher(Event("preparing", "generate", 0, job, beat, note))
            assert note in drawn(display)
        display.watcher(Event("progress", "generate", 0, job, Progress(1, 900, "40 Gaussians")))
        assert "of 8" not in drawn(display)
    records = [json.loads(line) for line in out.getvalue().splitlines()]
    found = [(record["kind"], record["note"], record["iteration"]) for record in records]
    assert found == [*(("preparing", note, 0) for note in notes), ("progress", "40 Gaussians", 1)]


def test_json_output_is_one_record_per_line(run_of):
    out = io.StringIO()
    with Display(1, "evaluate", out=out, log="json") as display:
        display.watcher(Event("started", "generate", 0, run_of().jobs[0]))
        display.watcher(Event("failed", "generate", 0, run_of().jobs[0], note="no", error_kind="input"))
    records = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(record["kind"], record["prompt_id"]) for record in records] == [
        ("started", "a-red-cube"),
        ("failed", "a-red-cube"),
    ]


def test_log_lines_can_be_chosen_on_a_terminal(run_of):
    out = Terminal()
    with Display(1, "evaluate", out=out, log="lines") as display:
        display.watcher(Event("started", "generate", 0, run_of().jobs[0]))
    assert out.getvalue() == "[0 s] generate 0: a red cube: started\n"


def measured(timed):
    """The gauges of workers and of their numbers after these events."""
    instruments = metrics._Instruments(*(Instrument() for _ in range(5)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(metrics, "_instruments", lambda: instruments)
        metrics.Metrics(taken(timed)[0], ("generate", "evaluate")).export()
    return instruments.workers.shown, instruments.number.shown


@settings(deadline=None)
@given(any_events())
def test_table_log_and_metrics_agree_on_every_worker(timed):
    out, clock = io.StringIO(), [0.0]
    display = Display(2, "evaluate", str, out, log="json")
    display.workers.clock = lambda: clock[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log, "PROGRESS_SECONDS", 0.0)  # a record of every heartbeat
        for now, event in timed:
            clock[0] = now
            display.watcher(event)
    rows = [
        tuple(map(str, cells)) for cells in zip(*(column.cells for column in display.render().columns), strict=True)
    ]
    logged = {}
    for record in map(json.loads, out.getvalue().splitlines()):
        key = record["stage"], record["worker"]
        if record["kind"] != "checkpoint" or logged.get(key, {"kind": "died"})["kind"] == "died":
            logged[key] = record
    assert sorted(row[0] for row in rows) == sorted(
        f"{stage} {worker}" for (stage, worker), record in logged.items() if record["kind"] != "died"
    )
    counted, numbers = Counter(), {}
    for who, doing, steps, pace, *_ in rows:
        stage, worker = who.split()
        counted[stage, doing if doing in ("starting", "idle") else "busy"] += 1
        record = logged[stage, int(worker)]
        is_beat = record["kind"] in ("preparing", "progress")
        assert steps == (f"{record['iteration']}/{record['iterations']}" if is_beat else "")
        speed = record.get("seconds_per_iteration")
        assert (float(pace) if pace else None) == (None if speed is None else pytest.approx(speed, rel=0.01, abs=1e-4))
        if is_beat:
            numbers |= {(stage, worker, name): record[name] for name in ("loss", "gaussians") if name in record}
    gauges, measurements = measured(timed)
    assert {key: count for key, count in gauges.items() if count} == counted
    assert measurements == numbers


def test_unknown_log_form_is_an_error():
    with pytest.raises(UserError) as caught:
        check_log("jsn")
    assert str(caught.value) == (
        "Unknown value 'jsn' for --log; choose from auto, table, lines, json; the nearest is 'json'."
    )


def test_time_left_of_the_run_uses_the_steps_of_this_session(progress, clock):
    assert progress.eta_seconds(0.0) is None
    watch(progress, Event("started", "generate", 0, "cube"))
    assert progress.eta_seconds(0.0) is None
    steps(progress, clock, 150, 200, start=100)
    # 49 of 200 steps took 50 s. 101 of 200 steps of the first item were done before, so they do not count as speed.
    done, left = 49 / 200, 2 - 49 / 200 - 101 / 200
    assert progress.eta_seconds(clock[0]) == pytest.approx(50 / done * left)


def test_row_shows_steps_memory_and_checkpoint(run_of):
    from rich.console import Console

    job = run_of().jobs[0]
    display = Display(3, "evaluate", out=io.StringIO(), log="lines")
    display.workers.clock = iter([0.0, 0.0, 2.0]).__next__
    display.watcher(Event("started", "generate", 0, job))
    for step in (100, 101):
        display.watcher(Event("progress", "generate", 0, job, Progress(step, 300, "", 3 * 2**30, 90)))
    console = Console(file=io.StringIO(), width=120)
    console.print(display.render())
    (row,) = [line for line in console.file.getvalue().splitlines() if line.startswith("generate")]
    assert "101/300" in row
    assert "3.0 GiB" in row
    assert " 90" in row
