"""Point-E: OpenAI's parameter names and shapes, formulas of attention and conditions, moments of the sampler."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from sctd.point_e import (
    BASE_40M_TEXTVEC,
    UPSAMPLE_40M,
    DiffusionConfig,
    PointDiffusionTransformer,
    PointE,
    PointEConfig,
    PointEError,
    PointUpsampler,
    SamplerConfig,
    load,
    load_upsampler,
    sample_point_clouds,
    sample_points,
    to_files,
    upsample_points,
)
from sctd.point_e.diffusion import alphas_cumprod, heun, karras_sigmas, time_of
from sctd.point_e.model import Attention, timestep_embedding

TINY = PointEConfig(
    n_ctx=16,
    width=16,
    layers=2,
    heads=2,
    clip_width=8,
    init_scale=1.0,
    axes="world",
    sampler=SamplerConfig(steps=6, sigma_max=20.0),
)
TINY_UPSAMPLER = replace(UPSAMPLE_40M, n_ctx=24, width=16, layers=1, heads=2, clip_width=8, grid_tokens=4)


def tiny(config=TINY, seed=0):
    """A model with nonzero output: every parameter is random."""
    generator = torch.Generator().manual_seed(seed)
    kind = PointUpsampler if config.kind == "upsampler" else PointDiffusionTransformer
    model = kind(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.copy_(1 + 0.1 * drawn if "ln_" in name else drawn / math.sqrt(parameter.shape[-1]))
    return model


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def published_shapes(width, layers, extra):
    shapes = {
        "time_embed.c_fc.weight": (4 * width, width),
        "time_embed.c_fc.bias": (4 * width,),
        "time_embed.c_proj.weight": (width, 4 * width),
        "time_embed.c_proj.bias": (width,),
        "ln_pre.weight": (width,),
        "ln_pre.bias": (width,),
        "ln_post.weight": (width,),
        "ln_post.bias": (width,),
        "input_proj.weight": (width, 6),
        "input_proj.bias": (width,),
        "output_proj.weight": (12, width),
        "output_proj.bias": (12,),
        **extra,
    }
    for n in range(layers):
        for name, shape in {
            "attn.c_qkv": (3 * width, width),
            "attn.c_proj": (width, width),
            "mlp.c_fc": (4 * width, width),
            "mlp.c_proj": (width, 4 * width),
            "ln_1": (width,),
            "ln_2": (width,),
        }.items():
            shapes[f"backbone.resblocks.{n}.{name}.weight"] = shape
            shapes[f"backbone.resblocks.{n}.{name}.bias"] = shape[:1]
    return shapes


@pytest.mark.parametrize(
    ("kind", "config", "extra", "millions"),
    [
        (
            PointDiffusionTransformer,
            BASE_40M_TEXTVEC,
            {"clip_embed.weight": (512, 768), "clip_embed.bias": (512,)},
            40.33,
        ),
        (
            PointUpsampler,
            UPSAMPLE_40M,
            {
                "clip_embed.0.weight": (1024,),
                "clip_embed.0.bias": (1024,),
                "clip_embed.1.weight": (512, 1024),
                "clip_embed.1.bias": (512,),
                "cond_point_proj.weight": (512, 6),
                "cond_point_proj.bias": (512,),
                "channel_scales": (6,),
                "channel_biases": (6,),
            },
            40.47,
        ),
    ],
    ids=["base40M-textvec", "upsample"],
)
def test_published_models_have_openai_s_parameters(kind, config, extra, millions):
    with torch.device("meta"):
        model = kind(config)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == published_shapes(512, 12, extra)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 2) == millions


def test_attention_equals_openai_s_formula():
    """Heads outermost, q k v within each, q and k each times d^(-1/4); float64, so only rounding differs."""
    attention, x = Attention(24, 3, 0.3).double(), torch.randn(2, 7, 24, dtype=torch.float64, generator=generator())
    qkv = attention.c_qkv(x).detach().numpy()
    out = np.zeros((2, 7, 24))
    for b in range(2):
        for head in range(3):
            q, k, v = (qkv[b, :, 24 * head + 8 * part : 24 * head + 8 * part + 8] for part in range(3))
            weights = np.exp((q * 8**-0.25) @ (k * 8**-0.25).T)
            out[b, :, 8 * head : 8 * head + 8] = weights / weights.sum(1, keepdims=True) @ v
    expected = attention.c_proj(torch.from_numpy(out))
    torch.testing.assert_close(attention(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("token_cond", "time_token_cond"), [(True, True), (False, False), (False, True)])
def test_conditions_are_tokens_before_the_points_or_are_added_to_each(token_cond, time_token_cond):
    model = tiny(replace(TINY, token_cond=token_cond, time_token_cond=time_token_cond))
    x, t = torch.randn(2, 6, 16, generator=generator(1)), torch.tensor([3, 900])
    text = nn.functional.normalize(torch.randn(2, 8, generator=generator(2)), dim=1)
    clip = model.clip_embed(text * math.sqrt(8))[:, None]
    angles = t[:, None] * torch.tensor([10_000 ** (-i / 8) for i in range(8)])
    time = model.time_embed(torch.cat([angles.cos(), angles.sin()], 1))[:, None]
    points = model.input_proj(x.transpose(1, 2))
    before = []
    for condition, is_token in ((clip, token_cond), (time, time_token_cond)):
        if is_token:
            before.append(condition)
        else:
            points = points + condition
    h = model.ln_pre(torch.cat([*before, points], 1))
    for block in model.backbone.resblocks:
        h = h + block.attn(block.ln_1(h))
        h = h + block.mlp.c_proj(nn.functional.gelu(block.mlp.c_fc(block.ln_2(h))))
    expected = model.output_proj(model.ln_post(h)[:, len(before) :]).transpose(1, 2)
    torch.testing.assert_close(model(x, t, text), expected, rtol=1e-5, atol=1e-5)


def test_prediction_is_equivariant_to_point_order_and_depends_on_the_text():
    model, order = tiny(), torch.randperm(16, generator=generator(3))
    x, t, text = torch.randn(1, 6, 16, generator=generator(1)), torch.tensor([500]), torch.eye(8)[:1]
    torch.testing.assert_close(model(x[..., order], t, text), model(x, t, text)[..., order], rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model(x, t, text), model(x, t, torch.eye(8)[1:2]), atol=1e-2)


def test_timestep_embedding_of_an_even_width():
    embedding = timestep_embedding(torch.tensor([0, 7]), 4)
    expected = [[1, 1, 0, 0], [math.cos(7), math.cos(0.07), math.sin(7), math.sin(0.07)]]
    torch.testing.assert_close(embedding, torch.tensor(expected), rtol=1e-6, atol=1e-6)


def test_noise_schedules():
    """Cosine: ᾱ follows cos² but the last β is capped at 0.999. Linear: Ho's 0.0001..0.02 of 1000 steps, rescaled."""
    cosine, linear = alphas_cumprod(DiffusionConfig()), alphas_cumprod(DiffusionConfig(schedule="linear"))
    u = (np.arange(1023) + 1) / 1024
    start = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    expected = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2 / start
    np.testing.assert_allclose(cosine[:-1], expected, rtol=1e-9)
    assert cosine[-1] == pytest.approx(cosine[-2] * 0.001)
    assert 1 - linear[0] == pytest.approx(0.1 / 1024)
    assert linear[-1] / linear[-2] == pytest.approx(1 - 20 / 1024)


