"""Any sequence of events of a run's workers, in any order, with their times; and instruments without Prometheus."""

from hypothesis import strategies as st

from cluster.scheduling.workers import Event, Progress, Workers, WorkerView

WORKERS = ("generate", 0), ("generate", 1), ("evaluate", 0)
HEARTBEATS = "preparing", "progress", "checkpoint"
KINDS = "starting", "ready", "started", *HEARTBEATS, "finished", "failed", "retried", "died", "stopped"

Timed = list[tuple[float, Event]]


@st.composite
def any_events(draw) -> Timed:
    """Events with increasing times, most of them starts of items and heartbeats."""
    now, timed = 0.0, []
    for _ in range(draw(st.integers(0, 40))):
        now += draw(st.integers(0, 8)) / 4  # exact in binary, so that sums of times are exact as well
        kind = draw(st.sampled_from((*KINDS, *["started"] * 3, *["progress"] * 8)))
        progress, item, note = None, None, ""
        if kind in HEARTBEATS:
            done = draw(st.integers(0, 4))
            numbers = draw(st.dictionaries(st.sampled_from(("loss", "gaussians")), st.integers(0, 3).map(float)))
            progress = Progress(done, 9, saved=draw(st.integers(0, done)), numbers=numbers)
        if kind not in ("starting", "ready", "died", "stopped"):
            item = draw(st.sampled_from(("cube", "ball")))
        if kind in ("failed", "retried", "died", "stopped"):
            note = draw(st.sampled_from(("its process died", "no")))
        timed.append((now, Event(kind, *draw(st.sampled_from(WORKERS)), item, progress, note=note)))
    return timed


def taken(timed: Timed) -> tuple[Workers, list[WorkerView]]:
    """The workers after these events, and the view after each event."""
    clock = [0.0]
    workers, views = Workers(lambda: clock[0]), []
    for now, event in timed:
        clock[0] = now
        views.append(workers.take(event))
    return workers, views


class Instrument:
    """A gauge, counter or histogram that keeps the values it was given, by their labels."""

    def __init__(self):
        self.shown = {}
        self.observed = []

    def set(self, value, labels):
        self.shown[tuple(labels.values())] = value

    def inc(self, value, labels):
        self.observed.append((value, *labels.values()))

    observe = inc
