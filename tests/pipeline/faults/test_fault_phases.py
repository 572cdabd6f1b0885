"""Faults 2, 7 and 13 of docs/cluster.md on whole commands: a signal at every phase of a job, and failing storage.

When the command is started again, it ends with the bytes of an undisturbed run and repeats one interval at most.
"""

import errno
import json
import signal
import uuid
from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.store import files, lease
from tests.support.processes import BALL
from tests.support.zygote import POINTS, Zygote

PROMPTS = ["--prompt", "a red cube", "--prompt", "a blue ball"]
ITERATIONS = 5
OPTIONS = ["--set", f"iterations={ITERATIONS}", *BALL, "--views", "4", "--executor", "inline"]
OPTIONS += ["--no-report", "--checkpoint-seconds", "0"]  # an interval is one iteration
SAME = "asset.ply", "turntable.mp4", "contact.png"


@pytest.fixture(scope="module")
def zygote(s3):
    process = Zygote()
    yield process
    process.close()


@pytest.fixture(scope="module")
def whole(tiny_weights, zygote, tmp_path_factory) -> Path:
    """The undisturbed run."""
    out = tmp_path_factory.mktemp("whole") / "run"
    assert zygote.run(command(tiny_weights, out)).status == 0
    return out


def command(weights: Path, out: Path) -> list[str]:
    return ["bench", *PROMPTS, *OPTIONS, "--weights", str(weights), "--out", str(out)]


def check_same(out: Path, whole: Path) -> None:
    """Check for the same bytes, no missing job and no leftover file."""
    paths = [path.relative_to(whole) for path in whole.glob("items/*/*")]
    assert len(paths) == 2 * 6
    assert sorted(str(path)[len(str(out)) + 1 :] for path in out.glob("items/*/*")) == sorted(map(str, paths))
    for path in paths:
        if path.name in SAME:
            assert (out / path).read_bytes() == (whole / path).read_bytes(), path
        if path.name == "record.json":
            here, there = (json.loads((root / path).read_bytes()) for root in (out, whole))
            assert (here["status"], here["scores"]) == (there["status"], there["scores"])
    assert {path.name for path in out.glob("*")} | {".lock"} == {path.name for path in whole.glob("*")}


RESUMED = {"before a checkpoint": 2, "during a checkpoint": 2, "after the asset": 4}


@pytest.mark.parametrize("point", POINTS)
def test_fault_2_a_command_killed_at_any_phase_resumes_to_the_same_bytes(zygote, tiny_weights, whole, tmp_path, point):
    out = tmp_path / "run"
    assert zygote.run(command(tiny_weights, out), point).status == -signal.SIGKILL
    again = zygote.run(command(tiny_weights, out))
    assert again.status == 0, again.stderr
    check_same(out, whole)
    resumed = [json.loads(path.read_bytes())["resumed_from"] for path in out.glob("items/*/generation.json")]
    assert sorted(resumed) == [0, RESUMED.get(point, 0)]


def test_fault_2_a_killed_run_in_a_bucket_resumes_to_the_bytes_of_a_run_in_a_folder(zygote, tiny_weights, whole, s3):
    out = files.place(f"{s3}/{uuid.uuid4()}")
    for point in ("during a checkpoint", "half moved"):
        assert zygote.run(command(tiny_weights, out), point).status == -signal.SIGKILL
    again = zygote.run(command(tiny_weights, out))
    assert again.status == 0, again.stderr
    check_same(out, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_fault_7_an_interrupted_command_releases_its_lease_and_prints_how_to_resume(
    zygote, tiny_weights, whole, tmp_path, number
):
    out = tmp_path / "run"
    ended = zygote.run(command(tiny_weights, out), "before a checkpoint", number)
    assert ended.status == 130
    assert ended.stderr.splitlines()[-1].startswith("Interrupted. To resume, run: segmentdreamer")
    assert lease.holder(out) is None
    assert zygote.run(command(tiny_weights, out)).status == 0
    check_same(out, whole)
    done = zygote.run(command(tiny_weights, out))
    assert "nothing to do" in done.stderr, "finished items are not generated again"


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def no_waiting(monkeypatch):
    """The executor does not sleep, and its clock runs ahead."""
    monkeypatch.setattr("cluster.scheduling.executor.time.sleep", lambda _: None)
    clock = iter(range(10**9))
    monkeypatch.setattr("cluster.scheduling.executor.time.monotonic", lambda: float(next(clock)))


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize(("times", "status"), [(3, 0), (10**6, 2)])
def test_fault_13_a_full_disk_delays_the_run_and_then_stops_it_with_an_error(
    tiny_weights, whole, tmp_path, monkeypatch, times, status
):
    """Writing checkpoints fails three times, or always."""
    out, failures, put = tmp_path / "run", [], files.put

    def full(path, content):
        if path.name == "checkpoint" and len(failures) < times:
            failures.append(path)
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        put(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "put", full)
        result = invoke(*command(tiny_weights, out))
    assert result.exit_code == status, result.output
    if status:
        assert 6 <= len(failures) <= 12
        advice = "check that the run folder can be written, then run the same command again: finished jobs are kept."
        error = result.stderr.splitlines()[-1]
        assert error.startswith("Error: Storage fails for every worker (OSError: [Errno 28] No space left on device: ")
        assert error.endswith(advice)
        assert invoke(*command(tiny_weights, out)).exit_code == 0
    check_same(out, whole)


def test_fault_13_transient_errors_of_a_store_delay_a_run_and_change_nothing(
    tiny_weights, whole, tmp_path, monkeypatch
):
    """Every third write to the store (here: memory) fails once."""
    memory, count, waits = type(files.place("memory://a").fs), [0], []
    write = memory.pipe_file

    def pipe_file(*arguments, **options):
        count[0] += 1
        if count[0] % 3 == 0 and options.get("mode") != "create":
            raise RuntimeError("503 Slow Down")
        write(*arguments, **options)

    monkeypatch.setattr(memory, "pipe_file", pipe_file)
    monkeypatch.setattr(files.time, "sleep", waits.append)
    out = files.place(f"memory://{tmp_path.name}")
    result = invoke(*command(tiny_weights, out))
    assert result.exit_code == 0, result.output
    check_same(out, whole)
    assert waits.count(0.5) > 10


@pytest.mark.parametrize(
    ("number", "reason"), [(errno.EROFS, "Read-only file system"), (errno.EACCES, "Permission denied")]
)
def test_fault_13_a_folder_that_cannot_be_written_is_an_error_before_any_work(
    tiny_weights, tmp_path, monkeypatch, number, reason
):
    def denied(path, content):
        raise OSError(number, reason, str(path))

    monkeypatch.setattr(files, "put", denied)
    result = invoke(*command(tiny_weights, tmp_path))
    assert result.exit_code == 2
    assert result.stderr == f"Error: {tmp_path} cannot be written ({reason}); choose another --out.\n"
