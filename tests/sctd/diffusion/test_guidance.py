import math

import pytest
import torch

from sctd.diffusion.guidance import (
    VIEW_TEXT,
    Negatives,
    ViewText,
    cfg,
    interpolated,
    nearest,
    negatives,
    perp_neg,
    view_prompts,
)
from tests.support.analytic import mixture

FRONT, SIDE, BACK, OVERHEAD = torch.eye(4, dtype=torch.float64)[:, None]
VIEWS = ViewText(FRONT, SIDE, BACK, OVERHEAD)


def degrees(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.0, 1.0, 7.5])
def test_cfg_is_its_formula_from_one_batch_of_twice_the_size(scale):
    world = mixture(4, spread=0.3)
    z_t, text = torch.randn(3, 4, 2, 2, dtype=torch.float64), world.text([1], batch=3)
    null = world.text([0, 1])  # a negative prompt need not be the empty one
    eps_null, eps_text = world(z_t, 500, null.expand(3, -1, -1)), world(z_t, 500, text)
    world.calls = world.samples = 0
    guided = cfg(world, scale, null)(z_t, 500, text)
    torch.testing.assert_close(guided, eps_null + scale * (eps_text - eps_null), rtol=0, atol=1e-12)
    assert (world.calls, world.samples) == (1, 6)


def test_cfg_leaves_the_empty_prompt_alone():
    world = mixture(4, spread=0.3)
    z_t = torch.randn(3, 4, 2, 2, dtype=torch.float64)
    guided = cfg(world, 7.5, world.text([0]))(z_t, 500, None)
    assert world.samples == 3
    assert torch.equal(guided, world(z_t, 500, None))


def test_view_prompts_are_in_the_order_of_view_text():
    assert view_prompts("a duck") == [
        "a duck, front view", "a duck, side view", "a duck, back view", "a duck, overhead view",
    ]  # fmt: skip
    assert ViewText._fields == ("front", "side", "back", "overhead")


def test_nearest_view_changes_at_50_130_and_58_degrees():
    azimuths = degrees(0, 49, -49, 51, -90, 129, 131, 180, -131, 311, 0, 180)
    elevations = degrees(*[0.0] * 10, 59, 58)
    chosen = nearest(VIEWS, azimuths, elevations)[:, 0].argmax(-1).tolist()
    assert chosen == [0, 0, 0, 1, 1, 1, 2, 2, 2, 0, 3, 2]
    lower = nearest(VIEWS, degrees(0, 0), degrees(10, 30), overhead_above_degrees=20.0)
    assert lower[:, 0].argmax(-1).tolist() == [0, 3]


def test_interpolated_view_mixes_its_two_neighbours():
    azimuths = degrees(0, 45, -45, 90, 135, -180, 270, 360)
    mixed = interpolated(VIEWS, azimuths, degrees(*[80.0] * 8))
    front, side, back = [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]
    expected = [front, [0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], side, [0, 0.5, 0.5, 0], back, side, front]
    torch.testing.assert_close(mixed[:, 0], torch.tensor(expected, dtype=torch.float64))
    above = interpolated(VIEWS, degrees(0), degrees(80), overhead_above_degrees=58.0)
    assert torch.equal(above[0], OVERHEAD)


@pytest.mark.parametrize("view_text", VIEW_TEXT.values(), ids=VIEW_TEXT)
def test_view_text_keeps_the_embeddings_dtype(view_text):
    """Angles come in float32, embeddings may be half precision."""
    half = ViewText(*(embedding.half() for embedding in VIEWS))
    text = view_text(half, torch.tensor([10.0, 100.0]), torch.tensor([0.0, 0.0]))
    assert text.dtype == torch.float16
    assert text.shape == (2, 1, 4)


def test_interpolated_view_is_continuous_at_90_and_all_around():
    """One turn in steps of 0.01°: the text moves by the same short way at each."""
    azimuths = torch.arange(0, 360, 0.01, dtype=torch.float64)
    around = interpolated(VIEWS, azimuths, torch.zeros_like(azimuths))[:, 0]
    steps = (around - around.roll(1, 0)).norm(dim=-1)
    torch.testing.assert_close(steps, torch.full_like(steps, 2**0.5 * 0.01 / 90), rtol=0, atol=1e-12)


