"""Former names of recipe keys, which options, recipe files and run folders may still use.

Stored recipes (`run.json`) and digests keep the former names, so that job ids, checkpoints and scripts stay valid.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

GROUPS = {"seed_shape": "initialization"}
KEYS = {
    "give_up_after": "max_skipped_iterations",
    "compute.fast": "compute.cuda_graphs",
    "cameras.fov_low_least": "cameras.fov_low_min",
    "cameras.fov_high_most": "cameras.fov_high_max",
    "cameras.radius_least": "cameras.radius_min",
    "seed_shape.use_cloud_colours": "initialization.use_point_cloud_colours",
    "seed_shape.cloud_prompt_template": "initialization.point_e_prompt_template",
    "seed_shape.cloud_guidance": "initialization.point_e_guidance_scale",
    "seed_shape.cloud_steps": "initialization.point_e_steps",
    "seed_shape.cloud_up_shift": "initialization.point_e_up_shift",
}
_STORED_GROUPS = {new: former for former, new in GROUPS.items()}
_STORED_KEYS = {new: former for former, new in KEYS.items()}


@lru_cache(maxsize=1024)
def current(key: str) -> str:
    """The present name of a dotted key; former and present parts may be mixed, as in `seed_shape.point_e_steps`."""
    former = _in_group(key, _STORED_GROUPS)
    return KEYS.get(former) or _in_group(key, GROUPS)


@lru_cache(maxsize=1024)
def stored(key: str) -> str:
    """The name of a dotted key in `run.json`."""
    return _STORED_KEYS.get(key) or _in_group(key, _STORED_GROUPS)


def stored_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A nested recipe with the names of `run.json`, in place of the present ones."""
    return _renamed(tree, stored)


def current_tree(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A nested recipe, or a part of one, with present names in place of former ones."""
    return _renamed(tree, current)


def leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of a nested recipe by dotted key."""
    for name, value in tree.items():
        yield from leaves(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(f"{prefix}{name}", value)]


def _in_group(key: str, groups: Mapping[str, str]) -> str:
    group, dot, name = key.partition(".")
    return f"{groups.get(group, group)}{dot}{name}"


def _renamed(tree: Mapping[str, Any], name_of: Any, prefix: str = "") -> dict[str, Any]:
    found = {}
    for name, value in tree.items():
        key = f"{prefix}{name}"
        is_group = isinstance(value, Mapping)
        found[name_of(key).rpartition(".")[2]] = _renamed(value, name_of, f"{key}.") if is_group else value
    return found
