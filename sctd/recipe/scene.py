"""Recipe settings of the scene: cameras, backgrounds, optimizer, Gaussians, regularizers, initialization.

As in `sctd.recipe.gradient`, every field has a unit and a source, and defaults are those of `presets.paper()`. Lengths
are in world units (the object has bounding radius 1).

The released code sums its loss over the 4 views of an iteration; we average. Adam is invariant to this factor.
Regularizer weights and gradient norms are not: they are the released values divided by 4, marked "of a sum".
"""

from pathlib import PurePath
from typing import Any, Literal, NamedTuple

from pydantic import model_validator

from sctd.recipe.fields import OURS, RELEASE, Config, Range, RateConfig, field, ordered

MESH_SUFFIXES = (".glb", ".obj", ".off", ".ply", ".stl")
_Y_UP_SUFFIXES = (".glb", ".obj")  # glTF specifies it; .obj exporters do it


class CameraRanges(NamedTuple):
    """The ranges from which the cameras of one iteration are drawn."""

    elevation_degrees: Range
    radius: Range
    fov_y_radians: Range


class CamerasConfig(Config):
    """The cameras of an iteration; their ranges may change during training."""

    views: int = field(4, "views", "paper", "views per iteration", ge=1, le=64)
    azimuth_spread: Literal["even", "uniform"] = field(
        "uniform", "–", RELEASE, "even: one sector per view; uniform: independent"
    )
    azimuth_degrees: Range = field(
        (-180, 180), "degrees", "release: heads ±80 or ±90", "range before jitter; 0 is the front"
    )
    elevation_degrees: Range = field((-15, 45), "degrees", "release: polar 45–105", "range, uniform")
    overhead_share: float = field(
        0, "share of views", OURS, "views with an elevation from overhead_elevation_degrees", ge=0, le=1
    )
    overhead_elevation_degrees: Range = field((50, 80), "degrees", OURS, "range, uniform")
    radius: Range = field(
        (5.2, 5.5), "world units", RELEASE, "range at the start of the distance from the origin, uniform"
    )
    fov_y_radians: Range = field(
        (0.32, 0.6), "radians", RELEASE, "range at the start of the vertical field of view, uniform"
    )
    center_jitter: float = field(
        0.025, "world units", RELEASE, "random shift of the camera centre, ± this per axis; the pose stays rigid", ge=0
    )
    target_jitter: float = field(0.05, "world units", RELEASE, "standard deviation of the look-at point", ge=0)
    up_jitter: float = field(0.01, "–", RELEASE, "standard deviation of the up direction", ge=0)
    progress_every: int = field(500, "iterations", RELEASE, "interval at which the ranges change; 0: never", ge=0)
    fov_low_factor: float = field(0.75, "–", RELEASE, "factor of the smallest field of view, per change", gt=0, le=1)
    fov_low_min: float = field(0.16, "radians", RELEASE, "lower limit of the smallest field of view", gt=0)
    fov_high_factor: float = field(1.1, "–", RELEASE, "factor of the largest field of view, per change", ge=1)
    fov_high_max: float = field(0.6, "radians", RELEASE, "upper limit of the largest field of view", gt=0, lt=3)
    radius_factor: float = field(0.95, "–", RELEASE, "factor of both ends of the radius, per change", gt=0, le=1)
    radius_min: Range = field((3.5, 5.0), "world units", RELEASE, "lower limits of both ends of the radius")

    @model_validator(mode="after")
    def _ranges(self) -> "CamerasConfig":
        ordered(self, "azimuth_degrees", "elevation_degrees", "overhead_elevation_degrees")
        ordered(self, "radius", "fov_y_radians", "radius_min")
        if min(self.azimuth_degrees) < -360 or max(self.azimuth_degrees) > 360:
            raise ValueError(f"azimuth_degrees is {self.azimuth_degrees}; expected between -360 and 360 degrees")
        for name in ("elevation_degrees", "overhead_elevation_degrees"):
            if min(getattr(self, name)) < -89 or max(getattr(self, name)) > 89:
                raise ValueError(f"{name} is {getattr(self, name)}; expected between -89 and 89 degrees")
        if self.radius[0] <= 0 or self.fov_y_radians[0] <= 0 or self.fov_y_radians[1] >= 3:
            found = f"radius {self.radius}, fov_y_radians {self.fov_y_radians}"
            raise ValueError(f"{found}; expected a radius above 0 and a field of view between 0 and 3 radians")
        return self

    def ranges_at(self, iteration: int) -> CameraRanges:
        """The ranges at `iteration` (from 1): each end times its factor once per `progress_every`, up to its limit."""
        changes = iteration // self.progress_every if self.progress_every else 0
        if not changes:
            return CameraRanges(self.elevation_degrees, self.radius, self.fov_y_radians)
        near, far = (
            max(end * self.radius_factor**changes, min(end, limit))
            for end, limit in zip(self.radius, self.radius_min, strict=True)
        )
        low, high = self.fov_y_radians
        narrow = max(low * self.fov_low_factor**changes, min(low, self.fov_low_min))
        wide = min(high * self.fov_high_factor**changes, max(high, self.fov_high_max))
        return CameraRanges(self.elevation_degrees, (near, far), (narrow, wide))


