import math

import pytest
import torch

from sctd.diffusion.guidance import cfg, interpolated
from sctd.diffusion.perp_neg import Negatives, negatives, perp_neg
from tests.support.analytic import mixture
from tests.support.one_hot_views import FRONT, SIDE, VIEWS, degrees

FRONT_FIRST, SIDE_FIRST = torch.stack([FRONT, SIDE]), torch.stack([SIDE, FRONT])


@pytest.mark.parametrize(
    ("azimuth", "text", "weights"),
    [
        (0, FRONT_FIRST, [0, -2]),
        (18, FRONT_FIRST, [-2 * math.exp(-1.6), -2 * math.exp(-2)]),  # r = 0.8, from where the front has a weight
        (17.9, FRONT_FIRST, [0, -2 * math.exp(-10 * 17.9 / 90)]),
        (45, FRONT_FIRST, [-2 * math.exp(-1), -2 * math.exp(-5)]),
        (72.1, FRONT_FIRST, [-2 * math.exp(-2 * 17.9 / 90), 0]),  # r < 0.2
        (90, SIDE_FIRST, [0, -2]),
        (135, SIDE_FIRST, [-math.exp(-5), -2]),
        (180, SIDE_FIRST, [-1, -2]),
    ],
)
@pytest.mark.parametrize("turn", [1, -1, 361])
def test_negatives_match_the_published_rule_on_both_sides(azimuth, text, weights, turn):
    if turn == 361:
        turn, azimuth = 1, azimuth + 360
    found = negatives(VIEWS, degrees(turn * azimuth))
    assert torch.equal(found.text[0], text)
    torch.testing.assert_close(found.weights[0], degrees(*weights), rtol=0, atol=1e-12)


def test_negatives_are_continuous_at_90_degrees():
    """Their order changes there, their weighted sum does not."""
    found = negatives(VIEWS, degrees(90 - 1e-9, 90, -90, 90 + 1e-9, 270))
    weighted = (found.weights[..., None, None] * found.text).sum(1)
    torch.testing.assert_close(weighted, (-2 * FRONT).expand(5, 1, 4), rtol=0, atol=1e-9)


def test_both_negatives_are_active_at_70_percent_of_azimuths_and_one_elsewhere():
    active = (negatives(VIEWS, torch.arange(0.05, 360, 0.1, dtype=torch.float64)).weights != 0).sum(1)
    assert [(active == count).double().mean().item() for count in (0, 1, 2)] == [0.0, 0.3, 0.7]


def test_negatives_decay_at_the_given_rates_and_vanish_below_min_weight():
    found = negatives(VIEWS, degrees(45, 135), weight=-4.0, front_decay=1.0, side_decay=20.0)
    expected = torch.stack([degrees(-4 * math.exp(-0.5), 0), degrees(0, -4)])
    expected[0, 1], expected[1, 0] = -4 * math.exp(-10), -2 * math.exp(-10)  # 1.8e-4, and 0.9e-4 < min_weight
    expected[1, 0] = 0
    torch.testing.assert_close(found.weights, expected, rtol=0, atol=1e-12)


def test_negatives_of_half_precision_text_have_weights_in_the_dtype_of_the_angles():
    half = VIEWS._make(embedding.half() for embedding in VIEWS)
    found = negatives(half, torch.tensor([0.0, 170.0]))
    assert (found.text.dtype, found.weights.dtype) == (torch.float16, torch.float32)


def perp_neg_by_hand(denoise, scale, null, found, z_t, t, text):
    """The formula, sample by sample and in scalars."""
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
def test_perp_neg_matches_its_formula_in_one_batch_of_four_times_the_size(scale):
    """The four modes are the four views; some azimuths have one active negative, some both."""
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


def test_perp_neg_does_not_guide_the_empty_prompt():
    world = mixture(4, spread=0.3)
    z_t = torch.randn(2, 4, 2, 2, dtype=torch.float64)
    guided = perp_neg(world, 7.5, world.text([0]), negatives(VIEWS, degrees(0, 100)))(z_t, 500, None)
    assert world.samples == 2
    assert torch.equal(guided, world(z_t, 500, None))


def echo(z_t, t, text):
    """A denoiser that predicts the text embedding itself, plus t z_t."""
    return text.reshape(z_t.shape) + t * z_t


def random_text(batch: int, seed: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(batch, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_perp_neg_with_all_weights_0_equals_cfg_bit_for_bit():
    """For a denoiser whose result does not depend on the batch size. A U-Net's may, in the last bits."""
    z_t, text, null = (
        random_text(5, 0, torch.float32).view(5, 4, 2, 2),
        *(random_text(n, n, torch.float32) for n in (5, 1)),
    )
    off = Negatives(random_text(10, 2, torch.float32).view(5, 2, 4, 4), torch.zeros(5, 2))
    assert torch.equal(perp_neg(echo, 7.5, null, off)(z_t, 3, text), cfg(echo, 7.5, null)(z_t, 3, text))


def test_the_part_of_a_negative_parallel_to_the_positive_has_no_effect():
    """Shifting negatives along the positive direction changes nothing, and parallel negatives give `cfg`."""
    z_t, text, null, other = random_text(3, 0).view(3, 4, 2, 2), random_text(3, 1), random_text(1, 2), random_text(6, 3)
    weights = torch.tensor([[-2.0, -0.3], [0.0, -2.0], [-1.0, -2.0]], dtype=torch.float64)
    amount = torch.tensor([[-50.0, 3.0], [0.5, 1.0], [1e3, -1.0]], dtype=torch.float64)[..., None, None]
    towards = (text - null)[:, None]
    away = other.view(3, 2, 4, 4)

    def guided(negative):
        return perp_neg(echo, 7.5, null, Negatives(negative, weights))(z_t, 3, text)

    torch.testing.assert_close(guided(away + amount * towards), guided(away), rtol=0, atol=1e-9)
    parallel = null + amount * towards
    torch.testing.assert_close(guided(parallel), cfg(echo, 7.5, null)(z_t, 3, text), rtol=0, atol=1e-9)


def test_perp_neg_is_finite_when_the_positive_equals_the_null_prediction():
    """Δ_text = 0 gives no direction, so the negatives apply in full."""
    z_t, null, away = random_text(1, 0).view(1, 4, 2, 2), random_text(1, 1), random_text(2, 2)[None]
    weights = torch.tensor([[-1.0, -2.0]], dtype=torch.float64)
    guided = perp_neg(echo, 2.0, null, Negatives(away, weights))(z_t, 0, null.clone())
    expected = null - 2 * (away[:, 0] - null) - 4 * (away[:, 1] - null)
    torch.testing.assert_close(guided, expected.view_as(z_t))
