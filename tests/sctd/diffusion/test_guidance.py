import pytest
import torch

from sctd.diffusion.guidance import VIEW_TEXT, ViewText, cfg, interpolated, nearest, view_prompts
from tests.support.analytic import mixture
from tests.support.one_hot_views import OVERHEAD, VIEWS, degrees


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_cfg_matches_its_formula_in_one_batch_of_twice_the_size(scale):
    world = mixture(4, spread=0.3)
    z_t, text = torch.randn(3, 4, 2, 2, dtype=torch.float64), world.text([1], batch=3)
    null = world.text([0, 1])  # a negative prompt in place of the empty one
    eps_null, eps_text = world(z_t, 500, null.expand(3, -1, -1)), world(z_t, 500, text)
    world.calls = world.samples = 0
    guided = cfg(world, scale, null)(z_t, 500, text)
    torch.testing.assert_close(guided, eps_null + scale * (eps_text - eps_null), rtol=0, atol=1e-12)
    assert (world.calls, world.samples) == (1, 6)


def test_cfg_does_not_guide_the_empty_prompt():
    world = mixture(4, spread=0.3)
    z_t = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    guided = cfg(world, 7.5, world.text([0]))(z_t, 500, None)
    assert world.samples == 3
    assert torch.equal(guided, world(z_t, 500, None))


def test_view_prompts_have_the_order_of_view_text():
    assert view_prompts("a duck") == [
        "a duck, front view", "a duck, side view", "a duck, back view", "a duck, overhead view",
    ]  # fmt: skip
    assert ViewText._fields == ("front", "side", "back", "overhead")


def test_nearest_changes_at_azimuths_50_and_130_and_elevation_58():
    azimuths = degrees(0, 49, -49, 51, -90, 129, 131, 180, -131, 311, 0, 180)
    elevations = degrees(*[0.0] * 10, 59, 58)
    chosen = nearest(VIEWS, azimuths, elevations)[:, 0].argmax(-1).tolist()
    assert chosen == [0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 3, 2]
    lower = nearest(VIEWS, degrees(0, 0), degrees(10, 30), overhead_above_degrees=20.0)
    assert lower[:, 0].argmax(-1).tolist() == [0, 3]


def test_interpolated_mixes_the_two_neighbouring_views():
    azimuths = degrees(0, 45, -45, 90, 135, -180, 270, 360)
    mixed = interpolated(VIEWS, azimuths, degrees(*[80.0] * 8))
    front, side, back = [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]
    expected = [front, [0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], side, [0, 0.5, 0.5, 0], back, side, front]
    torch.testing.assert_close(mixed[:, 0], torch.tensor(expected, dtype=torch.float64))
    above = interpolated(VIEWS, degrees(0), degrees(80), overhead_above_degrees=58.0)
    assert torch.equal(above[0], OVERHEAD)


@pytest.mark.parametrize("view_text", VIEW_TEXT.values(), ids=VIEW_TEXT)
def test_view_text_has_the_dtype_of_the_embeddings(view_text):
    """Angles are float32, embeddings may be half precision."""
    half = ViewText(*(embedding.half() for embedding in VIEWS))
    text = view_text(half, torch.tensor([10.0, 100.0]), torch.tensor([0.0, 0.0]))
    assert text.dtype == torch.float16
    assert text.shape == (2, 1, 4)


def test_interpolated_is_continuous_over_a_full_turn():
    """In steps of 0.01°, the embedding moves by the same short distance at each step."""
    azimuths = torch.arange(0, 360, 0.01, dtype=torch.float64)
    around = interpolated(VIEWS, azimuths, torch.zeros_like(azimuths))[:, 0]
    steps = (around - around.roll(1, 0)).norm(dim=-1)
    torch.testing.assert_close(steps, torch.full_like(steps, 2**0.5 * 0.01 / 90), rtol=0, atol=1e-12)
