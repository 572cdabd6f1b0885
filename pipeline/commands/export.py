"""The command `export`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.assets import export as exporter
from pipeline.cli.completion import named
from pipeline.cli.values import with_options
from pipeline.report import viewer


@with_options(
    "asset", "to", "out", "prompt", "job", "mesh", "up", "size", "azimuth", "sh_degree", "spz_version", "drop_invalid"
)
def export(
    asset: Annotated[
        Path, typer.Argument(metavar="ASSET", help="A file of Gaussians, the folder of an asset, or a run folder.")
    ],
    to: Annotated[
        list[str],
        typer.Option(
            metavar="FORMAT",
            autocompletion=named("pipeline.assets.export:FORMATS"),
            help=f"Format: {', '.join(exporter.FORMATS)}. Repeatable.",
        ),
    ],
    options: exporter.Options,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|DIR", help="Output file or folder.", show_default="current directory, named after the prompt"
        ),
    ] = None,
    prompt: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Select an asset of a run folder by its prompt.")
    ] = None,
    job: Annotated[
        str | None, typer.Option(metavar="ID", help="Select an asset of a run folder by its job id, or a prefix of it.")
    ] = None,
) -> None:
    """Export an asset as splats, mesh, turntable video or image."""
    for line in exporter.export(asset, to, out, options, prompt, job, viewer.standalone):
        print(line)
