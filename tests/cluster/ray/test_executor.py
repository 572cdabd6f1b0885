"""The Ray executor with real processes: deaths, stalls, overlap of stages, and failed starts."""

import os
import signal
import socket
import subprocess
import sys
import time
from functools import partial
from types import SimpleNamespace

import pytest

from cluster.ray.actor import ONE_THREAD, create_actor
from cluster.ray.address import ClusterError
from cluster.ray.executor import RayExecutor
from cluster.scheduling.executor import BootError, Outcome, Stage
from cluster.scheduling.failures import Failure
from cluster.scheduling.protocol import Abort, End, Place, Task
from cluster.scheduling.scheduler import HANDOFF, Limits, Scheduler
from cluster.scheduling.stalls import StallTimeout
from tests.support import own_process
from tests.support.fake_workers import STEPS, DiesAtStart, Environment, Generate, logged, stages
from tests.support.processes import survivors

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture(scope="module")
def faulty(ray_session, tmp_path_factory):
    """A run in which one worker kills itself, one item kills all its workers, and the test kills one worker."""
    folder = tmp_path_factory.mktemp("faulty")
    events, pids, killed = [], {}, []

    def kill_once(event):
        events.append(event)
        if event.kind == "ready" and event.stage == "generate":
            pids[event.worker] = event.pid
        if event.kind == "progress" and event.item == "slow-a" and event.progress.done == 3 and not killed:
            killed.append(pids[event.worker])
            os.kill(pids[event.worker], signal.SIGKILL)

    items = ["slow-a", "die_once-b", "poison-c", "unpicklable-d", "ok-e"]
    run = RayExecutor().run(stages(folder), items, kill_once)
    starts = {item: [] for item in items}
    outcomes = {outcome.item: outcome for outcome in run}
    for _, item, start, _ in logged(folder, "begin"):
        starts[item].append(int(start))
    return outcomes, starts, events, killed


def test_an_item_survives_sigkill_of_its_worker(faulty):
    outcomes, starts, _, killed = faulty
    assert len(killed) == 1
    assert outcomes["slow-a"] == Outcome("slow-a", "score of asset of slow-a", deaths=1)
    first, second = starts["slow-a"]
    assert first == 0 < second < STEPS, "the second attempt resumes from the checkpoint"


def test_a_worker_that_dies_is_replaced_and_its_item_resumes(faulty):
    outcomes, starts, events, _ = faulty
    assert outcomes["die_once-b"] == Outcome("die_once-b", "score of asset of die_once-b", deaths=1)
    assert starts["die_once-b"] == [0, 3]
    assert all(event.note.startswith("its process died (") for event in events if event.kind == "died")


def test_an_item_that_kills_every_worker_fails_after_three_deaths(faulty):
    outcomes, starts, _, _ = faulty
    poison = outcomes["poison-c"]
    assert (poison.failed_stage, poison.error.kind, poison.deaths) == ("generate", "died", 3)
    assert starts["poison-c"] == [0, 2, 2]


def test_other_items_are_unaffected(faulty):
    outcomes, starts, _, _ = faulty
    assert outcomes["ok-e"] == Outcome("ok-e", "score of asset of ok-e")
    assert starts["ok-e"] == [0]


def test_a_result_that_cannot_be_pickled_fails_its_item(faulty):
    outcomes, _, _, _ = faulty
    assert (outcomes["unpicklable-d"].failed_stage, outcomes["unpicklable-d"].error.kind) == ("generate", "error")


@pytest.fixture(scope="module")
def hanging(ray_session, tmp_path_factory):
    """A run in which workers hang, are suspended or have a faulty GPU, and the evaluator dies once."""
    folder, pids = tmp_path_factory.mktemp("hanging"), []
    executor = RayExecutor(stall_timeout=StallTimeout(stall_seconds=2.0), limits=Limits(backoff_seconds=0.01))

    def watch(event):
        if event.kind == "ready":
            pids.append(event.pid)

    items = ["ok-die_scoring-a", "device_once-b", "hang-c", "stop-d", "ok-e"]
    outcomes = {outcome.item: outcome for outcome in executor.run(stages(folder), items, watch)}
    return outcomes, folder, pids