def test_time_of_a_noise_level_is_the_inverse_of_the_schedule():
    alphas = alphas_cumprod(DiffusionConfig())
    for t in (1, 20, 511, 1000):
        sigma = math.sqrt((1 - alphas[t]) / alphas[t])
        assert time_of(sigma * (1 + 1e-6), alphas) == t
        assert time_of(sigma * (1 - 1e-6), alphas) == t - 1
    assert (time_of(0.0, alphas), time_of(1e9, alphas)) == (0, 1023)


def test_karras_sigmas_are_evenly_spaced_in_the_seventh_root():
    sigmas = karras_sigmas(SamplerConfig(steps=5, sigma_min=0.01, sigma_max=80.0))
    assert (sigmas[0], sigmas[-2], sigmas[-1]) == (pytest.approx(80.0), pytest.approx(0.01), 0.0)
    np.testing.assert_allclose(np.diff(np.array(sigmas[:-1]) ** (1 / 7), n=2), 0, atol=1e-12)


@pytest.mark.parametrize("s_churn", [0.0, 10.0])
def test_heun_samples_the_gaussian_of_its_denoiser(s_churn):
    """For x ~ N(μ, s²): D(x, σ) = (s² x + σ² μ) / (s² + σ²). 4 000 draws, within four standard errors."""
    mean, std, num = 0.7, 0.3, 4000
    sigmas = karras_sigmas(SamplerConfig(steps=60, sigma_min=1e-3, sigma_max=80.0))
    x = sigmas[0] * torch.randn(num, 1, 1, generator=generator(5), dtype=torch.float64)

    def denoise(x, sigma):
        return (std**2 * x + sigma**2 * mean) / (std**2 + sigma**2)

    drawn = heun(denoise, x, sigmas, s_churn, generator(6))
    assert drawn.mean().item() == pytest.approx(mean, abs=4 * std / math.sqrt(num))
    assert drawn.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * num))
    exact = mean + std * (x - mean) / math.sqrt(std**2 + sigmas[0] ** 2)
    assert bool(((drawn - exact).abs() < 0.01).all()) == (s_churn == 0)  # the ODE's own solution, unless noise is added


