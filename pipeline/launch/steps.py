"""The steps of the Kubeflow pipeline, as their pods run them. `kubeflow.py` turns them into kfp components.

A step can be retried: it attaches to its RayJob, and its commands do no work twice.

Metadata of artifacts is text: Kubeflow stores numbers as floats, which have no room for a seed above 2^53.
"""

import csv
import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from cluster.jobs.description import EMBEDDED, STORAGE, WEIGHTS, ClusterJob
from cluster.jobs.errors import LaunchError
from cluster.jobs.launcher import JobStatus, run
from cluster.kubernetes.jobs import KubeRayJobs
from pipeline.launch.program import NAME, PROGRAM, REFERENCE, ProgramJob

REFERENCE_SUFFIX = "-reference"
RUN_CHARACTERS = 8  # of the pipeline run's id, appended to the job's name to make it unique
POLL_SECONDS = 5.0
COSTS = "n_prompts", "n_failed", "time_min", "peak_gib", "n_gauss"  # leaderboard columns; scores contain an @


def job_of(text: str, run_id: str) -> ClusterJob:
    """The job of a `ClusterJob.text`; with a run id, the job of that run, as in nightly runs. Raises ManifestError."""
    job = ProgramJob.from_text(text)
    return job.model_copy(update={"name": f"{job.name}-{run_id[:RUN_CHARACTERS]}"}) if run_id else job


def forget_failed(job: ClusterJob) -> None:
    """Delete RayJobs that failed in an earlier run of this pipeline, so that they run again. Raises LaunchError.

    Only the first step may call it: a failed job that a later step finds may belong to the current run.
    """
    launcher = KubeRayJobs(job.namespace)
    for each in (_reference_of(job), job):
        launcher.forget_failed(each)


def fetch_weights(job: ClusterJob) -> str:
    """Fetch the weights to the volume of all nodes, if there is one, and list them as JSON.

    Without such a volume, the init container of each pod fetches them.
    """
    if job.claims_weights:
        _program("weights", "fetch", "--weights", WEIGHTS)
        return _program("weights", "list", "--json", "--weights", WEIGHTS)
    return _program("weights", "list", "--json")


def facts_of_weights(job: ClusterJob, listing: str) -> dict[str, str]:
    """Metadata of the list of models, which the step `weights` writes."""
    return {"weights": job.weights, "models": str(len(json.loads(listing)))}


def make_reference(job: ClusterJob) -> str:
    """Make the reference set of the Fréchet distances if there is none. Returns a report line. Raises LaunchError."""
    if job.weights == EMBEDDED:
        return "bundled with the embedded models"
    places = [Path(WEIGHTS), Path(STORAGE)] if job.claims_weights else [Path(STORAGE)]
    if found := sorted(str(path) for place in places for path in place.glob(PROGRAM.shared_files)):
        return f"found: {', '.join(found)}"
    launch(_reference_of(job))
    return f"made by the RayJob {_reference_of(job).name}"


def _reference_of(job: ClusterJob) -> ClusterJob:
    return job.model_copy(update={"name": job.name + REFERENCE_SUFFIX, "command": REFERENCE})


def launch(job: ClusterJob, seconds: float | None = None) -> None:
    """Run a job as a RayJob to its end and print its output. On SIGTERM, cancel it. Raises LaunchError."""
    signal.signal(signal.SIGTERM, _stop)  # an aborted run and a deadline send SIGTERM
    status = run(KubeRayJobs(job.namespace), job, _print_status, seconds=seconds or POLL_SECONDS, on_log=_print_log)
    if status.state == "failed":
        raise LaunchError(
            f"RayJob {job.name} failed ({status.message}); see segmentdreamer job logs kuberay {job.name}, then "
            "resubmit it with submit kfp --resubmit."
        )


def evaluate(job: ClusterJob) -> None:
    """Score assets without scores. Usually there are none, because bench scores its assets."""
    _program("evaluate", job.results, "--executor", "inline")


def rank(job: ClusterJob) -> tuple[str, str, dict[str, float]]:
    """The leaderboard as CSV, the report as Markdown, and the leaderboard's numbers by method and column."""
    _program("leaderboard", job.results)
    folder = Path(job.results)
    leaderboard = (folder / "leaderboard.csv").read_text(encoding="utf-8-sig")
    return leaderboard, (folder / "report.md").read_text(encoding="utf-8"), metrics(leaderboard)


def facts_of_results(job: ClusterJob) -> dict[str, str]:
    """Metadata of the results: the job, and the settings of its run. Raises UserError."""
    from pipeline.store import manifest
    from pipeline.store.run_folder import Store

    run = manifest.read(Store(Path(job.results)))
    return {
        "job": job.name,
        "job_digest": job.digest,
        "image": job.image,
        "run_folder": job.results,
        "suite": run.suite,
        "seed": str(run.seed),
        "views": str(run.views),
        "protocol": run.protocol,
        "weights": run.weights.name,
        "methods": ", ".join(run.recipes),
        "prompts": str(len(run.prompts)),
        "assets": str(len(run.jobs)),
        "version": run.sessions[-1].versions.get(NAME, ""),
        "commit": run.sessions[-1].commit or "",
    }


def metrics(leaderboard: str) -> dict[str, float]:
    """The scores and costs of each row of a leaderboard CSV, without empty cells."""
    return {
        f"{row['method']} {column}": float(value)
        for row in csv.DictReader(io.StringIO(leaderboard))
        for column, value in row.items()
        if value and ("@" in column or column in COSTS)
    }


def _program(*words: str) -> str:
    """Run a command of this program without a shell. Raises CalledProcessError."""
    print("+", NAME, *words, flush=True)
    done = subprocess.run([NAME, *words], stdout=subprocess.PIPE, text=True, check=True)
    sys.stdout.write(done.stdout)
    return done.stdout


def _print_status(status: JobStatus) -> None:
    print(status, flush=True)


def _print_log(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _stop(_: int, __: FrameType | None) -> None:
    sys.exit(128 + signal.SIGTERM)
