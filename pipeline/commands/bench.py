"""The commands `bench`, `generate`, `evaluate`, `leaderboard` and `status`."""

import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from cluster.scheduling.executor import BootError, Executor, InlineExecutor
from pipeline.errors import UserError, nearest
from pipeline.events import tracking
from pipeline.events.log import EventLog, Sink
from pipeline.events.progress import Display, check_log, prompt_and_method_of, prompt_of
from pipeline.plan import recipes, sweep
from pipeline.plan.protocol import Protocol
from pipeline.plan.run import METRIC_VERSION, Run, check_views, evaluation_digest
from pipeline.prompts import prompts as prompts_of
from pipeline.prompts import suite as read_suite
from pipeline.prompts import suite_name
from pipeline.prompts.prompt import Prompt
from pipeline.report import live
from pipeline.store import files, manifest
from pipeline.store.run_folder import GRID, LEADERBOARD, Store
from pipeline.weights import models
from pipeline.work import flow
from pipeline.work.placement import check_placement

EXECUTORS = "ray", "inline"
SNAPSHOT_SECONDS = 3.0
MOST_WORKERS, MOST_WORKERS_PER_CORE = 1024, 8
MOST_CHECKPOINT_SECONDS = MOST_STALL_SECONDS = 86_400


def prompts(
    suite: str | None, texts: Sequence[str] | None, limit: int | None, default_suite: str, default_limit: int
) -> tuple[str, list[Prompt]]:
    """The run's default name and its prompts. Raises UserError."""
    if limit is not None and limit < 1:
        raise UserError(f"--limit is {limit}; expected at least 1, or omit it to run all prompts.")
    if suite is not None and texts:
        raise UserError("--suite and --prompt were both passed; pass one of them.")
    if texts:
        found = prompts_of(texts)
        return found[0].id if len(found) == 1 else "prompts", found[:limit]
    if suite is None:
        return default_suite, read_suite(default_suite)[: limit or default_limit]
    return suite_name(suite), read_suite(suite)[:limit]


def checked_run(
    name: str,
    prompts: list[Prompt],
    objective: str,
    recipe: str,
    weights: str | None,
    seed: int,
    views: int,
    settings: list[str] | None,
    swept: list[str] | None = None,
    *,
    scored: bool = True,
) -> Run:
    """The run that the options describe. Raises UserError for options with which it could not run."""
    names = recipes.objectives(objective)
    base, saved = recipes.named(recipe)
    if saved and not scored:
        raise UserError(f"{recipe} contains a sweep; run it with bench.")
    sweeps = sweep.combined(saved, sweep.from_options(swept or [], base))
    methods = sweep.methods(base, names, recipes.settings(settings or []), sweeps)
    run = Run(name, prompts, methods, seed, models.resolve(weights or models.default_for(recipe)), Protocol(views))
    run.check(scored=scored)
    return run


class ExecutionOptions(NamedTuple):
    """Options that do not affect the results."""

    executor: str
    workers: int | None
    checkpoint_seconds: float
    log: str = "auto"
    eval_placement: str = "auto"
    stall_seconds: float = 180.0
    track: str | None = None
    report: bool = True  # whether to write the report pages
    live: int | None = None  # port of the live view

    @property
    def snapshot_seconds(self) -> float:
        """Time between a worker's snapshots of its asset."""
        return math.inf if self.live is None else SNAPSHOT_SECONDS

    def check(self) -> None:
        """Raise UserError for unknown names and values out of range."""
        check_log(self.log)
        check_placement(self.eval_placement)
        tracking.check(self.track)
        live.check(self.live)
        if not 1 <= self.stall_seconds <= MOST_STALL_SECONDS:
            raise UserError(f"--stall-seconds is {self.stall_seconds:g}; expected 1 to {MOST_STALL_SECONDS}.")
        check_workers(self.workers, self.executor)
        if not 0 <= self.checkpoint_seconds <= MOST_CHECKPOINT_SECONDS:
            raise UserError(
                f"--checkpoint-seconds is {self.checkpoint_seconds:g}; expected 0 to {MOST_CHECKPOINT_SECONDS}."
            )


