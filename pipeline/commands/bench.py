"""What the verbs of the command line do, once their options are read. Checks come first, work after."""

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
from pipeline.store.run_folder import BOARD, GRID, Store
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
    """The prompts asked for, and what a run over them is called. Raises UserError."""
    if limit is not None and limit < 1:
        raise UserError(f"--limit is {limit}; give at least 1, or leave it out for all prompts.")
    if suite is not None and texts:
        raise UserError("--suite and --prompt were both given; give one of them.")
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
    judged: bool = True,
) -> Run:
    """The run that the options describe. Raises UserError for all that would stop it later."""
    names = recipes.objectives(objective)
    base, saved = recipes.named(recipe)
    if saved and not judged:
        raise UserError(f"{recipe} holds a sweep, whose cells are to be compared; run it by bench.")
    sweeps = sweep.combined(saved, sweep.given(swept or [], base))
    methods = sweep.methods(base, names, recipes.settings(settings or []), sweeps)
    run = Run(name, prompts, methods, seed, models.resolve(weights or models.default_for(recipe)), Protocol(views))
    run.check(judged=judged)
    return run


class Means(NamedTuple):
    """How to work, which changes no result."""

    executor: str
    workers: int | None
    checkpoint_seconds: float
    log: str = "auto"
    eval_placement: str = "auto"
    stall_seconds: float = 180.0
    track: str | None = None
    report: bool = True  # as pages, too
    live: int | None = None  # the port of a page that shows the work

    @property
    def snapshot_seconds(self) -> float:
        """How often a worker leaves a snapshot of its asset."""
        return math.inf if self.live is None else SNAPSHOT_SECONDS

    def check(self) -> None:
        """Raise UserError for an executor there is not, or numbers that cannot be meant."""
        check_log(self.log)
        check_placement(self.eval_placement)
        tracking.check(self.track)
        live.check(self.live)
        if not 1 <= self.stall_seconds <= MOST_STALL_SECONDS:
            raise UserError(f"--stall-seconds is {self.stall_seconds:g}; give 1 to {MOST_STALL_SECONDS}.")
        check_workers(self.workers, self.executor)
        if not 0 <= self.checkpoint_seconds <= MOST_CHECKPOINT_SECONDS:
            raise UserError(
                f"--checkpoint-seconds is {self.checkpoint_seconds:g}; give 0 to {MOST_CHECKPOINT_SECONDS}."
            )


def bench(run: Run, out: Path | None, means: Means) -> int:
    """Make and judge what is missing, write the tables, say where; the number of failed jobs."""
    means.check()
    if _is_finished(run, out):
        return 0
    with _opened(run, out) as store:
        _say_left_out(run.weights)
        trackers: list[tracking.Tracker] = []
        if todo := store.unfinished(run.jobs, run.evaluation):
            made = len(todo) - len(store.unfinished(todo, None))
            there = f", {made} of them made already" if made else ""
            _begin(store, run, f"{len(todo)} of {len(run.jobs)} assets to make and judge in {store.root}{there}")
            trackers = [tracking.Tracker(means.track, store, run.settings())] if means.track else []
            display = _display(store, run, len(todo), "evaluate", means, trackers)
            with executing(means.executor, means.workers, means.stall_seconds) as executor, display:
                flow.bench(
                    run,
                    executor,
                    store,
                    means.workers,
                    means.checkpoint_seconds,
                    display.watcher,
                    means.eval_placement,
                    means.snapshot_seconds,
                )
        from pipeline.report.publish import publish

        print(publish(store, site=means.report), end="")
        for tracker in trackers:
            tracker.finish()
        _where(store)
        return _failed(store, run)


def _is_finished(run: Run, out: Path | None) -> bool:
    """Whether all is made, judged and written; then the board is told, and nothing is touched."""
    store = _store(run, out)
    if manifest.check_same(store, run) is None or store.unfinished(run.jobs, run.evaluation):
        return False
    from pipeline.report.publish import is_published, printed

    if not is_published(store, [job.id for job in run.jobs]):
        return False
    _say(f"All {len(run.jobs)} assets are made and judged, so there is nothing to do: {store.root}/leaderboard.csv")
    print(printed(store), end="")
    _where(store)
    return True


def _store(run: Run, out: Path | None) -> Store:
    return Store(out if out is not None else Path("runs") / run.name)


def generate(run: Run, out: Path | None, means: Means) -> int:
    """Make what is missing, say where it lies; the number of failed jobs."""
    means.check()
    with _opened(run, out) as store:
        if todo := store.unfinished(run.jobs, None):
            _begin(store, run, f"{len(todo)} of {len(run.jobs)} assets to make in {store.root}")
            display = _display(store, run, len(todo), "generate", means)
            with executing(means.executor, means.workers, means.stall_seconds) as executor, display:
                flow.generate(
                    run,
                    executor,
                    store,
                    means.workers,
                    means.checkpoint_seconds,
                    display.watcher,
                    means.snapshot_seconds,
                )
        for job in run.jobs:
            if (store.item(job.id) / "asset.ply").exists():
                print(store.item(job.id) / "asset.ply")
        return _failed(store, run)