FRONT_FIRST, SIDE_FIRST = torch.stack([FRONT, SIDE]), torch.stack([SIDE, FRONT])


@pytest.mark.parametrize(
    ("azimuth", "text", "weights"),
    [
        (0, FRONT_FIRST, [0, -2]),
        (18, FRONT_FIRST, [-2 * math.exp(-1.6), -2 * math.exp(-2)]),  # r = 0.8, where the front begins to count
        (17.9, FRONT_FIRST, [0, -2 * math.exp(-10 * 17.9 / 90)]),
        (45, FRONT_FIRST, [-2 * math.exp(-1), -2 * math.exp(-5)]),
        (72.1, FRONT_FIRST, [-2 * math.exp(-2 * 17.9 / 90), 0]),  # r < 0.2
        (90, SIDE_FIRST, [0, -2]),
        (135, SIDE_FIRST, [-math.exp(-5), -2]),
        (180, SIDE_FIRST, [-1, -2]),
    ],
)
@pytest.mark.parametrize("turn", [1, -1, 361])
def test_negatives_are_the_published_rule_and_the_same_on_both_sides(azimuth, text, weights, turn):
    if turn == 361:
        turn, azimuth = 1, azimuth + 360
    found = negatives(VIEWS, degrees(turn * azimuth))
    assert torch.equal(found.text[0], text)
    torch.testing.assert_close(found.weights[0], degrees(*weights), rtol=0, atol=1e-12)


def test_negatives_meet_at_90_degrees():
    """Their order changes there, what is pushed away does not."""
    found = negatives(VIEWS, degrees(90 - 1e-9, 90, -90, 90 + 1e-9, 270))
    pushed = (found.weights[..., None, None] * found.text).sum(1)
    torch.testing.assert_close(pushed, (-2 * FRONT).expand(5, 1, 4), rtol=0, atol=1e-9)


def test_both_negatives_count_at_70_percent_of_the_azimuths_and_one_at_the_rest():
    active = (negatives(VIEWS, torch.arange(0.05, 360, 0.1, dtype=torch.float64)).weights != 0).sum(1)
    assert [(active == count).double().mean().item() for count in (0, 1, 2)] == [0.0, 0.3, 0.7]


def test_negatives_decay_as_told_and_vanish_below_the_least():
    found = negatives(VIEWS, degrees(45, 135), weight=-4.0, front_decay=1.0, side_decay=20.0)
    expected = torch.stack([degrees(-4 * math.exp(-0.5), 0), degrees(0, -4)])
    expected[0, 1], expected[1, 0] = -4 * math.exp(-10), -2 * math.exp(-10)  # 1.8e-4 and, left out, 0.9e-4
    expected[1, 0] = 0
    torch.testing.assert_close(found.weights, expected, rtol=0, atol=1e-12)


def test_negatives_of_half_precision_text_keep_the_weights_of_the_angles():
    half = ViewText(*(embedding.half() for embedding in VIEWS))
    found = negatives(half, torch.tensor([0.0, 170.0]))
    assert (found.text.dtype, found.weights.dtype) == (torch.float16, torch.float32)


def perp_neg_by_hand(denoise, scale, null, found, z_t, t, text):
    """Method.md §1.9, sample by sample and number by number."""
    guided = []
    for i in range(len(z_t)):
        eps_u, eps_pos = denoise(z_t[i : i + 1], t, null)[0], denoise(z_t[i : i + 1], t, text[i : i + 1])[0]
        delta_pos = eps_pos - eps_u
        total = delta_pos.clone()
        for j in range(2):
            weight = float(found.weights[i, j])
            if abs(weight) > 1e-4:
                delta = denoise(z_t[i : i + 1], t, found.text[i, j][None])[0] - eps_u
                along = float((delta * delta_pos).sum()) / max(float((delta_pos**2).sum()), 1e-6)
                total += weight * (delta - along * delta_pos)
        guided.append(eps_u + scale * total)
    return torch.stack(guided)


