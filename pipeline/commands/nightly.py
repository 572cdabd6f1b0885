"""`segmentdreamer nightly`: a bench beside a pinned baseline, and `nightly accept`, which pins one."""

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
MEANS_OF, TENTHS_OF = ("clip", "ir", "clip_rprec"), ("clip", "ir")


def required(folder: Path | None) -> Path:
    """The option --baseline. Raises UserError where it was left out."""
    if folder is None:
        raise UserError("--baseline is missing; give the folder of the pinned baselines, as --baseline baselines.")
    return folder


def run(asked: Run, folder: Path, gates: Path | None, out: Path | None, means: commands.Means) -> str:
    """Check the metric, run what is missing, compare, write, print. Returns the verdict's word."""
    held_to = gates_of.read(gates)
    pinned = baseline.read(folder)
    store = Store(out if out is not None else _default_folder())
    _check_commit(store)
    metric_changes = [
        f"{item.name} of the frozen renders is {item.found:.6g}, was {item.expected:.6g} ± {item.tolerance:.2g}"
        for item in frozen.check()
    ]
    commands.bench(asked, store.root, means._replace(report=False))  # its pages tell the verdict, too: below
    finished = RunResults.read(store)
    candidate, history = nightly_run(finished), _past(folder, pinned.number, finished.manifest["run_id"])
    verdict = nightly.overall_verdict(
        pinned.nightly_run, candidate, held_to, references(finished), metric_changes=metric_changes, history=history
    )
    line = nightly_report.line(verdict, pinned, candidate)
    from pipeline.nightly.trend import draw
    from pipeline.report.publish import publish

    store.write_json(store.root / VERDICT, nightly_report.document(verdict, pinned, candidate))
    store.write(store.root / REPORT, nightly_report.markdown(verdict, pinned, candidate).encode())
    store.write(store.root / JUNIT, nightly_report.junit(verdict, candidate))
    store.write(store.root / TREND, draw([*history, line], pinned.number))
    baseline.append(folder, line)
    if means.report:
        publish(store, pages=True)
    print(f"\n{nightly_report.table(verdict.gates)}", end="")
    print("".join(f"{note}\n" for note in verdict.notes), end="")
    print(f"{verdict.verdict}: {verdict.reason}\n{store.root / REPORT}")
    return verdict.verdict


def accept(run_folder: Path, folder: Path, reason: str) -> None:
    """Pin a finished run as the baseline; older ones stay."""
    if not reason.strip():
        raise UserError("--reason is empty; say why this run is the one to compare with from now on.")
    finished = RunResults.read(Store(run_folder))
    made = nightly_run(finished)
    if unfinished := [
        job_id for job_id, record in finished.records.items() if (record or {}).get("status") in (None, "generated")
    ]:
        raise UserError(
            f"{run_folder} is not finished: {len(unfinished)} of its {len(finished.records)} assets are not made or "
            "not judged; start its command again first."
        )
    accepted = {"by": _user(), "date_utc": datetime.now(UTC).isoformat(timespec="seconds"), "reason": reason.strip()}
    pinned = baseline.pin(folder, made, accepted)
    print(f"Baseline {pinned.number} in {folder}: {made.run_id}, {len(made.objects)} assets")


def nightly_run(finished: RunResults) -> nightly.NightlyRun:
    """A run folder as far as nights compare: numbers and features of every job."""
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
        objects=tuple(_made(finished, job) for job in settings["jobs"]),
    )


def _made(finished: RunResults, job: dict[str, Any]) -> nightly.JobResult:
    record = finished.records[job["job_id"]] or {"status": "unfinished"}
    about = job["method"], job["prompt"], job["seed"]
    if record["status"] != "done":
        return nightly.JobResult(*about, None, record.get("error") or record["status"])
    scores, facts = record["scores"], record["generation"]
    values = {metric: scores[metric]["mean"] for metric in MEANS_OF}
    values |= {f"{metric}_p10": scores[metric]["p10"] for metric in TENTHS_OF}
    values["memory"] = facts["peak_bytes"]
    if "mean_loss" in facts:  # of assets made before it was kept there is none
        values["loss"] = facts["mean_loss"]
    if not facts["resumed_from"]:  # else it has the seconds since then
        values["time"] = facts["seconds"]
    with np.load(io.BytesIO((finished.store.item(job["job_id"]) / EVALUATION).read_bytes())) as file:
        features = {d.metric: file[d.features] for d in finished.distances if d.features in file.files}
    return nightly.JobResult(*about, values, "", features)


def references(finished: RunResults) -> dict[str, Reference]:
    """What its distances are taken from. Raises UserError where one is gone or another."""
    return {distance.metric: finished.reference(distance) for distance in finished.distances}


def _past(folder: Path, number: int, run_id: str) -> list[dict[str, Any]]:
    """The nights before this one whose numbers mean what the baseline's do."""
    lines = baseline.history(folder, number)
    return [line for line in lines if line["run"] != run_id and not line["reason"].startswith(nightly.METRIC_CHANGED)]


def _default_folder() -> Path:
    """A folder of its own for every day and commit, so that no night finds the assets of another."""
    commit = manifest.commit()
    name = f"nightly-{datetime.now(UTC):%Y-%m-%d}" + (
        f"-{commit[:8]}{'+' if commit.endswith('+') else ''}" if commit else ""
    )
    return Path("runs") / name


def _check_commit(store: Store) -> None:
    """What older code made says nothing of tonight's. Raises UserError."""
    before = store.read_json(store.root / manifest.FILE)
    commit = manifest.commit()
    for session in before["sessions"] if before else []:
        if session["commit"] != commit:
            raise UserError(
                f"{store.root} was made by commit {session['commit'] or 'unknown'}, and this is {commit or 'unknown'}; "
                "choose another --out, or leave it out for a folder of tonight's."
            )


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no name for this user id, as in some containers
        return "unknown"
