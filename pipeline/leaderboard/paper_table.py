"""Table 2 of the paper as rows of the leaderboard, marked by `source` and `comparable`, in columns of their own.

The numbers are in paper_table.csv. They are not comparable with a run's: the authors' prompts, views and reference
images are not public, and an ImageReward that spreads by 0.024 while CLIP spreads by 2.4 points is hardly a plain
average. The ranks per question of its user study are from a public summary of the table: their sums, and the distances
between the best two, agree with the paper's.
"""

import csv
from pathlib import Path
from typing import Any

PAPER_RECIPES = frozenset({"paper"})  # recipes whose leaderboards show this table
MODELS = "Table-2"  # cannot be the name of a weights folder: those are lower case
RANKS = {"q1_rank": 2, "q2_rank": 2, "q3_rank": 2}  # of its 40 volunteers
DECIMALS = {"clip": 2, "ir": 3, "fid": 2, "time_min": 0} | RANKS  # as printed in the paper
CAPTION = """Published, not measured: Table 2 of SegmentDreamer (40 prompts, 120 views). Not comparable with the rows
above: its prompts, views and reference images are not public, and its ImageReward seems to be rescaled.
"""


def rows() -> list[dict[str, Any]]:
    """A row per method; values that the paper does not give are absent."""
    with open(Path(__file__).with_name("paper_table.csv"), encoding="utf-8", newline="") as file:
        found = list(csv.DictReader(file))
    about = {"source": "paper", "comparable": False, "n_prompts": 40, "n_views": 120}
    return [
        {"method": row["method"], **about, **{f"{name}@{MODELS}": float(row[name]) for name in DECIMALS}}
        for row in found
    ]


def lines() -> list[list[str]]:
    """The table as text, header first: no errors, no marks, nothing in bold."""
    numbers = ([f"{row[f'{name}@{MODELS}']:.{places}f}" for name, places in DECIMALS.items()] for row in rows())
    head = ["method", *(f"{name}@{MODELS}" for name in DECIMALS)]
    return [head, *([row["method"], *cells] for row, cells in zip(rows(), numbers, strict=True))]
