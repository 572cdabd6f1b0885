"""Recipe settings of the 3D representation, and of a neural radiance field (NeRF).

Defaults are those of the NeRF in threestudio's published configuration of DreamFusion, if the source does not differ.
A recipe with Gaussians does not read the keys of `nerf`, and stores none at their defaults.
"""

from typing import Literal

from pydantic import model_validator

from sctd.recipe import custom_file
from sctd.recipe.fields import OURS, Config, Range, RateConfig, field

THREESTUDIO, NGP = "threestudio", "Instant-NGP"


class RepresentationConfig(Config):
    """What is optimized."""

    kind: Literal["gaussians", "nerf", "custom"] = field("gaussians", "–", "paper", "3D representation")
    function: str = field("", "–", OURS, "class of a custom representation: FILE.py:CLASS@DIGEST")

    @model_validator(mode="after")
    def _has_its_file(self) -> "RepresentationConfig":
        if (self.kind == "custom") != bool(self.function):
            raise ValueError(
                f"kind is {self.kind!r} and function is {self.function!r}; the kind 'custom', and no other, has a "
                "function: pass --representation FILE.py:CLASS"
            )
        if self.function and not ("@" in self.function and custom_file.is_custom(self.function)):
            raise ValueError(
                f"function is {self.function!r}; expected FILE.py:CLASS@DIGEST: pass --representation FILE.py:CLASS, "
                "which adds the digest"
            )
        return self


class NerfConfig(Config):
    """The field, its sampling, its start, its shading, its regularizers and its learning rates."""

    levels: int = field(16, "levels", THREESTUDIO, "grids of the hash encoding", ge=1, le=32)
    coarsest: int = field(16, "cells", THREESTUDIO, "cells along an edge of the coarsest grid", ge=1, le=4096)
    finest: int = field(4096, "cells", "threestudio: factor 1.447 per level", "of the finest grid", ge=1, le=2**16)
    log2_entries: int = field(19, "–", THREESTUDIO, "log2 of the most entries of a grid", ge=1, le=24)
    features: int = field(2, "numbers", THREESTUDIO, "numbers per entry", ge=1, le=8)
    hidden: int = field(64, "neurons", THREESTUDIO, "width of the hidden layer", ge=1, le=1024)
    box: float = field(1.0, "world units", "threestudio: 2", "half the edge of the box that contains the object", gt=0)
    steps: int = field(512, "steps", THREESTUDIO, "sampling steps along the diagonal of the box", ge=8, le=4096)
    resolution: int = field(64, "px", "DreamFusion", "edge of rendered images, enlarged for the prior", ge=8, le=4096)
    cells: int = field(64, "cells", "threestudio: 32", "cells along an edge of the occupancy grid", ge=8, le=256)
    empty_density: float = field(0.1, "1 / world unit", OURS, "cells of lower density are empty", ge=0)
    occupancy_decay: float = field(0.95, "–", NGP, "factor of the grid's densities at each update", gt=0, le=1)
    occupancy_interval: int = field(16, "iterations", NGP, "interval of its updates", ge=1)
    sky_hidden: int = field(16, "neurons", THREESTUDIO, "width of the background's network; 0: none", ge=0, le=256)
    sky_share: float = field(0.5, "share of iterations", THREESTUDIO, "with the field's own background", ge=0, le=1)
    blob_scale: float = field(
        10, "–", "threestudio: Magic3D's blob", "density of the first blob, before softplus", ge=0
    )
    blob_radius: float = field(0.5, "world units", "threestudio: Magic3D's blob", "its radius", gt=0)
    albedo_share: float = field(
        0.2, "share of iterations", "threestudio: 2000 of 10,000", "without shading, from the start", ge=0, le=1
    )
    shaded_share: float = field(0.75, "share of iterations", "DreamFusion", "with shading, after that", ge=0, le=1)
    textureless_share: float = field(0.5, "share of those", "DreamFusion", "with a white surface", ge=0, le=1)
    light_spread: float = field(1.0, "world units", OURS, "standard deviation of the light around the camera", ge=0)
    orientation: Range = field((0.01, 0.01), "–", "DreamFusion: 1e-2", "weight of the orientation loss, start … end")
    opacity: float = field(0.001, "–", "DreamFusion: 1e-3", "weight of the mean of √(α² + 0.01)", ge=0)
    table: RateConfig = field(RateConfig(start=0.01, end=0.01), "per step", THREESTUDIO, "rate of the table")
    network: RateConfig = field(RateConfig(start=0.001, end=0.001), "per step", THREESTUDIO, "rate of the layers")

    @model_validator(mode="after")
    def _grids(self) -> "NerfConfig":
        if self.finest < self.coarsest:
            raise ValueError(f"finest is {self.finest} and coarsest {self.coarsest}; expected finest to be no smaller")
        if min(self.orientation) < 0:
            raise ValueError(f"orientation is {self.orientation}; expected weights of at least 0")
        return self
