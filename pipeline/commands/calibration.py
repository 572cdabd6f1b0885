"""A/A comparison of runs that differ only in their seeds: `python -m pipeline.commands.calibration RUN RUN RUN …`

Every pair of runs is compared as a nightly run with its baseline, ignoring the seeds. All differences are chance: a
smaller δ makes nightly runs INCONCLUSIVE, and a gate that fails here fails without a regression.
"""

import argparse
import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from pipeline.leaderboard.table import RunResults
from pipeline.nightly import gates
from pipeline.nightly import verdict as nightly
from pipeline.nightly.candidate import nightly_run, references
from pipeline.store.run_folder import Store


def table(pairs: Sequence[Sequence[nightly.GateResult]]) -> str:
    """Markdown: a row per gate, over all pairs. Distances have a standard error but no deviation per prompt."""
    lines = [
        "| metric | pairs | means | deviation per prompt | standard error | largest δ | verdicts |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in zip(*pairs, strict=True):
        means = ", ".join(f"{gate.difference:+.2g}" for gate in found)
        error = _root_mean_square([gate.standard_error for gate in found if gate.standard_error is not None])
        per_prompt = found[0].metric not in nightly.FROM_FEATURES
        deviation = f"{error * math.sqrt(found[0].prompts):.2g}" if per_prompt else ""
        words = [gate.verdict for gate in found]
        counts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
        cells = (
            found[0].metric,
            str(len(found)),
            means,
            deviation,
            f"{error:.2g}",
            f"{max(gate.delta for gate in found):.2g}",
            counts,
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def compared(runs: Sequence[RunResults], held_to: gates.Gates) -> list[list[nightly.GateResult]]:
    """Of every pair of runs, the later one beside the earlier."""
    nightly_runs = [_without_seed(nightly_run(run)) for run in runs]
    measured = references(runs[0])
    return [nightly.compare(first, second, held_to, measured) for first, second in combinations(nightly_runs, 2)]


def _without_seed(nightly_run: nightly.NightlyRun) -> nightly.NightlyRun:
    return replace(nightly_run, objects=tuple(replace(made, seed=0) for made in nightly_run.objects))


def _root_mean_square(values: Sequence[float]) -> float:
    return float(np.sqrt(np.mean(np.square(values)))) if values else math.nan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders of different seeds")
    parser.add_argument("--gates", type=Path)
    options = parser.parse_args()
    runs = [RunResults.read(Store(run)) for run in options.runs]
    print(table(compared(runs, gates.read(options.gates))), end="")


if __name__ == "__main__":
    main()