def bench(run: Run, out: Path | None, execution: ExecutionOptions) -> int:
    """Generate and score unfinished jobs, then write and print the leaderboard. Returns the number of failed jobs."""
    execution.check()
    if _is_finished(run, out):
        return 0
    with _opened(run, out) as store:
        _log_left_out(run.weights)
        trackers: list[tracking.Tracker] = []
        if todo := store.unfinished(run.jobs, run.evaluation):
            generated = len(todo) - len(store.unfinished(todo, None))
            note = f", {generated} of them already generated" if generated else ""
            _begin(store, run, f"{len(todo)} of {len(run.jobs)} assets to generate and score in {store.root}{note}")
            trackers = [tracking.Tracker(execution.track, store, run.settings())] if execution.track else []
            display = _display(store, run, len(todo), "evaluate", execution, trackers)
            with executing(execution.executor, execution.workers, execution.stall_seconds) as executor, display:
                flow.bench(
                    run,
                    executor,
                    store,
                    execution.workers,
                    execution.checkpoint_seconds,
                    display.watcher,
                    execution.eval_placement,
                    execution.snapshot_seconds,
                )
        from pipeline.report.publish import publish

        print(publish(store, pages=execution.report), end="")
        for tracker in trackers:
            tracker.finish()
        _print_outputs(store)
        return _failed(store, run)


def _is_finished(run: Run, out: Path | None) -> bool:
    """Whether the run is finished and published. If so, print its leaderboard without changing any file."""
    store = _store(run, out)
    if manifest.check_same(store, run) is None or store.unfinished(run.jobs, run.evaluation):
        return False
    from pipeline.report.publish import is_published, printed

    if not is_published(store, [job.id for job in run.jobs]):
        return False
    _log(f"All {len(run.jobs)} assets are generated and scored, nothing to do: {store.root}/leaderboard.csv")
    print(printed(store), end="")
    _print_outputs(store)
    return True


def _store(run: Run, out: Path | None) -> Store:
    return Store(out if out is not None else Path("runs") / run.name)


def generate(run: Run, out: Path | None, execution: ExecutionOptions) -> int:
    """Generate unfinished jobs and print the paths of the assets. Returns the number of failed jobs."""
    execution.check()
    with _opened(run, out) as store:
        if todo := store.unfinished(run.jobs, None):
            _begin(store, run, f"{len(todo)} of {len(run.jobs)} assets to generate in {store.root}")
            display = _display(store, run, len(todo), "generate", execution)
            with executing(execution.executor, execution.workers, execution.stall_seconds) as executor, display:
                flow.generate(
                    run,
                    executor,
                    store,
                    execution.workers,
                    execution.checkpoint_seconds,
                    display.watcher,
                    execution.snapshot_seconds,
                )
        for job in run.jobs:
            if (store.item(job.id) / "asset.ply").exists():
                print(store.item(job.id) / "asset.ply")
        return _failed(store, run)


def evaluate(folder: Path, views: int | None, weights: str | None, executor_name: str, log: str = "auto") -> int:
    """Score a folder's assets where needed, then update its outputs. Returns the number of failed jobs."""
    check_workers(None, executor_name)
    check_log(log)
    store = Store(folder)
    settings = manifest.read(store)
    protocol = Protocol(settings["views"] if views is None else views)
    check_views(protocol.num_views)
    known = settings["weights"]
    default = models.EMBEDDED if known["name"] == models.EMBEDDED else known["folder"]
    scorers = models.resolve(default if weights is None else weights)
    scorers.require(models.EVALUATION)
    texts = list(dict.fromkeys(job["prompt"] for job in settings["jobs"]))
    digest = evaluation_digest(scorers, protocol, texts)
    store.prepare(0)
    with store.locked(_log) as store:
        _log_left_out(scorers)
        settings = manifest.rescored(settings, scorers, protocol, METRIC_VERSION, digest, sys.argv[1:])
        store.write_json(store.root / manifest.FILE, settings)
        assets = flow.unscored(store, settings, digest)
        if assets:
            _log(f"{len(assets)} of {len(settings['jobs'])} assets to score in {store.root}")
            display = Display(len(assets), "evaluate", log=log, sinks=[EventLog(store)])
            with executing(executor_name, None) as executor, display:
                flow.evaluate(store, settings, scorers, digest, assets, executor, display.watcher)
        from pipeline.report.publish import failures, publish

        print(publish(store), end="")
        _print_outputs(store)
        return len(failures(store, [job["job_id"] for job in settings["jobs"]]))


