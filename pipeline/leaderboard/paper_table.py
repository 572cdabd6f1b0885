"""Table 2 of the paper as rows of the board, told apart by `source` and `comparable`, in columns that nothing else has.

The numbers are in paper_table.csv. They do not compare with a run's: the authors' prompts, views and reference pictures
are not public, and an ImageReward that spreads by 0.024 where CLIP does by 2.4 points is hardly a plain mean of it.
The single ranks of its user study are from a public summary of the table: they have the sums, and the best two the
distances, that the paper's own have.
"""

import csv
from pathlib import Path
from typing import Any

PAPER_RECIPES = frozenset({"paper"})  # names of recipes whose runs are read beside this table
JUDGES = "Table-2"  # no folder of weights is called so: their names are in lower case
RANKS = {"q1_rank": 2, "q2_rank": 2, "q3_rank": 2}  # of its 40 volunteers
DECIMALS = {"clip": 2, "ir": 3, "fid": 2, "time_min": 0} | RANKS  # as printed in the paper
CAPTION = """Published, not measured: Table 2 of SegmentDreamer (40 prompts, 120 views). It does not compare with the
rows above: its prompts, views and reference pictures are not public, and its ImageReward seems to be rescaled.
"""


def rows() -> list[dict[str, Any]]:
    """A row per method; what the paper does not say is left out."""
    with open(Path(__file__).with_name("paper_table.csv"), encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    about = {"source": "paper", "comparable": False, "n_prompts": 40, "n_views": 120}
    return [
        {"method": row["method"], **about, **{f"{name}@{JUDGES}": float(row[name]) for name in DECIMALS}}
        for row in found
    ]


def lines() -> list[list[str]]:
    """The cells of the table for people, its head first: no error, no rank, nothing in bold."""
    numbers = ([f"{row[f'{name}@{JUDGES}']:.{places}f}" for name, places in DECIMALS.items()] for row in rows())
    head = ["method", *(f"{name}@{JUDGES}" for name in DECIMALS)]
    return [head, *([row["method"], *cells] for row, cells in zip(rows(), numbers, strict=True))]