class BackgroundConfig(Config):
    """A uniform colour behind each view; the remaining share of views has a random colour."""

    white_share: float = field(0, "share of views", RELEASE, "white background", ge=0, le=1)
    black_share: float = field(0.67, "share of views", "release: p = .66, half of it", "black background", ge=0, le=1)
    grey_share: float = field(0, "share of views", OURS, "random grey background", ge=0, le=1)
    darkest: float = field(
        0, "[0, 1]", RELEASE, "lower end of random greys and colour channels, uniform up to 1", ge=0, le=1
    )

    @model_validator(mode="after")
    def _shares(self) -> "BackgroundConfig":
        if self.white_share + self.black_share + self.grey_share > 1 + 1e-9:
            found = f"white {self.white_share:g} + black {self.black_share:g} + grey {self.grey_share:g}"
            raise ValueError(f"background shares {found} exceed 1; lower one of them")
        return self


def _rate(start: float, end: float, decay: str = "linear", source: str = RELEASE, unit: str = "per step") -> Any:
    return field(RateConfig.model_validate({"start": start, "end": end, "decay": decay}), unit, source, "learning rate")


class OptimizerConfig(Config):
    """Adam, with one learning rate per attribute."""

    means: RateConfig = _rate(1.6e-4 * 3.5, 1.6e-6 * 3.5, "log", "release: × extent 3.5", "world units per step")
    log_scales: RateConfig = _rate(0.005, 0.001, "log")
    quats: RateConfig = _rate(0.001, 0.0002, "log")
    logit_opacities: RateConfig = _rate(0.05, 0.05)
    sh_constant: RateConfig = _rate(0.005, 0.003, "log", unit="SH units per step")
    sh_rest: RateConfig = _rate(0.00025, 0.00025, unit="SH units per step")
    beta1: float = field(0.9, "–", RELEASE, "Adam's decay of the first moment", ge=0, lt=1)
    beta2: float = field(0.999, "–", RELEASE, "Adam's decay of the second moment", ge=0, lt=1)
    eps: float = field(1e-15, "–", RELEASE, "ε of Adam", gt=0)
    clip_norm: Range = field(
        (0.5, 2), "norm per attribute", "release: 2–8 of a sum", "gradient clipping, start … end; 0: off"
    )
    clip_share: float = field(
        0.2, "share of iterations", "release: 1000 of 5000", "duration of the change of clip_norm"
    )


