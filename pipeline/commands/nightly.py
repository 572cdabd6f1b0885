"""The commands `nightly` and `nightly accept`."""

import getpass
import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.references import Reference
from pipeline.commands import bench as commands
from pipeline.embedded import frozen
from pipeline.errors import UserError
from pipeline.leaderboard.table import RunResults
from pipeline.nightly import baseline
from pipeline.nightly import gates as gates_of
from pipeline.nightly import report as nightly_report
from pipeline.nightly import verdict as nightly
from pipeline.plan.run import Run
from pipeline.store import manifest
from pipeline.store.run_folder import EVALUATION, TREND, VERDICT, Store
from pipeline.weights.models import SCORERS

REPORT, JUNIT = "verdict.md", "junit.xml"
AVERAGED, TENTH_PERCENTILES = ("clip", "ir", "clip_rprec"), ("clip", "ir")


def required(folder: Path | None) -> Path:
    """The option --baseline. Raises UserError if it was not passed."""
    if folder is None:
        raise UserError("--baseline is missing; pass the folder of the baselines: --baseline baselines.")
    return folder


def run(planned: Run, folder: Path, gates: Path | None, out: Path | None, execution: commands.ExecutionOptions) -> str:
    """Check the metrics, finish the run, compare it with the baseline, and write and print the verdict.

    Returns PASS, INCONCLUSIVE or FAIL.
    """
    limits = gates_of.read(gates)
    pinned = baseline.read(folder)
    store = Store(out if out is not None else _default_folder())
    _check_commit(store)
    metric_changes = [
        f"{item.name} of the frozen renders is {item.found:.6g}, was {item.expected:.6g} ± {item.tolerance:.2g}"
        for item in frozen.check()
    ]
    commands.bench(planned, store.root, execution._replace(report=False))  # the pages need the verdict, see below
    finished = RunResults.read(store)
    candidate, history = nightly_run(finished), _past(folder, pinned.number, finished.manifest["run_id"])
    verdict = nightly.overall_verdict(
        pinned.nightly_run, candidate, limits, references(finished), metric_changes=metric_changes, history=history
    )
    line = nightly_report.line(verdict, pinned, candidate)
    from pipeline.nightly.trend import draw
    from pipeline.report.publish import publish

    store.write_json(store.root / VERDICT, nightly_report.document(verdict, pinned, candidate))
    store.write(store.root / REPORT, nightly_report.markdown(verdict, pinned, candidate).encode())
    store.write(store.root / JUNIT, nightly_report.junit(verdict, candidate))
    store.write(store.root / TREND, draw([*history, line], pinned.number))
    baseline.append(folder, line)
    if execution.report:
        publish(store, pages=True)
    print(f"\n{nightly_report.table(verdict.gates)}", end="")
    print("".join(f"{note}\n" for note in verdict.notes), end="")
    print(f"{verdict.verdict}: {verdict.reason}\n{store.root / REPORT}")
    return verdict.verdict


def accept(run_folder: Path, folder: Path, reason: str) -> None:
    """Pin a finished run as the baseline; older baselines are kept."""
    if not reason.strip():
        raise UserError("--reason is empty; say why later runs are compared with this one.")
    finished = RunResults.read(Store(run_folder))
    candidate = nightly_run(finished)
    if unfinished := [
        job_id for job_id, record in finished.records.items() if (record or {}).get("status") in (None, "generated")
    ]:
        raise UserError(
            f"{run_folder} is not finished: {len(unfinished)} of its {len(finished.records)} assets are not "
            "scored; run its command again first."
        )
    accepted = {"by": _user(), "date_utc": datetime.now(UTC).isoformat(timespec="seconds"), "reason": reason.strip()}
    pinned = baseline.pin(folder, candidate, accepted)
    print(f"Baseline {pinned.number} in {folder}: {candidate.run_id}, {len(candidate.objects)} assets")


def nightly_run(finished: RunResults) -> nightly.NightlyRun:
    """What is compared of a run folder: the scores, costs and features of every job."""
    settings = finished.manifest
    session = settings["sessions"][-1]
    hardware = session["hardware"]
    sha256 = settings["weights"]["sha256"]
    keys = {"protocol": settings["protocol"], "metric_version": settings["metric_version"]}
    keys |= {"judges": settings["weights"]["name"]}
    keys |= {part: sha for part, sha in sorted(sha256.items()) if part in SCORERS}
    return nightly.NightlyRun(
        run_id=settings["run_id"],
        date_utc=session["started_utc"],
        commit=session["commit"],
        machine=", ".join(hardware["gpus"]) or f"{hardware['cpu']}, {hardware['cores']} cores",
        keys=keys,
        recipes=settings["recipes"],
        objects=tuple(_result(finished, job) for job in settings["jobs"]),
    )


def _result(finished: RunResults, job: dict[str, Any]) -> nightly.JobResult:
    record = finished.records[job["job_id"]] or {"status": "unfinished"}
    about = job["method"], job["prompt"], job["seed"]
    if record["status"] != "done":
        return nightly.JobResult(*about, None, record.get("error") or record["status"])
    scores, facts = record["scores"], record["generation"]
    values = {metric: scores[metric]["mean"] for metric in AVERAGED}
    values |= {f"{metric}_p10": scores[metric]["p10"] for metric in TENTH_PERCENTILES}
    values["memory"] = facts["peak_bytes"]
    if "mean_loss" in facts:  # older versions did not record it
        values["loss"] = facts["mean_loss"]
    if not facts["resumed_from"]:  # otherwise it covers only the time since the checkpoint
        values["time"] = facts["seconds"]
    with np.load(io.BytesIO((finished.store.item(job["job_id"]) / EVALUATION).read_bytes())) as file:
        features = {d.metric: file[d.features] for d in finished.distances if d.features in file.files}
    return nightly.JobResult(*about, values, "", features)


def references(finished: RunResults) -> dict[str, Reference]:
    """The references of its distances. Raises UserError if one is missing or has changed."""
    return {distance.metric: finished.reference(distance) for distance in finished.distances}


def _past(folder: Path, number: int, run_id: str) -> list[dict[str, Any]]:
    """Earlier nightly runs whose metrics are comparable with the baseline's."""
    lines = baseline.history(folder, number)
    return [line for line in lines if line["run"] != run_id and not line["reason"].startswith(nightly.METRIC_CHANGED)]


def _default_folder() -> Path:
    """A folder named after the day and the commit, so that nightly runs do not share assets."""
    commit = manifest.commit()
    name = f"nightly-{datetime.now(UTC):%Y-%m-%d}" + (
        f"-{commit[:8]}{'+' if commit.endswith('+') else ''}" if commit else ""
    )
    return Path("runs") / name


def _check_commit(store: Store) -> None:
    """Raise UserError if the folder has assets of another commit."""
    before = store.read_json(store.root / manifest.FILE)
    commit = manifest.commit()
    for session in before["sessions"] if before else []:
        if session["commit"] != commit:
            raise UserError(
                f"{store.root} was generated by commit {session['commit'] or 'unknown'}, and this is "
                f"{commit or 'unknown'}; choose another --out, or omit it to use a new folder."
            )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # some containers have no name for the user id
        return "unknown"
