"""The commands for run folders: `bench`, `generate`, `leaderboard` and `status`; `evaluate` has a file of its own."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import Annotated

import typer

from cluster.ray.address import HeadLostError
from pipeline.cli.error_handling import status_of
from pipeline.cli.messages import message
from pipeline.cli.options import PAPER_DEFAULT, AsJson, RunFolder, RunFolders, optional_path
from pipeline.cli.values import with_options
from pipeline.events import tracking
from pipeline.events.log import EventLog, Sink
from pipeline.events.progress import Display, prompt_and_method_of, prompt_of
from pipeline.plan import score_at
from pipeline.plan.jobs import Job
from pipeline.plan.options import ONE_OBJECTIVE, RunOptions
from pipeline.plan.run import Run
from pipeline.plan.text_limits import cut_by_reward
from pipeline.report import live
from pipeline.store import files, manifest
from pipeline.store.files import place
from pipeline.store.manifest import Manifest
from pipeline.store.records import GenerationFacts
from pipeline.store.results import RunResults
from pipeline.store.run_folder import CURVES, GRID, LEADERBOARD, Store
from pipeline.weights import models
from pipeline.work import flow, precision
from pipeline.work.execution import ExecutionOptions, executing


@with_options(
    *("suite", "prompt", "limit", "objective", "recipe", "representation", "weights", "seed", "views"),
    *("workers", "assets_per_gpu", "executor", "eval_placement", "stall_seconds", "checkpoint_seconds", "log", "track"),
    *("score_at", "out", "set_", "sweep", "report", "live"),
)
def bench(options: RunOptions, execution: ExecutionOptions) -> int:
    """Generate, score and rank assets for a set of prompts.

    The ranked methods are the objectives, or the settings of a sweep. Run the same command again to resume; finished
    work is not repeated.
    """
    out = optional_path(options.out)
    run, note = _planned(options, options.run(), out, execution)
    return status_of(finish(run, out, execution, note))


@with_options(
    *("prompt", "objective", "recipe", "representation", "weights", "seed", "workers", "assets_per_gpu", "executor"),
    *("stall_seconds", "checkpoint_seconds", "log", "out", "set_", "live"),
    objective={"help": f"{ONE_OBJECTIVE} Separate several with commas to generate one asset for each."},
    workers={"help": "Number of assets to generate in parallel, if there are several objectives."},
    out={"show_default": "runs/PROMPT-OBJECTIVES-DIGEST"},
)
def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text prompt: 'a red mushroom'.")],
    options: RunOptions,
    execution: ExecutionOptions,
) -> int:
    """Generate an asset without scoring it.

    Writes asset.ply, turntable.mp4 and contact.png to RUN/items/JOB/.
    """
    out = optional_path(options.out)
    run, note = _planned(options, replace(options, prompt=[prompt]).run(is_scored=False), out, execution)
    manifest.check_same(_store(run, out), run)
    with _opened(run, out) as (results, _):
        store = results.store
        generated = store.generated(job.id for job in run.jobs)
        if todo := [job for job in run.jobs if job.id not in generated]:
            results = _begin(results, run, todo)
            message(f"{len(todo)} of {len(run.jobs)} assets to generate in {store.root}")
            _log(note)
            display = _display(store, run, len(todo), "generate", execution)
            with executing(execution) as executor, display:
                results = flow.generate(run, todo, results, executor, execution, display.watcher)
        for job in run.jobs:
            if (store.item(job.id) / "asset.ply").exists():
                print(store.item(job.id) / "asset.ply")
        return status_of(report_failures(results))


def leaderboard(
    folders: RunFolders,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="Write the leaderboard to a CSV file.")] = None,
    paper: Annotated[
        bool | None,
        typer.Option(
            "--paper/--no-paper",
            help="Append the paper's Table 2 in separate columns.",
            show_default=PAPER_DEFAULT,
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Rank the methods of one or more run folders.

    With one run folder and no --out, its leaderboard files and report are rewritten.
    """
    from pipeline.report.publish import compared, publish, rows

    stores, file = [Store(place(folder)) for folder in folders], optional_path(out)
    runs = [RunResults.read(store) for store in stores]
    is_updated = len(stores) == 1 and file is None
    if is_updated:
        table, csv = publish(runs[0], paper=paper), files.read(stores[0].root / LEADERBOARD)
    else:
        table, csv = compared(runs, paper=paper)
    if file is not None:
        Store(file.parent).write(file, csv)
    if json:
        print(rows(csv))
        return
    print(table, end="")
    if is_updated:
        print_outputs(stores[0])
    elif file is not None:
        print(f"\nLeaderboard: {file}")


