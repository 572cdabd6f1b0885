"""Run the original packages beside ours and write the table in docs/benchmark.md.

    python -m tests.parity [--folder FOLDER] [--only PACKAGE]

The first run installs about 5 GB. With a folder, environments, inputs and the originals' numbers are used again, unless
their code or versions have changed; ours are always computed. The exit status is 1 if a difference exceeds its
tolerance, 2 if an original does not run in its own environment.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from tests.parity import comparison, environments, inputs, ours
from tests.parity.catalogue import CURRENT, HELP, NEWEST_SCIPY, OF_2023, ORIGINALS, TRIALS, Trial
from tests.parity.comparison import Original, Row
from tests.parity.environments import Made, OriginalFailedError

PAGE = Path(__file__).parents[2] / "docs" / "benchmark.md"
Arrays = Mapping[str, np.ndarray]


def main(
    arguments: list[str] | None = None,
    run: Callable[[Path, list[Original]], list[Row]] | None = None,
    page: Path = PAGE,
) -> int:
    """Run all originals, or one; print the table, write it to the page if it has all, and return the exit status."""
    options = _options(arguments)
    chosen = [each for each in ORIGINALS if options.only in (None, each.package)]
    with tempfile.TemporaryDirectory() as temporary:
        try:
            found = (run or results)(Path(options.folder or temporary).resolve(), chosen)
        except OriginalFailedError as error:
            print(f"an original does not run: {error}", file=sys.stderr)
            return 2
    text = comparison.table(found)
    print(text)
    if options.only is None:
        page.write_text(comparison.written(page.read_text(encoding="utf-8"), text), encoding="utf-8")
    failed = [row for row in found if not row.agrees]
    for row in failed:
        bound = f"{row.quantity.tolerance:.0e} ({row.quantity.reason})"
        print(f"{row.quantity.what}: {row.difference:.1e}, expected at most {bound}", file=sys.stderr)
    return 1 if failed else 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", help="where environments, inputs and scores are kept (default: a temporary folder)")
    packages = sorted({original.package for original in ORIGINALS})
    parser.add_argument("--only", choices=packages, help="run one package and do not write the table")
    return parser.parse_args(arguments)


def results(folder: Path, chosen: list[Original]) -> list[Row]:
    """Every row of the chosen originals. Raises OriginalFailedError if one does not run in its own environment."""
    given = inputs.write(folder / "inputs")
    if any(original.script == "with_torchmetrics" for original in chosen):
        _convert_clip(environments.make(OF_2023, folder), given / "clip")
    print("ours", file=sys.stderr)
    expected = ours.scores(given, {quantity.key for original in chosen for quantity in original.quantities})
    found: list[Row] = []
    tried: set[str] = set()
    for original in chosen:
        print(f"{original.package} in {original.environment.name}", file=sys.stderr)
        made = environments.make(original.environment, folder)
        theirs = made.scores(original.script, given, _scores(folder, original, made))
        beside = "yes" if original.environment is CURRENT else ""
        if not beside and original.package not in tried:
            beside = _current(folder, original, given, expected)
            tried.add(original.package)
        found += comparison.rows(original, made.versions(), expected, theirs, beside)
    return found


def _scores(folder: Path, original: Original, made: Made) -> Path:
    return folder / "scores" / f"{made.environment.name}-{original.package}.npz"


def _convert_clip(made: Made, folder: Path) -> None:
    """The folder of transformers that torchmetrics reads, from OpenAI's file."""
    target = folder / "openai" / "clip-vit-large-patch14"  # torchmetrics takes a path for a CLIP only by "openai" in it
    if not (target / "tokenizer_config.json").is_file():
        target.mkdir(parents=True, exist_ok=True)
        made.run("convert_clip", folder / "ViT-L-14.pt", target)


def _current(folder: Path, original: Original, given: Path, expected: Arrays) -> str:
    """Whether an original works beside this program's own versions, by trying; empty if it is one of them."""
    trial = next((trial for trial in TRIALS if trial.package == original.package), None)
    if trial is None:
        return ""
    made = environments.make(CURRENT, folder)
    made.install("setuptools>=82")  # an earlier run has left HELP
    reasons, out = [], _scores(folder, original, made)
    try:
        made.install(*trial.requirements)
    except OriginalFailedError as error:
        reasons.append(str(error))
        made.install(*trial.requirements, dependencies=False)
        made.install(*trial.dependencies)
    for helped in (False, True):
        if helped:
            made.install(HELP)
        try:
            theirs = made.scores(original.script, given, out)
        except OriginalFailedError as error:
            reasons.append(str(error))
            continue
        differences = [
            comparison.difference(each, expected[each.key], theirs[each.key]) for each in original.quantities
        ]
        agrees = all(d <= q.tolerance for d, q in zip(differences, original.quantities, strict=True))
        return _in_words(trial, agrees, helped, reasons) + _newest_scipy(folder, trial)
    return f"no: {'; '.join(dict.fromkeys(reasons))}"


def _in_words(trial: Trial, agrees: bool, helped: bool, reasons: list[str]) -> str:
    numbers = "the same numbers" if agrees else "other numbers"
    return f"only with `{HELP}` ({reasons[-1]}), {numbers}" if helped else f"yes, {numbers}"


def _newest_scipy(folder: Path, trial: Trial) -> str:
    """The newest scipy needs a newer Python than this program's oldest, so it is tried alone."""
    if not trial.matrix_root:
        return ""
    try:
        made = environments.make(NEWEST_SCIPY, folder)
    except OriginalFailedError as error:
        return f"; {NEWEST_SCIPY.requirements[0]} could not be installed: {error}"
    try:
        made.run("matrix_root")
    except OriginalFailedError as error:
        return f"; not with scipy {made.versions()['scipy']}: {error}"
    return f"; scipy {made.versions()['scipy']} too"
