import math

import pytest

from sctd.recipe import presets as recipes
from sctd.recipe.recipe import keys
from tests.support.paths import DOCS


def test_paper_has_the_published_settings() -> None:
    recipe = recipes.paper()
    assert (recipe.iterations, recipe.sh_degree, recipe.cameras.views) == (5000, 0, 4)
    assert (recipe.objective.name, recipe.objective.outer_weight, recipe.objective.weight) == ("sctd", 8.5, 0.1)
    assert recipe.objective.outer_weight == recipe.guidance.scale + 1
    assert recipe.objective.time_weight == "sigma_over_alpha"
    assert recipe.guidance.negative_prompt.startswith("unrealistic, blurry, low quality")
    times = recipe.times
    assert (times.num_segments, times.threshold, times.minimum_interval, times.epsilon) == (5, 150, 80, 10)
    assert (times.low, times.high, times.start_high, times.shift_lower_bound) == (20, 500, 980, False)
    assert times.warmup_share * recipe.iterations == 1500
    assert (recipe.noise.kind, recipe.noise.offset) == ("fixed", 0.1)
    assert (recipe.encoding.disparity_share, recipe.encoding.posterior) == (0.2, "sample")
    adam = recipe.optimizer
    assert (adam.beta1, adam.beta2, adam.eps) == (0.9, 0.999, 1e-15)
    assert (adam.means.start, adam.means.end, adam.means.decay) == (1.6e-4 * 3.5, 1.6e-6 * 3.5, "log")
    assert (adam.sh_constant.start, adam.sh_constant.end, adam.sh_rest.start) == (0.005, 0.003, 0.00025)
    assert (adam.logit_opacities.start, adam.logit_opacities.end) == (0.05, 0.05)
    assert (adam.log_scales.start, adam.log_scales.end) == (0.005, 0.001)
    assert (adam.quats.start, adam.quats.end) == (0.001, 0.0002)
    views = recipe.cameras.views
    assert (adam.clip_norm[0] * views, adam.clip_norm[1] * views) == (2, 8)
    assert adam.clip_share * recipe.iterations == 1000
    dense = recipe.densify
    assert (dense.after, dense.before, dense.interval, dense.reset_interval) == (100, 3000, 100, 300)
    assert dense.gradient_threshold_pixels * 512 / 2 == 7.5e-4
    assert dense.percent_dense * dense.extent == pytest.approx(0.0105)
    assert dense.prune_extent * dense.extent == pytest.approx(0.35)
    assert (dense.split_shrink, dense.prune_opacity, dense.reset_opacity) == (1.6, 0.005, 0.01)
    assert (dense.prune_radius_pixels, dense.prune_large_after) == (20, 300)
    assert not recipe.relocate.enabled
    added = recipe.regularizers
    assert (added.total_variation * views, added.disparity_variation * views, added.scale * views) == (2, 2, 1)
    cameras = recipe.cameras
    assert (90 - cameras.elevation_degrees[1], 90 - cameras.elevation_degrees[0]) == (45, 105)
    assert (cameras.radius, cameras.fov_y_radians) == ((5.2, 5.5), (0.32, 0.6))
    assert (cameras.center_jitter, cameras.target_jitter, cameras.up_jitter) == (0.025, 0.05, 0.01)
    initial = recipe.initialization
    assert (initial.kind, initial.count * initial.replicas, initial.replica_radius, initial.opacity) == (
        "point_e",
        81_920,
        0.05,
        0.1,
    )


def test_embedded_relocates_3000_gaussians_without_densification() -> None:
    recipe = recipes.embedded()
    initial = recipe.initialization
    assert (recipe.iterations, initial.kind, initial.count * initial.replicas) == (300, "point_e", 3072)
    assert (recipe.densify.enabled, recipe.relocate.enabled, recipe.relocate.interval) == (False, True, 40)
    # What fills a training view leaves a margin in the evaluation view (distance 3.5, 0.55 radians).
    (near, far), (narrow, wide) = recipe.cameras.radius, recipe.cameras.fov_y_radians
    assert (near + far) / 2 * math.sin((narrow + wide) / 4) < 0.9 * 3.5 * math.sin(0.55 / 2)
    assert recipe.bounds.radius <= 3.5 * math.sin(0.55 / 2)


def test_the_recipe_page_is_current() -> None:
    page = DOCS / "recipe.md"
    assert page.read_text() == recipes.table(), "run: python -m sctd.recipe.presets > docs/recipe.md"
    rows = sum(line.startswith("| `") for line in recipes.table().splitlines())
    rates = "optimizer.", "nerf.table.", "nerf.network."  # of which a row shows both ends
    assert rows == len([key for key in keys(recipes.paper()) if not key.startswith(rates)]) + 11 + 2
