"""The command `evaluate`: score the assets of a run folder, and import other people's assets into it."""

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.error_handling import status_of
from pipeline.cli.messages import message
from pipeline.cli.options import optional_path
from pipeline.cli.values import with_options
from pipeline.commands.bench import log_limits, print_outputs, report_failures
from pipeline.digests import digest
from pipeline.errors import UserError
from pipeline.events.log import EventLog
from pipeline.events.progress import Display, prompt_and_method_of
from pipeline.plan import import_files
from pipeline.plan.imports import ImportJob, ImportOptions, Source
from pipeline.plan.protocol import PAPER_VIEWS, Protocol
from pipeline.plan.run import IMAGE_BYTES, METRIC_VERSION, check_views, evaluation_digest
from pipeline.prompts import slug
from pipeline.prompts.prompt import Prompt
from pipeline.store import manifest
from pipeline.store.files import place, read
from pipeline.store.manifest import Manifest, UsedWeights
from pipeline.store.results import RunResults
from pipeline.store.run_folder import CONTACT, Store
from pipeline.weights import models
from pipeline.weights.models import Weights
from pipeline.work import flow
from pipeline.work.execution import ExecutionOptions, executing

SUITE = "imported"  # of a folder without prompts of its own
DEFAULT_PIXELS = 512  # of views, if nothing says otherwise


@with_options(
    *("folder", "assets", "method", "prompts", "up", "front", "fit", "shading", "check", "out"),
    *("views", "weights", "executor", "log"),
)
def evaluate(
    imported: ImportOptions,
    execution: ExecutionOptions,
    folder: Annotated[str | None, typer.Argument(metavar="DIR|URL", help="Run folder.")] = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|URL",
            help="Run folder that the imported methods join, or a new one.",
            show_default="runs/METHODS-DIGEST",
        ),
    ] = None,
    views: Annotated[
        int | None,
        typer.Option(metavar="N", help="Number of views to score per asset.", show_default="as in the run"),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|DIR",
            help="Model weights: embedded, published, or a folder.",
            show_default="the weights of the run",
        ),
    ] = None,
) -> int:
    """Score the assets of a run folder, or assets of other programs.

    Assets that already have scores are skipped unless the views, the weights or the prompts of the run have changed.

    With --assets, files of another method are imported first: run the same command again to resume.
    """
    execution.check()
    if folder is not None and out is not None:
        raise UserError("A run folder and --out were both passed; pass one of them.")
    path = optional_path(folder if out is None else out)
    if imported.are_given:
        return status_of(_import(imported, path, views, weights, execution))
    if path is None:
        raise UserError(
            "There is nothing to score; pass a run folder, or --assets FOLDER --method NAME to import assets."
        )
    store = Store(place(path))
    protocol, scorers = _scoring(manifest.read(store), views, weights)
    with store.locked(message) as store:
        store.prepare(0)
        log_limits(scorers, manifest.read(store).prompts)
        settings = _rescored(manifest.read(store), protocol, scorers)  # another command may have added jobs
        settings = settings.with_session(sys.argv[1:])
        manifest.write(store, settings)
        results = _scored(RunResults.read(store, settings), scorers, execution)
        from pipeline.report.publish import publish

        print(publish(results), end="")
        print_outputs(store)
        return status_of(len(results.failed))


def _scoring(settings: Manifest, views: int | None, weights: str | None) -> tuple[Protocol, Weights]:
    """The views and scorers of a run, or those of the options."""
    protocol = Protocol(settings.views if views is None else views)
    check_views(protocol.num_views)
    known = settings.weights
    default = models.EMBEDDED if known.name == models.EMBEDDED else known.folder
    scorers = models.resolve(default if weights is None else weights)
    scorers.require(models.EVALUATION)
    return protocol, scorers


def _rescored(settings: Manifest, protocol: Protocol, scorers: Weights) -> Manifest:
    return settings.rescored(scorers, protocol, evaluation_digest(scorers, protocol, settings.prompts))


def _scored(results: RunResults, scorers: Weights, execution: ExecutionOptions) -> RunResults:
    """The results after all assets are scored."""
    assets = flow.unscored(results)
    if not assets:
        return results
    store, digest_ = results.store, str(results.manifest.evaluation)
    message(f"{len(assets)} of {len(results.records)} assets to score in {store.root}")
    display = _display(store, len(assets), "evaluate", execution)
    with executing(execution) as executor, display:
        return flow.evaluate(results, scorers, digest_, assets, executor, display.watcher)


def _display(store: Store, jobs: int, stage: str, execution: ExecutionOptions) -> Display:
    return Display(
        jobs, stage, prompt_and_method_of, log=execution.log, sinks=[EventLog(store)], waits_for=execution.waits_for
    )


