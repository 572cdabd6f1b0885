"""The commands `nightly` and `nightly accept`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import completion
from pipeline.cli.error_handling import OK, REGRESSION
from pipeline.cli.options import (
    DEFAULT_SUITE,
    NIGHTLY_LIMIT,
    BaselineFolder,
    CheckpointSeconds,
    EvalPlacement,
    ExecutorName,
    Log,
    NightlyLimit,
    Objectives,
    RecipeName,
    Report,
    RunFolder,
    Seed,
    Settings,
    StallSeconds,
    Views,
    WeightsFolder,
    Workers,
    optional_path,
)
from pipeline.store.files import place


def nightly(
    context: typer.Context,
    baseline: BaselineFolder = None,
    gates: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file with the regression tolerance (gate) of each metric.",
            show_default="bundled gates",
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            autocompletion=completion.suites,
            help="Prompt suite.",
            show_default=DEFAULT_SUITE,
        ),
    ] = None,
    limit: NightlyLimit = None,
    objective: Objectives = "sctd",
    recipe: RecipeName = "embedded",
    weights: WeightsFolder = None,
    seed: Seed = 0,
    views: Views = 120,
    workers: Workers = None,
    executor: ExecutorName = "ray",
    eval_placement: EvalPlacement = "auto",
    stall_seconds: StallSeconds = 180.0,
    checkpoint_seconds: CheckpointSeconds = 20.0,
    log: Log = "auto",
    out: Annotated[
        str | None, typer.Option(metavar="DIR|URL", help="Run folder.", show_default="runs/nightly-DATE-COMMIT")
    ] = None,
    set_: Settings = None,
    report: Report = True,
) -> int | None:
    """Run a regression benchmark of this commit against a baseline.

    First, the metrics are verified on stored reference renders. Then assets are compared prompt by prompt. Exit status:
    0 if the verdict is PASS or INCONCLUSIVE, 5 if it is FAIL. `nightly accept RUN` sets the baseline.
    """
    if context.invoked_subcommand is not None:
        return None
    from pipeline.commands import bench as bench_commands
    from pipeline.commands import nightly as commands

    baselines = commands.required(optional_path(baseline))
    name, prompts = bench_commands.prompts(suite, None, limit, DEFAULT_SUITE, NIGHTLY_LIMIT)
    run = bench_commands.checked_run(name, prompts, objective, recipe, weights, seed, views, set_)
    execution = bench_commands.ExecutionOptions(
        executor, workers, checkpoint_seconds, log, eval_placement, stall_seconds, report=report
    )
    verdict = commands.run(run, baselines, gates, optional_path(out), execution)
    return REGRESSION if verdict == "FAIL" else OK


def accept(
    folder: RunFolder,
    baseline: BaselineFolder = None,
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Reason for setting this baseline.  [required]")] = "",
) -> int:
    """Set a finished run as the baseline.

    Older baselines are kept.
    """
    from pipeline.commands import nightly as commands

    commands.accept(place(folder), commands.required(optional_path(baseline)), reason)
    return OK


group = typer.Typer()
group.callback(invoke_without_command=True)(nightly)
group.command()(accept)
