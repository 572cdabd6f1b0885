"""Preset recipes: `paper()`, `embedded()`, and their portraits and avatars.

`python -m sctd.recipe.presets > docs/recipe.md` (`make tables`) writes the table of all fields.
"""

from collections.abc import Iterator

from sctd.recipe.compute import ComputeConfig
from sctd.recipe.effects import readers
from sctd.recipe.fields import Config, RateConfig
from sctd.recipe.gradient import EncodingConfig, GuidanceConfig, NoiseConfig
from sctd.recipe.objective import ObjectiveConfig
from sctd.recipe.portraits import avatar, portrait
from sctd.recipe.recipe import Recipe
from sctd.recipe.representation import NerfConfig, RepresentationConfig
from sctd.recipe.scene import (
    BackgroundConfig,
    BoundsConfig,
    CamerasConfig,
    DensifyConfig,
    InitializationConfig,
    OptimizerConfig,
    RegularizersConfig,
    RelocateConfig,
)


def paper() -> Recipe:
    """SegmentDreamer's settings for Stable Diffusion 2.1 at 512 px.

    They are the defaults of `gradient` and `scene`, with a source for each. Differences from the released code are the
    sign of Eq. 10, statistics from all views, rigid camera jitter, the bounds, and an optimizer step also at iterations
    with densification.
    """
    return Recipe(name="paper")


def embedded() -> Recipe:
    """Settings for the bundled 64 px prior: two minutes per asset on one CPU thread.

    Differences from `paper()` were measured in the synthetic world. There w(t) = 1 is better than σ_t/α_t, with which
    t ≈ 950 dominates Adam's second moment. Plain random backgrounds and the falling t matter most, and relocation of
    3,000 Gaussians replaces densification.
    """
    return Recipe(
        name="embedded",
        iterations=300,
        objective=ObjectiveConfig(time_weight="one", weight=1),
        guidance=GuidanceConfig(
            negative_prompt="",
            prompt_template="a DSLR photo of {prompt}",
            view_text="nearest",
        ),
        noise=NoiseConfig(offset=0),
        encoding=EncodingConfig(posterior="mean", disparity_share=0, flip_share=0, scale_noise=0),
        cameras=CamerasConfig(
            azimuth_spread="even",
            elevation_degrees=(-12, 50),
            overhead_share=0.1,
            overhead_elevation_degrees=(50, 80),
            radius=(2.75, 3.45),  # an object that fills a view of the prior also fits the evaluation camera
            fov_y_radians=(0.49, 0.62),
            center_jitter=0,
            target_jitter=0,
            up_jitter=0,
            progress_every=0,
        ),
        background=BackgroundConfig(white_share=0.2, black_share=0, grey_share=0.4, darkest=0.1),
        optimizer=OptimizerConfig(
            means=RateConfig(start=0.004, end=0.0002),
            log_scales=RateConfig(start=0.02, end=0.004),
            quats=RateConfig(start=0.02, end=0.004),
            logit_opacities=RateConfig(start=0.05, end=0.01),
            sh_constant=RateConfig(
                start=0.035, end=0.007
            ),  # 0.04 per step of a colour's logit at mid grey, in SH units
            sh_rest=RateConfig(start=0.00175, end=0.00035),
            beta2=0.99,
            clip_norm=(0, 0),
        ),
        densify=DensifyConfig(enabled=False),
        relocate=RelocateConfig(enabled=True),
        bounds=BoundsConfig(radius=0.95, scale=(0.006, 0.2), max_gaussians=20_000),
        regularizers=RegularizersConfig(
            total_variation=0, disparity_variation=0, scale=0, oversize=20, alpha_entropy=20, after_share=0.3
        ),
        initialization=InitializationConfig(
            count=512,
            opacity=0.2,
            scale=0.045,
            colour_noise=0.025,
            replicas=6,
            replica_radius=0.03,
            use_point_cloud_colours=True,
            point_e_guidance_scale=2,
            point_e_steps=20,
            point_e_up_shift=0,
        ),
        compute=ComputeConfig(dtype="float32", min_gpu_gib=0),
    )


def nerf(base: Recipe, settings: NerfConfig) -> Recipe:
    """A NeRF in place of the base's Gaussians, from a blob."""
    return base.model_copy(
        update={
            "name": f"{base.name}-nerf",
            "representation": RepresentationConfig(kind="nerf"),
            "nerf": settings,
            "initialization": base.initialization.model_copy(update={"kind": "ball"}),
        }
    )


def embedded_nerf() -> Recipe:
    """A small NeRF for the bundled prior: three minutes per asset on one CPU thread. Rates are ten times the usual."""
    rates = {"table": RateConfig(start=0.03, end=0.006), "network": RateConfig(start=0.01, end=0.002)}
    return nerf(
        embedded(), NerfConfig(levels=8, finest=128, log2_entries=14, hidden=32, steps=96, cells=32, **rates)
    )


RECIPES = {
    "embedded": embedded,
    "paper": paper,
    "embedded-portrait": lambda: portrait(embedded()),
    "embedded-avatar": lambda: avatar(embedded()),
    "paper-portrait": lambda: portrait(paper()),
    "paper-avatar": lambda: avatar(paper()),
    "embedded-nerf": embedded_nerf,
    "paper-nerf": lambda: nerf(paper(), NerfConfig()),
}


def table() -> str:
    """The text of `docs/recipe.md`: every field with its value in both presets, unit, source and meaning."""
    lines = [
        "# Recipe",
        "",
        "All settings of a run. `--set KEY=VALUE` changes one. This page is generated by `make tables`.",
        "",
        '"release" is the paper\'s released code, "ours" a choice of this project. Lengths are in world units: the',
        "object has bounding radius 1. Noise levels are indices into the schedule.",
        "",
        "The last column names the objectives or rules of times that read a key, or the other keys that it depends on.",
        "`--set` and `--sweep` refuse a key that has no effect.",
        "",
        "| key | `paper` | `embedded` | unit | source | meaning | read by, or depends on |",
        "|---|---|---|---|---|---|---|",
        *_rows(paper(), embedded(), ""),
    ]
    return "\n".join(lines) + "\n"


def _rows(left: Config, right: Config, prefix: str) -> Iterator[str]:
    for name, about in type(left).model_fields.items():
        values = getattr(left, name), getattr(right, name)
        extra = about.json_schema_extra
        if isinstance(extra, dict):
            cells = [
                f"`{prefix}{name}`",
                *map(_cell, values),
                *(str(extra[key]) for key in ("unit", "source", "meaning")),
                readers(prefix + name),
            ]
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        else:
            yield from _rows(*values, f"{prefix}{name}.")


def _cell(value: object) -> str:
    if isinstance(value, RateConfig):
        return f"{value.start:.4g} → {value.end:.4g}, {value.decay}"
    if isinstance(value, tuple):
        return " … ".join(f"{end:.4g}" for end in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    print(table(), end="")
