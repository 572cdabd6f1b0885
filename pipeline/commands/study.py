"""The commands `study create`, `invite`, `serve`, `results` and `published`."""

import importlib.util
import socket
from json import dumps
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from pipeline.cli.messages import message
from pipeline.cli.options import AsJson
from pipeline.errors import UserError
from pipeline.store.run_folder import Store
from pipeline.study import clips, plan

NEEDED = "fastapi", "jinja2", "sqlalchemy", "uvicorn"
MOST_VOLUNTEERS = 10_000
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Study folder.")]
LOOPBACK, PORT = "127.0.0.1", 8000
Url = Annotated[str, typer.Option(metavar="URL", help="Public URL of the study.")]
DEFAULT_URL = f"http://{LOOPBACK}:{PORT}"

study = typer.Typer()


@study.command()
def create(
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
) -> None:
    """Create a study from the turntables of runs.

    Volunteers answer three questions per prompt: q1 is text alignment, q2 realism, q3 details. One invitation link is
    printed for each volunteer.
    """
    _require()
    _check_count("--volunteers", volunteers)
    base = _checked_url(url)
    folders = [Path(folder.strip()) for folder in runs.split(",") if folder.strip()]
    chosen = [name.strip() for name in (methods or "").split(",") if name.strip()]
    planned = plan.planned(folders, chosen, prompts, seed)
    store = Store(out)
    if (store.root / plan.FILE).exists():
        raise UserError(
            f"{store.root} already holds a study; choose another --out, or run segmentdreamer study invite."
        )
    store.prepare(0)
    with store.locked():
        paths = [
            planned.clip(store, g, c) for g in range(len(planned.prompts)) for c in range(len(planned.competitors))
        ]
        turntables = [Path(path) for group in planned.turntables for path in group]
        for path, content in zip(paths, clips.padded([clips.clip(path) for path in turntables]), strict=True):
            store.write(path, content)
        plan.write(store, planned)
    message(
        f"{store.root}: {len(planned.competitors)} methods, {len(planned.prompts)} groups, {planned.steps} rankings "
        "per volunteer. Each link is for one volunteer; links are not stored:"
    )
    _print_links(store, planned, volunteers, base)


@study.command()
def invite(
    folder: Folder,
    count: Annotated[int, typer.Option(metavar="N", help="Number of links.")] = 1,
    url: Url = DEFAULT_URL,
) -> None:
    """Print more invitation links.

    A link is for one volunteer. Links are not stored and cannot be printed again.
    """
    _require()
    _check_count("--count", count)
    base, store = _checked_url(url), Store(folder)
    _print_links(store, plan.read(store), count, base)


@study.command()
def serve(
    folder: Folder,
    host: Annotated[str, typer.Option(metavar="HOST", help="Address to listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option(metavar="PORT", help="Port to listen on; 0 picks a free port.")] = PORT,
    url: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Public URL of the study.", show_default="http://HOST:PORT"),
    ] = None,
) -> None:
    """Serve the study; stop with Ctrl-C.

    Votes are saved immediately.
    """
    _require()
    if not 0 <= port < 65536:
        raise UserError(f"--port is {port}; expected 0 to 65535.")
    store = Store(folder)
    planned = plan.read(store)
    public = _checked_url(url) if url else None
    from pipeline.study import web

    try:
        listening = socket.create_server((host, port))
    except OSError as error:
        raise UserError(
            f"Port {port} of {host} is not available ({error.strerror}); choose another --host or --port."
        ) from error
    with listening:
        public = public or f"http://{host}:{listening.getsockname()[1]}"
        print(f"Serving {store.root} on {public}, until Ctrl-C. Volunteers open their invitation links.", flush=True)
        web.serve(store, planned, listening, host, public)
    message("Stopped.")


@study.command()
def results(
    folder: Folder,
    leaderboard: Annotated[
        bool,
        typer.Option("--leaderboard", "--board", help="Add the average ranks to the leaderboards of the runs."),
    ] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of the bootstrap.")] = 0,
    json: AsJson = False,
) -> None:
    """Print average ranks with confidence intervals and tests.

    Per question: q1 is text alignment, q2 realism, q3 details. Confidence intervals are over volunteers, with Friedman
    and Nemenyi tests. The ranks are also written to the study folder as CSV.
    """
    _require()
    from pipeline.study import results as results_of
    from pipeline.study.database import Database

    store = Store(folder)
    planned = plan.read(store)
    database = Database(store.root / plan.DATABASE)
    try:
        ballots, invited = database.ballots(), database.voters()
    finally:
        database.close()
    found = results_of.found(planned, ballots, seed)
    results_of.write(store, planned, found, ballots)
    print(
        dumps(results_of.as_values(planned, found), indent=2) if json else results_of.markdown(planned, found, invited)
    )
    if leaderboard:
        for path in results_of.to_leaderboards(planned, found):
            message(f"Leaderboard: {path}")


@study.command()
def published(
    table: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="CSV with columns method, q1_rank (text alignment), q2_rank (realism) and q3_rank (details).",
        ),
    ],
    voters: Annotated[int, typer.Option(metavar="N", help="Number of volunteers who voted.")],
) -> None:
    """Check published average ranks.

    Fails if no set of rankings has these averages. Prints the critical distance between ranks for this number of
    volunteers.
    """
    from evaluation.ranking import critical_distance
    from pipeline.leaderboard import table as leaderboard
    from pipeline.leaderboard import user_study

    _check_count("--voters", voters)
    rows = user_study.published(table)
    names = list(rows[0])
    print(leaderboard.aligned([names, *([f"{row[name]}" for name in names] for row in rows)]))
    distance = critical_distance(len(rows), voters)
    print(f"{voters} volunteers: ranks closer than {distance:.3f} do not differ significantly (Nemenyi).")


def _print_links(store: Store, planned: plan.StudyPlan, count: int, base: str) -> None:
    from pipeline.study.database import Database

    database = Database(store.root / plan.DATABASE)
    try:
        tokens = database.invite([planned.shuffled() for _ in range(count)])
    finally:
        database.close()
    print("\n".join(f"{base}/i/{token}" for token in tokens))


def _require() -> None:
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"A user study needs {', '.join(missing)}; install them with pip install 'segmentdreamer[study]'."
        )


def _check_count(option: str, count: int) -> None:
    if not 1 <= count <= MOST_VOLUNTEERS:
        raise UserError(f"{option} is {count}; expected 1 to {MOST_VOLUNTEERS}.")


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/") or parts.query:
        raise UserError(f"--url is {url!r}; expected only scheme, host and port, as in https://study.example.org.")
    return f"{parts.scheme}://{parts.netloc}"
