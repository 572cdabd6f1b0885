"""The commands `study create`, `invite`, `serve`, `results` and `published`."""

import importlib.util
import json
import sys
from pathlib import Path
from urllib.parse import urlsplit

from pipeline.errors import UserError
from pipeline.store.run_folder import Store
from pipeline.study import clips, plan

OK = 0
NEEDED = "fastapi", "jinja2", "sqlalchemy", "uvicorn"
MOST_VOLUNTEERS = 10_000


def create(runs: str, out: Path, prompts: int, volunteers: int, methods: str | None, url: str, seed: int) -> int:
    """Write the study folder and print the invitation links."""
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
    _log(
        f"{store.root}: {len(planned.competitors)} methods, {len(planned.prompts)} groups, {planned.steps} rankings "
        "per volunteer. Each link is for one volunteer; links are not stored:"
    )
    return _print_links(store, planned, volunteers, base)


def invite(folder: Path, count: int, url: str) -> int:
    """Print more invitation links."""
    _require()
    _check_count("--count", count)
    base, store = _checked_url(url), Store(folder)
    return _print_links(store, plan.read(store), count, base)


def serve(folder: Path, host: str, port: int, url: str | None) -> int:
    """Serve the study until interrupted."""
    _require()
    if not 0 <= port < 65536:
        raise UserError(f"--port is {port}; expected 0 to 65535.")
    store = Store(folder)
    planned = plan.read(store)
    from pipeline.study import web

    web.serve(store, planned, host, port, _checked_url(url) if url else None)
    return OK


def results(folder: Path, seed: int, *, leaderboard: bool, as_json: bool) -> int:
    """Print and write the results; with `leaderboard`, also add them to the leaderboards of the runs."""
    _require()
    from pipeline.study import results
    from pipeline.study.database import Database

    store = Store(folder)
    planned = plan.read(store)
    database = Database(store.root / plan.DATABASE)
    try:
        ballots, invited = database.ballots(), database.voters()
    finally:
        database.close()
    found = results.found(planned, ballots, seed)
    results.write(store, planned, found, ballots)
    print(
        json.dumps(results.as_values(planned, found), indent=2)
        if as_json
        else results.markdown(planned, found, invited)
    )
    if leaderboard:
        for path in results.to_leaderboards(planned, found):
            _log(f"Leaderboard: {path}")
    return OK


def published(table: Path, voters: int) -> int:
    """Check published ranks and print the critical distance. Raises UserError for impossible ranks."""
    from evaluation.ranking import critical_distance
    from pipeline.leaderboard import table as leaderboard
    from pipeline.leaderboard import user_study

    _check_count("--voters", voters)
    rows = user_study.published(table)
    names = list(rows[0])
    print(leaderboard.aligned([names, *([f"{row[name]}" for name in names] for row in rows)]))
    distance = critical_distance(len(rows), voters)
    print(f"{voters} volunteers: ranks closer than {distance:.3f} do not differ significantly (Nemenyi).")
    return OK


def _print_links(store: Store, planned: plan.StudyPlan, count: int, base: str) -> int:
    from pipeline.study.database import Database

    database = Database(store.root / plan.DATABASE)
    try:
        tokens = database.invite([planned.shuffled() for _ in range(count)])
    finally:
        database.close()
    print("\n".join(f"{base}/i/{token}" for token in tokens))
    return OK


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


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
