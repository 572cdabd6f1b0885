"""What the steps of the Kubeflow pipeline do in their pods. Without kfp: `kubeflow.py` makes components of them.

Each takes `Job.text` and can be tried again: a RayJob is attached to, and the commands do nothing twice.
"""

import csv
import io
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from cluster.kubernetes.job import EMBEDDED, PROGRAM, STORAGE, WEIGHTS, Job, from_text
from cluster.kubernetes.jobs import KubeRayJobs
from cluster.kubernetes.launcher import LaunchError, Status, run

REFERENCE = "reference"
RUN_CHARACTERS = 8  # of the pipeline run's id, which make a job's name that run's own
POLL_SECONDS = 5.0
COSTS = "n_prompts", "n_failed", "time_min", "peak_gib", "n_gauss"  # columns of a board; scores have an @


def job_of(text: str, run_id: str) -> Job:
    """The job of a pipeline's run; with a run's id that run's own, as each night has. Raises ManifestError."""
    job = from_text(text)
    return job.model_copy(update={"name": f"{job.name}-{run_id[:RUN_CHARACTERS]}"}) if run_id else job


def forget_failed(job: Job) -> None:
    """Forget RayJobs that failed in an earlier run of this pipeline: they are begun anew. Raises LaunchError.

    Only the first step may: what a later one finds failed can be of its own run.
    """
    launcher = KubeRayJobs(job.namespace)
    for made in (_reference_of(job), job):
        launcher.forget_failed(made)


def fetch_weights(job: Job) -> str:
    """Fetch them where one volume holds them for all nodes; elsewhere a pod's loader does. What there is, as JSON."""
    if job.claims_weights:
        _program("weights", "fetch", "--weights", WEIGHTS)
        return _program("weights", "list", "--json", "--weights", WEIGHTS)
    return _program("weights", "list", "--json")


def make_reference(job: Job) -> str:
    """Make what the Fréchet distances are taken from, if nobody has; a line that says so. Raises LaunchError."""
    if job.weights == EMBEDDED:
        return "packaged with the embedded models"
    places = [Path(WEIGHTS), Path(STORAGE)] if job.claims_weights else [Path(STORAGE)]
    if found := sorted(str(path) for place in places for path in place.glob("reference*.npz")):
        return f"there: {', '.join(found)}"
    launch(_reference_of(job))
    return f"made by the RayJob {_reference_of(job).name}"


def _reference_of(job: Job) -> Job:
    return job.model_copy(update={"name": f"{job.name}-{REFERENCE}", "command": (REFERENCE,)})


def launch(job: Job, seconds: float | None = None) -> None:
    """Run it as a RayJob to its end, print what it prints, and cancel it if told to stop. Raises LaunchError."""
    signal.signal(signal.SIGTERM, _stop)  # an aborted run and a deadline come as SIGTERM
    status = run(KubeRayJobs(job.namespace), job, _tell, seconds=seconds or POLL_SECONDS, echo=_echo)
    if status.state == "failed":
        raise LaunchError(
            f"RayJob {job.name} failed ({status.message}); see segmentdreamer job logs kuberay {job.name}, and begin "
            "anew by submit kfp --again."
        )


def evaluate(job: Job) -> None:
    """Judge what is not judged yet; nothing, as a rule, for a bench judges."""
    _program("evaluate", job.folder, "--executor", "inline")


def rank(job: Job) -> tuple[str, str, dict[str, float]]:
    """The board as CSV, the report as Markdown, and the board's numbers by method and column."""
    _program("leaderboard", job.folder)
    folder = Path(job.folder)
    board = (folder / "leaderboard.csv").read_text(encoding="utf-8")
    return board, (folder / "report.md").read_text(encoding="utf-8"), metrics(board)


def metrics(board: str) -> dict[str, float]:
    """Of each row of a board its scores and costs; an empty cell is no metric."""
    return {
        f"{row['method']} {column}": float(value)
        for row in csv.DictReader(io.StringIO(board))
        for column, value in row.items()
        if value and ("@" in column or column in COSTS)
    }


def _program(*words: str) -> str:
    """Run a command of this program, words as a list: no shell. Raises CalledProcessError."""
    print("+", PROGRAM, *words, flush=True)
    done = subprocess.run([PROGRAM, *words], stdout=subprocess.PIPE, text=True, check=True)
    sys.stdout.write(done.stdout)
    return done.stdout


def _tell(status: Status) -> None:
    print(status, flush=True)


def _echo(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _stop(_: int, __: FrameType | None) -> None:
    sys.exit(128 + signal.SIGTERM)
