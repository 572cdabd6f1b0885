"""The status of a run, read from its folder without changing a file or loading a model."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.events import status
from pipeline.store import files, lease
from pipeline.store.attempts import ATTEMPT, NUMERIC_FAILURE, SCORING, Attempt, Checkpoint, Fence
from pipeline.store.run_folder import Store
from tests.support import runs

TEXTS = "done", "failed", "running", "judging", "made", "restarted", "waiting"


@pytest.fixture(params=["folder", "memory"])
def store(request, tmp_path, run_of) -> Store:
    """A run with a job in every state."""
    store = Store(tmp_path if request.param == "folder" else files.place(f"memory://{tmp_path.name}"))
    run = run_of(texts=TEXTS)
    entries = {entry.prompt: entry for entry in runs.begin(store, run, ["bench", "--limit", "7"]).jobs}
    jobs = {text: entry.job_id for text, entry in entries.items()}
    made = runs.facts(iterations=4, attempt=2, warnings=())
    for text in ("done", "judging", "made"):
        store.write_json(store.item(jobs[text]) / "generation.json", made)
    store.write_record(runs.done(entries["done"], evaluation=run.evaluation))
    reason = {"error_kind": "died", "error": "its process died"}
    store.write_record(runs.failed(entries["failed"], evaluation=run.evaluation, **reason))
    Fence.claim(store, jobs["judging"], SCORING)
    Attempt.start(store, jobs["running"])
    Attempt.start(store, jobs["running"]).save(Checkpoint(3, 1.5, b"state"))
    store.write_json(
        store.item(jobs["restarted"]) / NUMERIC_FAILURE, {"sub_seed": 1, "iteration": 2, "error": "NaN in the loss"}
    )
    Attempt.start(store, jobs["restarted"])
    return store


def states(store: Store) -> dict[str, str]:
    return {job["prompt"]: job["state"] for job in status.of(store)["jobs"]}


def everything(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.glob("**/*") if path.is_file()}


def test_every_state_of_a_job_is_reported(store):
    with lease.held(store.root, "--out", print, alone=True):
        assert states(store) == {
            "done": "done", "failed": "failed", "running": "running", "judging": "judging", "made": "generated",
            "restarted": "running", "waiting": "waiting",
        }  # fmt: skip
        found = status.of(store)
        running = next(job for job in found["jobs"] if job["prompt"] == "running")
        assert (running["iteration"], running["iterations"], running["attempt"]) == (3, 4, 2)
        assert 0 <= running["age_seconds"] < 600
        assert found["lease"]["host"]
        lines = status.table(found).splitlines()
        assert "1 scoring" in lines[0]
        assert any(line.startswith("  judging (sctd): scoring") for line in lines)
        assert found["next"] == f"Running. To check again: segmentdreamer status {store.root}"


def test_without_a_write_lease_jobs_are_stopped_and_the_resuming_command_is_shown(store):
    assert (states(store)["running"], states(store)["restarted"], states(store)["judging"]) == (
        "stopped",
        "stopped",
        "generated",
    )
    found = status.of(store)
    assert found["lease"] is None
    assert found["next"] == "To resume: segmentdreamer bench --limit 7"
    assert found["bytes"] == sum(file.bytes for file in files.listing(store.root).values()) > 0
    assert sum(found["states"].values()) == len(TEXTS)


def test_table_has_a_line_for_each_failed_or_stopped_job(store):
    lines = status.table(status.of(store)).splitlines()
    assert lines[0].startswith(f"{store.root}: 7 jobs: 1 done, 1 failed, 2 generated, 2 stopped, 1 waiting; 0.0 MiB")
    assert "  failed (sctd): failed: died: its process died" in lines
    assert any(line.startswith("  restarted (sctd): stopped") and "numeric: NaN in the loss" in line for line in lines)
    assert any(line.startswith("  running (sctd): stopped at iteration 3 of 4, ") for line in lines)


def test_status_changes_no_file(store):
    before = everything(store.root)
    for options in ([], ["--json"]):
        result = CliRunner().invoke(app, ["status", str(store.root), *options])
        assert result.exit_code == 0, result.output
    assert everything(store.root) == before
    assert json.loads(result.stdout)["states"]["done"] == 1


def test_status_accepts_a_damaged_checkpoint(store):
    path = next(iter(store.root.glob("items/*/checkpoint")))
    files.put(path, b"\x00\x01")
    running = next(job for job in status.of(store)["jobs"] if job["prompt"] == "running")
    assert running["iteration"] is None
    assert ATTEMPT in {found.name for found in path.parent.glob("*")}


def test_status_loads_neither_torch_nor_ray_nor_pandas(tmp_path, run_of):
    store = Store(tmp_path)
    runs.begin(store, run_of())
    code = (
        "import sys; from pipeline.cli.app import main\n"
        f"sys.argv[1:] = ['status', {str(tmp_path)!r}]\n"
        "try: main()\n"
        "except SystemExit: print(sorted({'torch', 'ray', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
