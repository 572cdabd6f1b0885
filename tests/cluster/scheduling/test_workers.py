"""The views of workers after any sequence of events."""

from dataclasses import replace
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from cluster.scheduling.workers import (
    NO_PROGRESS,
    REMEMBERED_INTERVALS,
    Event,
    Progress,
    Workers,
    WorkerView,
    progress_events,
)
from tests.support.worker_events import HEARTBEATS, any_events, taken

ENDS_ITEM = "finished", "failed", "retried"
STATES = {"starting": "starting", "ready": "idle", "started": "busy", **dict.fromkeys(ENDS_ITEM, "idle")}


def item_events(events):
    """The events since the current item of the worker started, or since it left its last one."""
    ends = [n for n, event in enumerate(events) if event.kind not in HEARTBEATS]
    return events[ends[-1] if ends else 0 :]


@given(any_events())
def test_a_worker_is_in_the_table_until_it_exits(timed):
    workers = taken(timed)[0]
    last = {(event.stage, event.worker): event.kind for _, event in timed}
    assert set(workers.views) == {key for key, kind in last.items() if kind not in ("died", "stopped")}


@given(any_events())
def test_a_view_follows_from_the_events_of_its_worker_alone(timed):
    workers = taken(timed)[0]
    for key, view in workers.views.items():
        own = [(now, event) for now, event in timed if (event.stage, event.worker) == key]
        assert taken(own)[0].views == {key: view}


@given(any_events())
def test_state_and_item_are_those_of_the_latest_event_that_changes_them(timed):
    workers = taken(timed)[0]
    for key, view in workers.views.items():
        mine = [(now, event) for now, event in timed if (event.stage, event.worker) == key]
        exits = [n for n, (_, event) in enumerate(mine) if event.kind in ("died", "stopped")]
        changes = [(now, event) for now, event in mine[exits[-1] + 1 if exits else 0 :] if event.kind in STATES]
        since, latest = changes[-1] if changes else (0.0, None)
        assert view.state == (STATES[latest.kind] if latest else "starting")
        assert view.since == since
        assert view.item == (latest.item if view.state == "busy" else None)


@given(any_events())
def test_the_pace_is_the_time_per_step_between_the_first_and_the_latest_heartbeat(timed):
    workers = taken(timed)[0]
    for key, view in workers.views.items():
        times = [(now, event) for now, event in timed if (event.stage, event.worker) == key]
        current = item_events([event for _, event in times])
        beats = [(now, event.progress) for now, event in times[-len(current) :] if event.kind == "progress"]
        assert view.beats == len(beats)
        notes = [(now, event.progress) for now, event in times[-len(current) :] if event.kind == "preparing"]
        latest = (beats or notes or [(0.0, NO_PROGRESS)])[-1][1]
        assert replace(view.progress, note="") == latest
        assert view.heard_at == max([view.since, *(now for now, _ in beats + notes)])
        assert view.intervals == tuple(later - sooner for (sooner, _), (later, _) in pairwise(beats))
        steps = beats[-1][1].done - beats[0][1].done if beats else 0
        assert view.pace == ((beats[-1][0] - beats[0][0]) / steps if steps > 0 else None)
        assert view.seconds_left == (None if steps <= 0 else view.pace * (view.progress.total - view.progress.done))


@given(any_events())
def test_seconds_and_failure_are_those_of_the_item_that_a_worker_has_left(timed):
    started, before = {}, {}
    for (now, event), view in zip(timed, taken(timed)[1], strict=True):
        key = event.stage, event.worker
        if event.kind in ("died", "stopped"):
            assert view.failure == (before[key].failure if key in before else "")
            before.pop(key, None)
        else:
            before[key] = view
        if event.kind in ENDS_ITEM:
            assert view.seconds == (now - started[key] if key in started else None)
            assert view.failure == event.note
        if event.kind not in HEARTBEATS:
            started.pop(key, None)
        if event.kind == "started":
            started[key] = now


@given(any_events(), st.integers(0, 30))
def test_earlier_views_do_not_change(timed, count):
    views = taken(timed)[1]
    assert taken(timed[:count])[1] == views[:count]


def test_a_new_process_does_not_inherit_the_place_of_the_last_one():
    workers = Workers(lambda: 0.0)
    ready = workers.take(Event("ready", "generate", 0, pid=77, node="n1", gpu="3"))
    assert (ready.pid, ready.node, ready.gpu) == (77, "n1", "3")
    assert workers.take(Event("started", "generate", 0, "cube")) == replace(ready, state="busy", item="cube")
    assert workers.take(Event("starting", "generate", 0)) == WorkerView("generate", 0)


def test_only_the_latest_intervals_are_remembered():
    workers = taken(
        [(float(step**2), Event("progress", "generate", 0, "cube", Progress(step, 99))) for step in range(99)]
    )[0]
    (view,) = workers.views.values()
    assert view.intervals == tuple(2.0 * step - 1 for step in range(99 - REMEMBERED_INTERVALS, 99))


def test_a_preparation_is_one_event_with_its_note_which_the_next_heartbeat_replaces():
    view = Workers().take(Event("started", "generate", 0, "cube"))
    (event,) = progress_events(view, Progress(300, 900, "compiling", saved=300, is_preparing=True))
    assert (event.kind, event.item, event.note) == ("preparing", "cube", "compiling")
    step = Event("progress", "generate", 0, "cube", Progress(301, 900, "4 Gaussians"))
    after = taken([(0.0, event), (40.0, step)])[1][-1]
    assert (after.progress.note, after.pace, after.intervals) == ("4 Gaussians", None, ())
    again = taken([(1.0, step), (2.0, event)])[1][-1]
    assert (again.progress.note, again.progress.done, again.heard_at, again.beat_at) == ("compiling", 301, 2.0, 1.0)


def test_a_checkpoint_is_an_event_once():
    view = Workers().take(Event("started", "generate", 0, "cube"))
    for saved, kinds in ((0, ["progress"]), (3, ["checkpoint", "progress"]), (3, ["progress"])):
        events = progress_events(view, Progress(4, 9, saved=saved))
        assert [event.kind for event in events] == kinds
        assert all((event.stage, event.worker, event.item) == ("generate", 0, "cube") for event in events)
        view = replace(view, progress=events[-1].progress)
