"""The command `agreement`."""

from json import dumps
from typing import Annotated

import typer

from pipeline.cli.messages import message
from pipeline.cli.options import AsJson, RunFolder
from pipeline.errors import UserError
from pipeline.store.files import place
from pipeline.store.results import RunResults
from pipeline.store.run_folder import Store


def agreement(
    folder: RunFolder,
    opinions: Annotated[
        str,
        typer.Option(
            metavar="FILE|DIR",
            help="People's opinions: a CSV with method, prompt and score (or a column per dimension, as in MATE-3D and "
            "T23D-CompBench), or the folder of a user study.",
        ),
    ],
    dimension: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Compare only this dimension; repeat for several.", show_default="all"),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of the bootstrap.")] = 0,
    json: AsJson = False,
) -> None:
    """Compare the metrics of a run with people's opinions.

    Prints rank correlations and pairwise accuracy of each metric with bootstrap intervals over prompts, writes them to
    agreement.csv and adds them to the report of the run.
    """
    from pipeline.leaderboard import agreement as agreements
    from pipeline.leaderboard import table
    from pipeline.leaderboard.opinions import read
    from pipeline.report.publish import publish

    if not 0 <= seed < 2**63:
        raise UserError(f"--seed is {seed}; expected a whole number from 0 to 2^63 - 1.")
    store = Store(place(folder))
    RunResults.read(store)  # refuses a folder without a run before the lock creates one
    with store.locked(message) as store:
        run, rated = RunResults.read(store), read(place(opinions), dimension or ())
        message(f"Dimensions of {rated.source}: {', '.join(rated.dimensions)}")
        found = agreements.found(run, rated, seed)
        rows = [row.columns for row in found.agreements.rows]
        store.write(store.root / agreements.TABLE, table.csv(table.from_rows(rows)))
        store.write(store.root / agreements.PROMPT_TABLE, table.csv(table.from_rows(found.prompts)))
        store.write_json(store.root / agreements.FILE, found.agreements)
        publish(run)
    if json:
        print(dumps(rows, indent=2, ensure_ascii=False))
        return
    print(agreements.markdown(found.agreements), end="")
    written = (agreements.TABLE, agreements.PROMPT_TABLE, "report.md", "report/index.html")
    print("\n" + "\n".join(str(store.root / name) for name in written if (store.root / name).exists()))
