"""What a person sees of a run: a live table on a terminal; elsewhere plain lines of what begins, ends and fails, and
one a minute of how far all is; or a line of JSON per event.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TextIO

from cluster.scheduling.executor import Event
from pipeline.errors import UserError, nearest, shortened
from pipeline.events.log import Recorder, Sink, line

LOGS = "auto", "table", "lines", "json"
MINUTE_SECONDS, MOST_TOLD = 60.0, 4  # where every line stays: between two signs of life, and workers named in each
NOTE_COLUMNS = len("1,000,000 Gaussians")  # of a narrow terminal
WIDE = 110  # columns of a terminal that has room for bars, checkpoints and seconds
LEAST_SHARE = 0.01  # of the work, before a guess is made of how long all will take


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
    saved: int = 0  # the step of its last checkpoint
    memory_bytes: int | None = None
    reason: str = ""  # of its item's failure, which may be why it ends

    def seconds_per_step(self, now: float) -> float | None:
        """None before two signs of life."""
        steps = self.done - self.first
        return (now - self.since) / steps if steps > 0 and self.total else None

    def eta_seconds(self, now: float) -> float | None:
        """How long the present item will take from now; None before two signs of life."""
        pace = self.seconds_per_step(now)
        return None if pace is None else pace * (self.total - self.done)

    def told(self, now: float) -> str:
        """What it is at, for a line."""
        pace = self.seconds_per_step(now)
        facts = [
            self.item or self.state,
            f"{self.done} of {self.total}" if self.total else "",
            "" if pace is None else f"{pace:.3g} s/step",
            self.note,
            "" if self.memory_bytes is None else gibibytes(self.memory_bytes),
        ]
        return ", ".join(filter(None, facts))


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
    begun: float | None = None  # clock when the first item was

    def eta_seconds(self, now: float) -> float | None:
        """How long all will take from now, if they go on as they have gone; None while next to nothing is done."""
        there = list(self.actors.items())  # a copy at once: another thread may ask while this one takes in events
        actors = [actor for (stage, _), actor in there if actor.total and stage != self.last_stage]
        share = sum((actor.done - actor.first) / actor.total for actor in actors)
        before = sum(actor.first / actor.total for actor in actors)
        done, left = self.ended + share, self.jobs - self.ended - share - before
        if self.begun is None or done < LEAST_SHARE * self.jobs:
            return None
        return (now - self.begun) / done * max(left, 0.0)

    def totals(self, now: float) -> list[str]:
        """What has ended, and when the rest will have."""
        left = self.eta_seconds(now)
        return [
            f"{self.ended} of {self.jobs} ended",
            *([f"{self.failed} failed"] if self.failed else []),
            *([] if left is None else [f"about {duration(left)} to go"]),
        ]

    def in_order(self) -> list[tuple[str, Actor]]:
        """Workers by name, those of the last stage behind."""
        order = sorted(self.actors.items(), key=lambda entry: (entry[0][0] == self.last_stage, entry[0]))
        return [(f"{stage} {worker}", actor) for (stage, worker), actor in order]

    def summary(self) -> str:
        """How far all is, in one line however many workers there are."""
        now = self.clock()
        busy = [(who, actor) for who, actor in self.in_order() if actor.state != "idle"]
        told = [f"{who}: {actor.told(now)}" for who, actor in busy[:MOST_TOLD]]
        more = [f"{len(busy) - MOST_TOLD} more"] if len(busy) > MOST_TOLD else []
        return "; ".join([", ".join(self.totals(now)), *told, *more])

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
            self.begun = self.clock() if self.begun is None else self.begun
            self.say(f"{who}: {item}")
        elif event.kind == "progress" and event.progress:
            self._progress(actor, event.progress)
        elif event.kind == "checkpoint" and event.progress:
            actor.saved = event.progress.saved
        elif event.kind == "retried":
            actor.reason = event.note
            self.say(f"{who}: {item}: {event.note}; trying again")
        elif event.kind == "died":
            self.actors.pop((event.stage, event.worker))
            if event.note != actor.reason:  # it had no item that has told so
                self.say(f"{who}: {event.note}")
        else:
            self._ended(event, who, item)

    def _progress(self, actor: Actor, progress: Any) -> None:
        now = self.clock()
        if not actor.total:
            actor.since, actor.first = now, progress.done
        actor.done, actor.total, actor.note = progress.done, progress.total, progress.note
        actor.memory_bytes, actor.saved = progress.memory_bytes, progress.saved

    def _ended(self, event: Event, who: str, item: str) -> None:
        self.actors[event.stage, event.worker] = Actor("idle")
        if event.kind == "failed":
            self.ended, self.failed = self.ended + 1, self.failed + 1
            self.actors[event.stage, event.worker].reason = event.note
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


def duration(seconds: float, *, brief: bool = False) -> str:
    """`2 min 5 s`, with no more precision than it deserves; `brief`: `2 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return (f"{minutes} min" if brief else f"{minutes} min {rest} s") if minutes else f"{rest} s"


def gibibytes(count: int) -> str:
    """Memory, for people."""
    return f"{count / 2**30:.1f} GiB"


def check_log(log: str) -> None:
    """Raise UserError for a way to tell of a run that there is not."""
    if log not in LOGS:
        raise UserError(f"There is no --log {log!r}; choose from {', '.join(LOGS)}{nearest(log, LOGS)}.")


class _JsonLines:
    """Prints records as they come."""

    def __init__(self, out: TextIO):
        self.out = out

    def take(self, record: dict[str, Any]) -> None:
        print(line(record), file=self.out, flush=True)

    def close(self) -> None:
        """Nothing is kept back."""


class Display(AbstractContextManager):
    """Shows a `Board` while it is entered, and gives records to the sinks; `watcher` is for `Executor.run`.

    `log`: table, lines, json, or auto: a table on a terminal and lines elsewhere. `minute_seconds` part two lines
    that tell how far all is.
    """

    def __init__(
        self,
        jobs: int,
        last_stage: str,
        names: Callable[[Any], str] = prompt_of,
        out: TextIO | None = None,
        log: str = "auto",
        sinks: Sequence[Sink] = (),
        minute_seconds: float = MINUTE_SECONDS,
    ):
        self.out = sys.stderr if out is None else out
        self.live: Any = None
        if log == "auto":
            log = "table" if self.out.isatty() else "lines"
        self.board = Board(jobs, last_stage, self._line if log == "lines" else lambda text: None, names)
        self.recorder = Recorder([*sinks, *([_JsonLines(self.out)] if log == "json" else [])])
        self.begun = time.monotonic()
        self.log, self.minute_seconds = log, minute_seconds
        self.context: AbstractContextManager = (
            self._table() if log == "table" else self._every_minute() if log == "lines" else nullcontext()
        )

    def watcher(self, event: Event) -> None:
        self.board.watch(event)
        self.recorder.watch(event)
        if self.live is not None and event.kind in ("failed", "retried"):
            text = f"{event.stage} {event.worker}: {self.board.names(event.item)}: {event.note}"
            self.live.console.print(text, markup=False, highlight=False)

    def __enter__(self) -> "Display":
        self.live = self.context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self.context.__exit__(*error)
        if isinstance(error[1], KeyboardInterrupt) and self.log != "json":
            self._line("stopping; Ctrl-C again kills at once")
        self.recorder.close()

    def _line(self, text: str) -> None:
        self.out.write(f"[{duration(time.monotonic() - self.begun)}] {text}\n")  # at once: two threads write
        self.out.flush()

    @contextmanager
    def _every_minute(self) -> Iterator[None]:
        """A sign of life, also where a worker gives none for long."""
        ended = threading.Event()

        def tell() -> None:
            while not ended.wait(self.minute_seconds):
                self.board.say(self.board.summary())

        thread = threading.Thread(target=tell, daemon=True)
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
        """The board as a rich table: what has ended and what is left, then a row per worker."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now, board = time.monotonic(), self.board
        ended, *rest = board.totals(now)
        title = Text(" · ".join([ended, f"{duration(now - self.begun)} so far", *rest]), style="bold")
        table = Table(title=title, title_justify="left", box=None, header_style="dim", pad_edge=False)
        is_wide = self.live is None or self.live.console.width >= WIDE
        for name in ("worker", "prompt", "steps", "s/step", "left", "memory", "", *(["saved", ""] if is_wide else [])):
            is_number = name in ("steps", "s/step", "left", "memory", "saved")
            table.add_column(name, justify="right" if is_number else "left", no_wrap=name != "prompt")
        for who, actor in board.in_order():
            pace, eta = actor.seconds_per_step(now), actor.eta_seconds(now)
            bar = ProgressBar(total=actor.total, completed=actor.done, width=16) if actor.total else ""
            table.add_row(
                who,
                Text(actor.item or actor.state, "" if actor.item else "dim", no_wrap=True, overflow="ellipsis"),
                f"{actor.done}/{actor.total}" if actor.total else "",
                "" if pace is None else f"{pace:.3g}",
                "" if eta is None else duration(eta, brief=not is_wide),
                "" if actor.memory_bytes is None else gibibytes(actor.memory_bytes),
                Text(actor.note if is_wide else actor.note[:NOTE_COLUMNS], no_wrap=True, overflow="ellipsis"),
                *([str(actor.saved) if actor.saved else "", bar] if is_wide else []),
            )
        return table
