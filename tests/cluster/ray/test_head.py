"""Lost calls between processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support.own_process import TIMEOUT_SECONDS, without_ray

ITEMS = [f"step-{number}" for number in range(8)]


def run(folder: Path, **variables: str) -> int:
    """The exit status of the script. All processes of its session are killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.one_ray_head", folder],
        env=without_ray() | variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(TIMEOUT_SECONDS)
    finally:
        end(process.pid)


def end(session: int) -> None:
    """Kill all processes of a session, in any process group."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                os.kill(int(entry.name), signal.SIGKILL)
        except (OSError, ValueError):
            continue


def outcomes(folder: Path) -> dict[str, list]:
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.outcome")}


def test_lost_calls_fail_no_item(tmp_path):
    lost = {"num_failures": 6, "req_failure_prob": 25, "resp_failure_prob": 25, "in_flight_failure_prob": 0}
    calls = "PushTask", "ReportGeneratorItemReturns"
    chaos = {f"CoreWorkerService.grpc_client.{call}": lost for call in calls}
    assert run(tmp_path, RAY_testing_rpc_failure=json.dumps(chaos)) == 0
    assert {item: result for item, (result, _) in outcomes(tmp_path).items()} == {
        item: f"score of asset of {item}" for item in ITEMS
    }
