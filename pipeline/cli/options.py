"""Options and arguments that several commands share, as annotations for typer."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import completion
from pipeline.store.files import place

DEFAULT_SUITE, DEFAULT_LIMIT, NIGHTLY_LIMIT = "embedded40", 4, 8

Suite = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        autocompletion=completion.suites,
        help="Prompt suite: embedded40, dreamfusion40, dreamfusion415, or a text file with one prompt per line. "
        "dreamfusion40 is reconstructed: the authors' list is not public.",
        show_default=DEFAULT_SUITE,
    ),
]
Prompts = Annotated[
    list[str] | None, typer.Option("--prompt", metavar="TEXT", help="Prompt, instead of a suite. Repeatable.")
]
Limit = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Maximum number of prompts.",
        show_default=f"all; without --suite and --prompt, {DEFAULT_LIMIT} of {DEFAULT_SUITE}",
    ),
]
NightlyLimit = Annotated[
    int | None,
    typer.Option(
        "--limit",
        metavar="N",
        help="Maximum number of prompts.",
        show_default=f"all; without --suite, {NIGHTLY_LIMIT} of {DEFAULT_SUITE}",
    ),
]
PAPER_DEFAULT = "on for the paper recipe, except with the bundled models"
ONE_OBJECTIVE = "Distillation objective, or FILE.py:FUNCTION."
Objective = Annotated[
    str,
    typer.Option(metavar="NAME", autocompletion=completion.objectives, help=ONE_OBJECTIVE),
]
Objectives = Annotated[
    str,
    typer.Option(
        "--objective",
        metavar="NAME",
        autocompletion=completion.objectives,
        help=f"{ONE_OBJECTIVE} Separate several with commas: sctd,sds.",
    ),
]
RecipeName = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE",
        autocompletion=completion.choices("sctd.recipe.presets", "RECIPES"),
        help="Recipe: a preset (embedded, paper, embedded-avatar, …), or a YAML or JSON file.",
    ),
]
WeightsFolder = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR",
        help="Model weights: embedded (bundled models), published (see `weights fetch`), or a folder with prior/, "
        "scorer/, reward/ and reference.npz.",
        show_default="embedded; published for the paper's recipes",
    ),
]
PublishedFolder = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="NAME|DIR",
        help="Model weights: published (env var of their folder: SEGMENTDREAMER_WEIGHTS), embedded, or a folder.",
        show_default="published",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Random seed.")]
Views = Annotated[int, typer.Option(metavar="N", help="Number of views to score per asset; the paper uses 120.")]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Number of assets to generate in parallel.",
        show_default="one per GPU; without GPUs, one per CPU core",
    ),
]
ExecutorName = Annotated[
    str,
    typer.Option(
        "--executor",
        metavar="NAME",
        autocompletion=completion.choices("pipeline.commands.bench", "EXECUTORS"),
        help="Executor: ray, or inline (run jobs sequentially in this process).",
    ),
]
Log = Annotated[
    str,
    typer.Option(
        metavar="FORMAT",
        autocompletion=completion.choices("pipeline.events.progress", "LOGS"),
        help="Progress output: table, lines, json or auto. json is one event per line; auto is a table on a terminal, "
        "lines otherwise.",
    ),
]
EvalPlacement = Annotated[
    str,
    typer.Option(
        metavar="PLACEMENT",
        autocompletion=completion.choices("pipeline.work.placement", "PLACEMENTS"),
        help="Where to score assets: shared (0.2 of the GPU of a generation worker), dedicated (a GPU without "
        "generation workers; if there is only one GPU, after generation), cpu, or auto (currently shared).",
    ),
]
StallSeconds = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        help="Seconds without a heartbeat after which a worker is considered stalled; longer if its iterations are "
        "slow.",
    ),
]
Live = Annotated[
    int | None,
    typer.Option(
        metavar="PORT",
        help="Show assets in the browser during generation, on this port of the loopback interface; 0 picks a free "
        "port. Requires pip install 'segmentdreamer[live]'.",
        show_default="off",
    ),
]
Track = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Also log settings, losses and scores to an experiment tracker: mlflow or wandb."
    ),
]
CheckpointSeconds = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        help="Time between checkpoints of an asset, in seconds; 0 saves after every iteration.",
    ),
]
Out = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|URL",
        help="Run folder: runs/a or s3://bucket/a.",
        show_default="runs/SUITE-OBJECTIVES-DIGEST",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        autocompletion=completion.settings,
        help="Override a recipe key: guidance.scale=10. Repeatable.",
    ),
]
Sweeps = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep",
        metavar="KEY=VALUES",
        autocompletion=completion.settings,
        help="Sweep a recipe key, with a leaderboard row per value: times.num_segments=1,3,5. Several sweeps form "
        "a Cartesian product. Separate values that contain commas with semicolons: "
        "'cameras.radius=2.8,3.5;2.6,3.2'.",
    ),
]
RunFolder = Annotated[str, typer.Argument(metavar="DIR|URL", help="Run folder.")]
RunFolders = Annotated[list[str], typer.Argument(metavar="DIR|URL...", help="Run folders.")]
Report = Annotated[bool, typer.Option("--report/--no-report", help="Write the report pages to report/.")]
BaselineFolder = Annotated[
    str | None,
    typer.Option(
        "--baseline",
        metavar="DIR|URL",
        help="Folder with the baselines and the history of nightly runs.  [required]",  # the command checks it
    ),
]


def optional_path(text: str | None) -> Path | None:
    """The path or URL of an option; None if it was not passed."""
    return None if text is None else place(text)
