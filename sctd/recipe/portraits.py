"""People (the paper's last claim): recipes of heads and of whole bodies, each derived from a base.

From the authors' settings of heads are the cameras within ±90° of the front, Perp-Neg, and Perp-Neg's smaller noise
offset. They begin with Shap-E's surfaces; here it is the base's shape, or a template: `initialization.kind=mesh` (or ply)
and `initialization.path`. The other ranges are ours.
"""

from typing import Any

from sctd.recipe.recipe import Recipe

_PERP_NEG_NOISE_OFFSET = 0.05
_TEMPLATE_RADIUS = 0.8  # fits the pictures of both bases and of the evaluation camera, with room for hair or a hat
_LEVEL = {"elevation_degrees": (-10.0, 30.0), "overhead_share": 0.0}


def portrait(base: Recipe) -> Recipe:
    """A head, made from its front half: what no camera sees keeps the shape that it began with."""
    return _person(base, "portrait", {"azimuth_degrees": (-90.0, 90.0), **_LEVEL})


def avatar(base: Recipe) -> Recipe:
    """A whole body from all round; however narrow the views become, they show half of it from 3.5 away."""
    least = max(base.cameras.fov_low_min, 0.23)
    return _person(base, "avatar", {"azimuth_degrees": (-180.0, 180.0), **_LEVEL, "fov_low_min": least})


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