def leaderboard(folders: list[Path], out: Path | None, paper: bool | None = None, *, as_json: bool = False) -> None:
    """Print the leaderboard of these run folders, and update the outputs of a single one.

    `paper`: append the paper's Table 2; None decides by recipe and weights.
    """
    from pipeline.report.publish import compared, publish, rows

    stores = [Store(folder) for folder in folders]
    for store in stores:
        manifest.read(store)
    is_updated = len(stores) == 1 and out is None
    if is_updated:
        table, csv = publish(stores[0], paper=paper), files.read(stores[0].root / LEADERBOARD)
    else:
        table, csv = compared(stores, paper=paper)
    if out is not None:
        Store(out.parent).write(out, csv)
    if as_json:
        print(rows(csv))
        return
    print(table, end="")
    if is_updated:
        _print_outputs(stores[0])
    elif out is not None:
        print(f"\nLeaderboard: {out}")


def status(folder: Path, *, as_json: bool) -> None:
    """Print the progress of a run."""
    from pipeline.events import status as statuses

    found = statuses.of(Store(folder))
    print(json.dumps(found, indent=2, ensure_ascii=False) if as_json else statuses.table(found), end="\n" * as_json)


def check_workers(workers: int | None, executor_name: str) -> None:
    """Raise UserError for an unknown executor, or a number of workers out of range."""
    if executor_name not in EXECUTORS:
        hint = nearest(executor_name, EXECUTORS)
        raise UserError(f"Unknown value {executor_name!r} for --executor; choose from {', '.join(EXECUTORS)}{hint}.")
    cores = manifest.cores()
    elsewhere = os.environ.get("RAY_ADDRESS", "local") != "local"
    most = 1 if executor_name == "inline" else MOST_WORKERS if elsewhere else MOST_WORKERS_PER_CORE * cores
    if workers is not None and not 1 <= workers <= most:
        limit = "1 (inline runs in one process)" if executor_name == "inline" else f"1 to {most} ({cores} cores here)"
        raise UserError(f"--workers is {workers}; expected {limit}, or omit it.")


@contextmanager
def executing(name: str, workers: int | None, stall_seconds: float = 180.0) -> Iterator[Executor]:
    """The executor of this name, shut down at the end."""
    if name == "inline":
        yield InlineExecutor()
        return
    from cluster.ray.executor import RayExecutor
    from cluster.ray.session import disconnect
    from cluster.scheduling.stalls import StallTimeout

    try:
        yield RayExecutor(cpus=workers or 0, stall_timeout=StallTimeout(stall_seconds=stall_seconds))
    except BootError as error:
        error.add_note(error.failure.details)  # the worker's traceback, for --debug
        raise
    finally:
        disconnect()


@contextmanager
def _opened(run: Run, out: Path | None) -> Iterator[Store]:
    """The run's folder, locked. Raises UserError if its settings differ, it is not writable or the disk is full."""
    store = _store(run, out)
    manifest.check_same(store, run)
    todo = store.unfinished(run.jobs, run.evaluation)
    store.prepare(run.needed_bytes(todo))
    with store.locked(_log) as ours:
        yield ours


def _begin(store: Store, run: Run, line: str) -> None:
    store.write_json(store.root / manifest.FILE, manifest.describe(store, run, sys.argv[1:]))
    _log(line)


def _log_left_out(scorers: models.Weights) -> None:
    for sentence in scorers.left_out():
        _log(sentence)


def _display(
    store: Store, run: Run, jobs: int, last_stage: str, execution: ExecutionOptions, trackers: Sequence[Sink] = ()
) -> Display:
    names = prompt_and_method_of if len(run.methods) > 1 else prompt_of
    sinks: list[Sink] = [EventLog(store), *trackers]
    if execution.live is not None:
        view = live.LiveView(store, {job.id: names(job) for job in run.jobs}, execution.live)
        _log(f"Live view until this command ends: {view.url}")
        sinks.append(view)
    return Display(jobs, last_stage, names, log=execution.log, sinks=sinks)


def _failed(store: Store, run: Run) -> int:
    from pipeline.report.publish import failures

    failed = failures(store, [job.id for job in run.jobs])
    for line in failed:
        _log(f"failed: {line}")
    return len(failed)


def _print_outputs(store: Store) -> None:
    names = "leaderboard.csv", "report.md", "contact.png", GRID, "report/index.html"
    print("\n" + "\n".join(str(store.root / name) for name in names if (store.root / name).exists()))


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
