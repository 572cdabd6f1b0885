"""Progress output of a run: a live table on a terminal, log lines elsewhere, or one JSON record per event.

Log lines report when items start, finish and fail, and once a minute a summary of the whole run.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TextIO

from cluster.scheduling.workers import Event, Workers, WorkerView
from pipeline.errors import UserError, nearest, shortened
from pipeline.events.log import Recorder, Sink, line

LOGS = "auto", "table", "lines", "json"
SUMMARY_SECONDS, MAX_WORKERS_LISTED = 60.0, 4  # of the summary lines: the interval, and the workers listed in each
NOTE_COLUMNS = len("1,000,000 Gaussians")  # width of the note on a narrow terminal
WIDE = 110  # columns a terminal needs for progress bars, checkpoints and seconds
MIN_SHARE_DONE = 0.01  # share of the work that must be done before the remaining time is estimated


@dataclass
class RunProgress:
    """The state of a run, updated by its events; `report` is called with a log line for each important event."""

    jobs: int
    last_stage: str
    report: Callable[[str], None]
    names: Callable[[Any], str]
    workers: Workers = field(default_factory=Workers)
    waits_for: str = ""  # what comes before the first event
    ended: int = 0
    failed: int = 0
    started: float | None = None  # clock when the first item was started

    def eta_seconds(self, now: float) -> float | None:
        """Estimated time left at the average speed so far; None until `MIN_SHARE_DONE` of the work is done."""
        there = list(self.workers.views.values())  # copied, because another thread may call this while events arrive
        views = [view for view in there if view.progress.total and view.stage != self.last_stage]
        share = sum((view.progress.done - view.first_done) / view.progress.total for view in views)
        before = sum(view.first_done / view.progress.total for view in views)
        done, left = self.ended + share, self.jobs - self.ended - share - before
        if self.started is None or done < MIN_SHARE_DONE * self.jobs:
            return None
        return (now - self.started) / done * max(left, 0.0)

    def totals(self, now: float) -> list[str]:
        """How many items have finished, what the run waits for before its first event, and the estimated time left."""
        left, is_waiting = self.eta_seconds(now), self.waits_for and not self.workers.views
        return [
            f"{self.ended} of {self.jobs} finished" + (f" ({self.failed} failed)" if self.failed else ""),
            *([f"waiting for {self.waits_for}"] if is_waiting else []),
            *([] if left is None else [f"about {duration(left)} left"]),
        ]

    def in_order(self) -> list[WorkerView]:
        """Workers sorted by name, those of the last stage at the end."""
        views = list(self.workers.views.values())
        return sorted(views, key=lambda view: (view.stage == self.last_stage, view.stage, view.worker))

    def activity(self, view: WorkerView) -> str:
        """The name of a worker's item, or its state."""
        return (self.names(view.item) if view.item is not None else "") or view.state

    def summary(self) -> str:
        """The progress of the whole run in one line. It lists at most `MAX_WORKERS_LISTED` workers."""
        busy = [view for view in self.in_order() if view.state != "idle"]
        listed = [f"{view.stage} {view.worker}: {self._facts(view)}" for view in busy[:MAX_WORKERS_LISTED]]
        more = [f"{len(busy) - MAX_WORKERS_LISTED} more"] if len(busy) > MAX_WORKERS_LISTED else []
        return "; ".join([", ".join(self.totals(self.workers.clock())), *listed, *more])

    def _facts(self, view: WorkerView) -> str:
        """The item, its steps, speed and memory, as part of a summary line."""
        progress, pace = view.progress, view.pace
        facts = [
            self.activity(view),
            f"step {progress.done} of {progress.total}" if progress.total else "",
            "" if pace is None else f"{pace:.3g} s/step",
            progress.note,
            "" if progress.memory_bytes is None else gibibytes(progress.memory_bytes),
        ]
        return ", ".join(filter(None, facts))

    def watch(self, event: Event, view: WorkerView) -> None:
        """Count and report an event; `view` is its worker's after it. An item ends with its last stage or a failure."""
        who, item = f"{event.stage} {event.worker}", self.names(event.item)
        match event.kind:
            case "starting":
                self.report(f"{who}: starting")
            case "ready":
                self.report(f"{who}: ready" + (f" (process {event.pid})" if event.pid else ""))
            case "started":
                self.started = view.since if self.started is None else self.started
                self.report(f"{who}: {item}: started")
            case "preparing":
                self.report(f"{who}: {item}: {event.note}")
            case "retried":
                self.report(f"{who}: {item}: {event.note}; retrying")
            case "died" | "stopped" if event.note != view.failure:  # else the worker's item has reported it already
                self.report(f"{who}: {event.note}")
            case "failed":
                self.ended, self.failed = self.ended + 1, self.failed + 1
                self.report(f"{who}: {item}: failed: {event.note} ({self.ended} of {self.jobs})")
            case "finished" if event.stage == self.last_stage:
                self.ended += 1
                self.report(f"{who}: {item}: done ({self.ended} of {self.jobs})")


def prompt_of(item: Any) -> str:
    """The display name of an item: its prompt."""
    prompt = getattr(item, "prompt", "")
    return shortened(str(getattr(prompt, "text", prompt)), 48)


def prompt_and_method_of(item: Any) -> str:
    """The display name of an item in a run with several methods: its prompt and its method."""
    method = getattr(item, "method", None)
    return f"{prompt_of(item)} ({method})" if method else prompt_of(item)