@pytest.mark.parametrize("item", ["hang-c", "stop-d"])
def test_a_stalled_worker_is_killed_and_its_item_fails_the_second_time(hanging, item):
    outcomes, folder, pids = hanging
    error = outcomes[item].error
    assert (error.kind, error.message) == ("stalled", "no heartbeat for 2 s")
    assert [int(start) for _, name, start, _ in logged(folder, "begin") if name == item] == [0, 1]
    assert not survivors(pids)


def test_a_device_fault_replaces_the_process(hanging):
    outcomes, folder, _ = hanging
    assert outcomes["device_once-b"].result == "score of asset of device_once-b"
    (second,) = [int(pid) for _, item, pid in logged(folder, "end") if item == "device_once-b"]
    assert second != int((folder / "device_once-b").read_text())


def test_the_death_of_an_evaluator_repeats_no_generation(hanging):
    outcomes, folder, _ = hanging
    assert outcomes["ok-die_scoring-a"] == Outcome("ok-die_scoring-a", "score of asset of ok-die_scoring-a", deaths=1)
    assert [item for _, item, *_ in logged(folder, "begin")].count("ok-die_scoring-a") == 1
    assert outcomes["ok-e"] == Outcome("ok-e", "score of asset of ok-e")


def test_evaluation_overlaps_generation_up_to_the_queue_limit(tmp_path):
    """Assets without scores: at most `HANDOFF` wait, the evaluator holds one, and one more was being generated."""
    ahead = [0]

    def count(event):
        if event.kind == "finished":
            ahead.append(ahead[-1] + (1 if event.stage == "generate" else -1))

    slow = stages(tmp_path, generators=1, evaluation_pause=0.15)
    assert len(list(RayExecutor().run(slow, [f"ok-{number}" for number in range(12)], count))) == 12
    assert 3 <= max(ahead) <= HANDOFF + 2
    first_scored = min(float(moment) for _, _, moment in logged(tmp_path, "score"))
    last_generated = max(float(moment) for _, _, moment in logged(tmp_path, "end"))
    assert first_scored < last_generated


def test_items_that_end_as_the_run_stops_are_not_lost(tmp_path, monkeypatch):
    place, failure = Place(0, 0), Failure("input", "no")
    commands = [End(place, Task("ok-a", "ok-a", 0), failure=failure), Abort(0, failure)]
    monkeypatch.setattr(Scheduler, "handle", lambda *_: commands)
    run = RayExecutor().run(stages(tmp_path), ["ok-a"])
    assert next(run) == Outcome("ok-a", None, "generate", failure)
    with pytest.raises(BootError):
        next(run)


@pytest.mark.parametrize(("item", "deaths", "starts"), [("ok-a", 0, [0]), ("die_once-b", 1, [0, 3])])
def test_a_worker_that_dies_before_its_replies_are_read(item, deaths, starts, tmp_path):
    """Ray keeps the unread replies of a call that has ended, and loses those of one that has not."""
    pids, dead = [], []

    def read_nothing_until_it_died(event):
        if event.kind == "ready":
            pids.append(event.pid)
        if event.kind == "progress" and not dead:
            deadline = time.monotonic() + 20
            while not deaths and not logged(tmp_path, "end") and time.monotonic() < deadline:
                time.sleep(0.05)
            if not deaths:
                time.sleep(0.5)  # until the result is sent
                os.kill(pids[0], signal.SIGKILL)
            dead.append(survivors(pids))

    (outcome,) = RayExecutor().run(stages(tmp_path, generators=1)[:1], [item], read_nothing_until_it_died)
    assert dead == [set()]
    assert outcome == Outcome(item, f"asset of {item}", deaths=deaths)
    assert [int(start) for _, _, start, _ in logged(tmp_path, "begin")] == starts