def status(folder: RunFolder, json: AsJson = False) -> None:
    """Show the progress and failures of a run.

    Also suggests the next command. Does not modify the run folder.
    """
    from pipeline.events import status as statuses

    found = statuses.of(Store(place(folder)))
    print(dumps(found, indent=2, ensure_ascii=False) if json else statuses.table(found), end="\n" * json)


def finish(run: Run, out: Path | None, execution: ExecutionOptions, note: str | None = None) -> int:
    """Generate and score unfinished jobs, then write and print the leaderboard. Returns the number of failed jobs.

    `note` is a message about a run with unfinished jobs.
    """
    _check(execution)
    if _is_finished(run, out, execution.shares):
        return 0
    with _opened(run, out, execution.shares) as (results, is_changed):
        store = results.store
        log_limits(run.weights, [prompt.text for prompt in run.prompts])
        trackers: list[tracking.Tracker] = []
        todo = results.unscored(run.jobs)
        if todo or is_changed:
            results = _begin(results, run, todo)
        _log_without_snapshots(results, run.jobs)
        if todo:
            generated = len(store.generated(job.id for job in todo))
            before = f", {generated} of them already generated" if generated else ""
            message(f"{len(todo)} of {len(run.jobs)} assets to generate and score in {store.root}{before}")
            _log(note)
            trackers = [tracking.Tracker(execution.track, store, results.manifest)] if execution.track else []
            display = _display(store, run, len(todo), "evaluate", execution, trackers)
            try:
                with executing(execution) as executor, display:
                    results = flow.bench(run, todo, results, executor, execution, display.watcher)
            except HeadLostError:
                finished = RunResults.read(store, results.manifest)
                if len(finished.unscored(run.jobs)) < len(run.jobs):
                    _publish(finished, execution)
                raise
        _publish(results, execution)
        for tracker in trackers:
            tracker.finish()
        print_outputs(store)
        if left := flow.unscored(results):  # imported, and the scorers or the prompts have changed
            message(f"{len(left)} imported assets have no such scores yet: segmentdreamer evaluate {store.root}")
        return report_failures(results)


def _planned(options: RunOptions, run: Run, out: Path | None, execution: ExecutionOptions) -> precision.Choice:
    """The run of these options in its precision, after a check of the execution options. Raises UserError."""
    _check(execution)
    precision.check_engine(run, execution)
    if options.sets(precision.KEY):
        return precision.Choice(run)
    return precision.chosen(run, lambda run: _store(run, out), execution)


def _publish(results: RunResults, execution: ExecutionOptions) -> None:
    from pipeline.report.publish import publish  # loads pandas

    print(publish(results, pages=execution.report), end="")


def _check(execution: ExecutionOptions) -> None:
    execution.check()
    live.check(execution.live)


