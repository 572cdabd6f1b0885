"""The commands of the user study: `study create`, `invite`, `serve`, `results` and `published`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.error_handling import handle_errors
from pipeline.cli.options import AsJson

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Study folder.")]
LOOPBACK, PORT = "127.0.0.1", 8000
Url = Annotated[str, typer.Option(metavar="URL", help="Address at which volunteers reach `study serve`.")]
DEFAULT_URL = f"http://{LOOPBACK}:{PORT}"


def add_to(app: typer.Typer) -> None:
    """Add the group `study`."""
    group = typer.Typer(
        help="Have volunteers rank turntables of several methods blindly.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    for verb, command in (
        ("create", _create),
        ("invite", _invite),
        ("serve", _serve),
        ("results", _results),
        ("published", _published),
    ):
        group.command(verb)(handle_errors(command))
    app.add_typer(group, name="study")


def _create(
    runs: Annotated[str, typer.Option(metavar="DIR,DIR", help="Run folders; all their methods are compared.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Study folder to create.")],
    prompts: Annotated[
        int,
        typer.Option(help="Number of groups that a volunteer ranks, drawn from the prompts that all methods share."),
    ] = 8,
    volunteers: Annotated[int, typer.Option(help="Number of invitation links to print.")] = 40,
    methods: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Compare only these methods.", show_default="all")
    ] = None,
    url: Url = DEFAULT_URL,
    seed: Annotated[int, typer.Option(help="Random seed for choosing the prompts.")] = 0,
) -> int:
    """Create a study from the turntables of runs.

    An invitation link is printed for each volunteer.
    """
    from pipeline.commands import study as commands

    return commands.create(runs, out, prompts, volunteers, methods, url, seed)


def _invite(
    folder: Folder,
    count: Annotated[int, typer.Option(help="Number of links.")] = 1,
    url: Url = DEFAULT_URL,
) -> int:
    """Print more invitation links.

    A link is for one volunteer. Links are not stored and cannot be printed again.
    """
    from pipeline.commands import study as commands

    return commands.invite(folder, count, url)


def _serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option(help="Port to listen on; 0 picks a free one.")] = PORT,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Address at which volunteers reach it.", show_default="host and port"),
    ] = None,
) -> int:
    """Serve the study until Ctrl-C.

    No vote is lost if the server is stopped or killed.
    """
    from pipeline.commands import study as commands

    return commands.serve(folder, host, port, url)


def _results(
    folder: Folder,
    leaderboard: Annotated[
        bool,
        typer.Option("--leaderboard", "--board", help="Add the average ranks to the leaderboards of the runs."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Random seed of the bootstrap.")] = 0,
    json: AsJson = False,
) -> int:
    """Print average ranks with confidence intervals and tests.

    Intervals are over volunteers; the tests are Friedman's and Nemenyi's. The ranks are also written to the study
    folder as CSV.
    """
    from pipeline.commands import study as commands

    return commands.results(folder, seed, leaderboard=leaderboard, as_json=json)


def _published(
    table: Annotated[Path, typer.Argument(metavar="FILE", help="CSV with columns method, q1_rank, q2_rank, q3_rank.")],
    voters: Annotated[int, typer.Option(help="Number of volunteers.")],
) -> int:
    """Check published average ranks.

    Ranks that no rankings can give are an error. The critical distance between ranks is printed.
    """
    from pipeline.commands import study as commands

    return commands.published(table, voters)
