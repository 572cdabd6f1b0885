"""The commands `report`, `view` and `viewer fetch`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.error_handling import handle_errors
from pipeline.cli.options import PAPER_DEFAULT, RunFolders
from pipeline.store.files import place

Out = Annotated[
    str | None, typer.Option(metavar="DIR", help="Folder to write to.", show_default="report/ in the run folder")
]
Paper = Annotated[
    bool | None,
    typer.Option("--paper/--no-paper", help="Append the paper's Table 2.", show_default=PAPER_DEFAULT),
]
Asset = Annotated[str, typer.Argument(metavar="ASSET", help="Path of an asset.ply or of the folder that contains it.")]
Port = Annotated[int, typer.Option(metavar="PORT", help="Port of the loopback interface; 0 picks a free port.")]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Only print the address.")]
Archive = Annotated[
    Path | None,
    typer.Option(
        "--from", metavar="FILE", help="Install from a downloaded archive (for machines without access to npm)."
    ),
]


def report(folders: RunFolders, out: Out = None, paper: Paper = None) -> None:
    """Write an HTML report of one or more run folders.

    The report contains the leaderboard, turntables, per-view scores and an interactive viewer for each asset.
    """
    from pipeline.commands import report as commands

    print(commands.report([place(folder) for folder in folders], None if out is None else place(out), paper))


def view(asset: Asset, port: Port = 8008, no_browser: NoBrowser = False) -> None:
    """Show an asset in the browser, with a server on this machine."""
    from pipeline.commands import report as commands

    commands.view(place(asset), port, browser=not no_browser)


def fetch(source: Archive = None) -> None:
    """Download the asset viewer from npm.

    The archive is cached and its SHA-256 verified.
    """
    from pipeline.report import viewer

    viewer.fetch(source)
    print(viewer.archive())


def add_to(app: typer.Typer) -> None:
    """Add these commands."""
    app.command()(handle_errors(report))
    app.command()(handle_errors(view))
    viewer_app = typer.Typer(help="Install the asset viewer.", no_args_is_help=True, rich_markup_mode=None)
    viewer_app.command("fetch")(handle_errors(fetch))
    app.add_typer(viewer_app, name="viewer")