@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_perp_neg_is_its_formula_from_one_batch_of_four_times_the_size(scale):
    """In a world whose four modes are the four views, at azimuths with one and with both negatives."""
    world = mixture(4, spread=0.3)
    azimuths = degrees(0, 30, -60, 80, 100, -140, 180)
    text, found = interpolated(VIEWS, azimuths, torch.zeros_like(azimuths)), negatives(VIEWS, azimuths)
    z_t = torch.randn(7, 4, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    null = world.text([0, 1, 2])
    expected = perp_neg_by_hand(world, scale, null, found, z_t, 500, text)
    world.calls = world.samples = 0
    guided = perp_neg(world, scale, null, found)(z_t, 500, text)
    assert (world.calls, world.samples) == (1, 28)
    torch.testing.assert_close(guided, expected, rtol=0, atol=1e-12)
    assert float((guided - cfg(world, scale, null)(z_t, 500, text)).flatten(1).norm(dim=1).min()) > 1e-6


def test_perp_neg_leaves_the_empty_prompt_alone():
    world = mixture(4, spread=0.3)
    z_t = torch.randn(2, 4, 2, 2, dtype=torch.float64)
    guided = perp_neg(world, 7.5, world.text([0]), negatives(VIEWS, degrees(0, 100)))(z_t, 500, None)
    assert world.samples == 2
    assert torch.equal(guided, world(z_t, 500, None))


def told(z_t, t, text):
    """A denoiser whose prediction the text spells out, element by element."""
    return text.reshape(z_t.shape) + t * z_t


def spelled(batch: int, seed: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(batch, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_perp_neg_with_all_weights_0_is_cfg_bit_for_bit():
    """For a denoiser whose samples do not depend on the batch's size; in a U-Net they may, in the last bits."""
    z_t, text, null = spelled(5, 0, torch.float32).view(5, 4, 2, 2), *(spelled(n, n, torch.float32) for n in (5, 1))
    off = Negatives(spelled(10, 2, torch.float32).view(5, 2, 4, 4), torch.zeros(5, 2))
    assert torch.equal(perp_neg(told, 7.5, null, off)(z_t, 3, text), cfg(told, 7.5, null)(z_t, 3, text))


def test_what_a_negative_shares_with_the_positive_never_counts():
    """Moving negatives along the positive direction changes nothing, and one that is parallel to it gives `cfg`."""
    z_t, text, null, other = spelled(3, 0).view(3, 4, 2, 2), spelled(3, 1), spelled(1, 2), spelled(6, 3)
    weights = torch.tensor([[-2.0, -0.3], [0.0, -2.0], [-1.0, -2.0]], dtype=torch.float64)
    amount = torch.tensor([[-50.0, 3.0], [0.5, 1.0], [1e3, -1.0]], dtype=torch.float64)[..., None, None]
    towards = (text - null)[:, None]
    away = other.view(3, 2, 4, 4)

    def guided(negative):
        return perp_neg(told, 7.5, null, Negatives(negative, weights))(z_t, 3, text)

    torch.testing.assert_close(guided(away + amount * towards), guided(away), rtol=0, atol=1e-9)
    parallel = null + amount * towards
    torch.testing.assert_close(guided(parallel), cfg(told, 7.5, null)(z_t, 3, text), rtol=0, atol=1e-9)


def test_perp_neg_of_a_positive_that_says_nothing_has_no_nan():
    """Where the text predicts what ∅ does there is no direction: the negatives count as they are."""
    z_t, null, away = spelled(1, 0).view(1, 4, 2, 2), spelled(1, 1), spelled(2, 2)[None]
    weights = torch.tensor([[-1.0, -2.0]], dtype=torch.float64)
    guided = perp_neg(told, 2.0, null, Negatives(away, weights))(z_t, 0, null.clone())
    expected = null - 2 * (away[:, 0] - null) - 4 * (away[:, 1] - null)
    torch.testing.assert_close(guided, expected.view_as(z_t))
