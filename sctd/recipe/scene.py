"""The parts of a recipe that make the scene: cameras, backgrounds, Gaussians and how they move.

As in `recipe_gradient`: unit and source under every field, defaults of `recipes.paper()`. Lengths are world units (the
object has bounding radius 1).

Where the released code sums its loss over the 4 views of an iteration, we average. Adam does not see the difference;
regulariser weights and gradient norms, which do, are its values divided by 4, and say so.
"""

from pathlib import PurePath
from typing import Any, Literal, NamedTuple

from pydantic import model_validator

from sctd.recipe.fields import OURS, RELEASE, Part, Range, Rate, field, ordered

MESH_SUFFIXES = (".glb", ".obj", ".off", ".ply", ".stl")
_Y_UP_SUFFIXES = (".glb", ".obj")  # glTF says so; exporters of .obj do so


class CameraRanges(NamedTuple):
    """What cameras are drawn from at one iteration."""

    elevation_degrees: Range
    radius: Range
    fov_y_radians: Range


class Cameras(Part):
    """The views of an iteration; the ranges may move as training goes on."""

    views: int = field(4, "views", "paper", "views an iteration", ge=1, le=64)
    azimuth_spread: Literal["even", "uniform"] = field("uniform", "–", RELEASE, "a sector a view, or independent")
    azimuth_degrees: Range = field(
        (-180, 180), "degrees", "release: heads ±80 or ±90", "cameras stay within, before their jitter; 0: the front"
    )
    elevation_degrees: Range = field((-15, 45), "degrees", "release: polar 45–105", "uniform")
    overhead_share: float = field(0, "share of views", OURS, "views drawn from overhead_elevation_degrees", ge=0, le=1)
    overhead_elevation_degrees: Range = field((50, 80), "degrees", OURS, "uniform")
    radius: Range = field((5.2, 5.5), "world units", RELEASE, "distance from the origin, uniform, at the start")
    fov_y_radians: Range = field((0.32, 0.6), "radians", RELEASE, "vertical, uniform, at the start")
    center_jitter: float = field(0.025, "world units", RELEASE, "camera centre moves by ± this, rigidly", ge=0)
    target_jitter: float = field(0.05, "world units", RELEASE, "standard deviation of the point looked at", ge=0)
    up_jitter: float = field(0.01, "–", RELEASE, "standard deviation of the up direction", ge=0)
    progress_every: int = field(500, "iterations", RELEASE, "the ranges move at every multiple; 0: never", ge=0)
    fov_low_factor: float = field(0.75, "–", RELEASE, "narrowest fov, each time", gt=0, le=1)
    fov_low_min: float = field(0.16, "radians", RELEASE, "and no further", gt=0)
    fov_high_factor: float = field(1.1, "–", RELEASE, "widest fov, each time", ge=1)
    fov_high_max: float = field(0.6, "radians", RELEASE, "and no further", gt=0, lt=3)
    radius_factor: float = field(0.95, "–", RELEASE, "both ends of the radius, each time", gt=0, le=1)
    radius_min: Range = field((3.5, 5.0), "world units", RELEASE, "and no further")

    @model_validator(mode="after")
    def _ranges(self) -> "Cameras":
        ordered(self, "azimuth_degrees", "elevation_degrees", "overhead_elevation_degrees")
        ordered(self, "radius", "fov_y_radians", "radius_min")
        if min(self.azimuth_degrees) < -360 or max(self.azimuth_degrees) > 360:
            raise ValueError(f"azimuth_degrees is {self.azimuth_degrees}; expected between -360 and 360 degrees")
        for name in ("elevation_degrees", "overhead_elevation_degrees"):
            if min(getattr(self, name)) < -89 or max(getattr(self, name)) > 89:
                raise ValueError(f"{name} is {getattr(self, name)}; expected between -89 and 89 degrees")
        if self.radius[0] <= 0 or self.fov_y_radians[0] <= 0 or self.fov_y_radians[1] >= 3:
            found = f"radius {self.radius}, fov_y_radians {self.fov_y_radians}"
            raise ValueError(f"{found}; expected a radius above 0 and a field of view between 0 and 3")
        return self

    def ranges_at(self, iteration: int) -> CameraRanges:
        """The ranges of `iteration` (from 1): each end times its factor once per `progress_every`, then held."""
        moves = iteration // self.progress_every if self.progress_every else 0
        if not moves:
            return CameraRanges(self.elevation_degrees, self.radius, self.fov_y_radians)
        near, far = (
            max(end * self.radius_factor**moves, min(end, least))
            for end, least in zip(self.radius, self.radius_min, strict=True)
        )
        low, high = self.fov_y_radians
        narrow = max(low * self.fov_low_factor**moves, min(low, self.fov_low_min))
        wide = min(high * self.fov_high_factor**moves, max(high, self.fov_high_max))
        return CameraRanges(self.elevation_degrees, (near, far), (narrow, wide))


