"""Training of the bundled Point-E: its data, its noise levels, its probe and its gate."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline.embedded import train_shape, world
from pipeline.embedded.shape_gate import clouds_of, squared_chamfer, truth
from pipeline.embedded.train_shape import CONFIG, Noise, draw_all, fit_shape, posterior_mean, probe
from pipeline.embedded.training import TrainingPlan
from sctd.point_e import PointDiffusionTransformer, SamplerConfig, sample_point_clouds

TINY = replace(CONFIG, n_ctx=24, width=32, layers=2, heads=2, clip_width=4)


def test_scenes_are_the_same_for_any_number_of_workers(monkeypatch):
    monkeypatch.setattr(train_shape, "SCENES_PER_TASK", 3)
    rows, counts, texts = draw_all(8, 5, 1)
    again_rows, again_counts, again_texts = draw_all(8, 5, 2)
    np.testing.assert_array_equal(rows, again_rows)
    np.testing.assert_array_equal(counts, again_counts)
    assert texts == again_texts
    assert len(counts) == len(texts) == 8
    assert all(phrase in caption for phrase, caption in texts)
    assert not np.array_equal(draw_all(3, 6, 1)[0], draw_all(3, 5, 1)[0])


def test_point_clouds_are_in_the_networks_range():
    """x0 is clipped to ±1 when sampling, so the data must be in that range; the scales map it to world and rgb."""
    rows, counts, _ = draw_all(4, 1, 1)
    clouds = clouds_of(rows, counts, 64, 1, "cpu")
    assert clouds.shape == (4, 64, 6)
    assert clouds[..., :3].norm(dim=-1).max() < 1.01
    assert -1 <= clouds[..., 3:].min() < clouds[..., 3:].max() <= 1
    scales, biases = (torch.tensor(v) for v in (CONFIG.diffusion.channel_scales, CONFIG.diffusion.channel_biases))
    torch.testing.assert_close((torch.tensor([1.0, 1, 1, 255, 255, 255]) * scales + biases), torch.ones(6))


def test_the_model_is_at_most_6_mib():
    """In half precision; all five models have 48 MiB."""
    assert 2 * sum(p.numel() for p in PointDiffusionTransformer(CONFIG).parameters()) < 6 * 2**20


def test_noise_levels_are_drawn_where_shapes_are_decided():
    noise = Noise(CONFIG.diffusion, "cpu")
    torch.manual_seed(0)
    t = noise.draw(20_000)
    log_sigma = noise.sigmas[t].log()
    assert log_sigma.mean().item() == pytest.approx(train_shape.LOG_SIGMA_MEAN, abs=0.05)
    assert log_sigma.std().item() == pytest.approx(train_shape.LOG_SIGMA_STD, abs=0.05)
    x_t, eps = noise.add(torch.ones(2, 6, 5), torch.tensor([0, 1023]))
    torch.testing.assert_close(x_t[0], 1 + noise.sigmas[0] * eps[0], rtol=0, atol=1e-4)
    torch.testing.assert_close(x_t[1], eps[1], rtol=0, atol=1e-3)
    assert noise.weights[0].item() == pytest.approx(1, abs=1e-3)
    assert noise.weights[-1] == train_shape.LARGEST_WEIGHT


def test_the_oracle_is_the_posterior_mean():
    """Two points at ±1 and σ = 1: E[x0 | x] = tanh(x)."""
    x = torch.tensor([[[-2.0], [0.1], [0.7]]])
    torch.testing.assert_close(posterior_mean(x, torch.tensor([[[-1.0], [1.0]]]), 1.0), x.tanh())


def test_chamfer_distance_in_closed_form():
    """One point against two: 1 from a to its nearest; 1 and 9 back, mean 5."""
    a, b = torch.zeros(1, 1, 3), torch.tensor([[[1.0, 0, 0], [0, 3, 0]]])
    torch.testing.assert_close(squared_chamfer(a, b), torch.tensor([[6.0]]))
    clouds = torch.randn(3, 20, 3, generator=torch.Generator().manual_seed(0))
    assert squared_chamfer(clouds, clouds).argmin(1).tolist() == [0, 1, 2]
    torch.testing.assert_close(squared_chamfer(clouds, clouds).diagonal(), torch.zeros(3), rtol=0, atol=1e-5)


def test_true_objects_are_nearest_to_their_own_type():
    """The ceiling of the gate: 20 types, one true object compared with another."""
    names = world.TYPES[::4]
    colors = [world.REGISTRY[name].colors[0] for name in names]
    first, second = (truth(names, colors, 192, seed, "cpu") for seed in (1, 2))
    right = squared_chamfer(first, second).argmin(1) == torch.arange(len(names))
    assert right.float().mean() >= 0.9


def test_training_learns_two_shapes_from_their_texts(tmp_path):
    """A flat and an upright disc under two texts: after 400 small steps the samples are flat and upright."""
    torch.manual_seed(0)
    angle, radius = 2 * math.pi * torch.rand(16, 96), torch.rand(16, 96).sqrt()
    u, v, nil = 0.9 * radius * angle.cos(), 0.9 * radius * angle.sin(), torch.zeros(16, 96)
    colour = torch.zeros(16, 96, 3)
    flat = torch.cat([torch.stack([u, v, nil], -1), colour], -1)
    upright = torch.cat([torch.stack([nil, u, v], -1), colour], -1)
    texts = torch.eye(4)[:2].repeat_interleave(16, 0)[:, None]
    clouds, order = torch.cat([flat, upright]), torch.randperm(32)
    model = PointDiffusionTransformer(TINY)
    plan = TrainingPlan(0.0, tmp_path / "state.pt", steps=400)
    done = fit_shape(model, clouds[order], texts[order], plan, batch=32, lr=4e-3, warmup=40, compiled=False)
    assert done["finished"] == 1
    errors = probe(model, clouds[order], texts[order])[0.3]
    right, _, wrong, oracle = errors
    assert right < min(1.1 * oracle, 0.9 * wrong)
    sampler = SamplerConfig(steps=10, sigma_min=0.02, sigma_max=20.0, s_churn=0.0, guidance_scale=2.0)
    prompts = torch.eye(4)[:2].repeat_interleave(4, 0)
    coords = sample_point_clouds(model, prompts, torch.Generator().manual_seed(1), sampler).coords
    spread = coords.std(1).view(2, 4, 3).mean(1)
    assert spread[0, 2] < 0.5 * spread[0, :2].min()
    assert spread[1, 0] < 0.5 * spread[1, 1:].min()
