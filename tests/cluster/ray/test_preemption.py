"""Workers that get SIGTERM, as when their machine is taken away: faults 25 and 26 of docs/cluster.md."""

import os
import random
import signal
from collections import Counter
from functools import partial

import pytest

from cluster.ray.actor import loss_of
from cluster.ray.executor import RayExecutor
from cluster.scheduling.executor import Outcome, Stage
from cluster.scheduling.scheduler import Limits
from tests.support.fake_workers import Count, Evaluate, TerminatedAtStart, logged
from tests.support.processes import survivors

pytestmark = pytest.mark.usefixtures("ray_session")
SOON = Limits(backoff_seconds=0.01)


def executed(folder) -> Counter:
    """How often each step of each item was executed."""
    return Counter((item, int(step)) for _, item, step in logged(folder, "step"))


def test_fault_25_a_worker_that_gets_sigterm_saves_a_checkpoint_and_its_item_resumes(tmp_path):
    """The generator gets it at step 5 of an item, the evaluator before its first item."""
    events, pids = [], {}

    def terminate(event):
        events.append(event)
        if event.kind == "ready" and event.stage not in pids:
            pids[event.stage] = event.pid
            if event.stage == "evaluate":
                os.kill(event.pid, signal.SIGTERM)
        if event.kind == "progress" and event.progress.done == 5:
            os.kill(pids["generate"], signal.SIGTERM)

    stages = [
        Stage("generate", partial(Count, tmp_path, 30, 0.1)),
        Stage("evaluate", partial(Evaluate, tmp_path, 0.0), cpus=0),
    ]
    (outcome,) = RayExecutor(limits=SOON).run(stages, ["a"], terminate)
    assert outcome == Outcome("a", "score of asset of a", preemptions=2)
    (checkpoint,) = {event.progress.saved for event in events if event.kind == "checkpoint"}
    assert executed(tmp_path) == Counter(("a", step) for step in [*range(1, 31), checkpoint + 1])
    assert [event.error_kind for event in events if event.kind in ("retried", "died")] == ["preempted"] * 4
    assert not survivors(pids.values())


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("its node has died.\nthe actor's node was terminated expectedly: received SIGTERM", "preempted"),
        ("Worker exits with an exit code 1. The process receives a SIGTERM.", "preempted"),
        ("The actor died because its node has died.", "node_lost"),
        ("Worker exit type: SYSTEM_ERROR", "died"),
    ],
    ids=["node", "process", "lost", "died"],
)
def test_ray_tells_what_was_terminated_from_what_died(ray_session, text, kind):
    assert loss_of(ray_session, ray_session.exceptions.RayError(text), "why").kind == kind


def test_fault_25_a_worker_that_gets_sigterm_while_it_loads_is_replaced(tmp_path):
    run = RayExecutor(limits=SOON).run([Stage("generate", partial(TerminatedAtStart, tmp_path))], ["ok-a"])
    assert list(run) == [Outcome("ok-a", "asset of ok-a")]
    assert len(logged(tmp_path, "started")) == 2
    assert len(logged(tmp_path, "begin")) == 1


def test_fault_26_a_spot_market_repeats_one_step_per_preemption(tmp_path):
    """Assets of 32 minutes, workers preempted after 10 minutes on average, and one step for 48 seconds of these."""
    steps, mean_steps, items = 40, 12.5, ["a", "b"]
    rng, events, pids, left = random.Random(3), [], {}, {}

    def market(event):
        events.append(event)
        if event.kind == "ready":
            pids[event.worker], left[event.worker] = event.pid, rng.expovariate(1 / mean_steps)
        if event.kind == "progress":
            left[event.worker] -= 1
            if -1 < left[event.worker] <= 0:
                os.kill(pids[event.worker], signal.SIGTERM)

    stage = Stage("generate", partial(Count, tmp_path, steps, 0.05), workers=2)
    outcomes = list(RayExecutor(limits=SOON).run([stage], items, market))
    assert sorted(outcome.result for outcome in outcomes) == [f"asset of {item}" for item in items]
    preemptions = sum(outcome.preemptions for outcome in outcomes)
    assert preemptions == sum(event.kind == "retried" for event in events) > 3
    assert {event.error_kind for event in events if event.kind in ("retried", "died")} == {"preempted"}
    assert sum(outcome.deaths for outcome in outcomes) == 0
    done, needed = executed(tmp_path), steps * len(items)
    assert len(done) == needed, "no step is lost"
    assert done.total() - needed <= preemptions
    assert needed / done.total() >= 0.85