class Background(Part):
    """A plain colour behind each view; what is left of the shares is a random colour."""

    white_share: float = field(0, "share of views", RELEASE, "white", ge=0, le=1)
    black_share: float = field(0.67, "share of views", "release: p = .66, half of it", "black", ge=0, le=1)
    grey_share: float = field(0, "share of views", OURS, "a random grey", ge=0, le=1)
    darkest: float = field(
        0, "[0, 1]", RELEASE, "greys and the channels of colours are uniform from here to 1", ge=0, le=1
    )

    @model_validator(mode="after")
    def _shares(self) -> "Background":
        if self.white_share + self.black_share + self.grey_share > 1 + 1e-9:
            found = f"white {self.white_share:g} + black {self.black_share:g} + grey {self.grey_share:g}"
            raise ValueError(f"background shares {found} exceed 1")
        return self


def _rate(start: float, end: float, decay: str = "linear", source: str = RELEASE, unit: str = "a step") -> Any:
    return field(Rate.model_validate({"start": start, "end": end, "decay": decay}), unit, source, "learning rate")


class Optimizer(Part):
    """Adam, one rate an attribute."""

    means: Rate = _rate(1.6e-4 * 3.5, 1.6e-6 * 3.5, "log", "release: × extent 3.5", "world units a step")
    log_scales: Rate = _rate(0.005, 0.001, "log")
    quats: Rate = _rate(0.001, 0.0002, "log")
    logit_opacities: Rate = _rate(0.05, 0.05)
    sh_constant: Rate = _rate(0.005, 0.003, "log", unit="SH units a step")
    sh_rest: Rate = _rate(0.00025, 0.00025, unit="SH units a step")
    beta1: float = field(0.9, "–", RELEASE, "Adam's decay of the first moment", ge=0, lt=1)
    beta2: float = field(0.999, "–", RELEASE, "Adam's decay of the second moment", ge=0, lt=1)
    eps: float = field(1e-15, "–", RELEASE, "Adam's", gt=0)
    clip_norm: Range = field(
        (0.5, 2), "norm an attribute", "release: 2–8 of a sum", "gradients are cut to it; 0: never"
    )
    clip_share: float = field(0.2, "share of iterations", "release: 1000 of 5000", "from its first to its second value")


