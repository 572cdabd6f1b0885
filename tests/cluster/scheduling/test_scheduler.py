"""The scheduler in every order of events: each item ends once, attempts are limited, no worker idles."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.scheduling.failures import Failure
from cluster.scheduling.protocol import (
    Abort,
    Advance,
    Assign,
    Failed,
    Joined,
    Left,
    Place,
    Start,
    Stop,
    Succeeded,
    Tick,
    Unplaced,
)
from cluster.scheduling.retries import POLICIES
from cluster.scheduling.scheduler import HANDOFF, Scheduler
from tests.support.scheduler_world import STAGES, World, finish, ready

NOT_COUNTED = 1  # one more attempt of a task during a storage outage


@settings(max_examples=300, deadline=None)
@given(
    items=st.integers(1, 14),
    slots=st.tuples(st.integers(1, 5), st.integers(1, 3)),
    seed=st.integers(0, 2**32),
    fault=st.sampled_from([0.0, 0.2, 0.5, 0.9]),
    elastic=st.booleans(),
)
def test_in_every_order_of_events_each_item_ends_once(items, slots, seed, fault, elastic):
    rng = random.Random(seed)
    world = World(range(items), slots)
    scheduler, old = world.scheduler, []
    for _ in range(20_000):
        if scheduler.finished:
            break
        for stage in (0, 1):  # work-conserving
            idle = [place for place in world.idle if place.stage == stage]
            paused = scheduler._outage or (stage == 0 and scheduler.waiting(1) >= scheduler.queue_limit(1))
            assert paused or not (idle and scheduler._queues[stage])
        assert scheduler.waiting(1) <= HANDOFF * slots[1] + slots[0] + slots[1]
        if elastic and rng.random() < 0.05:
            place = Place(stage := rng.randrange(2), rng.randrange(slots[stage]))
            if place in world.present and sum(other.stage == stage for other in world.present) > 1:
                world.handle(Left(place))
                world.present.discard(place)
            elif place not in world.present:
                world.handle(Joined(place))
                world.present.add(place)
        elif old and rng.random() < 0.1:  # a late event of a lost worker, or of a ticket that has ended
            ticket = rng.choice(old)
            assert world.handle(rng.choice([Succeeded(ticket, "late"), Failed(ticket, Failure("died", "late"))])) == []
        elif world.running:
            place = rng.choice(sorted(world.running))
            old.append(world.running[place].ticket)
            is_boot = isinstance(world.running[place], Start)
            fails = rng.random() < (fault / 3 if is_boot else fault)
            world.answer(place, rng.choice(sorted(POLICIES)) if fails else None)
        else:
            assert scheduler.wakes_at is not None, "nothing runs or is delayed, but the run has not finished"
            world.sleep()
    assert scheduler.finished
    assert not any(isinstance(command, Abort) for command in world.log[:-1])
    assert max(world.ended.values(), default=0) <= 1
    if not scheduler.aborted:
        assert world.ended == Counter(range(items))
    for (_, _, kind), count in world.failures.items():
        assert count <= POLICIES[kind].attempts + (NOT_COUNTED if kind == "storage" else 0)


def test_a_stage_gets_the_result_of_the_previous_stage():
    world = ready(["prompt"])
    assert world.running[Place(0, 0)].task.payload == "prompt"
    world.answer(Place(0, 0), result="asset")
    assert world.running[Place(1, 0)].task.payload == "asset"
    world.answer(Place(1, 0), result="scores")
    assert world.ends["prompt"].result == "scores"
    assert world.scheduler.finished


def test_generation_pauses_at_the_queue_limit_of_evaluation():
    world = ready(range(HANDOFF + 3))
    for _ in range(HANDOFF + 1):  # the evaluator holds one more
        world.answer(Place(0, 0))
    assert Place(0, 0) in world.idle
    world.answer(Place(1, 0))
    assert Place(0, 0) in world.running


def test_a_retried_item_is_assigned_before_new_items():
    world = ready(["first", "second", "third"], slots=(2, 1))
    world.answer(Place(0, 0), "died")
    world.answer(Place(0, 1))
    assert world.running[Place(0, 1)].task.item == "first"


def test_the_longest_items_start_first():
    world = ready(["short", "long", "middle"], expected_seconds={"short": 1, "long": 9, "middle": 3}.get)
    order = []
    for _ in range(3):
        order.append(world.running[Place(0, 0)].task.item)
        world.answer(Place(0, 0))
    assert order == ["long", "middle", "short"]


@pytest.mark.parametrize("kind", POLICIES)
def test_an_item_fails_after_its_last_attempt(kind):
    world = ready(["item", *range(40)], slots=(2, 1))
    for _ in range(200):
        for place, command in list(world.running.items()):
            if world.running.get(place) is command:
                is_item = isinstance(command, Assign) and command.task.item == "item"
                world.answer(place, kind if is_item else None)
        world.now += 1
        world.handle(Tick())
    assert world.attempts["item"] == POLICIES[kind].attempts
    assert world.ends["item"].failure.kind == kind


@pytest.mark.parametrize("kind", POLICIES)
def test_a_worker_is_kept_or_replaced_by_policy(kind):
    world = ready(["item"])
    commands = world.answer(Place(0, 0), kind)
    assert any(isinstance(command, Stop) for command in commands) == POLICIES[kind].replace_worker


@pytest.mark.parametrize("kind", ["node_lost", "preempted"])
def test_the_loss_of_a_node_does_not_count_against_its_items(kind):
    world = ready(["item"])
    for _ in range(5):
        world.answer(Place(0, 0), kind)
        world.answer(Place(0, 0))
    world.answer(Place(0, 0), "died")
    world.answer(Place(0, 0))
    assert "item" not in world.ends
    assert world.running[Place(0, 0)].task.item == "item"


@pytest.mark.parametrize("kind", ["node_lost", "preempted"])
def test_the_loss_of_nodes_ends_an_item_only_without_a_new_checkpoint(kind):
    world = ready(["item"])
    for saved in [*range(1, 31), *[30] * 8]:
        world.answer(Place(0, 0), kind, saved=saved)
        world.answer(Place(0, 0))
    assert "item" not in world.ends
    world.answer(Place(0, 0), kind, saved=30)
    assert world.ends["item"].failure.kind == kind


def test_checkpoints_do_not_excuse_an_item_that_kills_its_workers():
    world = ready(["item"])
    for saved in (1, 2, 3):
        world.answer(Place(0, 0), "died", saved=saved)
        if "item" not in world.ends:
            world.answer(Place(0, 0)) if Place(0, 0) in world.running else world.sleep()
            if isinstance(world.running.get(Place(0, 0)), Start):
                world.answer(Place(0, 0))
    assert world.ends["item"].failure.kind == "died"


def test_a_slot_is_removed_after_four_consecutive_failures():
    world = ready(range(8), slots=(2, 1))
    for number in range(4):
        (stop,) = [command for command in world.answer(Place(0, 0), "died") if isinstance(command, Stop)]
        assert stop.removes_slot == (number == 3)
        if number < 3:
            if Place(0, 0) not in world.running:
                world.sleep()
            world.answer(Place(0, 0))
    finish(world)
    assert world.ended == Counter(range(8))


def test_a_success_resets_the_strikes_of_a_slot():
    world = ready(range(20), slots=(2, 1))
    for _ in range(6):
        world.answer(Place(0, 0), "died")
        world.answer(Place(0, 0))
        world.answer(Place(0, 0))
        if Place(1, 0) in world.running:
            world.answer(Place(1, 0))
    assert not any(isinstance(command, Stop) and command.removes_slot for command in world.log)


def test_the_last_slot_is_kept_despite_worker_deaths():
    world = ready(range(3))
    for _ in range(100):
        if Place(0, 0) in world.running:
            is_boot = isinstance(world.running[Place(0, 0)], Start)
            world.answer(Place(0, 0), None if is_boot else "died")
        elif not world.scheduler.finished:
            world.sleep()
    assert not world.scheduler.aborted
    assert world.attempts == Counter({0: 3, 1: 3, 2: 3})


def test_a_run_stops_only_if_no_slot_can_build_its_worker():
    world = World(["a", "b"], slots=(2, 1))
    world.answer(Place(0, 0), "error")
    assert not world.scheduler.finished
    commands = world.answer(Place(0, 1), "error")
    assert commands[-1] == Abort(0, Failure("error", "planned"))
    assert world.scheduler.finished
    assert not world.ends


def test_a_run_continues_without_a_slot_that_cannot_build_its_worker():
    world = World(["a", "b"], slots=(2, 1))
    world.answer(Place(0, 0), "error")
    finish(world)
    assert world.ended == Counter(["a", "b"])


def test_failed_boots_are_retried_with_backoff():
    world = World(["a"])
    waits = []
    for _ in range(2):
        world.answer(Place(0, 0), "died")
        waits.append(world.scheduler.wakes_at - world.now)
        world.sleep()
    assert waits == [1.0, 2.0]
    assert isinstance(world.answer(Place(0, 0), "died")[-1], Abort)


def test_a_storage_outage_stops_the_run_after_five_backoffs():
    world = ready(["a"])
    waits = []
    for _ in range(11):
        if Place(0, 0) in world.running:
            world.answer(Place(0, 0), "storage")
        else:
            waits.append(world.scheduler.wakes_at - world.now)
            world.sleep()
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert world.log[-1] == Abort(0, Failure("storage", "planned"), is_outage=True)
    assert not world.ends, "the item has not failed: the next command resumes it"


def test_no_task_starts_during_a_storage_outage_until_a_success():
    world = ready(["a", "b", "c"], slots=(2, 1))
    slow = next(place for place, command in world.running.items() if command.task.item == "b")
    for _ in range(100):
        for place in [place for place in world.running if place != slow]:
            world.answer(place, "storage")
        if world.scheduler.wakes_at is not None:
            world.sleep()
    assert list(world.running) == [slow]
    assert not world.scheduler.finished
    world.answer(slow)
    for _ in range(10):
        for place in list(world.running):
            world.answer(place)
    assert {item: end.failure for item, end in world.ends.items()} == {"a": None, "b": None, "c": None}


def test_the_item_of_a_removed_slot_is_assigned_to_a_new_slot():
    world = ready(["a", "b"])
    world.handle(Left(Place(0, 0)))
    assert Place(0, 0) not in world.running
    assert isinstance(world.handle(Joined(Place(0, 5)))[-1], Start)
    world.answer(Place(0, 5))
    assert world.running[Place(0, 5)].task.item == "a"


def test_events_of_a_stopped_worker_are_ignored():
    world = ready(["a"])
    lost = world.running[Place(0, 0)].ticket
    world.answer(Place(0, 0), "stalled")
    assert world.handle(Succeeded(lost, "late")) == []
    world.answer(Place(0, 0))
    assert world.handle(Failed(lost, Failure("died", "late"))) == []
    assert world.running[Place(0, 0)].task.failures == Counter(stalled=1)


def test_a_clock_that_jumps_loses_no_item():
    world = ready(["a", "b"])
    world.answer(Place(0, 0), "storage")
    world.now = -1e9
    world.handle(Tick())
    world.now = 1e12
    world.handle(Tick())
    finish(world)
    assert world.ended == Counter(["a", "b"])


def test_no_more_workers_start_than_items_remain():
    world = World(["a", "b"], slots=(5, 5))
    assert sorted(world.running) == [Place(0, 0), Place(0, 1)]
    world.answer(Place(0, 0))
    assert sum(place.stage == 1 for place in world.running) == 2


def test_the_end_of_a_stage_is_reported_once():
    world = ready(["a"])
    commands = world.answer(Place(0, 0))
    assert [type(command) for command in commands] == [Advance, Assign]


def test_a_run_without_items_is_finished():
    assert Scheduler(STAGES, []).finished


def test_an_idle_worker_of_another_stage_is_stopped_for_an_unplaced_one():
    world = World(range(HANDOFF + 2), slots=(1, 1))
    world.answer(Place(0, 0))
    assert world.handle(Unplaced(Place(1, 0))) == [], "the generator is busy, so no worker can be stopped"
    for _ in range(HANDOFF):
        world.answer(Place(0, 0))
    assert Place(0, 0) in world.idle, "it is paused"
    (stop,) = world.handle(Unplaced(Place(1, 0)))
    assert (stop.place, stop.removes_slot, stop.makes_way) == (Place(0, 0), False, True)
    assert stop.failure == Failure("preempted", "stopped to free resources for the evaluate stage")
    world.answer(Place(1, 0))
    for _ in range(HANDOFF):
        world.answer(Place(1, 0))
    world.sleep()
    assert isinstance(world.running[Place(0, 0)], Start), "it restarts, because there is work"
    (stop,) = world.handle(Unplaced(Place(0, 0)))
    assert stop.place == Place(1, 0)
    world.answer(Place(0, 0))
    finish_with_sleep(world)
    assert world.ended == Counter(range(HANDOFF + 2))


def finish_with_sleep(world):
    for _ in range(1000):
        if world.scheduler.finished:
            return
        if world.running:
            world.answer(next(iter(world.running)))
        else:
            world.sleep()
    raise AssertionError("a thousand events did not end the run")


def test_an_unplaced_worker_stops_no_other_if_its_stage_has_workers():
    world = ready(range(3), slots=(2, 1))
    world.answer(Place(0, 0), "died")
    assert world.handle(Unplaced(Place(0, 0))) == []


def test_a_larger_handoff_lets_the_previous_stage_finish():
    world = ready(range(30), handoffs=[HANDOFF, 30])
    for _ in range(30):
        world.answer(Place(0, 0))
    assert world.scheduler.waiting(1) == 29