def test_heun_converges_at_second_order():
    def error(steps):
        sigmas = karras_sigmas(SamplerConfig(steps=steps, sigma_min=0.05, sigma_max=20.0))[:-1]
        x = torch.full((1, 1, 1), 20.0, dtype=torch.float64)
        exact = x * math.sqrt((0.3**2 + sigmas[-1] ** 2) / (0.3**2 + sigmas[0] ** 2))
        return (heun(lambda x, sigma: 0.3**2 * x / (0.3**2 + sigma**2), x, sigmas) - exact).abs().item()

    assert error(32) / error(64) == pytest.approx(4, rel=0.2)


def test_guidance_extrapolates_from_the_unconditional_prediction():
    """One step from σ: the sample is D_null + w (D_text - D_null), each clipped to ±1 before."""
    alphas = alphas_cumprod(TINY.diffusion)
    model, text = tiny(), torch.eye(8)[2:3]
    t = time_of(3.0, alphas)
    x = 3.0 * torch.randn(1, 6, 16, generator=generator(9)) / math.sqrt(10)

    def clean(condition):
        eps = model(x, torch.tensor([t]), condition)[:, :6]
        return ((x - math.sqrt(1 - alphas[t]) * eps) / math.sqrt(alphas[t])).clamp(-1, 1)

    one_step = SamplerConfig(steps=1, sigma_max=3.0, s_churn=0.0, guidance_scale=2.5)
    scaled = clean(0 * text) + 2.5 * (clean(text) - clean(0 * text))
    found = sample_points(model, 7 * text, generator(9), one_step)  # the length of the text vector is of no account
    np.testing.assert_allclose(found[0, :3], scaled[0, :3] / 2, atol=1e-4)
    np.testing.assert_allclose(found[0, 3:], (scaled[0, 3:] + 1) / 0.007843137255, atol=2e-2)
    plain = sample_points(model, text, generator(9), replace(one_step, guidance_scale=1.0))
    np.testing.assert_allclose(plain[0, :3], clean(text)[0, :3] / 2, atol=1e-4)


def test_a_seed_determines_the_point_cloud():
    model, text = tiny(), torch.eye(8)[:2]
    first, again, other = (sample_point_clouds(model, text, generator(seed)) for seed in (4, 4, 5))
    assert first.coords.shape == (2, 16, 3)
    assert first.coords.equal(again.coords)
    assert first.rgb.equal(again.rgb)
    assert not first.coords.equal(other.coords)
    assert 0 <= first.rgb.min() <= first.rgb.max() <= 1


def test_point_e_s_front_is_rotated_to_the_world_front():
    """-y becomes +x by a rotation, not a mirror: z stays, and x × y stays z."""
    ours, theirs = tiny(), tiny(replace(TINY, axes="point_e"))
    raw = sample_points(ours, torch.eye(8)[:1], generator(1))
    turned = sample_point_clouds(theirs, torch.eye(8)[:1], generator(1)).coords[0]
    rotation = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert torch.linalg.det(rotation) == 1
    torch.testing.assert_close(turned, raw[0, :3].T @ rotation.T)


def test_the_upsampler_adds_points_to_the_coarse_points():
    model = tiny(TINY_UPSAMPLER)
    low_res = torch.rand(2, 6, 10, generator=generator(3))
    points = upsample_points(model, low_res, generator(4), SamplerConfig(steps=3, s_churn=0.0, guidance_scale=1.0))
    assert points.shape == (2, 6, 34)
    assert points[..., :10].equal(low_res)


@pytest.mark.parametrize("config", [TINY, TINY_UPSAMPLER], ids=["base", "upsampler"])
def test_a_saved_model_loads_unchanged(tmp_path, config):
    model = tiny(config)
    for name, content in to_files(model, torch.float32).items():
        (tmp_path / name).write_bytes(content)
    found = (load_upsampler if config.kind == "upsampler" else load)(tmp_path)
    assert found.config == config
    assert found.state_dict().keys() == model.state_dict().keys()
    assert all(value.equal(found.state_dict()[name]) for name, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in found.parameters())


