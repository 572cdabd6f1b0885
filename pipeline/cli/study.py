"""The verbs of the user study: `study create`, `invite`, `serve`, `results`."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

Guard = Callable[[Callable[..., int]], Callable[..., None]]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A study.")]
LOOPBACK, PORT = "127.0.0.1", 8000
Url = Annotated[str, typer.Option(metavar="URL", help="Where volunteers reach `study serve`.")]
DEFAULT_URL = f"http://{LOOPBACK}:{PORT}"


def add_to(app: typer.Typer, guarded: Guard) -> None:
    """Hang these verbs into the command line."""
    group = typer.Typer(
        help="Have volunteers rank turntables without knowing whose they are.",
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
        group.command(verb)(guarded(command))
    app.add_typer(group, name="study")


def _create(
    runs: Annotated[str, typer.Option(metavar="DIR,DIR", help="Run folders; each of their methods takes part.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write the study.")],
    prompts: Annotated[
        int, typer.Option(help="Groups a volunteer ranks, drawn from the prompts all methods made.")
    ] = 8,
    volunteers: Annotated[int, typer.Option(help="Invitations to print.")] = 40,
    methods: Annotated[
        str | None, typer.Option(metavar="NAME,NAME", help="Only these of the runs.", show_default="all")
    ] = None,
    url: Url = DEFAULT_URL,
    seed: Annotated[int, typer.Option(help="Of the choice of prompts.")] = 0,
) -> int:
    """Make a study of the runs' turntables, and print an invitation link for each volunteer."""
    from pipeline.commands import study as commands_study

    return commands_study.create(runs, out, prompts, volunteers, methods, url, seed)


def _invite(
    folder: Folder,
    count: Annotated[int, typer.Option(help="How many links.")] = 1,
    url: Url = DEFAULT_URL,
) -> int:
    """Print more invitation links. Each is one volunteer's; what was printed cannot be printed again."""
    from pipeline.commands import study as commands_study

    return commands_study.invite(folder, count, url)


def _serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="What to listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option(help="0: any that is free.")] = PORT,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where volunteers reach it, if not there.", show_default="host and port"),
    ] = None,
) -> int:
    """Serve it until Ctrl-C. No vote is lost by stopping or killing it."""
    from pipeline.commands import study as commands_study

    return commands_study.serve(folder, host, port, url)


def _results(
    folder: Folder,
    board: Annotated[bool, typer.Option("--board", help="Put average ranks on the leaderboards of the runs.")] = False,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> int:
    """Average ranks with intervals over volunteers, Friedman's test, Nemenyi's distance; as CSV in the study, too."""
    from pipeline.commands import study as commands_study

    return commands_study.results(folder, seed, board=board, as_json=json)


def _published(
    table: Annotated[Path, typer.Argument(metavar="FILE", help="CSV: method, q1_rank, q2_rank, q3_rank.")],
    voters: Annotated[int, typer.Option(help="How many took part.")],
) -> int:
    """Check average ranks that a paper printed, and say how far apart they must be to differ."""
    from pipeline.commands import study as commands_study

    return commands_study.published(table, voters)