def _import(
    options: ImportOptions, out: Path | None, views: int | None, weights: str | None, execution: ExecutionOptions
) -> int:
    """Import and score assets; returns the number of failed jobs."""
    sources = options.sources()
    store = None if out is None else Store(out)
    before = None if store is None else manifest.find(store)
    base = before or _new_manifest(views, weights)
    protocol, scorers = _scoring(base, views, weights)
    _check_names(sources, base)
    jobs = _matched(sources, store, before, scorers)
    store = store or Store(Path("runs") / _name_of(sources, jobs))
    with store.locked(message) as store:
        store.prepare(sum(map(_needed_bytes, jobs)))
        base = manifest.find(store) or base.model_copy(update={"run_id": store.root.resolve().name or str(store.root)})
        settings = _rescored(base.with_imports(sources, jobs), protocol, scorers)
        log_limits(scorers, settings.prompts)
        settings = settings.with_session(sys.argv[1:])
        manifest.write(store, settings)
        results = RunResults.read(store, settings)
        generated = store.generated(job.id for job in jobs)
        if todo := [job for job in jobs if job.id not in generated]:
            message(f"{len(todo)} of {len(jobs)} assets to import into {store.root}")
            display = _display(store, len(todo), "import", execution)
            with executing(execution) as executor, display:
                results = flow.import_assets(todo, results, scorers, executor, display.watcher)
        for sheet in _write_sheets(results, sources):
            message(f"To check the axes: {sheet}")
        if options.check:
            return report_failures(results)
        results = _scored(results, scorers, execution)
        from pipeline.report.publish import publish

        print(publish(results, pages=True), end="")
        print_outputs(store)
        return report_failures(results)


def _check_names(sources: list[Source], settings: Manifest) -> None:
    """Raise UserError if the assets of a method of this name were generated here."""
    for source in sources:
        if source.method in settings.generated_methods:
            raise UserError(
                f"{settings.run_id} has a method {source.method!r} whose assets it generated; choose another --method."
            )


def _name_of(sources: list[Source], jobs: list[ImportJob]) -> str:
    """The default name of the run folder."""
    names = "+".join(slug(source.method) or "method" for source in sources)
    return f"{names}-{digest([job.id for job in jobs])[:10]}"


def _needed_bytes(job: ImportJob) -> int:
    """An upper estimate of what the asset adds to the folder: Gaussians have up to 8 times the bytes of their file."""
    path = job.entry.path
    return IMAGE_BYTES + (8 * path.stat().st_size if path is not None and path.is_file() else 0)


def _write_sheets(results: RunResults, sources: list[Source]) -> list[Path]:
    """Write `imported-<method>.png`, the contact sheets of each method below one another; returns the paths."""
    from pipeline.assets import images

    written, store = [], results.store
    for source in sources:
        items = (store.item(record.job_id) / CONTACT for record in results.of(source.method))
        if sheets := [read(path) for path in items if path.exists()]:
            written.append(store.root / f"imported-{_sheet_name(source.method, results.manifest.imported)}.png")
            store.write(written[-1], images.stacked(sheets))
    return written


def _sheet_name(method: str, others: Iterable[str]) -> str:
    """The method's name as part of a file name, with a digest if another method's would be the same."""
    name = slug(method) or "method"
    same = [other for other in others if (slug(other) or "method") == name]
    return name if len(same) < 2 else f"{name}-{digest(method)[:6]}"


def _matched(sources: list[Source], store: Store | None, before: Manifest | None, scorers: Weights) -> list[ImportJob]:
    """The jobs of all folders; says what is left out. Raises UserError."""
    known = _prompts_of(before) if before and before.generated_methods else None
    size, seed, scorer = _image_size(store, before, scorers), before.seed if before else 0, scorers.digests["scorer"]
    found = [import_files.match(source, known) for source in sources]
    for note in [note for matched in found for note in matched.notes]:
        message(note)
    return [
        job
        for source, matched in zip(sources, found, strict=True)
        for job in import_files.jobs_of(source, matched, size, seed, scorer)
    ]


def _prompts_of(settings: Manifest) -> list[Prompt]:
    """The prompts of the jobs that were generated here: others cannot join them, because R-precision ranks all."""
    found = {
        job.prompt: Prompt(job.prompt_id, job.prompt, job.shape_prompt or job.prompt)
        for job in settings.jobs
        if job.method not in settings.imported
    }
    return list(found.values())


def _image_size(store: Store | None, before: Manifest | None, scorers: Weights) -> int:
    """Pixels of the scored views: as of the other assets of the folder, else of the prior beside the scorers."""
    if store is not None and before is not None:
        for job in before.jobs:
            if facts := store.generation(job.job_id):
                return facts.image_size
    from sctd.prior.files import PriorError, image_size

    try:
        return image_size(scorers.part("prior"))
    except (PriorError, OSError):
        return DEFAULT_PIXELS


def _new_manifest(views: int | None, weights: str | None) -> Manifest:
    """The manifest of a folder without jobs."""
    scorers = models.resolve(weights or models.EMBEDDED)
    protocol = Protocol(PAPER_VIEWS if views is None else views)
    return Manifest(
        run_id="",
        suite=SUITE,
        seed=0,
        views=protocol.num_views,
        protocol=protocol.name,
        metric_version=METRIC_VERSION,
        recipes={},
        weights=UsedWeights(name=scorers.name, folder=str(scorers.folder), sha256={}),
        jobs=(),
        sessions=(),
    )
