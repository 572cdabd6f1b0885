"""The head of the cluster is killed, and the same command again goes on; calls between processes get lost."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.fake_workers import logged
from tests.support.own_process import PATIENCE_SECONDS, without_ray

ITEMS = [f"slow-{number}" for number in range(8)]


def run(folder: Path, fault: str, **variables: str) -> int:
    """The exit status of the script; its processes are a group, which is ended with it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.one_ray_head", folder, fault],
        env=without_ray() | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(PATIENCE_SECONDS)
    finally:
        end(process.pid)


def end(session: int) -> None:
    """End the processes of a session, whatever their groups."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                os.kill(int(entry.name), signal.SIGKILL)
        except (OSError, ValueError):
            continue


def outcomes(folder: Path) -> dict[str, list]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.outcome")}


def test_a_run_whose_head_was_killed_is_finished_by_the_same_command(tmp_path):
    assert run(tmp_path, "head", RAY_gcs_rpc_server_reconnect_timeout_s="3") != 0
    first = outcomes(tmp_path)
    assert len(first) < len(ITEMS), "the head was lost in the middle"
    kept = {path.stem: int(path.read_text()) for path in tmp_path.glob("*.checkpoint")}
    begun = {item for _, item, *_ in logged(tmp_path, "begin")}
    assert run(tmp_path, "none") == 0
    assert outcomes(tmp_path) == {item: [f"score of asset of {item}", 0] for item in ITEMS}
    again = [(item, int(start)) for _, item, start, _ in logged(tmp_path, "begin")][len(begun) :]
    assert {item for item, _ in again}.isdisjoint(first), "what was finished is not begun again"
    resumed = {item: start for item, start in again if item in begun}
    assert resumed, "something was in the middle"
    assert resumed == {item: kept.get(item, 0) for item in resumed}, "from what was saved, or anew where nothing was"


def test_calls_that_get_lost_cost_no_item(tmp_path):
    lost = {"num_failures": 6, "req_failure_prob": 25, "resp_failure_prob": 25, "in_flight_failure_prob": 0}
    calls = "PushTask", "ReportGeneratorItemReturns"
    chaos = {f"CoreWorkerService.grpc_client.{call}": lost for call in calls}
    assert run(tmp_path, "none", RAY_testing_rpc_failure=json.dumps(chaos)) == 0
    assert {item: result for item, (result, _) in outcomes(tmp_path).items()} == {
        item: f"score of asset of {item}" for item in ITEMS
    }
