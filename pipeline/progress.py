"""What a person sees of a run: a live table on a terminal, one plain line per event elsewhere."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TextIO

from cluster.executor import Event
from pipeline.errors import shortened

QUARTERS, FEWEST_STEPS = 4, 10  # where every line stays, an item of so many steps is told of at each quarter


@dataclass
class Actor:
    """What one worker is at, and how fast it goes."""

    state: str = "starting"
    item: str = ""
    done: int = 0
    total: int = 0
    since: float = 0.0  # clock at the first progress of the present item
    first: int = 0  # steps that had been done then: a resumed item does not begin at 0
    note: str = ""

    def eta_seconds(self, now: float) -> float | None:
        """How long the present item will take from now; None before two signs of life."""
        steps = self.done - self.first
        return (now - self.since) / steps * (self.total - self.done) if steps > 0 and self.total else None


@dataclass
class Board:
    """The state of a run as its events tell it; `say` gets a line for each that matters."""

    jobs: int
    last_stage: str
    say: Callable[[str], None]
    names: Callable[[Any], str]
    clock: Callable[[], float] = time.monotonic
    actors: dict[tuple[str, int], Actor] = field(default_factory=dict)
    ended: int = 0
    failed: int = 0

    def watch(self, event: Event) -> None:
        """Take in one event; an item that ends its last stage has ended."""
        actor = self.actors.setdefault((event.stage, event.worker), Actor())
        who, item = f"{event.stage} {event.worker}", self.names(event.item)
        if event.kind == "starting":
            self.actors[event.stage, event.worker] = Actor()
            self.say(f"{who}: starting")
        elif event.kind == "ready":
            actor.state = "idle"
            self.say(f"{who}: ready" + (f" (process {event.pid})" if event.pid else ""))
        elif event.kind == "started":
            self.actors[event.stage, event.worker] = Actor("working", item)
            self.say(f"{who}: {item}")
        elif event.kind == "progress" and event.progress:
            self._progress(actor, who, event.progress)
        elif event.kind == "retried":
            self.say(f"{who}: {item}: {event.note}; trying again")
        elif event.kind == "died":
            self.actors.pop((event.stage, event.worker))
        else:
            self._ended(event, who, item)

    def _progress(self, actor: Actor, who: str, progress: Any) -> None:
        now = self.clock()
        if not actor.total:
            actor.since, actor.first = now, progress.done
        before, actor.done, actor.total, actor.note = actor.done, progress.done, progress.total, progress.note
        quarters = [steps * QUARTERS // progress.total for steps in (before, progress.done)]
        if before and progress.total >= FEWEST_STEPS and quarters[0] < quarters[1] < QUARTERS:
            eta = actor.eta_seconds(now)
            left = f", {duration(eta)} left" if eta is not None else ""
            self.say(f"{who}: {actor.item}: {progress.done} of {progress.total}{left}")

    def _ended(self, event: Event, who: str, item: str) -> None:
        self.actors[event.stage, event.worker] = Actor("idle")
        if event.kind == "failed":
            self.ended, self.failed = self.ended + 1, self.failed + 1
            self.say(f"{who}: {item}: failed: {event.note} ({self.ended} of {self.jobs})")
        elif event.stage == self.last_stage:
            self.ended += 1
            self.say(f"{who}: {item}: done ({self.ended} of {self.jobs})")


def prompt_of(item: Any) -> str:
    """What an item is called: its prompt."""
    prompt = getattr(item, "prompt", "")
    return shortened(str(getattr(prompt, "text", prompt)), 48)


def prompt_and_method_of(item: Any) -> str:
    """What an item is called where the same prompt comes with several methods."""
    method = getattr(item, "method", None)
    return f"{prompt_of(item)} ({method})" if method else prompt_of(item)


def duration(seconds: float) -> str:
    """`2 min 5 s`, with no more precision than it deserves."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Display(AbstractContextManager):
    """Shows a `Board` while it is entered; `watcher` is for `Executor.run`."""

    def __init__(self, jobs: int, last_stage: str, names: Callable[[Any], str] = prompt_of, out: TextIO | None = None):
        self.out = sys.stderr if out is None else out
        self.live: Any = None
        is_terminal = self.out.isatty()
        self.board = Board(jobs, last_stage, (lambda line: None) if is_terminal else self._line, names)
        self.begun = time.monotonic()
        self.context: AbstractContextManager = self._table() if is_terminal else nullcontext()

    def watcher(self, event: Event) -> None:
        self.board.watch(event)
        if self.live is not None and event.kind in ("failed", "retried"):
            line = f"{event.stage} {event.worker}: {self.board.names(event.item)}: {event.note}"
            self.live.console.print(line, markup=False, highlight=False)

    def __enter__(self) -> "Display":
        self.live = self.context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)

    def _line(self, line: str) -> None:
        print(f"[{duration(time.monotonic() - self.begun)}] {line}", file=self.out, flush=True)

    def _table(self) -> AbstractContextManager:
        from rich.console import Console
        from rich.live import Live

        return Live(get_renderable=self.render, console=Console(file=self.out), refresh_per_second=4, transient=True)

    def render(self) -> Any:
        """The board as a rich table: a row per worker."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now, board = time.monotonic(), self.board
        failures = f", {board.failed} failed" if board.failed else ""
        title = f"{board.ended} of {board.jobs} ended{failures}, {duration(now - self.begun)}"
        table = Table("worker", "prompt", "", "steps", "left", "", title=title, title_justify="left", box=None)
        for (stage, worker), actor in sorted(
            board.actors.items(), key=lambda entry: (entry[0][0] == board.last_stage, entry[0])
        ):
            eta = actor.eta_seconds(now)
            bar = ProgressBar(total=actor.total, completed=actor.done, width=24) if actor.total else ""
            steps = f"{actor.done}/{actor.total}" if actor.total else ""
            left = "" if eta is None else duration(eta)
            table.add_row(f"{stage} {worker}", Text(actor.item or actor.state), bar, steps, left, actor.note)
        return table