class Densify(Part):
    """Adaptive density control of 3D Gaussian splatting, with statistics from every view."""

    enabled: bool = field(True, "–", RELEASE, "clone, split, prune and reset")
    after: int = field(100, "iteration", RELEASE, "not before", ge=0)
    before: int = field(3000, "iteration", RELEASE, "not from here on", ge=0)
    interval: int = field(100, "iterations", RELEASE, "between densifications", ge=1)
    gradient_threshold_pixels: float = field(
        7.5e-4 / (512 / 2), "1 / pixel", "release: 7.5e-4 in NDC at 512 px, × 2 / width",
        "mean |∂(a view's loss) / ∂(centre in pixels)| above which a Gaussian grows", gt=0,
    )  # fmt: skip
    extent: float = field(3.5, "world units", RELEASE, "the scene's, for percent_dense and prune_extent", gt=0)
    percent_dense: float = field(0.003, "share of extent", RELEASE, "cloned up to this scale, split above", ge=0)
    split_shrink: float = field(1.6, "–", "3DGS", "scales of the two children are the parent's over this", ge=1)
    prune_opacity: float = field(0.005, "[0, 1]", RELEASE, "pruned below", ge=0, lt=1)
    prune_large_after: int = field(300, "iteration", RELEASE, "from here on large ones are pruned too", ge=0)
    prune_radius_pixels: float = field(20, "pixels", RELEASE, "on the screen since the last time", gt=0)
    prune_extent: float = field(0.1, "share of extent", RELEASE, "in the world", gt=0)
    reset_interval: int = field(300, "iterations", RELEASE, "between opacity resets; 0: never", ge=0)
    reset_opacity: float = field(0.01, "[0, 1]", RELEASE, "opacities are cut to it", gt=0, lt=1)


class Relocate(Part):
    """Dead Gaussians move to where others work (in the manner of 3DGS-MCMC); the number stays."""

    enabled: bool = field(False, "–", OURS, "relocate")
    interval: int = field(40, "iterations", OURS, "between relocations", ge=1)
    until_share: float = field(0.85, "share of iterations", OURS, "none after", ge=0, le=1)
    dead_opacity: float = field(0.03, "[0, 1]", OURS, "dead below", ge=0, lt=1)
    spread: float = field(0.7, "mean scales of the source", OURS, "standard deviation of the new place", ge=0)
    shrink: float = field(0.2, "log units", OURS, "log-scales of the moved become smaller by it", ge=0)


class Bounds(Part):
    """Guards: parameters are put back inside after each step."""

    radius: float = field(3.0, "world units", OURS, "|mean|", gt=0)
    scale: Range = field((1e-5, 1.0), "world units", OURS, "standard deviations of a Gaussian")
    max_gaussians: int = field(500_000, "Gaussians", OURS, "growth stops here", ge=1)
    colour: bool = field(True, "–", OURS, "colours of degree 0 stay in [0, 1]")

    @model_validator(mode="after")
    def _scales(self) -> "Bounds":
        ordered(self, "scale")
        if self.scale[0] <= 0:
            raise ValueError(f"scale starts at {self.scale[0]:g}; expected above 0")
        return self


class Brightness(Part):
    """Connect3D's BEG: where the brightest views outshine a limit, all colours move towards mid grey."""

    enabled: bool = field(False, "–", "Connect3D: true", "whether")
    after_share: float = field(0.2, "share of iterations", "Connect3D: 1000 of 5000", "begins after", ge=0, le=1)
    until_share: float = field(0.9, "share of iterations", "Connect3D: 4500 of 5000", "ends before", ge=0, le=1)
    quantile: float = field(0.85, "–", "Connect3D", "of the lit pixels of a view, then of the views", gt=0, lt=1)
    limit: float = field(0.9, "[0, 1]", "Connect3D", "acts where the quantile exceeds it", gt=0, le=1)
    factor: float = field(0.8, "–", "Connect3D", "times all spherical harmonics, 0 being mid grey", ge=0, lt=1)


class Regularizers(Part):
    """Weights of what is added to the objective; 0 leaves a term out."""

    total_variation: float = field(0.5, "–", "release: 1 × (2 TV), of a sum", "of the rendered colours", ge=0)
    disparity_variation: float = field(0.5, "–", "release: 1 × (2 TV), of a sum", "of the normalised disparity", ge=0)
    scale: float = field(0.25, "1 / world units", "release: 1, of a sum", "mean of the scales", ge=0)
    oversize: float = field(0, "1 / world units", OURS, "mean excess of scales over oversize_limit", ge=0)
    oversize_limit: float = field(0.12, "world units", OURS, "what a scale may be for free", gt=0)
    opacity_entropy: float = field(0, "1 / nat", OURS, "mean binary entropy of the Gaussians' opacities", ge=0)
    alpha_entropy: float = field(0, "–", OURS, "mean 4α(1 − α) of the rendered alpha", ge=0)
    after_share: float = field(0, "share of iterations", OURS, "the terms begin after it", ge=0, le=1)