class DensifyConfig(Config):
    """Adaptive density control of 3D Gaussian splatting, with statistics of all views."""

    enabled: bool = field(True, "–", RELEASE, "clone, split and prune Gaussians, and reset opacities")
    after: int = field(100, "iteration", RELEASE, "no densification before", ge=0)
    before: int = field(3000, "iteration", RELEASE, "no densification from here on", ge=0)
    interval: int = field(100, "iterations", RELEASE, "interval of densification", ge=1)
    gradient_threshold_pixels: float = field(
        7.5e-4 / (512 / 2), "1 / pixel", "release: 7.5e-4 in NDC at 512 px, × 2 / width",
        "mean |∂(a view's loss) / ∂(centre in pixels)| above which a Gaussian grows", gt=0,
    )  # fmt: skip
    extent: float = field(3.5, "world units", RELEASE, "size of the scene, for percent_dense and prune_extent", gt=0)
    percent_dense: float = field(
        0.003, "share of extent", RELEASE, "Gaussians up to this scale are cloned, larger ones split", ge=0
    )
    split_shrink: float = field(1.6, "–", "3DGS", "divisor of the scales of the two children", ge=1)
    prune_opacity: float = field(0.005, "[0, 1]", RELEASE, "prune Gaussians of lower opacity", ge=0, lt=1)
    prune_large_after: int = field(300, "iteration", RELEASE, "also prune large Gaussians from here on", ge=0)
    prune_radius_pixels: float = field(
        20, "pixels", RELEASE, "prune Gaussians with a larger radius on screen since the last densification", gt=0
    )
    prune_extent: float = field(0.1, "share of extent", RELEASE, "prune Gaussians of larger scale", gt=0)
    reset_interval: int = field(300, "iterations", RELEASE, "interval of opacity resets; 0: never", ge=0)
    reset_opacity: float = field(0.01, "[0, 1]", RELEASE, "upper limit of opacities at a reset", gt=0, lt=1)


class RelocateConfig(Config):
    """Relocation of dead Gaussians to live ones (similar to 3DGS-MCMC); their number is constant."""

    enabled: bool = field(False, "–", OURS, "relocate dead Gaussians")
    interval: int = field(40, "iterations", OURS, "interval of relocation", ge=1)
    until_share: float = field(0.85, "share of iterations", OURS, "no relocation after", ge=0, le=1)
    dead_opacity: float = field(0.03, "[0, 1]", OURS, "Gaussians of lower opacity are dead", ge=0, lt=1)
    spread: float = field(0.7, "mean scales of the source", OURS, "standard deviation of the new position", ge=0)
    shrink: float = field(0.2, "log units", OURS, "subtracted from the log-scales of relocated Gaussians", ge=0)


class BoundsConfig(Config):
    """Bounds of the parameters, enforced after each step."""

    radius: float = field(3.0, "world units", OURS, "upper limit of |mean|", gt=0)
    scale: Range = field((1e-5, 1.0), "world units", OURS, "range of the standard deviations of a Gaussian")
    max_gaussians: int = field(500_000, "Gaussians", OURS, "upper limit of the number of Gaussians", ge=1)
    colour: bool = field(True, "–", OURS, "clamp colours of degree 0 to [0, 1]")

    @model_validator(mode="after")
    def _scales(self) -> "BoundsConfig":
        ordered(self, "scale")
        if self.scale[0] <= 0:
            raise ValueError(f"scale starts at {self.scale[0]:g}; expected above 0")
        return self


class BrightnessConfig(Config):
    """Connect3D's BEG: if the brightest views exceed a limit, all colours move towards mid grey."""

    enabled: bool = field(False, "–", "Connect3D: true", "enable BEG")
    after_share: float = field(0.2, "share of iterations", "Connect3D: 1000 of 5000", "start", ge=0, le=1)
    until_share: float = field(0.9, "share of iterations", "Connect3D: 4500 of 5000", "end", ge=0, le=1)
    quantile: float = field(
        0.85, "–", "Connect3D", "quantile over the non-black pixels of a view, then over the views", gt=0, lt=1
    )
    limit: float = field(0.9, "[0, 1]", "Connect3D", "applies if the quantile exceeds this", gt=0, le=1)
    factor: float = field(0.8, "–", "Connect3D", "factor of all spherical harmonics (0 is mid grey)", ge=0, lt=1)


class RegularizersConfig(Config):
    """Weights of the regularization terms; 0 disables a term."""

    total_variation: float = field(
        0.5, "–", "release: 1 × (2 TV), of a sum", "total variation of the rendered colours", ge=0
    )
    disparity_variation: float = field(
        0.5, "–", "release: 1 × (2 TV), of a sum", "total variation of the normalised disparity", ge=0
    )
    scale: float = field(0.25, "1 / world units", "release: 1, of a sum", "mean of the scales", ge=0)
    oversize: float = field(0, "1 / world units", OURS, "mean excess of scales over oversize_limit", ge=0)
    oversize_limit: float = field(0.12, "world units", OURS, "scales up to this are not penalised", gt=0)
    opacity_entropy: float = field(0, "1 / nat", OURS, "mean binary entropy of the Gaussians' opacities", ge=0)
    alpha_entropy: float = field(0, "–", OURS, "mean 4α(1 − α) of the rendered alpha", ge=0)
    after_share: float = field(0, "share of iterations", OURS, "no regularization before", ge=0, le=1)