def evaluate(folder: Path, views: int | None, weights: str | None, executor_name: str, log: str = "auto") -> int:
    """Judge a folder's assets as asked, write its tables; the number of failed jobs."""
    check_workers(None, executor_name)
    check_log(log)
    store = Store(folder)
    settings = manifest.read(store)
    protocol = Protocol(settings["views"] if views is None else views)
    check_views(protocol.num_views)
    known = settings["weights"]
    default = models.EMBEDDED if known["name"] == models.EMBEDDED else known["folder"]
    judges = models.resolve(default if weights is None else weights)
    judges.require(models.EVALUATION)
    texts = list(dict.fromkeys(job["prompt"] for job in settings["jobs"]))
    digest = evaluation_digest(judges, protocol, texts)
    store.prepare(0)
    with store.locked(_say) as store:
        _say_left_out(judges)
        settings = manifest.judged_anew(settings, judges, protocol, METRIC_VERSION, digest, sys.argv[1:])
        store.write_json(store.root / manifest.FILE, settings)
        assets = flow.unjudged(store, settings, digest)
        if assets:
            _say(f"{len(assets)} of {len(settings['jobs'])} assets to judge in {store.root}")
            display = Display(len(assets), "evaluate", log=log, sinks=[EventLog(store)])
            with executing(executor_name, None) as executor, display:
                flow.evaluate(store, settings, judges, digest, assets, executor, display.watcher)
        from pipeline.report.publish import failures, publish

        print(publish(store), end="")
        _where(store)
        return len(failures(store, [job["job_id"] for job in settings["jobs"]]))


def leaderboard(folders: list[Path], out: Path | None, paper: bool | None = None, *, as_json: bool = False) -> None:
    """Print the board of these run folders; renew the files of a single one. `paper`: with Table 2 or without."""
    from pipeline.report.publish import compared, publish, rows

    stores = [Store(folder) for folder in folders]
    for store in stores:
        manifest.read(store)
    is_renewed = len(stores) == 1 and out is None
    if is_renewed:
        table, csv = publish(stores[0], paper=paper), files.read(stores[0].root / BOARD)
    else:
        table, csv = compared(stores, paper=paper)
    if out is not None:
        Store(out.parent).write(out, csv)
    if as_json:
        print(rows(csv))
        return
    print(table, end="")
    if is_renewed:
        _where(stores[0])
    elif out is not None:
        print(f"\nBoard: {out}")


def status(folder: Path, *, as_json: bool) -> None:
    """Print how a run stands."""
    from pipeline.events import status as standing

    found = standing.of(Store(folder))
    print(json.dumps(found, indent=2, ensure_ascii=False) if as_json else standing.table(found), end="\n" * as_json)


def check_workers(workers: int | None, executor_name: str) -> None:
    """Raise UserError for an executor there is not, or a number of workers that cannot be meant."""
    if executor_name not in EXECUTORS:
        hint = nearest(executor_name, EXECUTORS)
        raise UserError(f"There is no executor {executor_name!r}; choose from {', '.join(EXECUTORS)}{hint}.")
    cores = manifest.cores()
    elsewhere = os.environ.get("RAY_ADDRESS", "local") != "local"
    most = 1 if executor_name == "inline" else MOST_WORKERS if elsewhere else MOST_WORKERS_PER_CORE * cores
    if workers is not None and not 1 <= workers <= most:
        limit = "1 (inline works in one process)" if executor_name == "inline" else f"1 to {most} ({cores} cores here)"
        raise UserError(f"--workers is {workers}; give {limit}, or leave it out.")


@contextmanager
def executing(name: str, workers: int | None, stall_seconds: float = 180.0) -> Iterator[Executor]:
    """The executor of this name, and its end."""
    if name == "inline":
        yield InlineExecutor()
        return
    from cluster.ray.executor import RayExecutor, disconnect
    from cluster.scheduling.stalls import Patience

    try:
        yield RayExecutor(cpus=workers or 0, patience=Patience(stall_seconds=stall_seconds))
    except BootError as error:
        error.add_note(error.failure.details)  # where in the worker, for --debug
        raise
    finally:
        disconnect()


@contextmanager
def _opened(run: Run, out: Path | None) -> Iterator[Store]:
    """The run's folder: writable, with room, made by the same settings, and ours alone."""
    store = _store(run, out)
    manifest.check_same(store, run)
    todo = store.unfinished(run.jobs, run.evaluation)
    store.prepare(run.needed_bytes(todo))
    with store.locked(_say) as ours:
        yield ours


def _begin(store: Store, run: Run, line: str) -> None:
    store.write_json(store.root / manifest.FILE, manifest.describe(store, run, sys.argv[1:]))
    _say(line)


def _say_left_out(judges: models.Weights) -> None:
    for sentence in judges.left_out():
        _say(sentence)


def _display(
    store: Store, run: Run, jobs: int, last_stage: str, means: Means, trackers: Sequence[Sink] = ()
) -> Display:
    names = prompt_and_method_of if len(run.methods) > 1 else prompt_of
    sinks: list[Sink] = [EventLog(store), *trackers]
    if means.live is not None:
        view = live.Live(store, {job.id: names(job) for job in run.jobs}, means.live)
        _say(f"Live, until this command ends: {view.url}")
        sinks.append(view)
    return Display(jobs, last_stage, names, log=means.log, sinks=sinks)


def _failed(store: Store, run: Run) -> int:
    from pipeline.report.publish import failures

    failed = failures(store, [job.id for job in run.jobs])
    for line in failed:
        _say(f"failed: {line}")
    return len(failed)


def _where(store: Store) -> None:
    names = "leaderboard.csv", "report.md", "contact.png", GRID, "report/index.html"
    print("\n" + "\n".join(str(store.root / name) for name in names if (store.root / name).exists()))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
