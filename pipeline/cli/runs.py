"""The commands for run folders: `bench`, `generate`, `evaluate`, `leaderboard` and `status`."""

from typing import Annotated

import typer

from pipeline.cli import completion
from pipeline.cli.error_handling import OK, status_of
from pipeline.cli.options import (
    DEFAULT_LIMIT,
    DEFAULT_SUITE,
    ONE_OBJECTIVE,
    PAPER_DEFAULT,
    AsJson,
    CheckpointSeconds,
    EvalPlacement,
    ExecutorName,
    Limit,
    Live,
    Log,
    Objectives,
    Out,
    Prompts,
    RecipeName,
    Report,
    RunFolder,
    RunFolders,
    Seed,
    Settings,
    StallSeconds,
    Suite,
    Sweeps,
    Track,
    Views,
    WeightsFolder,
    Workers,
    optional_path,
)
from pipeline.store.files import place


def bench(
    suite: Suite = None,
    prompt: Prompts = None,
    limit: Limit = None,
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
    track: Track = None,
    out: Out = None,
    set_: Settings = None,
    sweep: Sweeps = None,
    report: Report = True,
    live: Live = None,
) -> int:
    """Generate, score and rank assets for a set of prompts.

    The ranked methods are the objectives, or the settings of a sweep. Run the same command again to resume; finished
    work is not repeated.
    """
    from pipeline.commands import bench as commands

    name, prompts = commands.prompts(suite, prompt, limit, DEFAULT_SUITE, DEFAULT_LIMIT)
    run = commands.checked_run(name, prompts, objective, recipe, weights, seed, views, set_, sweep)
    execution = commands.ExecutionOptions(
        executor, workers, checkpoint_seconds, log, eval_placement, stall_seconds, track, report, live
    )
    return status_of(commands.bench(run, optional_path(out), execution))


def generate(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text prompt: 'a red mushroom'.")],
    objective: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            autocompletion=completion.objectives,
            help=f"{ONE_OBJECTIVE} Separate several with commas to generate one asset for each.",
        ),
    ] = "sctd",
    recipe: RecipeName = "embedded",
    weights: WeightsFolder = None,
    seed: Seed = 0,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of assets to generate in parallel, if there are several objectives.",
            show_default="one per GPU; without GPUs, one per CPU core",
        ),
    ] = None,
    executor: ExecutorName = "ray",
    stall_seconds: StallSeconds = 180.0,
    checkpoint_seconds: CheckpointSeconds = 20.0,
    log: Log = "auto",
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|URL",
            help="Run folder: runs/a or s3://bucket/a.",
            show_default="runs/PROMPT-OBJECTIVES-DIGEST",
        ),
    ] = None,
    set_: Settings = None,
    live: Live = None,
) -> int:
    """Generate an asset without scoring it.

    Writes asset.ply, turntable.mp4 and contact.png to RUN/items/JOB/.
    """
    from pipeline.commands import bench as commands

    name, prompts = commands.prompts(None, [prompt], None, DEFAULT_SUITE, DEFAULT_LIMIT)
    run = commands.checked_run(name, prompts, objective, recipe, weights, seed, 120, set_, scored=False)
    execution = commands.ExecutionOptions(
        executor, workers, checkpoint_seconds, log, stall_seconds=stall_seconds, live=live
    )
    return status_of(commands.generate(run, optional_path(out), execution))


def evaluate(
    folder: RunFolder,
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
    executor: ExecutorName = "ray",
    log: Log = "auto",
) -> int:
    """Score the assets of a run folder.

    Assets that already have scores are skipped unless the views, the weights or the prompts of the run have changed.
    """
    from pipeline.commands import bench as commands

    return status_of(commands.evaluate(place(folder), views, weights, executor, log))


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
) -> int:
    """Rank the methods of one or more run folders.

    With one run folder and no --out, its leaderboard files and report are rewritten.
    """
    from pipeline.commands import bench as commands

    commands.leaderboard([place(folder) for folder in folders], optional_path(out), paper, as_json=json)
    return OK


def status(folder: RunFolder, json: AsJson = False) -> int:
    """Show the progress and failures of a run.

    Also suggests the next command. Does not modify the run folder.
    """
    from pipeline.commands import bench as commands

    commands.status(place(folder), as_json=json)
    return OK