class Initialization(Part):
    """Where the Gaussians begin."""

    kind: Literal["ball", "sphere", "box", "ply", "mesh", "point_e"] = field("point_e", "–", "paper", "the shape")
    count: int = field(4096, "points", "release: Point-E with its upsampler", "points of the shape", ge=1)
    radius: float = field(0.75, "world units", OURS, "of the ball or sphere; half edge of the box", gt=0)
    opacity: float = field(0.1, "[0, 1]", RELEASE, "of every Gaussian", gt=0, lt=1)
    scale: float = field(0, "world units", RELEASE, "of every Gaussian; 0: from the 3 nearest neighbours", ge=0)
    colour: float = field(0.5, "[0, 1]", RELEASE, "mean grey", ge=0, le=1)
    colour_noise: float = field(0, "[0, 1]", RELEASE, "standard deviation of the colours", ge=0)
    path: str = field("", "path", OURS, "file to start from (kinds ply and mesh)")
    mesh_up: Literal["auto", "y", "z"] = field(
        "auto", "axis of the file", OURS, "what is up in a mesh; auto: y in .glb and .obj, else z"
    )
    mesh_front: Literal["auto", "x", "-x", "y", "-y", "z", "-z"] = field(
        "auto", "axis of the file", OURS, "where a mesh looks; auto: z if y is up (glTF), else x"
    )
    mesh_radius: float = field(1, "world units", OURS, "of a mesh, once centred; 0: place and size of the file", ge=0)
    replicas: int = field(20, "Gaussians a point", RELEASE, "copies of each point of a cloud or mesh", ge=1)
    replica_radius: float = field(0.05, "world units", RELEASE, "copies lie within", ge=0)
    use_point_cloud_colours: bool = field(False, "–", RELEASE, "keep the colours of a cloud or mesh, not grey")
    point_e_prompt_template: str = field("{prompt}", "text", RELEASE, "what Point-E reads; {prompt} is the short text")
    point_e_guidance_scale: float = field(3, "–", "Point-E", "guidance of the base model", ge=0)
    point_e_steps: int = field(64, "steps", "Point-E", "Karras steps of the sampler", ge=1)
    point_e_up_shift: float = field(0.15, "world units", RELEASE, "added to z of a cloud")

    @model_validator(mode="after")
    def _path(self) -> "Initialization":
        if (self.kind in ("ply", "mesh")) != bool(self.path):
            raise ValueError(
                f"initialization.kind is {self.kind!r} and path is {self.path!r}; "
                "a path belongs to kind 'ply' (points or Gaussians) or 'mesh', and they need one"
            )
        suffix = PurePath(self.path).suffix.lower()
        if self.kind == "mesh" and suffix not in MESH_SUFFIXES:
            raise ValueError(
                f"initialization.path {self.path!r} ends with {suffix!r}; a mesh is one of {', '.join(MESH_SUFFIXES)}: "
                "export it as one of these"
            )
        if self.kind == "ply" and suffix != ".ply" and suffix in MESH_SUFFIXES:
            raise ValueError(f"initialization.path {self.path!r} is a mesh, not a .ply; set initialization.kind=mesh")
        up, front = self.mesh_axes
        if front[-1] == up:
            raise ValueError(f"mesh_front is {front!r} where {up!r} is up; expected an axis that is perpendicular")
        return self

    @property
    def mesh_axes(self) -> tuple[str, str]:
        """The file's axes that are up and to the front."""
        is_y_up = PurePath(self.path).suffix.lower() in _Y_UP_SUFFIXES
        up = self.mesh_up if self.mesh_up != "auto" else "y" if is_y_up else "z"
        front = self.mesh_front if self.mesh_front != "auto" else "z" if up == "y" else "x"
        return up, front
