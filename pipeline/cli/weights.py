"""The commands for model weights: `weights list`, `weights fetch`, `weights check`, `doctor` and `reference`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import completion
from pipeline.cli.completion import choices
from pipeline.cli.error_handling import CHECK_FAILED, OK, handle_errors, status_of
from pipeline.cli.options import AsJson, ExecutorName, PublishedFolder, RecipeName, WeightsFolder


def list_weights(weights: PublishedFolder = None, json: AsJson = False) -> int:
    """List the models with their sources, files, licences and folders.

    Sources are listed in order of preference, files with their size and SHA-256.
    """
    from pipeline.commands import weights as commands

    commands.list_weights(weights, as_json=json)
    return OK


def fetch_weights(
    role: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="Models to download, for example: prior scorer (see `weights list`).",
            show_default="all that are not optional",
            autocompletion=choices("pipeline.weights.catalogue", "FETCHED"),
        ),
    ] = None,
    weights: PublishedFolder = None,
    offline: Annotated[bool, typer.Option(help="Use only the local Hugging Face cache.")] = False,
) -> int:
    """Download published weights and verify sizes and SHA-256 digests.

    An interrupted download resumes, and complete files are not downloaded again.
    """
    from pipeline.commands import weights as commands

    commands.fetch_weights(role or [], weights, offline=offline)
    return OK


def check_weights(
    role: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="Models to check, for example: prior scorer (see `weights list`).",
            show_default="all",
            autocompletion=choices("pipeline.weights.catalogue", "ROLES"),
        ),
    ] = None,
    weights: PublishedFolder = None,
    golden: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder of images with published scores: those of the READMEs of ImageReward and CLIP.",
        ),
    ] = None,
    json: AsJson = False,
) -> int:
    """Load the models and verify them.

    Verifies digests and tensor shapes, and compares outputs with published values. Exit status: 0 if all models pass or
    are optional and missing, 1 otherwise.
    """
    from pipeline.commands import weights as commands

    return OK if commands.check_weights(role or [], weights, golden, as_json=json) else CHECK_FAILED


def doctor(recipe: RecipeName = "embedded", weights: WeightsFolder = None, json: AsJson = False) -> int:
    """Check whether this machine can run a recipe.

    Each problem is printed with the command that fixes it. Exit status: 0 if the recipe can run, 1 if not.
    """
    from pipeline.commands import weights as commands

    return OK if commands.examine(recipe, weights, as_json=json) else CHECK_FAILED


def reference(
    weights: PublishedFolder = None,
    suite: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            autocompletion=completion.suites,
            show_default="dreamfusion40; embedded40 with the bundled models",
            help="Prompt suite.",
        ),
    ] = None,
    count: Annotated[
        int, typer.Option(metavar="N", help="Total number of images, divided equally among the prompts.")
    ] = 50_000,
    network: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Feature network: scorer, inception, inception_tf, dinov2. Repeatable.",
            show_default="all networks in the weights",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", show_default="the weights folder", help="Folder for reference*.npz."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            show_default="reference-cache/ in --out",
            help="Cache for features and images. On a cluster, all nodes must have access to it.",
        ),
    ] = None,
    keep_images: Annotated[
        bool,
        typer.Option(
            "--keep-images",
            help="Keep the images so that features of another network can be computed without resampling.",
        ),
    ] = False,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Data type of the prior: float32, float16, bfloat16.",
            show_default="float16 on a GPU; float32 on CPUs and for the bundled models",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="Number of parallel workers.",
            show_default="one per GPU; without GPUs, one per CPU core",
        ),
    ] = None,
    executor: ExecutorName = "ray",
) -> int:
    """Compute the reference statistics of the Fréchet distances.

    Samples the reference images from the prior and writes the moments of each network's features to reference*.npz.
    Run the same command again to resume; finished work is not repeated.
    """
    from pipeline.commands import bench as bench_commands
    from pipeline.commands import weights as commands

    execution = bench_commands.ExecutionOptions(executor, workers, 0.0)
    return status_of(
        commands.make_reference(
            weights, suite, count, network or [], out, cache, dtype, execution, keep_images=keep_images
        )
    )


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(handle_errors(doctor))
    app.command()(handle_errors(reference))
    group = typer.Typer(help="List, download and check published weights.", no_args_is_help=True, rich_markup_mode=None)
    for name, command in (("list", list_weights), ("fetch", fetch_weights), ("check", check_weights)):
        group.command(name)(handle_errors(command))
    app.add_typer(group, name="weights")