class InitializationConfig(Config):
    """The initialization of the Gaussians."""

    kind: Literal["ball", "sphere", "box", "ply", "mesh", "point_e"] = field(
        "point_e", "–", "paper", "source of the initial points"
    )
    count: int = field(4096, "points", "release: Point-E with its upsampler", "number of points", ge=1)
    radius: float = field(0.75, "world units", OURS, "radius of the ball or sphere; half the edge of the box", gt=0)
    opacity: float = field(0.1, "[0, 1]", RELEASE, "opacity of every Gaussian", gt=0, lt=1)
    scale: float = field(0, "world units", RELEASE, "scale of every Gaussian; 0: from the 3 nearest neighbours", ge=0)
    colour: float = field(0.5, "[0, 1]", RELEASE, "mean grey", ge=0, le=1)
    colour_noise: float = field(0, "[0, 1]", RELEASE, "standard deviation of the colours", ge=0)
    path: str = field("", "path", OURS, "file of kinds ply and mesh")
    mesh_up: Literal["auto", "y", "z"] = field(
        "auto", "axis of the file", OURS, "up axis of a mesh; auto: y for .glb and .obj, else z"
    )
    mesh_front: Literal["auto", "x", "-x", "y", "-y", "z", "-z"] = field(
        "auto", "axis of the file", OURS, "front axis of a mesh; auto: z if y is up (glTF), else x"
    )
    mesh_radius: float = field(
        1, "world units", OURS, "bounding radius of a mesh, after centring; 0: keep position and size", ge=0
    )
    replicas: int = field(20, "Gaussians per point", RELEASE, "copies of each point of a point cloud or mesh", ge=1)
    replica_radius: float = field(0.05, "world units", RELEASE, "maximum distance of the copies from their point", ge=0)
    use_point_cloud_colours: bool = field(
        False, "–", RELEASE, "use the colours of a point cloud or mesh instead of grey"
    )
    point_e_prompt_template: str = field(
        "{prompt}", "text", RELEASE, "text for Point-E; {prompt} is the short text of the prompt"
    )
    point_e_guidance_scale: float = field(3, "–", "Point-E", "guidance scale of the base model", ge=0)
    point_e_steps: int = field(64, "steps", "Point-E", "steps of the Karras sampler", ge=1)
    point_e_up_shift: float = field(0.15, "world units", RELEASE, "added to z of the points")

    @model_validator(mode="after")
    def _path(self) -> "InitializationConfig":
        if (self.kind in ("ply", "mesh")) != bool(self.path):
            raise ValueError(
                f"initialization.kind is {self.kind!r} and path is {self.path!r}; "
                "kinds 'ply' (points or Gaussians) and 'mesh' need a path, and other kinds have none"
            )
        suffix = PurePath(self.path).suffix.lower()
        if self.kind == "mesh" and suffix not in MESH_SUFFIXES:
            raise ValueError(
                f"initialization.path {self.path!r} ends with {suffix!r}; expected {', '.join(MESH_SUFFIXES)}: "
                "export the mesh as one of these"
            )
        if self.kind == "ply" and suffix != ".ply" and suffix in MESH_SUFFIXES:
            raise ValueError(f"initialization.path {self.path!r} is a mesh, not a .ply; set initialization.kind=mesh")
        up, front = self.mesh_axes
        if front[-1] == up:
            raise ValueError(f"mesh_front is {front!r} and the up axis is {up!r}; they must be perpendicular")
        return self

    @property
    def mesh_axes(self) -> tuple[str, str]:
        """The up and front axes of the file."""
        is_y_up = PurePath(self.path).suffix.lower() in _Y_UP_SUFFIXES
        up = self.mesh_up if self.mesh_up != "auto" else "y" if is_y_up else "z"
        front = self.mesh_front if self.mesh_front != "auto" else "z" if up == "y" else "x"
        return up, front
