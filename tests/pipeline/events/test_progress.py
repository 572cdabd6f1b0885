import io
import json
import threading

import pytest

from cluster.scheduling.executor import Event, Progress
from pipeline.errors import UserError
from pipeline.events.progress import Board, Display, check_log, duration, prompt_and_method_of, prompt_of


@pytest.fixture
def lines():
    return []


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def board(lines, clock):
    return Board(2, "evaluate", lines.append, str, clock=lambda: clock[0])


def steps(board, clock, done, total, seconds=1.0, start=0):
    for step in range(start + 1, done + 1):
        clock[0] += seconds
        board.watch(Event("progress", "generate", 0, "cube", Progress(step, total)))


def test_every_event_that_matters_is_one_line(board, lines, clock):
    board.watch(Event("starting", "generate", 0))
    board.watch(Event("ready", "generate", 0, pid=77))
    board.watch(Event("started", "generate", 0, "cube"))
    steps(board, clock, 20, 20, seconds=3)
    board.watch(Event("finished", "generate", 0, "cube"))
    board.watch(Event("started", "evaluate", 0, "cube"))
    board.watch(Event("progress", "evaluate", 0, "cube", Progress(1, 4)))
    board.watch(Event("finished", "evaluate", 0, "cube"))
    board.watch(Event("retried", "generate", 0, "ball", note="its process died"))
    board.watch(Event("died", "generate", 0, note="its process died"))
    board.watch(Event("failed", "generate", 1, "ball", note="the prompt is empty"))
    assert lines == [
        "generate 0: starting",
        "generate 0: ready (process 77)",
        "generate 0: cube",
        "evaluate 0: cube",
        "evaluate 0: cube: done (1 of 2)",
        "generate 0: ball: its process died; trying again",
        "generate 1: ball: failed: the prompt is empty (2 of 2)",
    ]


def test_a_summary_tells_how_far_all_is_and_what_each_worker_is_at(board, clock):
    board.watch(Event("starting", "evaluate", 0))
    for worker, item in enumerate(("cube", "ball")):
        board.watch(Event("started", "generate", worker, item))
    for step in (100, 101):
        clock[0] += 2.0
        board.watch(Event("progress", "generate", 0, "cube", Progress(step, 200, "3,000 Gaussians", 3 * 2**30)))
    board.watch(Event("started", "generate", 2, "cone"))
    board.watch(Event("failed", "generate", 2, "cone", note="no"))
    assert board.summary() == (
        "1 of 2 ended, 1 failed, about 2 s to go; generate 0: cube, 101 of 200, 2 s/step, 3,000 Gaussians, 3.0 GiB; "
        "generate 1: ball; evaluate 0: starting"
    )


def test_a_summary_is_one_line_however_many_workers_there_are(board):
    for worker in range(1000):
        board.watch(Event("started", "generate", worker, f"cube {worker}"))
    board.watch(Event("ready", "evaluate", 0))
    assert board.summary() == (
        "0 of 2 ended; generate 0: cube 0; generate 1: cube 1; generate 2: cube 2; generate 3: cube 3; 996 more"
    )


class Waited(io.StringIO):
    """A log that tells when a text is in it."""

    def __init__(self, text):
        super().__init__()
        self.come, self.text = threading.Event(), text

    def write(self, text):
        super().write(text)
        if self.text in text:
            self.come.set()


def test_a_log_has_a_sign_of_life_each_minute_also_where_a_worker_gives_none(run_of):
    out, before = Waited("] 0 of 1 ended; generate 0: a red cube\n"), threading.active_count()
    with Display(1, "evaluate", out=out, minute_seconds=0.001) as display:
        display.watcher(Event("started", "generate", 0, run_of().jobs[0]))
        assert out.come.wait(60)
    assert threading.active_count() == before


@pytest.mark.parametrize("log", ["table", "json"])
def test_a_table_and_json_have_no_such_line(log):
    before = threading.active_count()
    with Display(1, "evaluate", out=io.StringIO(), log=log, minute_seconds=0.001):
        assert threading.active_count() == before + (log == "table")


@pytest.mark.parametrize(("log", "told"), [("lines", ["[0 s] stopping; Ctrl-C again kills at once"]), ("json", [])])
def test_an_interruption_is_told_of_before_workers_are_stopped(log, told):
    out = io.StringIO()
    with pytest.raises(KeyboardInterrupt), Display(1, "evaluate", out=out, log=log):
        raise KeyboardInterrupt
    assert out.getvalue().splitlines() == told


def test_the_time_left_of_a_resumed_item_is_told_from_what_was_done_now(board, clock):
    board.watch(Event("started", "generate", 0, "cube"))
    steps(board, clock, 110, 200, seconds=2, start=100)
    assert board.actors["generate", 0].eta_seconds(clock[0]) == pytest.approx(2 * 90)


