"""A recipe: every setting that determines an asset, given prompt, prior and seed, as a tree of frozen models.

The parts, with unit and source of every field, are in `gradient`, `scene` and `compute`; presets are in `presets`.
"""

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from operator import attrgetter
from typing import Any

from pydantic import Field, ValidationError, model_validator

from sctd.errors import SctdError, one_line, shortened
from sctd.recipe import names
from sctd.recipe.compute import ComputeConfig
from sctd.recipe.fields import Config, field
from sctd.recipe.gradient import EncodingConfig, GuidanceConfig, NoiseConfig, TimesConfig
from sctd.recipe.objective import ENTRIES, ObjectiveConfig
from sctd.recipe.representation import NerfConfig, RepresentationConfig
from sctd.recipe.scene import (
    BackgroundConfig,
    BoundsConfig,
    BrightnessConfig,
    CamerasConfig,
    DensifyConfig,
    InitializationConfig,
    OptimizerConfig,
    RegularizersConfig,
    RelocateConfig,
)


class RecipeError(SctdError):
    """Raised for an invalid recipe: one sentence with the key, the value found and the expected value."""


class Recipe(Config):
    """Every setting that determines an asset, given prompt, prior and seed."""

    name: str = field("paper", "–", "ours", "name in tables", min_length=1, max_length=60)
    iterations: int = field(5000, "iterations", "paper", "length of the run", ge=1)
    sh_degree: int = field(0, "–", "release", "degree of the spherical harmonics", ge=0, le=3)
    max_skipped_iterations: int = field(
        20, "iterations", "ours", "consecutive iterations skipped for NaN or infinity before the run fails", ge=1
    )
    objective: ObjectiveConfig = Field(default=ObjectiveConfig(), description="objective and its weight")
    guidance: GuidanceConfig = Field(default=GuidanceConfig(), description="prompts and guidance")
    times: TimesConfig = Field(default=TimesConfig(), description="noise levels")
    noise: NoiseConfig = Field(default=NoiseConfig(), description="ε*")
    encoding: EncodingConfig = Field(default=EncodingConfig(), description="from render to latents")
    cameras: CamerasConfig = Field(default=CamerasConfig(), description="views")
    background: BackgroundConfig = Field(default=BackgroundConfig(), description="colours behind the object")
    optimizer: OptimizerConfig = Field(default=OptimizerConfig(), description="Adam")
    densify: DensifyConfig = Field(default=DensifyConfig(), description="adaptive density control")
    relocate: RelocateConfig = Field(default=RelocateConfig(), description="relocation of dead Gaussians")
    bounds: BoundsConfig = Field(default=BoundsConfig(), description="bounds of the parameters")
    brightness: BrightnessConfig = Field(default=BrightnessConfig(), description="limit of brightness (BEG)")
    regularizers: RegularizersConfig = Field(default=RegularizersConfig(), description="regularization terms")
    initialization: InitializationConfig = Field(default=InitializationConfig(), description="initial Gaussians")
    compute: ComputeConfig = Field(default=ComputeConfig(), description="computation of the prior")
    representation: RepresentationConfig = Field(default=RepresentationConfig(), description="what is optimized")
    nerf: NerfConfig = Field(default=NerfConfig(), description="neural radiance field")

    @model_validator(mode="after")
    def _objective_has_its_times(self) -> "Recipe":
        name, rule = self.objective.name, self.times.rule
        if rule not in ENTRIES[name].rules:
            expected = " or ".join(ENTRIES[name].rules)
            raise ValueError(f"objective {name!r} does not support times.rule {rule!r}; set times.rule to {expected}")
        return self

    @model_validator(mode="before")
    @classmethod
    def _former_names(cls, tree: Any) -> Any:
        return names.current_tree(tree) if isinstance(tree, Mapping) else tree

    @property
    def unstored(self) -> dict[str, Any]:
        """What `run.json` and job ids leave out: keys that the first release did not have, at their defaults."""
        parts: dict[str, Any] = {"objective": self.objective.unstored, "compute": self.compute.unstored}
        if self.representation.kind == "nerf":
            return parts | {"representation": {"function"}}
        parts |= {"nerf": True} if self.nerf == NerfConfig() else {}
        return parts if self.representation.function else parts | {"representation": True}

    def stored(self) -> dict[str, Any]:
        """Plain values under the key names of `run.json`, which do not change when a key is renamed."""
        tree = self.model_dump(mode="json", exclude=self.unstored)
        return names.stored_tree(tree)

    def digest(self) -> str:
        """SHA-256 of the canonical JSON of the stored form; equal if and only if all fields are equal."""
        text = json.dumps(self.stored(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def keys(part: Config, prefix: str = "") -> Iterator[str]:
    """Every dotted key of a recipe, in field order."""
    for name, value in part:
        yield from keys(value, f"{prefix}{name}.") if isinstance(value, Config) else [f"{prefix}{name}"]


def value_of(recipe: Recipe, key: str) -> Any:
    """The value of a dotted key, which may be a former name."""
    return attrgetter(names.current(key))(recipe)


def with_overrides(recipe: Recipe, overrides: Mapping[str, Any]) -> Recipe:
    """The recipe with some dotted keys set, as in `{"guidance.scale": "7.5"}`; text is parsed as the field's type.

    Pairs may be written `0.3,0.6`. Raises RecipeError for an unknown key, with the nearest key, or an invalid value.
    """
    tree = recipe.model_dump()
    known = list(keys(recipe))
    given: dict[str, str] = {}
    for written, value in overrides.items():
        key = names.current(written)
        if key not in known:
            raise RecipeError(_unknown(written, known))
        if key in given:
            former, now = (given[key], written) if written == key else (written, given[key])
            raise RecipeError(f"recipe key {former!r} is the former name of {now!r}; set only one")
        given[key] = written
        *path, name = key.split(".")
        branch = tree
        for step in path:
            branch = branch[step]
        if isinstance(value, str) and isinstance(branch[name], tuple):
            value = value.strip("()[] ").split(",")
        branch[name] = value
    return _validated(tree)


def from_json(text: str, base: Recipe) -> Recipe:
    """The recipe of a JSON text (nested, as from `model_dump_json`); missing keys have the values of `base`."""
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecipeError(f"the recipe is not JSON: {error}; write it with Recipe.model_dump_json") from None
    if not isinstance(tree, dict):
        raise RecipeError(f"the recipe is a JSON {type(tree).__name__}; expected an object of keys")
    return with_overrides(base, dict(names.leaves(tree)))


def _unknown(key: str, known: list[str]) -> str:
    group = [other for other in known if other.startswith(f"{key}.")]
    if group:
        return f"recipe key {key!r} is a group; set one of its keys: {', '.join(group)}"
    leaves = [other.rsplit(".", 1)[-1] for other in known]
    similar = difflib.get_close_matches(key.rsplit(".", 1)[-1], leaves, n=1)
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.8) or [
        other for other, leaf in zip(known, leaves, strict=True) if leaf in similar
    ]
    hint = (
        f"the nearest is {' or '.join(map(repr, nearest))}"
        if nearest
        else f"its groups are {', '.join(Recipe.model_fields)}"
    )
    return f"unknown recipe key {shortened(key)!r}; {hint}"


def _validated(tree: Mapping[str, Any]) -> Recipe:
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(step for step in first["loc"] if isinstance(step, str)) or "recipe"
        what = first["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        found = "" if first["type"] == "value_error" else f" is {shortened(repr(first['input']))}"
        raise RecipeError(f"recipe key {where!r}{found}: {one_line(what, 300)}") from None
