"""A finished run as a nightly run: what is compared of it, and the references of its distances."""

from evaluation.references import Reference
from pipeline.nightly import verdict as nightly
from pipeline.plan.metrics import COMPARED, PER_VIEW
from pipeline.store.records import Done, Record
from pipeline.store.results import RunResults


def nightly_run(finished: RunResults) -> nightly.NightlyRun:
    """What is compared of a run folder: the scores, costs and features of every job."""
    settings = finished.manifest
    session, hardware = settings.sessions[-1], settings.sessions[-1].hardware
    keys = {"protocol": settings.protocol, "metric_version": settings.metric_version, "judges": settings.weights.name}
    keys |= dict(sorted(settings.weights.scorers.items()))
    return nightly.NightlyRun(
        run_id=settings.run_id,
        date_utc=session.started_utc,
        commit=session.commit,
        machine=", ".join(hardware.gpus) or hardware.line,
        keys=keys,
        recipes={method: settings.recipes[method] for method in settings.generated_methods},
        objects=tuple(
            _result(finished, record) for record in finished.records.values() if record.method not in settings.imported
        ),
    )


def _result(finished: RunResults, record: Record) -> nightly.JobResult:
    about = record.method, record.prompt, record.seed
    if not isinstance(record, Done):
        return nightly.JobResult(*about, None, record.error or record.status)
    scores, facts = record.scores, record.costs
    values = {metric.id: scores[metric.id]["mean"] for metric in PER_VIEW if metric.id in scores}
    values |= {metric.lowest_tenth.id: scores[metric.id]["p10"] for metric in COMPARED if metric.id in scores}
    if facts is not None:
        values["memory"] = facts.peak_bytes
        if facts.mean_loss is not None:
            values["loss"] = facts.mean_loss
        if not facts.resumed_from:  # otherwise it covers only the time since the checkpoint
            values["time"] = facts.seconds
    return nightly.JobResult(*about, values, "", finished.features(record))


def references(finished: RunResults) -> dict[str, Reference]:
    """The references of its distances. Raises UserError if one is missing or has changed."""
    return {distance.metric: finished.reference(distance) for distance in finished.distances}
