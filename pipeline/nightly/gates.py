"""Reads `gates.toml`: the metrics that a nightly run is gated by, and how much each may get worse."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import UserError, nearest
from pipeline.plan.metrics import GATED
from sctd.errors import one_line

BUNDLED = Path(__file__).with_name("gates.toml")
CONFIDENCE = "confidence"


class Gate(BaseModel):
    """The largest acceptable change for the worse (for the loss: in either direction).

    It is `delta`, or `standard_errors` times the standard error of the difference if that is larger.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    delta: float = Field(gt=0, allow_inf_nan=False)
    standard_errors: float = Field(default=0, ge=0, allow_inf_nan=False)

    def margin(self, standard_error: float | None) -> float:
        return max(self.delta, self.standard_errors * (standard_error or 0))


@dataclass(frozen=True)
class Gates:
    """Gates by metric, in file order."""

    confidence: float
    gates: dict[str, Gate]


def read(path: Path | None) -> Gates:
    """The gates in a file, or the bundled ones. Raises UserError."""
    path = path or BUNDLED
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = one_line(error)
        raise UserError(
            f"{path} is not a valid gates file ({reason}); write TOML as shown in docs/nightly.md."
        ) from error
    confidence = tree.pop(CONFIDENCE, 0.95)
    if isinstance(confidence, bool) or not isinstance(confidence, float) or not 0.5 <= confidence < 1:
        raise UserError(
            f"{path}: confidence is {confidence!r}; expected at least 0.5 and less than 1, for example 0.95."
        )
    return Gates(confidence, {metric: _gate(path, metric, tree[metric]) for metric in tree})


def _gate(path: Path, metric: str, values: object) -> Gate:
    if metric not in GATED:
        hint = nearest(metric, [*GATED, CONFIDENCE])
        raise UserError(f"{path}: unknown metric {metric!r}; choose from {', '.join(GATED)}{hint}.")
    try:
        return Gate.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, [metric, *first["loc"]]))
        if first["type"] == "extra_forbidden":
            hint = nearest(str(first["loc"][-1]), Gate.model_fields)
            raise UserError(f"{path}: unknown key {key!r}; a gate has {', '.join(Gate.model_fields)}{hint}.") from error
        if first["type"] == "missing":
            raise UserError(f"{path}: {metric} has no delta; a gate has {', '.join(Gate.model_fields)}.") from error
        what = first["msg"][0].lower() + first["msg"][1:]
        raise UserError(f"{path}: {key} is {first['input']!r}: {what.replace('input ', 'it ')}.") from error
