"""The verbs of what people look at: `report`, `view`, `viewer fetch`. Options → a site, or a page that is served."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.store.files import place

Runs = Annotated[list[str], typer.Argument(metavar="DIR|URL...", help="Run folders.")]
Out = Annotated[
    str | None, typer.Option(metavar="DIR", help="Where to write it.", show_default="report/ in the run folder")
]
Paper = Annotated[
    bool | None,
    typer.Option("--paper/--no-paper", help="The paper's Table 2 below.", show_default="as for leaderboard"),
]
Asset = Annotated[str, typer.Argument(metavar="ASSET", help="An asset.ply, or the folder of an item that has one.")]
Port = Annotated[int, typer.Option(help="Of the loopback address; 0: any that is free.")]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Only print the address.")]
From = Annotated[
    Path | None, typer.Option("--from", metavar="FILE", help="Its archive, where this machine does not reach npm.")
]


def report(folders: Runs, out: Out = None, paper: Paper = None) -> None:
    """Write runs as pages that open from a disk: leaderboard, turntables, scores all round, a viewer of each asset."""
    from pipeline.commands import report as commands_report

    print(commands_report.report([place(folder) for folder in folders], None if out is None else place(out), paper))


def view(asset: Asset, port: Port = 8008, no_browser: NoBrowser = False) -> None:
    """Show an asset in the browser, to turn and walk through; served to this machine only."""
    from pipeline.commands import report as commands_report

    commands_report.view(place(asset), port, browser=not no_browser)


def fetch(source: From = None) -> None:
    """Bring the viewer of assets from npm, check its SHA-256, keep it in the user's cache."""
    from pipeline.report import viewer

    viewer.fetch(source)
    print(viewer.archive())


def add_to(app: typer.Typer, guarded: Callable[[Callable[..., Any]], Callable[..., None]]) -> None:
    """Put the verbs on the command line."""
    app.command()(guarded(report))
    app.command()(guarded(view))
    viewer_app = typer.Typer(help="The viewer of assets.", no_args_is_help=True, rich_markup_mode=None)
    viewer_app.command("fetch")(guarded(fetch))
    viewer_app.callback()(lambda: None)
    app.add_typer(viewer_app, name="viewer")