def _is_finished(run: Run, out: Path | None, shares: Sequence[float]) -> bool:
    """Whether the run is finished and published. If so, print its leaderboard without changing any file."""
    store = _store(run, out)
    if (before := manifest.check_same(store, run)) is None or before.scored_at(shares) != before:
        return False
    from pipeline.report.publish import is_published, printed

    if not is_published(store, [job.id for job in run.jobs]):
        return False
    results = RunResults.read(store, Manifest.of(run, store, before))
    if results.unscored(run.jobs):
        return False
    _log_without_snapshots(results, run.jobs)
    message(f"All {len(run.jobs)} assets are generated and scored, nothing to do: {store.root}/leaderboard.csv")
    print(printed(store), end="")
    print_outputs(store)
    return True


def _store(run: Run, out: Path | None) -> Store:
    return Store(out if out is not None else Path("runs") / run.name)


@contextmanager
def _opened(run: Run, out: Path | None, shares: Sequence[float] = ()) -> Iterator[tuple[RunResults, bool]]:
    """The results of the run in its locked folder, and whether the folder's manifest differs from the run's.

    Assets are scored after the `shares` of their iterations, and after those that the folder's manifest has.

    Each record is read once, here: under the lock no other command changes it. Raises UserError if the folder has
    other settings.
    """
    with _store(run, out).locked(message) as store:
        before = manifest.check_same(store, run)
        now = Manifest.of(run, store, before).scored_at(shares)
        yield RunResults.read(store, now), now != before


def _begin(results: RunResults, run: Run, todo: Sequence[Job]) -> RunResults:
    """Check the free disk space, and write the manifest with this session. Raises UserError."""
    results.store.prepare(run.needed_bytes(todo, len(results.manifest.score_at or ())))
    results = replace(results, manifest=results.manifest.with_session(sys.argv[1:]))
    manifest.write(results.store, results.manifest)
    return results


def _log(note: str | None) -> None:
    if note:
        message(note)


def _log_without_snapshots(results: RunResults, jobs: Sequence[Job]) -> None:
    """Say how many generated assets lack snapshots. They are not generated again."""
    if not (shares := results.manifest.score_at):
        return
    found = [results.records[job.id].costs or results.store.generation(job.id) for job in jobs]
    generated = [facts for facts in found if isinstance(facts, GenerationFacts)]
    lacking = [
        facts
        for facts in generated
        if set(score_at.snapshots(shares, facts.iterations)) - {each.iteration for each in facts.snapshots or ()}
    ]
    if lacking:
        message(
            f"{len(lacking)} of {len(generated)} generated assets lack snapshots of --score-at, because they were "
            f"generated without it; {CURVES} lists these as missing. For whole curves, choose another --out."
        )


def log_limits(scorers: models.Weights, texts: Sequence[str]) -> None:
    """Say once which distances are not measured, and which prompts are scored by their beginning."""
    for sentence in filter(None, [*scorers.left_out(), cut_by_reward(scorers, texts)]):
        message(sentence)


def _display(
    store: Store, run: Run, jobs: int, last_stage: str, execution: ExecutionOptions, trackers: Sequence[Sink] = ()
) -> Display:
    names = prompt_and_method_of if len(run.methods) > 1 else prompt_of
    sinks: list[Sink] = [EventLog(store), *trackers]
    if execution.live is not None:
        view = live.LiveView(store, {job.id: names(job) for job in run.jobs}, execution.live)
        message(f"Live view until this command ends: {view.url}")
        sinks.append(view)
    return Display(jobs, last_stage, names, log=execution.log, sinks=sinks, waits_for=execution.waits_for)


def report_failures(results: RunResults) -> int:
    for record in results.failed:
        message(f"failed: {record.prompt} ({record.method}): {record.error}")
    for job in results.records.values():
        for snapshot in job.snapshots or ():
            if snapshot.error:
                message(f"not scored: {job.prompt} ({job.method}), iteration {snapshot.iteration}: {snapshot.error}")
    return len(results.failed)


def print_outputs(store: Store) -> None:
    names = "leaderboard.csv", CURVES, "report.md", "contact.png", GRID, "report/index.html"
    print("\n" + "\n".join(str(store.root / name) for name in names if (store.root / name).exists()))
