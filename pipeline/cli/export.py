"""The command `export`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.completion import choices
from pipeline.cli.error_handling import OK, handle_errors
from pipeline.cli.options import EXPORTS


def export(
    asset: Annotated[
        Path, typer.Argument(metavar="ASSET", help="A .ply file, the folder of an asset, or a run folder.")
    ],
    to: Annotated[
        list[str],
        typer.Option(
            metavar="FORMAT",
            autocompletion=choices("pipeline.assets.export", "FORMATS"),
            help=f"Format: {EXPORTS}. Repeatable.",
        ),
    ],
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
    mesh: Annotated[
        bool, typer.Option("--mesh", help="With --to glb, export a triangle mesh instead of splats.")
    ] = False,
    up: Annotated[
        str | None, typer.Option(metavar="AXIS", help="Up axis: z, y or -y.", show_default="the format's convention")
    ] = None,
    size: Annotated[int, typer.Option(metavar="PIXELS", help="Width and height of videos and views, in pixels.")] = 512,
    azimuth: Annotated[
        float | None,
        typer.Option(
            metavar="DEGREES",
            help="Render one view at this azimuth (0 is the front) for --to png. Without it, a contact sheet is "
            "written.",
        ),
    ] = None,
) -> int:
    """Export an asset as splats, mesh, turntable video or image."""
    from pipeline.assets import export as exporter

    exporter.export(asset, to, out, exporter.Options(size, azimuth, up, mesh), prompt, job)
    return OK


def add_to(app: typer.Typer) -> None:
    """Add this command."""
    app.command()(handle_errors(export))
