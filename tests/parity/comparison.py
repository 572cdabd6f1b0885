"""Differences between an original's numbers and ours, and the table of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tests.parity.environments import Environment

BEGIN, END = "<!-- parity: begin -->", "<!-- parity: end -->"
HEADER = ("original", "beside", "compared", "values", "largest difference", "at most", "with the current libraries")


@dataclass(frozen=True)
class Quantity:
    """`key` names the array on both sides. `tolerance` is relative to our largest value if `relative`."""

    key: str
    what: str
    tolerance: float
    reason: str
    relative: bool = True


@dataclass(frozen=True)
class Original:
    """A package, the script that runs it, the environment it is run in, and its companions whose versions are shown."""

    package: str
    script: str
    environment: Environment
    quantities: tuple[Quantity, ...]
    companions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """One compared quantity. The last column belongs to the original's first row."""

    original: str
    beside: str
    quantity: Quantity
    low: float
    high: float
    difference: float
    current: str = ""

    @property
    def agrees(self) -> bool:
        """False for NaN, too."""
        return self.difference <= self.quantity.tolerance


def difference(quantity: Quantity, ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest absolute difference, divided by our largest absolute value if the quantity is relative.

    Raises ValueError if the shapes differ.
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"{quantity.key}: ours has the shape {ours.shape}, theirs {theirs.shape}")
    largest = float(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max())
    return largest / float(np.abs(ours).max()) if quantity.relative else largest


def rows(
    original: Original,
    versions: Mapping[str, str],
    ours: Mapping[str, np.ndarray],
    theirs: Mapping[str, np.ndarray],
    current: str,
) -> list[Row]:
    """A row per quantity of an original."""
    name = f"{original.package} {versions[original.package.lower().replace('_', '-')]}"
    beside = ", ".join(f"{each} {versions[each]}" for each in original.companions)
    found = []
    for number, quantity in enumerate(original.quantities):
        value = ours[quantity.key]
        found.append(
            Row(
                name if number == 0 else "",
                beside if number == 0 else "",
                quantity,
                float(value.min()),
                float(value.max()),
                difference(quantity, value, theirs[quantity.key]),
                current if number == 0 else "",
            )
        )
    return found


def table(found: Sequence[Row]) -> str:
    """Markdown, one line per row."""
    lines = ["| " + " | ".join(HEADER) + " |", "|" + "---|" * len(HEADER)]
    for row in found:
        relative = " of it" if row.quantity.relative and row.quantity.tolerance else ""
        values = f"{row.low:.4g}" if row.low == row.high else f"{row.low:.4g} to {row.high:.4g}"
        bound = f"{row.quantity.tolerance:.0e}".replace("e-0", "e-") if row.quantity.tolerance else "0"
        size = f"{row.difference:.1e}".replace("e-0", "e-") if row.difference else "0"
        cells = (row.original, row.beside, row.quantity.what, values, size + relative, bound, row.current)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def written(page: str, text: str) -> str:
    """The page with `text` between its two marks. Raises ValueError if it lacks one of them."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the page has no {BEGIN} … {END}: put both marks where the table belongs")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"
