"""The scheduler under every order of events: each item ends once, budgets hold, nothing is idle or lost."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.scheduling.failures import POLICIES, Failure
from cluster.scheduling.protocol import (
    Abort,
    Advance,
    Assign,
    Crowded,
    End,
    Failed,
    Joined,
    Left,
    Place,
    Ready,
    Retry,
    Start,
    Stop,
    Succeeded,
    Tick,
)
from cluster.scheduling.scheduler import HANDOFF, Scheduler

STAGES = ["generate", "evaluate"]
NOT_CHARGED = 1  # an attempt more, of a task that met an outage of storage


class World:
    """Executes commands as an executor would, and lets the test choose what happens next. Time is a number."""

    def __init__(self, items, slots=(1, 1), **options):
        self.scheduler = Scheduler(STAGES, items, **options)
        self.now = 0.0
        self.running = {}  # place → command
        self.idle, self.present = set(), set()
        self.ended, self.failures, self.attempts, self.log = Counter(), Counter(), Counter(), []
        self.ends = {}
        for stage, count in enumerate(slots):
            for worker in range(count):
                self.tell(Joined(Place(stage, worker)))
                self.present.add(Place(stage, worker))

    def tell(self, event):
        commands = self.scheduler.handle(event, self.now)
        for command in commands:
            self.obey(command)
        return commands

    def obey(self, command):
        self.log.append(command)
        if isinstance(command, Start):
            assert command.place not in self.running
            assert command.place not in self.idle
            self.running[command.place] = command
        elif isinstance(command, Assign):
            self.idle.remove(command.place)  # only a worker that is ready, and does nothing else
            self.running[command.place] = command
            self.attempts[command.task.item] += 1
        elif isinstance(command, Stop):
            self.running.pop(command.place, None)
            self.idle.discard(command.place)
            if command.given_up:
                self.present.discard(command.place)
        elif isinstance(command, End):
            self.ended[command.task.item] += 1
            self.ends[command.task.item] = command
        if isinstance(command, Retry) or (isinstance(command, End) and command.failure):
            self.failures[command.task.item, command.task.stage, command.failure.kind] += 1

    def answer(self, place, failure=None, result=None):
        """The worker at `place` is ready or done, or fails."""
        command = self.running.pop(place)
        if failure is None or not POLICIES[failure].replace_worker:
            self.idle.add(place)
        if isinstance(command, Start) and failure:
            self.idle.discard(place)
        if failure:
            return self.tell(Failed(command.ticket, Failure(failure, "planned")))
        if isinstance(command, Start):
            return self.tell(Ready(command.ticket))
        return self.tell(Succeeded(command.ticket, result or f"{command.task.payload}."))

    def sleep(self):
        self.now = self.scheduler.wakes_at
        return self.tell(Tick())


def ready(items, slots=(1, 1), **options):
    """A world whose first workers of every stage are built."""
    world = World(items, slots, **options)
    for _ in range(sum(slots)):
        for place, command in list(world.running.items()):
            if isinstance(command, Start):
                world.answer(place)
    return world


def finish(world):
    for _ in range(1000):
        if world.scheduler.finished:
            return
        world.answer(next(iter(world.running)))
    raise AssertionError("a thousand successes did not end the run")


@settings(max_examples=300, deadline=None)
@given(
    items=st.integers(1, 14),
    slots=st.tuples(st.integers(1, 5), st.integers(1, 3)),
    seed=st.integers(0, 2**32),
    fault=st.sampled_from([0.0, 0.2, 0.5, 0.9]),
    elastic=st.booleans(),
)
def test_every_order_of_events_ends_every_item_once(items, slots, seed, fault, elastic):
    dice = random.Random(seed)
    world = World(range(items), slots)
    scheduler, old = world.scheduler, []
    for _ in range(20_000):
        if scheduler.finished:
            break
        for stage in (0, 1):  # work-conserving
            idle = [place for place in world.idle if place.stage == stage]
            paused = scheduler._outage or (stage == 0 and scheduler.waiting(1) >= scheduler.bound(1))
            assert paused or not (idle and scheduler._queues[stage])
        assert scheduler.waiting(1) <= HANDOFF * slots[1] + slots[0] + slots[1]
        if elastic and dice.random() < 0.05:
            place = Place(stage := dice.randrange(2), dice.randrange(slots[stage]))
            if place in world.present and sum(other.stage == stage for other in world.present) > 1:
                world.tell(Left(place))
                world.present.discard(place)
            elif place not in world.present:
                world.tell(Joined(place))
                world.present.add(place)
        elif old and dice.random() < 0.1:  # the voice of a worker that was given up, or said everything before
            ticket = dice.choice(old)
            assert world.tell(dice.choice([Succeeded(ticket, "late"), Failed(ticket, Failure("died", "late"))])) == []
        elif world.running:
            place = dice.choice(sorted(world.running))
            old.append(world.running[place].ticket)
            is_boot = isinstance(world.running[place], Start)
            fails = dice.random() < (fault / 3 if is_boot else fault)
            world.answer(place, dice.choice(sorted(POLICIES)) if fails else None)
        else:
            assert scheduler.wakes_at is not None, "nothing runs, nothing will, and nothing is finished"
            world.sleep()
    assert scheduler.finished
    assert not any(isinstance(command, Abort) for command in world.log[:-1])
    assert max(world.ended.values(), default=0) <= 1
    if not scheduler.aborted:
        assert world.ended == Counter(range(items))
    for (_, _, kind), count in world.failures.items():
        assert count <= POLICIES[kind].attempts + (NOT_CHARGED if kind == "storage" else 0)


def test_a_stage_gets_the_result_of_the_one_before():
    world = ready(["prompt"])
    assert world.running[Place(0, 0)].task.payload == "prompt"
    world.answer(Place(0, 0), result="asset")
    assert world.running[Place(1, 0)].task.payload == "asset"
    world.answer(Place(1, 0), result="scores")
    assert world.ends["prompt"].result == "scores"
    assert world.scheduler.finished


def test_generation_pauses_while_too_much_waits_for_evaluation():
    world = ready(range(HANDOFF + 3))
    for _ in range(HANDOFF + 1):  # one more is with the evaluator
        world.answer(Place(0, 0))
    assert Place(0, 0) in world.idle
    world.answer(Place(1, 0))
    assert Place(0, 0) in world.running


def test_a_retried_item_comes_before_new_ones_so_that_its_checkpoint_is_used_while_it_is_warm():
    world = ready(["first", "second", "third"], slots=(2, 1))
    world.answer(Place(0, 0), "died")
    world.answer(Place(0, 1))
    assert world.running[Place(0, 1)].task.item == "first"


def test_the_longest_begin_first():
    world = ready(["short", "long", "middle"], expected_seconds={"short": 1, "long": 9, "middle": 3}.get)
    begun = []
    for _ in range(3):
        begun.append(world.running[Place(0, 0)].task.item)
        world.answer(Place(0, 0))
    assert begun == ["long", "middle", "short"]


@pytest.mark.parametrize("kind", POLICIES)
def test_an_item_fails_when_its_budget_is_spent(kind):
    world = ready(["item", *range(40)], slots=(2, 1))
    for _ in range(200):
        for place, command in list(world.running.items()):
            if world.running.get(place) is command:
                is_it = isinstance(command, Assign) and command.task.item == "item"
                world.answer(place, kind if is_it else None)
        world.now += 1
        world.tell(Tick())
    assert world.attempts["item"] == POLICIES[kind].attempts
    assert world.ends["item"].failure.kind == kind


@pytest.mark.parametrize("kind", POLICIES)
def test_a_worker_is_kept_or_replaced_as_its_policy_says(kind):
    world = ready(["item"])
    commands = world.answer(Place(0, 0), kind)
    assert any(isinstance(command, Stop) for command in commands) == POLICIES[kind].replace_worker


@pytest.mark.parametrize("kind", ["node_lost", "preempted"])
def test_a_lost_node_is_not_charged_to_its_items(kind):
    world = ready(["item"])
    for _ in range(5):
        world.answer(Place(0, 0), kind)
        world.answer(Place(0, 0))
    world.answer(Place(0, 0), "died")
    world.answer(Place(0, 0))
    assert "item" not in world.ends
    assert world.running[Place(0, 0)].task.item == "item"


def test_a_slot_is_given_up_after_four_failures_in_a_row_and_its_work_goes_elsewhere():
    world = ready(range(8), slots=(2, 1))
    for number in range(4):
        (stop,) = [command for command in world.answer(Place(0, 0), "died") if isinstance(command, Stop)]
        assert stop.given_up == (number == 3)
        if number < 3:
            if Place(0, 0) not in world.running:
                world.sleep()
            world.answer(Place(0, 0))
    finish(world)
    assert world.ended == Counter(range(8))


def test_a_success_clears_the_strikes_of_a_slot():
    world = ready(range(20), slots=(2, 1))
    for _ in range(6):
        world.answer(Place(0, 0), "died")
        world.answer(Place(0, 0))
        world.answer(Place(0, 0))
        if Place(1, 0) in world.running:
            world.answer(Place(1, 0))
    assert not any(isinstance(command, Stop) and command.given_up for command in world.log)


def test_the_last_slot_is_kept_so_that_every_item_gets_its_row():
    world = ready(range(3))
    for _ in range(100):
        if Place(0, 0) in world.running:
            is_boot = isinstance(world.running[Place(0, 0)], Start)
            world.answer(Place(0, 0), None if is_boot else "died")
        elif not world.scheduler.finished:
            world.sleep()
    assert not world.scheduler.aborted
    assert world.attempts == Counter({0: 3, 1: 3, 2: 3})


def test_a_run_stops_only_when_the_workers_of_all_slots_cannot_be_built():
    world = World(["a", "b"], slots=(2, 1))
    world.answer(Place(0, 0), "error")
    assert not world.scheduler.finished
    commands = world.answer(Place(0, 1), "error")
    assert commands[-1] == Abort(0, Failure("error", "planned"))
    assert world.scheduler.finished
    assert not world.ends


def test_one_slot_that_cannot_be_built_is_done_without():
    world = World(["a", "b"], slots=(2, 1))
    world.answer(Place(0, 0), "error")
    finish(world)
    assert world.ended == Counter(["a", "b"])


def test_a_birth_that_died_is_tried_again_later_and_later():
    world = World(["a"])
    waits = []
    for _ in range(2):
        world.answer(Place(0, 0), "died")
        waits.append(world.scheduler.wakes_at - world.now)
        world.sleep()
    assert waits == [1.0, 2.0]
    assert isinstance(world.answer(Place(0, 0), "died")[-1], Abort)


def test_storage_that_fails_for_everybody_stops_the_run_after_five_waits():
    world = ready(["a"])
    waits = []
    for _ in range(11):
        if Place(0, 0) in world.running:
            world.answer(Place(0, 0), "storage")
        else:
            waits.append(world.scheduler.wakes_at - world.now)
            world.sleep()
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert world.log[-1] == Abort(0, Failure("storage", "planned"), stopped_working=True)
    assert not world.ends, "the item has not failed: the next command goes on with it"


def test_nothing_is_begun_while_storage_fails_and_a_success_ends_that():
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


def test_a_slot_that_leaves_gives_its_item_back_and_one_that_joins_gets_work():
    world = ready(["a", "b"])
    world.tell(Left(Place(0, 0)))
    assert Place(0, 0) not in world.running
    assert isinstance(world.tell(Joined(Place(0, 5)))[-1], Start)
    world.answer(Place(0, 5))
    assert world.running[Place(0, 5)].task.item == "a"


def test_what_a_stopped_worker_says_is_not_heard():
    world = ready(["a"])
    zombie = world.running[Place(0, 0)].ticket
    world.answer(Place(0, 0), "stalled")
    assert world.tell(Succeeded(zombie, "late")) == []
    world.answer(Place(0, 0))
    assert world.tell(Failed(zombie, Failure("died", "late"))) == []
    assert world.running[Place(0, 0)].task.failures == Counter(stalled=1)


def test_time_that_jumps_or_goes_back_loses_nothing():
    world = ready(["a", "b"])
    world.answer(Place(0, 0), "storage")
    world.now = -1e9
    world.tell(Tick())
    world.now = 1e12
    world.tell(Tick())
    finish(world)
    assert world.ended == Counter(["a", "b"])


def test_workers_are_wanted_only_while_there_is_work_ahead_of_them():
    world = World(["a", "b"], slots=(5, 5))
    assert sorted(world.running) == [Place(0, 0), Place(0, 1)]
    world.answer(Place(0, 0))
    assert sum(place.stage == 1 for place in world.running) == 2


def test_the_end_of_a_stage_is_told_once():
    world = ready(["a"])
    commands = world.answer(Place(0, 0))
    assert [type(command) for command in commands] == [Advance, Assign]


def test_no_items_is_a_finished_run():
    assert Scheduler(STAGES, []).finished


def test_a_worker_without_room_gets_that_of_an_idle_one_of_another_stage():
    world = World(range(HANDOFF + 2), slots=(1, 1))
    world.answer(Place(0, 0))
    assert world.tell(Crowded(Place(1, 0))) == [], "the generator works: nobody is in the way who could go"
    for _ in range(HANDOFF):
        world.answer(Place(0, 0))
    assert Place(0, 0) in world.idle, "it pauses"
    (stop,) = world.tell(Crowded(Place(1, 0)))
    assert (stop.place, stop.given_up) == (Place(0, 0), False)
    assert stop.failure == Failure("preempted", "it makes way for a worker of stage evaluate")
    world.answer(Place(1, 0))
    for _ in range(HANDOFF):
        world.answer(Place(1, 0))
    world.sleep()
    assert isinstance(world.running[Place(0, 0)], Start), "it comes back, for there is work"
    (stop,) = world.tell(Crowded(Place(0, 0)))
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


def test_who_has_others_of_its_stage_at_work_asks_nobody_to_go():
    world = ready(range(3), slots=(2, 1))
    world.answer(Place(0, 0), "died")
    assert world.tell(Crowded(Place(0, 0))) == []


def test_a_stage_may_take_all_that_the_one_before_makes():
    world = ready(range(30), handoffs=[HANDOFF, 30])
    for _ in range(30):
        world.answer(Place(0, 0))
    assert world.scheduler.waiting(1) == 29
