"""Which recipe keys have an effect: some are read only if other keys have certain values.

`--set` and `--sweep` refuse a key without effect, because it would give a new job id to an asset that exists. A recipe
file may contain such keys.
"""

import fnmatch
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sctd.recipe import names
from sctd.recipe.fields import RateConfig
from sctd.recipe.methods import entry_of
from sctd.recipe.objective import ENTRIES, ObjectiveConfig
from sctd.recipe.recipe import Recipe, RecipeError, keys, value_of, with_overrides

_ALL = tuple(keys(Recipe()))
OPTIONS = {key for entry in ENTRIES.values() for key in entry.options if key.startswith("objective.")}
"""Keys that are arguments of some objectives, and of custom ones."""

_WINDOW = "times.low", "times.high", "times.start_high", "times.warmup_share", "times.shift_lower_bound"
_INTERVALS = "times.interval", "times.interval_extra"
RULES = {
    "segments": (
        *_WINDOW, "times.segments", "times.num_segments", "times.segment_range", "times.minimum_interval",
        "times.epsilon",
    ),
    "single": _WINDOW,
    "linear": ("times.low", "times.start_high"),
    "interval": (*_WINDOW, *_INTERVALS),
    "two_intervals": (*_WINDOW, *_INTERVALS, "times.epsilon"),
    "annealed": ("times.low", "times.high", "times.start_high", "times.gap"),
}  # fmt: skip
"""The keys that each `times.rule` reads."""
_OF_SOME_RULES = [key for key in _ALL if 0 < sum(key in read for read in RULES.values()) < len(RULES)]


@dataclass(frozen=True)
class Condition:
    """These keys have an effect only if `holds` is true for the values of the keys, or groups, that it depends `on`."""

    keys: tuple[str, ...]
    on: tuple[str, ...]
    holds: Callable[..., bool]

    def is_met(self, recipe: Recipe) -> bool:
        return bool(self.holds(*(value_of(recipe, key) for key in self.on)))


def _if(on: str, holds: Callable[..., Any], *affected: str) -> Condition:
    """A condition on keys separated by spaces; `GROUP.*` stands for all keys of a group that are not in `on`."""
    chosen = [key for name in affected for key in fnmatch.filter(_ALL, name)]
    return Condition(tuple(key for key in chosen if key not in on.split()), tuple(on.split()), holds)


def _conditions() -> Iterator[Condition]:
    yield _if("objective.function", lambda function: not function, "objective.name")
    for key in OPTIONS:
        yield _if("objective", lambda objective, key=key: key in entry_of(objective).options, key)
    yield _if(
        "objective times.rule times.segments",
        lambda objective, *segments: (
            segments == ("segments", "increasing") or "times.threshold" in entry_of(objective).options
        ),
        "times.threshold",
    )
    yield _if(
        "objective", lambda objective: entry_of(objective).is_guided,
        "guidance.scale", "guidance.negative_prompt", "guidance.perp_neg",
    )  # fmt: skip
    yield _if(
        "objective",
        lambda objective: (
            "objective.negative_weight" not in entry_of(objective).options or any(objective.negative_weight)
        ),
        "objective.negative_prompt",
    )
    yield _if("guidance.control", lambda control: control != "none", "guidance.control_scale")
    for key in _OF_SOME_RULES:
        yield _if("times.rule", lambda rule, key=key: key in RULES[rule], key)
    yield _if(
        "times.rule times.warmup_share iterations",
        lambda rule, share, iterations: rule in ("annealed", "linear") or round(share * iterations) > 1,
        "times.start_high", "times.shift_lower_bound", "times.interval_extra",
    )  # fmt: skip
    yield _if("times.high times.start_high", lambda high, start: high < start, "times.shift_lower_bound")
    yield _if("objective times.rule", _reads_interval, *_INTERVALS)
    yield _if(
        "objective times.rule",
        lambda objective, rule: _reads_s(objective) or (rule, objective.time_weight) == ("two_intervals", "b_t"),
        "times.epsilon",
    )
    yield _if(
        "objective times.rule times.high times.start_high times.interval_extra",
        lambda objective, rule, high, start, extra: high < start or (extra and _reads_interval(objective, rule)),
        "times.warmup_share",
    )
    yield _if("cameras.views", lambda views: views > 1, "noise.shared")
    yield _if("cameras.overhead_share", lambda share: share > 0, "cameras.overhead_elevation_degrees")
    yield _if("cameras.overhead_share", lambda share: share < 1, "cameras.elevation_degrees")
    yield _if(
        "cameras.progress_every iterations", lambda every, iterations: 0 < every <= iterations,
        "cameras.fov_low_factor", "cameras.fov_low_min", "cameras.fov_high_factor", "cameras.fov_high_max",
        "cameras.radius_factor", "cameras.radius_min",
    )  # fmt: skip
    yield _if(
        "background.white_share background.black_share", lambda white, black: white + black < 1, "background.darkest"
    )
    yield _if("sh_degree", lambda degree: degree > 0, "optimizer.sh_rest.*")
    yield _if("sh_degree", lambda degree: degree == 0, "bounds.colour")
    for name, rate in Recipe().optimizer:
        if isinstance(rate, RateConfig):
            ends = f"optimizer.{name}.start optimizer.{name}.end"
            yield _if(ends, lambda start, end: start != end, f"optimizer.{name}.decay")
    yield _if("optimizer.clip_norm", lambda ends: ends[0] != ends[1], "optimizer.clip_share")
    for name in ("densify", "relocate", "brightness"):
        yield _if(f"{name}.enabled", bool, f"{name}.*")
    yield _if("densify.reset_interval", bool, "densify.reset_opacity")
    yield _if(
        "representation.kind", lambda kind: kind == "gaussians",
        "optimizer.means.*", "optimizer.log_scales.*", "optimizer.quats.*", "optimizer.logit_opacities.*",
        "optimizer.sh_constant.*", "optimizer.sh_rest.*", "densify.*", "relocate.*", "bounds.*", "brightness.*",
        "encoding.scale_noise", "sh_degree", "regularizers.scale", "regularizers.oversize",
        "regularizers.oversize_limit", "regularizers.opacity_entropy", "initialization.opacity",
    )  # fmt: skip
    yield _if(
        "representation.kind initialization.kind", lambda kind, start: kind != "nerf" or start != "ball",
        "initialization.count", "initialization.radius", "initialization.scale", "initialization.colour",
        "initialization.colour_noise",
    )  # fmt: skip
    yield _if("representation.kind", lambda kind: kind == "nerf", "nerf.*")
    yield _if("nerf.sky_hidden", bool, "nerf.sky_share")
    yield _if("nerf.table.start nerf.table.end", lambda start, end: start != end, "nerf.table.decay")
    yield _if("nerf.network.start nerf.network.end", lambda start, end: start != end, "nerf.network.decay")
    yield _if("nerf.shaded_share", bool, "nerf.textureless_share", "nerf.light_spread", "nerf.orientation")
    yield _if("regularizers.oversize", bool, "regularizers.oversize_limit")
    weights = [f"regularizers.{name}" for name in type(Recipe().regularizers).model_fields]
    weights = [key for key in weights if key not in ("regularizers.oversize_limit", "regularizers.after_share")]
    yield _if(" ".join(weights), lambda *weights: any(weights), "regularizers.after_share")
    for kinds, affected in {
        ("ball", "sphere", "box"): ("radius",),
        ("ply", "mesh"): ("path",),
        ("mesh",): ("mesh_up", "mesh_front", "mesh_radius"),
        ("ply", "mesh", "point_e"): ("replicas", "replica_radius", "use_point_cloud_colours"),
        ("point_e",): (
            "point_e_prompt_template", "point_e_guidance_scale", "point_e_steps", "point_e_up_shift",
        ),
    }.items():  # fmt: skip
        named = (f"initialization.{name}" for name in affected)
        yield _if("initialization.kind", lambda kind, kinds=kinds: kind in kinds, *named)
    yield _if("initialization.replicas", lambda replicas: replicas > 1, "initialization.replica_radius")
    yield _if(
        "initialization.kind initialization.use_point_cloud_colours",
        lambda kind, coloured: not (kind == "point_e" and coloured),
        "initialization.colour",
    )


