"""What the parts of a recipe are made of: frozen models, fields with a unit and a source, ranges and rates."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

RELEASE, OURS = "release", "ours"


def field(default: Any, unit: str, source: str, meaning: str, **limits: Any) -> Any:
    """A field with its unit and source; `limits` are pydantic's (`ge`, `le`, `gt`, …)."""
    extra: dict[str, Any] = {"unit": unit, "source": source, "meaning": meaning}
    return Field(default, description=f"{meaning} [{unit}; {source}]", json_schema_extra=extra, **limits)


class Part(BaseModel):
    """A frozen model that knows all its keys and refuses infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


Range = tuple[float, float]


def ordered(part: Part, *names: str) -> None:
    """ValueError unless each of these ranges runs upwards."""
    for name in names:
        low, high = getattr(part, name)
        if low > high:
            raise ValueError(f"{name} runs from {low:g} to {high:g}; give the smaller first")


class Rate(Part):
    """A learning rate over the run: from `start` to `end`."""

    start: float = field(0.005, "a step", RELEASE, "at the first iteration", ge=0)
    end: float = field(0.005, "a step", RELEASE, "at the last iteration", ge=0)
    decay: Literal["linear", "log"] = field("linear", "–", RELEASE, "straight in the rate, or in its logarithm")

    @model_validator(mode="after")
    def _logarithm(self) -> "Rate":
        if self.decay == "log" and min(self.start, self.end) <= 0:
            raise ValueError(f"rate {self.start:g} to {self.end:g} decays by its logarithm; both must be above 0")
        return self

    def at(self, progress: float) -> float:
        """The rate at `progress` in [0, 1]."""
        if self.decay == "log":
            return float(self.start ** (1 - progress) * self.end**progress)
        return self.start + (self.end - self.start) * progress