def duration(seconds: float, *, brief: bool = False) -> str:
    """`2 min 5 s`, without seconds from an hour on (`1 h 2 min`). `brief` drops them from a minute on (`2 min`)."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return (f"{minutes} min" if brief else f"{minutes} min {rest} s") if minutes else f"{rest} s"


def gibibytes(count: int) -> str:
    """A number of bytes in GiB, for display."""
    return f"{count / 2**30:.1f} GiB"


def check_log(log: str) -> None:
    """Raise UserError for an unknown form of progress output."""
    if log not in LOGS:
        raise UserError(f"Unknown value {log!r} for --log; choose from {', '.join(LOGS)}{nearest(log, LOGS)}.")


class _JsonLines(Sink):
    """Prints each record at once."""

    def __init__(self, out: TextIO):
        self.out = out

    def take(self, record: dict[str, Any]) -> None:
        self.out.write(f"{line(record)}\n")
        self.out.flush()


class Display(AbstractContextManager):
    """Context manager that shows the progress of a run and passes records to sinks; `watcher` is for `Executor.run`.

    `log` is table, lines, json, or auto: a table on a terminal, lines elsewhere. Summary lines come every
    `summary_seconds`. `waits_for` is what the run waits for before its first event.
    """

    def __init__(
        self,
        jobs: int,
        last_stage: str,
        names: Callable[[Any], str] = prompt_of,
        out: TextIO | None = None,
        log: str = "auto",
        sinks: Sequence[Sink] = (),
        summary_seconds: float = SUMMARY_SECONDS,
        waits_for: str = "",
    ):
        self.out = sys.stderr if out is None else out
        self.live: Any = None
        if log == "auto":
            log = "table" if self.out.isatty() else "lines"
        self.workers = Workers()
        report = self._line if log == "lines" else lambda text: None
        self.progress = RunProgress(jobs, last_stage, report, names, self.workers, waits_for)
        self.recorder = Recorder([*sinks, *([_JsonLines(self.out)] if log == "json" else [])])
        self.started = time.monotonic()
        self.log, self.summary_seconds = log, summary_seconds
        self.context: AbstractContextManager = (
            self._table() if log == "table" else self._summaries() if log == "lines" else nullcontext()
        )

    def watcher(self, event: Event) -> None:
        view = self.workers.take(event)
        self.progress.watch(event, view)
        self.recorder.watch(event, view)
        if self.live is not None and event.kind in ("failed", "retried"):
            text = f"{event.stage} {event.worker}: {self.progress.names(event.item)}: {event.note}"
            self.live.console.print(text, markup=False, highlight=False)

    def __enter__(self) -> "Display":
        if self.progress.waits_for:
            self.progress.report(f"waiting for {self.progress.waits_for}")
        self.live = self.context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)
        if isinstance(error[1], KeyboardInterrupt) and self.log != "json":
            self._line("stopping; press Ctrl-C again to kill immediately")
        self.recorder.close()

    def _line(self, text: str) -> None:
        self.out.write(
            f"[{duration(time.monotonic() - self.started)}] {text}\n"
        )  # one write per line: two threads write
        self.out.flush()

    @contextmanager
    def _summaries(self) -> Iterator[None]:
        """Print summary lines from a thread, also while no events arrive."""
        ended = threading.Event()

        def report() -> None:
            while not ended.wait(self.summary_seconds):
                self.progress.report(self.progress.summary())

        thread = threading.Thread(target=report, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _table(self) -> AbstractContextManager:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self.out, force_terminal=True)
        return Live(get_renderable=self.render, console=console, refresh_per_second=4, transient=True)

    def render(self) -> Any:
        """The progress as a rich table: totals in the title, then a row per worker."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now, progress = time.monotonic(), self.progress
        ended, *rest = progress.totals(now)
        title = Text(" · ".join([ended, f"{duration(now - self.started)} elapsed", *rest]), style="bold")
        table = Table(title=title, title_justify="left", box=None, header_style="dim", pad_edge=False)
        is_wide = self.live is None or self.live.console.width >= WIDE
        for name in ("worker", "prompt", "steps", "s/step", "left", "memory", "", *(["saved", ""] if is_wide else [])):
            is_number = name in ("steps", "s/step", "left", "memory", "saved")
            table.add_column(name, justify="right" if is_number else "left", no_wrap=name != "prompt")
        for view in progress.in_order():
            beat, pace, eta = view.progress, view.pace, view.seconds_left
            bar = ProgressBar(total=beat.total, completed=beat.done, width=16) if beat.total else ""
            style = "dim" if view.item is None else ""
            table.add_row(
                f"{view.stage} {view.worker}",
                Text(progress.activity(view), style, no_wrap=True, overflow="ellipsis"),
                f"{beat.done}/{beat.total}" if beat.total else "",
                "" if pace is None else f"{pace:.3g}",
                "" if eta is None else duration(eta, brief=not is_wide),
                "" if beat.memory_bytes is None else gibibytes(beat.memory_bytes),
                Text(beat.note if is_wide else beat.note[:NOTE_COLUMNS], no_wrap=True, overflow="ellipsis"),
                *([str(beat.saved) if beat.saved else "", bar] if is_wide else []),
            )
        return table