def test_half_precision_weights_load_as_float32(tmp_path):
    for name, content in to_files(tiny()).items():
        (tmp_path / name).write_bytes(content)
    assert {parameter.dtype for parameter in load(tmp_path).parameters()} == {torch.float32}
    assert (tmp_path / "model.safetensors").stat().st_size < 2.2 * sum(p.numel() for p in tiny().parameters()) + 8192


def save_tiny(folder):
    for name, content in to_files(tiny()).items():
        (folder / name).write_bytes(content)


def test_a_missing_file_is_reported(tmp_path):
    save_tiny(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(
        PointEError, match=r"cannot read .*model\.safetensors .*expected config\.json and model\.safetensors"
    ):
        load(tmp_path)
    with pytest.raises(PointEError, match=r"no file .*base_40m_textvec\.pt; expected OpenAI's"):
        load(tmp_path / "base_40m_textvec.pt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"widht": 16}', r"config\.json has the unknown key 'widht'; expected width: correct the key"),
        ('{"sampler": {"steps": "many"}}', r"config\.json: sampler: steps is 'many'; expected a value of type int"),
        ('{"token_cond": 1}', r"token_cond is 1; expected a value of type bool"),
        ('{"sampler": 3}', r"sampler is 3; expected a value of type object"),
        ('{"axes": "up"}', r"axes is 'up'; expected 'world' or 'point_e'"),
        ('{"n_ctx": 0}', r"a size, number of steps or noise level is not positive"),
        ("{", r"config\.json is not JSON"),
    ],
)
def test_an_invalid_configuration_is_rejected(tmp_path, text, message):
    save_tiny(tmp_path)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(PointEError, match=message):
        load(tmp_path)


def test_weights_of_another_model_are_rejected(tmp_path):
    save_tiny(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(asdict(replace(TINY, width=32, layers=3))))
    with pytest.raises(PointEError, match=r"tensors do not fit .*resblocks\.2\.\S+ is missing.* of the same model"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(asdict(replace(TINY, clip_width=9))))
    with pytest.raises(PointEError, match=r"1 of \d+ tensors .*clip_embed\.weight is \[16, 8\] instead of \[16, 9\]"):
        load(tmp_path)


