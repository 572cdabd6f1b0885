"""Whole recipes: functions that return one. An experiment is a function that derives from them.

`python -m sctd.recipe.presets > docs/recipe.md` writes the table of all fields.
"""

from collections.abc import Iterator

from sctd.recipe.compute import Compute
from sctd.recipe.fields import Part, Rate
from sctd.recipe.gradient import Encoding, Guidance, Noise, Objective
from sctd.recipe.portraits import avatar, portrait
from sctd.recipe.recipe import Recipe
from sctd.recipe.scene import Background, Bounds, Cameras, Densify, Initialization, Optimizer, Regularizers, Relocate


def paper() -> Recipe:
    """SegmentDreamer's settings for Stable Diffusion 2.1 at 512 px.

    They are the defaults of `recipe_gradient` and `recipe_scene`, where each is sourced. Ours are the sign of Eq. 10,
    statistics from every view, rigid camera jitter, the guards, and a step that is taken at densification too.
    """
    return Recipe(name="paper")


def embedded() -> Recipe:
    """The packaged 64 px prior: two minutes an asset on one CPU thread.

    Differences from `paper()` were measured on the embedded world: w(t) = 1 beats σ_t/α_t there (which lets t ≈ 950
    rule Adam's second moment), plain random backgrounds and the falling t matter most, and 3,000 Gaussians that move
    replace growth.
    """
    return Recipe(
        name="embedded",
        iterations=300,
        objective=Objective(time_weight="one", weight=1),
        guidance=Guidance(
            negative_prompt="",
            prompt_template="a DSLR photo of {prompt}",
            view_text="nearest",
        ),
        noise=Noise(offset=0),
        encoding=Encoding(posterior="mean", disparity_share=0, flip_share=0, scale_noise=0),
        cameras=Cameras(
            azimuth_spread="even",
            elevation_degrees=(-12, 50),
            overhead_share=0.1,
            overhead_elevation_degrees=(50, 80),
            radius=(2.75, 3.45),  # so that what fills a picture of the prior fits the evaluation camera's
            fov_y_radians=(0.49, 0.62),
            center_jitter=0,
            target_jitter=0,
            up_jitter=0,
            progress_every=0,
        ),
        background=Background(white_share=0.2, black_share=0, grey_share=0.4, darkest=0.1),
        optimizer=Optimizer(
            means=Rate(start=0.004, end=0.0002),
            log_scales=Rate(start=0.02, end=0.004),
            quats=Rate(start=0.02, end=0.004),
            logit_opacities=Rate(start=0.05, end=0.01),
            sh_constant=Rate(start=0.035, end=0.007),  # 0.04 a step of a colour's logit, at mid grey, in SH units
            sh_rest=Rate(start=0.00175, end=0.00035),
            beta2=0.99,
            clip_norm=(0, 0),
        ),
        densify=Densify(enabled=False),
        relocate=Relocate(enabled=True),
        bounds=Bounds(radius=0.95, scale=(0.006, 0.2), max_gaussians=20_000),
        regularizers=Regularizers(
            total_variation=0, disparity_variation=0, scale=0, oversize=20, alpha_entropy=20, after_share=0.3
        ),
        initialization=Initialization(
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
        compute=Compute(dtype="float32", min_gpu_gib=0),
    )


RECIPES = {
    "embedded": embedded,
    "paper": paper,
    "embedded-portrait": lambda: portrait(embedded()),
    "embedded-avatar": lambda: avatar(embedded()),
    "paper-portrait": lambda: portrait(paper()),
    "paper-avatar": lambda: avatar(paper()),
}


def table() -> str:
    """`docs/recipe.md`: every field with its two values, unit and source."""
    lines = [
        "# Recipe",
        "",
        "Every setting of a run: `--set KEY=VALUE` changes one. Written by `python -m sctd.recipe.presets > docs/recipe.md`.",
        '"release" is the paper\'s released code, "ours" a choice of this project. Lengths are in world units: the',
        "object has bounding radius 1. Noise levels are indices into the schedule.",
        "",
        "| key | `paper` | `embedded` | unit | source | meaning |",
        "|---|---|---|---|---|---|",
        *_rows(paper(), embedded(), ""),
    ]
    return "\n".join(lines) + "\n"


def _rows(left: Part, right: Part, prefix: str) -> Iterator[str]:
    for name, about in type(left).model_fields.items():
        values = getattr(left, name), getattr(right, name)
        extra = about.json_schema_extra
        if isinstance(extra, dict):
            cells = [
                f"`{prefix}{name}`",
                *map(_cell, values),
                *(str(extra[key]) for key in ("unit", "source", "meaning")),
            ]
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        else:
            yield from _rows(*values, f"{prefix}{name}.")


def _cell(value: object) -> str:
    if isinstance(value, Rate):
        return f"{value.start:.4g} → {value.end:.4g}, {value.decay}"
    if isinstance(value, tuple):
        return " … ".join(f"{end:.4g}" for end in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)


if __name__ == "__main__":
    print(table(), end="")
