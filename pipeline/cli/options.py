"""Options and arguments that several commands share, as annotations for typer."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import completion
from pipeline.store.files import place

EXPORTS = "ply, splat, spz, sog, glb, obj, mp4, gif, png"
DEFAULT_SUITE, DEFAULT_LIMIT, NIGHTLY_LIMIT = "embedded40", 4, 8

Suite = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        autocompletion=completion.suites,
        help="Prompt suite: embedded40, dreamfusion40 (reconstructed: the authors' list is not public), "
        "dreamfusion415, or a text file with one prompt per line.",
        show_default=f"first {DEFAULT_LIMIT} prompts of {DEFAULT_SUITE}",
    ),
]
Prompts = Annotated[
    list[str] | None, typer.Option("--prompt", metavar="TEXT", help="Prompt, instead of a suite. Repeatable.")
]
Limit = Annotated[int | None, typer.Option(help="Maximum number of prompts.", show_default="all prompts of the suite")]
Objective = Annotated[
    str,
    typer.Option(
        autocompletion=completion.objectives,
        help="Distillation objective, or FILE.py:FUNCTION. Separate several with commas: sctd,sds.",
    ),
]
RecipeName = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE",
        autocompletion=completion.choices("sctd.recipe.presets", "RECIPES"),
        help="Recipe: embedded, paper, a variant of these, or a YAML or JSON file.",
    ),
]
WeightsFolder = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR",
        help="Model weights: embedded (bundled models), published (downloaded by `weights fetch`), or a folder with "
        "prior/, scorer/, reward/ and reference.npz.",
        show_default="embedded; published for the paper's recipes",
    ),
]
PublishedFolder = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="NAME|DIR",
        help="Folder of model weights.",
        show_default="published: SEGMENTDREAMER_WEIGHTS",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Seed = Annotated[int, typer.Option(help="Random seed.")]
Views = Annotated[int, typer.Option(help="Number of views to score per asset; the paper uses 120.")]
Workers = Annotated[
    int | None,
    typer.Option(
        help="Number of assets to generate in parallel.", show_default="one per GPU; without GPUs, one per CPU core"
    ),
]
ExecutorName = Annotated[
    str,
    typer.Option(
        "--executor",
        autocompletion=completion.choices("pipeline.commands.bench", "EXECUTORS"),
        help="ray, or inline to run all jobs one by one in this process.",
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
        help="Where to score assets: shared (a fifth of a generator's GPU), dedicated (a GPU of its own; with a single "
        "GPU, after all assets are generated), cpu, or auto (shared).",
    ),
]
StallSeconds = Annotated[
    float, typer.Option(help="Shortest time without a heartbeat after which a worker counts as stalled, in seconds.")
]
Live = Annotated[
    int | None,
    typer.Option(
        metavar="PORT",
        help="Show assets in the browser during generation, on this port of this machine only (needs [live]). "
        "0 picks a free port.",
        show_default="off",
    ),
]
Track = Annotated[
    str | None, typer.Option(metavar="NAME", help="Also log settings, losses and scores to mlflow or wandb.")
]
CheckpointSeconds = Annotated[float, typer.Option(help="Time between checkpoints of an asset, in seconds.")]
Out = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|URL",
        help="Run folder: runs/a or s3://bucket/a.",
        show_default="in runs/, named after the settings",
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
        help="Sweep a recipe key, with a leaderboard row per value: times.num_segments=1,3,5. Several sweeps are "
        "combined as a product. Separate values that contain commas with semicolons: "
        "'cameras.radius=2.8,3.5;2.6,3.2'.",
    ),
]
RunFolder = Annotated[str, typer.Argument(metavar="DIR|URL", help="Run folder.")]
RunFolders = Annotated[list[str], typer.Argument(metavar="DIR|URL...", help="Run folders.")]
Report = Annotated[bool, typer.Option("--report/--no-report", help="Write the report pages to report/.")]
BaselineFolder = Annotated[
    str | None,
    typer.Option("--baseline", metavar="DIR|URL", help="Folder with the baselines and the history of nightly runs."),
]


def optional_path(text: str | None) -> Path | None:
    """The path or URL of an option; None if it was not passed."""
    return None if text is None else place(text)
