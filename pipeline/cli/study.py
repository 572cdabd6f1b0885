"""The commands of the user study: `study create`, `invite`, `serve`, `results` and `published`."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.error_handling import handle_errors
from pipeline.cli.options import AsJson

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Study folder.")]
LOOPBACK, PORT = "127.0.0.1", 8000
Url = Annotated[str, typer.Option(metavar="URL", help="Public URL of the study.")]
DEFAULT_URL = f"http://{LOOPBACK}:{PORT}"


def add_to(app: typer.Typer) -> None:
    """Add the group `study`."""
    group = typer.Typer(
        help="Run a blind user study that ranks the methods.",
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
        typer.Option(
            metavar="N",
            help="Number of prompts each volunteer ranks, sampled from those that all methods share.",
        ),
    ] = 8,
    volunteers: Annotated[
        int, typer.Option(metavar="N", help="Number of volunteers: one invitation link is printed for each.")
    ] = 40,
    methods: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Compare only these methods.", show_default="all")
    ] = None,
    url: Url = DEFAULT_URL,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of the sampling of prompts.")] = 0,
) -> int:
    """Create a study from the turntables of runs.

    Volunteers answer three questions per prompt: q1 is text alignment, q2 realism, q3 details. One invitation link is
    printed for each volunteer.
    """
    from pipeline.commands import study as commands

    return commands.create(runs, out, prompts, volunteers, methods, url, seed)


def _invite(
    folder: Folder,
    count: Annotated[int, typer.Option(metavar="N", help="Number of links.")] = 1,
    url: Url = DEFAULT_URL,
) -> int:
    """Print more invitation links.

    A link is for one volunteer. Links are not stored and cannot be printed again.
    """
    from pipeline.commands import study as commands

    return commands.invite(folder, count, url)


def _serve(
    folder: Folder,
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option(metavar="PORT", help="Port to listen on; 0 picks a free port.")] = PORT,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Public URL of the study.", show_default="http://HOST:PORT"),
    ] = None,
) -> int:
    """Serve the study; stop with Ctrl-C.

    Votes are saved immediately.
    """
    from pipeline.commands import study as commands

    return commands.serve(folder, host, port, url)


def _results(
    folder: Folder,
    leaderboard: Annotated[
        bool,
        typer.Option("--leaderboard", "--board", help="Add the average ranks to the leaderboards of the runs."),
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of the bootstrap.")] = 0,
    json: AsJson = False,
) -> int:
    """Print average ranks with confidence intervals and tests.

    Per question: q1 is text alignment, q2 realism, q3 details. Confidence intervals are over volunteers, with Friedman
    and Nemenyi tests. The ranks are also written to the study folder as CSV.
    """
    from pipeline.commands import study as commands

    return commands.results(folder, seed, leaderboard=leaderboard, as_json=json)


def _published(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV with columns method, q1_rank (text alignment), q2_rank (realism) and q3_rank (details).",
        ),
    ],
    voters: Annotated[int, typer.Option(metavar="N", help="Number of volunteers who voted.")],
) -> int:
    """Check published average ranks.

    Fails if no set of rankings has these averages. Prints the critical distance between ranks for this number of
    volunteers.
    """
    from pipeline.commands import study as commands

    return commands.published(table, voters)
