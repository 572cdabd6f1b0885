"""Building blocks of recipes: frozen models, fields with unit and source, ranges and learning rates."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

RELEASE, OURS = "release", "ours"


def field(default: Any, unit: str, source: str, meaning: str, **limits: Any) -> Any:
    """A field with unit, source and meaning; `limits` are pydantic's constraints (`ge`, `le`, `gt`, …)."""
    extra: dict[str, Any] = {"unit": unit, "source": source, "meaning": meaning}
    return Field(default, description=f"{meaning} [{unit}; {source}]", json_schema_extra=extra, **limits)


class Config(BaseModel):
    """Base of all parts of a recipe: a frozen model that rejects unknown keys, NaN and infinity."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)


Range = tuple[float, float]


def ordered(part: Config, *names: str) -> None:
    """Raise ValueError if the lower end of one of these ranges exceeds the upper."""
    for name in names:
        low, high = getattr(part, name)
        if low > high:
            raise ValueError(f"{name} is {low:g},{high:g}; expected the smaller number first")


class RateConfig(Config):
    """A learning rate that decays from `start` to `end` over the run."""

    start: float = field(0.005, "per step", RELEASE, "rate at the first iteration", ge=0)
    end: float = field(0.005, "per step", RELEASE, "rate at the last iteration", ge=0)
    decay: Literal["linear", "log"] = field("linear", "–", RELEASE, "interpolate the rate, or its logarithm")

    @model_validator(mode="after")
    def _logarithm(self) -> "RateConfig":
        if self.decay == "log" and min(self.start, self.end) <= 0:
            raise ValueError(f"rate {self.start:g} to {self.end:g} has decay 'log'; both must be above 0")
        return self

    def at(self, position: float) -> float:
        """The rate at `position` in [0, 1]."""
        if self.decay == "log":
            return float(self.start ** (1 - position) * self.end**position)
        return self.start + (self.end - self.start) * position
