"""Portraits and avatars (the paper's last claim): recipes for heads and whole bodies, derived from a base recipe.

Cameras within ±90° of the front, Perp-Neg and its smaller noise offset are the authors' settings for heads. They
initialize from Shap-E; here the initialization is that of the base, or a template (`initialization.kind=mesh` or ply,
and `initialization.path`). The other ranges are ours.
"""

from typing import Any

from sctd.recipe.recipe import Recipe

_PERP_NEG_NOISE_OFFSET = 0.05
_TEMPLATE_RADIUS = 0.8  # fits the views of both bases and of the evaluation camera, with space for hair or a hat
_LEVEL = {"elevation_degrees": (-10.0, 30.0), "overhead_share": 0.0}


def portrait(base: Recipe) -> Recipe:
    """A head, with cameras in the front half; parts that no camera sees keep their initialization."""
    return _person(base, "portrait", {"azimuth_degrees": (-90.0, 90.0), **_LEVEL})


def avatar(base: Recipe) -> Recipe:
    """A whole body, with cameras all around; even the narrowest view shows half of it from a distance of 3.5."""
    fov_low_min = max(base.cameras.fov_low_min, 0.23)
    return _person(base, "avatar", {"azimuth_degrees": (-180.0, 180.0), **_LEVEL, "fov_low_min": fov_low_min})


def _person(base: Recipe, name: str, cameras: dict[str, Any]) -> Recipe:
    offset = min(base.noise.offset, _PERP_NEG_NOISE_OFFSET)
    return base.model_copy(
        update={
            "name": f"{base.name}-{name}",
            "guidance": base.guidance.model_copy(update={"perp_neg": True}),
            "noise": base.noise.model_copy(update={"offset": offset}),
            "cameras": base.cameras.model_copy(update=cameras),
            "initialization": base.initialization.model_copy(update={"mesh_radius": _TEMPLATE_RADIUS}),
        }
    )