def test_a_broken_weights_file_is_rejected(tmp_path):
    save_tiny(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not a file of tensors")
    with pytest.raises(
        PointEError, match=r"model\.safetensors cannot be read \(model\.safetensors is not a safetens.*: copy"
    ):
        load(tmp_path)
    save_tiny(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(PointEError, match=r"cannot be read \(model\.safetensors is truncated: .*\): copy it again"):
        load(tmp_path)
    (tmp_path / "upsample_40m.pt").write_bytes(b"")
    with pytest.raises(PointEError, match=r"upsample_40m\.pt is not a file of tensors .*: download it again"):
        load(tmp_path / "upsample_40m.pt")


class Harmful:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pt_file_with_code_or_truncated_is_rejected(tmp_path):
    path = tmp_path / "base_40m_textvec.pt"
    torch.save({**tiny().state_dict(), "ema": Harmful(tmp_path / "harm")}, path)
    sentence = r"textvec\.pt contains more than tensors, which could run code, .*: download it again from OpenAI"
    with pytest.raises(PointEError, match=sentence):
        load(path)
    path.write_bytes(b"neither a pickle nor a zip archive")
    with pytest.raises(PointEError, match=sentence):
        load(path)
    assert not (tmp_path / "harm").exists()
    torch.save(tiny().state_dict(), path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(PointEError, match=r"textvec\.pt is not a file of tensors \(\w+\): download it again"):
        load(path)
    torch.save([torch.ones(2)], path)
    with pytest.raises(PointEError, match=r"textvec\.pt is no dict of tensors; expected OpenAI's base_40m"):
        load(path)


def no_clip(texts):
    raise AssertionError("loading does not embed")


def write_published(path, config):
    """A file with all of OpenAI's tensors at full size; the n-th tensor has the constant value n."""
    kind = PointUpsampler if config.kind == "upsampler" else PointDiffusionTransformer
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in kind(config).state_dict().items()}
    torch.save({name: torch.tensor(float(n)).expand(shape) for n, (name, shape) in enumerate(shapes.items())}, path)


def test_both_published_checkpoints_load_from_one_folder(tmp_path):
    """At full size. Configurations are inferred from the tensors, not from the file names."""
    write_published(tmp_path / "base_40m_textvec.pt", BASE_40M_TEXTVEC)
    assert PointE.load(tmp_path, no_clip).upsampler is None
    write_published(tmp_path / "upsample_40m.pt", UPSAMPLE_40M)
    _, base, upsampler = PointE.load(tmp_path, no_clip)
    assert (base.config, upsampler.config) == (BASE_40M_TEXTVEC, UPSAMPLE_40M)
    for model in (base, upsampler, load(tmp_path / "base_40m_textvec.pt"), load_upsampler(tmp_path)):
        for n, (name, value) in enumerate(model.state_dict().items()):
            assert float(value.flatten()[-1]) == n, name
    (tmp_path / "upsample_40m.pt").rename(tmp_path / "named_wrongly.pt")
    assert load_upsampler(tmp_path / "named_wrongly.pt").config == UPSAMPLE_40M


def test_both_models_in_our_format_load_from_one_folder(tmp_path):
    save_tiny(tmp_path)
    (tmp_path / "upsampler").mkdir()
    for name, content in to_files(tiny(TINY_UPSAMPLER)).items():
        (tmp_path / "upsampler" / name).write_bytes(content)
    _, base, upsampler = PointE.load(tmp_path, no_clip)
    assert (base.config, upsampler.config) == (TINY, TINY_UPSAMPLER)


def test_published_configurations_go_from_a_clip_vector_to_4096_points():
    """OpenAI's numbers of points, layers and tokens, with one head of 16 channels, in two steps and one."""
    base = tiny(replace(BASE_40M_TEXTVEC, width=16, heads=1))
    upsampler = tiny(replace(UPSAMPLE_40M, width=16, heads=1), seed=1)
    given, sequences = [], []
    base.clip_embed.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    for model in (base, upsampler):
        model.ln_pre.register_forward_pre_hook(lambda module, inputs: sequences.append(inputs[0].shape[1]))
    text = torch.randn(1, 768, generator=generator(2))
    coarse = sample_points(base, text, generator(3), replace(base.config.sampler, steps=2))
    points = upsample_points(upsampler, coarse, generator(4), replace(upsampler.config.sampler, steps=1))
    assert (coarse.shape, points.shape) == ((1, 6, 1024), (1, 6, 4096))
    assert points[..., :1024].equal(coarse)
    assert bool(points.isfinite().all())
    with_text, without = given[0]
    torch.testing.assert_close(with_text, math.sqrt(768) * text[0] / text.norm(), rtol=1e-5, atol=1e-5)
    assert not without.any()
    assert set(sequences) == {2 + 1024, 1 + 256 + 1024 + 3072}


def test_the_kind_of_a_pt_file_is_inferred_from_its_tensors(tmp_path):
    """A base model in a file with the upsampler's name is compared with the 158 tensors of base40M-textvec."""
    torch.save(tiny().state_dict(), tmp_path / "upsample_40m.pt")
    with pytest.raises(PointEError, match=r"of 158 tensors do not fit .*missing"):
        load(tmp_path / "upsample_40m.pt")


def test_a_model_of_the_other_kind_is_rejected(tmp_path):
    save_tiny(tmp_path)
    with pytest.raises(PointEError, match=r"is a Point-E base model; expected an upsampler such as upsample_40m\.pt"):
        load_upsampler(tmp_path)
    for name, content in to_files(tiny(TINY_UPSAMPLER)).items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PointEError, match=r"is a Point-E upsampler; expected a base model such as base_40m_textvec"):
        load(tmp_path)


def test_invalid_text_vectors_are_rejected():
    with pytest.raises(PointEError, match=r"have 9 components, but this Point-E model was trained on 8"):
        sample_point_clouds(tiny(), torch.ones(1, 9), generator())
    with pytest.raises(PointEError, match=r"zero or NaN"):
        sample_point_clouds(tiny(), torch.zeros(1, 8), generator())


def test_an_inconsistent_configuration_is_rejected():
    with pytest.raises(PointEError, match=r"width 16 with 3 heads"):
        PointDiffusionTransformer(replace(TINY, heads=3))
    with pytest.raises(PointEError, match=r"channel_scales has 1 numbers; expected 6"):
        PointDiffusionTransformer(replace(TINY, diffusion=DiffusionConfig(channel_scales=(1.0,))))
