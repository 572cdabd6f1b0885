"""The options that verbs share, as Typer reads them from signatures."""

from typing import Annotated

import typer

from pipeline.cli import completion as cli_complete
from pipeline.cli.completion import words_of

EXPORTS = "ply, splat, spz, sog, glb, obj, mp4, gif, png"
DEFAULT_SUITE, DEFAULT_LIMIT, NIGHTLY_LIMIT = "embedded40", 4, 8

Suite = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|FILE",
        autocompletion=cli_complete.suites,
        help="Prompts: a packaged suite (embedded40; dreamfusion40, reconstructed: the authors' list is not public; "
        f"dreamfusion415), or a text file with one a line. Default: the first {DEFAULT_LIMIT} of {DEFAULT_SUITE}.",
    ),
]
Prompts = Annotated[list[str] | None, typer.Option("--prompt", metavar="TEXT", help="A prompt, instead of a suite.")]
Limit = Annotated[int | None, typer.Option(help="Only the first so many prompts.", show_default="all of a suite")]
Objective = Annotated[
    str,
    typer.Option(
        autocompletion=cli_complete.objectives,
        help="What distils, or FILE.py:FUNCTION. Several, as sctd,sds: each makes every prompt.",
    ),
]
RecipeName = Annotated[
    str,
    typer.Option(
        metavar="NAME|FILE",
        autocompletion=words_of("sctd.recipe.presets", "RECIPES"),
        help="embedded, paper, or a YAML or JSON file.",
    ),
]
WeightsFolder = Annotated[
    str | None,
    typer.Option(
        metavar="NAME|DIR",
        help="embedded: those packaged; published: those that `weights fetch` brought; or a folder with prior/, "
        "scorer/, reward/, reference.npz.",
        show_default="embedded; published for the recipes of the paper",
    ),
]
Place = Annotated[
    str | None,
    typer.Option(
        "--weights", metavar="NAME|DIR", help="Which folder.", show_default="published: SEGMENTDREAMER_WEIGHTS"
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="As JSON.")]
Seed = Annotated[int, typer.Option(help="Of everything random.")]
Views = Annotated[int, typer.Option(help="Views an asset is judged from; 120 is the paper's protocol.")]
Workers = Annotated[
    int | None, typer.Option(help="Assets made side by side.", show_default="one per GPU or, without, per core")
]
ExecutorName = Annotated[
    str,
    typer.Option(
        "--executor",
        autocompletion=words_of("pipeline.commands.bench", "EXECUTORS"),
        help="ray, or inline: all in this process, one by one.",
    ),
]
Log = Annotated[
    str,
    typer.Option(
        metavar="WAY",
        autocompletion=words_of("pipeline.events.progress", "LOGS"),
        help="How progress is told: table, lines, json (one event a line), or auto: a table on a terminal, else lines.",
    ),
]
EvalPlacement = Annotated[
    str,
    typer.Option(
        metavar="WHERE",
        autocompletion=words_of("pipeline.work.placement", "PLACEMENTS"),
        help="Where assets are judged: shared (a fifth of a generator's GPU), dedicated (a GPU of its own or, if there "
        "is one, when all are made), cpu; auto is shared.",
    ),
]
StallSeconds = Annotated[float, typer.Option(help="The least silence after which a worker counts as hung.")]
Live = Annotated[
    int | None,
    typer.Option(
        metavar="PORT",
        help="Show assets in the browser while they are made, to this machine only (needs [live]); 0: any port.",
        show_default="not",
    ),
]
Track = Annotated[
    str | None, typer.Option(metavar="NAME", help="Tell mlflow or wandb of settings, losses and scores, too.")
]
CheckpointSeconds = Annotated[float, typer.Option(help="Time between checkpoints of an asset.")]
Out = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|URL", help="Run folder, as runs/a or s3://bucket/a.", show_default="runs/, named by the settings"
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        autocompletion=cli_complete.settings,
        help="A key of the recipe, as guidance.scale=10.",
    ),
]
Sweeps = Annotated[
    list[str] | None,
    typer.Option(
        "--sweep",
        metavar="KEY=VALUES",
        autocompletion=cli_complete.settings,
        help="Values of a key of the recipe, each a row of the board: times.num_segments=1,3,5. Of several keys: their "
        "product. Values that hold commas are parted by semicolons: 'cameras.radius=2.8,3.5;2.6,3.2'.",
    ),
]
Folder = Annotated[str, typer.Argument(metavar="DIR|URL", help="A run folder.")]
Report = Annotated[bool, typer.Option("--report/--no-report", help="Write report/, the run as pages.")]
BaselineFolder = Annotated[
    str | None, typer.Option("--baseline", metavar="DIR|URL", help="Where baselines and the history of nights lie.")
]