def test_a_worker_that_dies_three_times_at_its_start_stops_the_run(tmp_path):
    with pytest.raises(BootError, match="The generate worker could not start: its process died"):
        list(RayExecutor().run([Stage("generate", partial(DiesAtStart, tmp_path))], ["ok-a"]))
    assert len(logged(tmp_path, "started")) == 3


def test_missing_resources_are_reported(tmp_path):
    oversized = [Stage("generate", partial(Generate, tmp_path, 0.0), gpus=7)]
    with pytest.raises(
        ClusterError, match=r"No node can fit a generate worker: each needs 1 CPU and 7 GPU, and the whole"
    ):
        list(RayExecutor(infeasible_seconds=1).run(oversized, ["ok-a"]))


def test_workers_exit_when_the_run_is_closed_early(tmp_path):
    run = RayExecutor().run(stages(tmp_path, generators=1), ["ok-a", "ok-b", "ok-c"])
    next(run)
    run.close()
    pids = {int(pid) for _, _, pid in logged(tmp_path, "started")}
    assert not survivors(pids)


def test_actors_compute_on_one_thread():
    run = RayExecutor().run([Stage("read", Environment)], ["OMP_NUM_THREADS", "OMP_WAIT_POLICY", "NUMBA_NUM_THREADS"])
    assert [outcome.result for outcome in run] == ["1", "PASSIVE", "1"]


@pytest.mark.parametrize(("gpus", "visible"), [(0, {"CUDA_VISIBLE_DEVICES": ""}), (0.2, {}), (1, {})])
def test_only_workers_without_a_gpu_get_a_list_of_gpus(gpus, visible):
    """Ray hides no GPU from an actor that has none, and does not replace the variable if it is in `env_vars`."""
    asked = {}

    class Remote:
        def options(self, **options):
            asked.update(options)
            return self

        remote = staticmethod(lambda: None)

    create_actor(SimpleNamespace(remote=lambda _: Remote()), Stage("read", Environment, gpus=gpus), ONE_THREAD, {})
    assert asked["runtime_env"] == {"env_vars": {**ONE_THREAD, **visible}}
    assert (asked["num_gpus"], asked["max_restarts"], asked["max_task_retries"]) == (gpus, 0, 0)


def test_a_worker_without_a_gpu_sees_none():
    run = RayExecutor().run([Stage("read", Environment)], ["CUDA_VISIBLE_DEVICES"])
    assert [outcome.result for outcome in run] == [""]


MAIN = "from pipeline.cli.app import main; main()"


def test_an_address_without_a_cluster_ends_the_command(tmp_path):
    """Fault test 13. Ray's own 20 tries would take 14 minutes."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        dead = f"127.0.0.1:{server.getsockname()[1]}"
    command = [sys.executable, "-c", MAIN, "bench", "--prompt", "a red cube", "--out", str(tmp_path / "run")]
    ended = subprocess.run(
        command, env=own_process.without_ray() | {"RAY_ADDRESS": dead}, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 2
    assert ended.stderr.splitlines()[-1] == (
        f"Error: No Ray cluster answers at RAY_ADDRESS={dead} (Connection refused); start it, set RAY_AUTH_TOKEN to "
        "its token if it requires one, or unset RAY_ADDRESS to work on this machine."
    )
    ours = f"[0 s] waiting for the Ray cluster at {dead}"
    assert [line for line in ended.stderr.splitlines() if line.startswith("[")] == [ours], "no lines of Ray's own log"


TERMINATED = """
import os, signal, time
from cluster.ray.session import connect
signal.signal(signal.SIGTERM, signal.default_int_handler)
connect(1)
try:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
except KeyboardInterrupt:
    print("handled")
"""


def test_connecting_keeps_the_sigterm_handler():
    done = subprocess.run(
        [sys.executable, "-c", TERMINATED], env=own_process.without_ray(), capture_output=True, text=True, timeout=300
    )
    assert done.stdout == "handled\n"
    assert "SIGTERM" not in done.stderr