def test_nothing_is_told_of_the_time_left_before_there_is_a_rate(board, clock):
    board.watch(Event("started", "generate", 0, "cube"))
    assert board.actors["generate", 0].eta_seconds(0.0) is None
    steps(board, clock, 1, 200)
    assert board.actors["generate", 0].eta_seconds(clock[0]) is None


def test_a_worker_that_died_without_an_item_leaves_the_board_and_says_why(board, lines):
    board.watch(Event("starting", "generate", 0))
    board.watch(Event("died", "generate", 0, note="its node was lost"))
    assert board.actors == {}
    assert lines == ["generate 0: starting", "generate 0: its node was lost"]


def test_the_reason_of_a_failed_item_is_told_once(board, lines):
    board.watch(Event("failed", "generate", 0, "cube", note="its process died"))
    board.watch(Event("died", "generate", 0, note="its process died"))
    assert lines == ["generate 0: cube: failed: its process died (1 of 2)"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.7, "1 min 0 s"), (125, "2 min 5 s"), (7261, "2 h 1 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text
    assert duration(seconds, brief=True) == (text if "h" in text else text.split(" min ")[0] + " min" * ("min" in text))


def test_items_are_called_by_their_prompts(run_of):
    job = run_of().jobs[0]
    assert prompt_of(job) == "a red cube"
    assert prompt_and_method_of(job) == "a red cube (sctd)"
    assert prompt_of(run_of(texts=("x" * 100,)).jobs[0]) == "x" * 47 + "…"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_a_row_per_worker_with_its_time_left(run_of):
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
    assert "0 of 1 ended" in shown
    generate, evaluate = [line for line in shown.splitlines() if line.strip().startswith(("generate", "evaluate"))]
    assert "a [red] cube" in generate
    assert "2/300" in generate
    assert "3,000 Gaussians" in generate
    assert " 0 s" in generate
    assert "starting" in evaluate


def test_a_narrow_terminal_keeps_pace_memory_and_gaussians_and_cuts_the_prompt(run_of, monkeypatch):
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


def test_elsewhere_each_event_is_a_line_with_the_time(run_of):
    out = io.StringIO()
    with Display(1, "evaluate", out=out) as display:
        display.watcher(Event("started", "generate", 0, run_of().jobs[0]))
    assert out.getvalue() == "[0 s] generate 0: a red cube\n"


def test_json_is_a_record_a_line_and_nothing_else(run_of):
    out = io.StringIO()
    with Display(1, "evaluate", out=out, log="json") as display:
        display.watcher(Event("started", "generate", 0, run_of().jobs[0]))
        display.watcher(Event("failed", "generate", 0, run_of().jobs[0], note="no", error_kind="input"))
    records = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(record["kind"], record["prompt_id"]) for record in records] == [
        ("started", "a-red-cube"),
        ("failed", "a-red-cube"),
    ]


def test_lines_are_lines_also_on_a_terminal(run_of):
    out = Terminal()
    with Display(1, "evaluate", out=out, log="lines") as display:
        display.watcher(Event("started", "generate", 0, run_of().jobs[0]))
    assert out.getvalue() == "[0 s] generate 0: a red cube\n"


def test_a_log_there_is_not_is_named():
    with pytest.raises(UserError) as caught:
        check_log("jsn")
    assert str(caught.value) == (
        "There is no --log 'jsn'; choose from auto, table, lines, json; the nearest is 'json'."
    )


def test_the_time_that_all_will_take_is_told_from_what_was_done_now(board, clock):
    assert board.eta_seconds(0.0) is None
    board.watch(Event("started", "generate", 0, "cube"))
    assert board.eta_seconds(0.0) is None
    steps(board, clock, 150, 200, start=100)
    # 49 of 200 steps in 50 s; of two items, half of one was done before: 1.5 less what was done now is left.
    done, left = 49 / 200, 2 - 49 / 200 - 101 / 200
    assert board.eta_seconds(clock[0]) == pytest.approx(50 / done * left)


def test_a_row_tells_pace_memory_and_checkpoint(run_of):
    from rich.console import Console

    job = run_of().jobs[0]
    display = Display(3, "evaluate", out=io.StringIO(), log="lines")
    display.board.clock = iter([0.0, 0.0, 2.0, 2.0]).__next__
    display.watcher(Event("started", "generate", 0, job))
    for step in (100, 101):
        display.watcher(Event("progress", "generate", 0, job, Progress(step, 300, "", 3 * 2**30, 90)))
    console = Console(file=io.StringIO(), width=120)
    console.print(display.render())
    (row,) = [line for line in console.file.getvalue().splitlines() if line.startswith("generate")]
    assert "101/300" in row
    assert "3.0 GiB" in row
    assert " 90" in row