def _reads_s(objective: ObjectiveConfig) -> bool:
    """Whether s may matter: a bundled objective that supports the rule `single` uses t alone."""
    return bool(objective.function) or "single" not in ENTRIES[objective.name].rules


def _reads_interval(objective: ObjectiveConfig, rule: str) -> bool:
    """Whether Δ matters: in two intervals it also bounds t."""
    return rule == "two_intervals" or (rule == "interval" and _reads_s(objective))


CONDITIONS = tuple(_conditions())


def with_settings(recipe: Recipe, settings: Mapping[str, Any]) -> Recipe:
    """`with_overrides` for settings that must have an effect. Raises RecipeError, also for a key that is not read.

    The file of a custom objective is run. Raises CustomFileError.
    """
    found = with_overrides(recipe, settings)
    for key in map(names.current, settings):
        unmet = _unmet(found, key)
        if unmet is not None:
            group = key.rpartition(".")[0]
            read = [other for other in _ALL if other.startswith(f"{group}.") and _unmet(found, other) is None]
            values = ", ".join(f"{other} is {_text(value_of(found, other))}" for other in unmet if other in _ALL)
            because = f" ({values})" if values else ""
            known = f"keys read there: {', '.join(read)}" if read else f"no key of {group} is read there"
            raise RecipeError(f"{key} has no effect on {found.objective.display_name}{because}; {known}")
    return found


def has_effect(recipe: Recipe, key: str) -> bool:
    """Whether the key is read with the other values of the recipe. `name` is not."""
    return key != "name" and _unmet(recipe, key) is None


def readers(key: str) -> str:
    """For the table of keys: the objectives and rules that read a key, or the keys that it or its group depends on."""
    names_of = [name for name, entry in ENTRIES.items() if key in entry.options]
    if key in _OF_SOME_RULES:
        names_of += [rule for rule, read in RULES.items() if key in read]
    else:
        affecting = [each for each in CONDITIONS if any(f"{other}.".startswith(f"{key}.") for other in each.keys)]
        names_of += [other for each in affecting for other in each.on if other in _ALL and key not in other]
    return ", ".join(f"`{name}`" for name in dict.fromkeys(names_of))


def _unmet(recipe: Recipe, key: str) -> tuple[str, ...] | None:
    """The keys because of which the key is not read; None if it is read."""
    return next((each.on for each in CONDITIONS if key in each.keys and not each.is_met(recipe)), None)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
