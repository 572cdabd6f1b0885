"""The scheduler under every order of events: each item ends once, budgets hold, the hand-off is bounded."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.scheduler import HANDOFF, POLICIES, Scheduler

STAGES = ["generate", "evaluate"]


@settings(max_examples=200, deadline=None)
@given(
    items=st.integers(1, 12),
    workers=st.tuples(st.integers(1, 4), st.integers(1, 3)),
    dice=st.randoms(use_true_random=False),
    fault=st.sampled_from([0.0, 0.2, 0.8]),
)
def test_every_order_of_events_ends_every_item_once(items, workers, dice, fault):
    scheduler = Scheduler(STAGES, range(items))
    busy, ended, tried = [], Counter(), Counter()
    while not scheduler.finished:
        for stage in (0, 1):
            idle = workers[stage] - sum(task.stage == stage for task in busy)
            while idle and (task := scheduler.next(stage)):
                busy.append(task)
                idle -= 1
        assert busy, "nothing runs and nothing is finished: the run would hang"
        task = busy.pop(dice.randrange(len(busy)))
        if dice.random() < fault:
            kind = dice.choice(sorted(POLICIES))
            tried[task.item, kind] += 1
            if not scheduler.failed(task, kind).retry:
                ended[task.item] += 1
        elif scheduler.succeeded(task, f"result of {task.item}"):
            ended[task.item] += 1
        assert scheduler.waiting(1) < HANDOFF + workers[0] + workers[1]
    assert ended == Counter(range(items))
    assert all(count <= POLICIES[kind].attempts for (_, kind), count in tried.items())


def test_a_stage_gets_the_result_of_the_one_before():
    scheduler = Scheduler(STAGES, ["prompt"])
    task = scheduler.next(0)
    assert task.payload == "prompt"
    assert not scheduler.succeeded(task, "asset")
    task = scheduler.next(1)
    assert (task.item, task.payload) == ("prompt", "asset")
    assert scheduler.succeeded(task, "scores")
    assert scheduler.finished


def test_generation_pauses_while_too_much_waits_for_evaluation():
    scheduler = Scheduler(STAGES, range(HANDOFF + 2))
    for _ in range(HANDOFF):
        scheduler.succeeded(scheduler.next(0), "asset")
    assert scheduler.next(0) is None
    assert scheduler.next(1) is not None
    assert scheduler.next(0) is not None


def test_a_retried_item_comes_before_new_ones_so_that_its_checkpoint_is_used_while_it_is_warm():
    scheduler = Scheduler(STAGES, ["first", "second"])
    task = scheduler.next(0)
    assert scheduler.failed(task, "died") == (True, True)
    assert scheduler.next(0) is task


@pytest.mark.parametrize(("kind", "attempts"), [("input", 1), ("numeric", 1), ("out_of_memory", 2), ("died", 3)])
def test_budgets(kind, attempts):
    scheduler = Scheduler(STAGES, ["item"])
    verdicts = [scheduler.failed(scheduler.next(0), kind).retry for _ in range(attempts)]
    assert verdicts == [True] * (attempts - 1) + [False]
    assert scheduler.finished


def test_workers_are_wanted_only_while_there_is_work_ahead_of_them():
    scheduler = Scheduler(STAGES, ["a", "b"])
    assert (scheduler.wanted(0), scheduler.wanted(1)) == (2, 2)
    scheduler.succeeded(scheduler.next(0), "asset")
    assert (scheduler.wanted(0), scheduler.wanted(1)) == (1, 2)


def test_no_items_is_a_finished_run():
    assert Scheduler(STAGES, []).finished
