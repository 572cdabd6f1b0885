import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DPMSolverMultistepScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.utils import logging as transformers_logging

from sctd.diffusion.solver import jump
from sctd.prior.files import image_size
from sctd.prior.stable_diffusion import PriorError, StableDiffusionPrior
from sctd.prior.tokenizer import PromptTokenizer
from tests.support.paths import FIXTURES
from tests.support.tiny_diffusion import MAX_TOKENS, SCHEDULER, write_models, write_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A Stable Diffusion of 0.7 M random parameters, stored in half precision: 16 px images, 8 px latents."""
    folder = tmp_path_factory.mktemp("prior")
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=8,
        sample_size=16,
        scaling_factor=0.5,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 64),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=515, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS, bos_token_id=513, eos_token_id=514, pad_token_id=0,
        )
    )  # fmt: skip
    write_models(folder, vae.half(), unet.half(), text_encoder.half())
    DDIMScheduler(**SCHEDULER).save_pretrained(folder / "scheduler")
    write_tokenizer(folder / "tokenizer")
    return folder


@pytest.fixture(scope="module")
def prior(folder) -> StableDiffusionPrior:
    return StableDiffusionPrior.load(folder, dtype=torch.float64)


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """A copy of the folder that a test may damage."""
    return shutil.copytree(folder, tmp_path / "copy")


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(batch: int = 2) -> torch.Tensor:
    return torch.rand(batch, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_sizes_come_from_the_configuration(prior, folder):
    assert image_size(folder) == prior.image_size
    assert prior.latent_shape == (4, 8, 8)
    assert (prior.latent_factor, prior.image_size, prior.max_tokens) == (2, 16, MAX_TOKENS)
    assert prior.schedule.num_steps == 1000


def test_loading_prints_nothing_and_freezes_the_weights(folder, capfd):
    loaded = StableDiffusionPrior.load(str(folder))
    assert capfd.readouterr() == ("", "")
    for model in (loaded.vae, loaded.unet, loaded.text_encoder):
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert transformers_logging.is_progress_bar_enabled()


def embedding_of(prior: StableDiffusionPrior, tokens: list[str]) -> torch.Tensor:
    ids = torch.tensor([[prior.tokenizer.tokenizer.token_to_id(token) for token in tokens]])
    with torch.no_grad():
        return prior.text_encoder(ids).last_hidden_state


def test_pad_token_in_a_prompt_is_text(prior):
    """Stable Diffusion 2 pads with "!", which is also a character: in a prompt, it is the token "!" at a word's end."""
    words = ["<|startoftext|>", "c", "at</w>", "!</w>", "!</w>", "<|endoftext|>"]
    assert torch.equal(prior.embed(["cat! !"]), embedding_of(prior, words + ["!"] * (MAX_TOKENS - len(words))))
    assert prior.count_tokens("cat! !") == len(words)
    long = prior.tokenizer.encode(["! " * MAX_TOKENS], MAX_TOKENS)[0]
    assert long[-1] == prior.tokenizer.tokenizer.token_to_id("<|endoftext|>")
    assert len(long) == MAX_TOKENS


@pytest.mark.skipif(not (FIXTURES / "sd21_config").is_dir(), reason="no configuration of Stable Diffusion 2.1")
def test_published_tokenizer_gives_the_tokens_of_open_clip():
    """The text encoder was trained with open_clip's tokenizer: "a cat!" is 320 2368 256."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer, theirs = PromptTokenizer.load(FIXTURES / "sd21_config" / "tokenizer"), SimpleTokenizer()
    assert tokenizer.encode(["a cat!"], 8) == [[49406, 320, 2368, 256, 49407, 0, 0, 0]]
    for text in ("!", "!!! wow!!!", "what?! no!", '"!" café!! 猫!', "hi!you <3!"):
        assert tokenizer.tokenizer.encode(text).ids[1:-1] == theirs.encode(text)


def test_embedding_pads_to_full_length_with_the_tokenizers_pad_token(prior):
    """Tokens by hand: start, "a", "c", the merge "at", end, then the pad token "!"."""
    words = ["<|startoftext|>", "a</w>", "c", "at</w>", "<|endoftext|>", *["!"] * (MAX_TOKENS - 5)]
    assert torch.equal(prior.embed(["a cat"]), embedding_of(prior, words))
    assert prior.count_tokens("a cat") == 5
    torch.testing.assert_close(prior.null, prior.embed(["", "a cat"])[:1])


def test_a_long_prompt_is_truncated_and_counted_in_full(prior, capfd):
    long = "a cat " * 20
    assert prior.count_tokens(long) == 62
    assert prior.embed([long]).shape == (1, MAX_TOKENS, 32)
    torch.testing.assert_close(prior.embed([long]), prior.embed([long + "and a dog"]))
    assert capfd.readouterr() == ("", "")


def test_encoding_equals_diffusers(prior):
    posterior = prior.vae.encode(images() * 2 - 1).latent_dist
    torch.testing.assert_close(prior.encode(images()), posterior.mean * 0.5)
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(prior.encode(images(), noise), (posterior.mean + posterior.std * noise) * 0.5)


def test_decoding_equals_diffusers_clamped_to_zero_to_one(prior):
    z_0 = random(2, 4, 8, 8)
    expected = (prior.vae.decode(z_0 / 0.5).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(prior.decode(z_0), expected)
    bright = prior.decode(100 * z_0)
    assert (bright.min(), bright.max()) == (0, 1)


def test_encoding_gradient_equals_finite_differences(prior):
    pixels, towards, step = images(1).requires_grad_(), random(1, 3, 16, 16, seed=1), 1e-5
    weights = random(1, 4, 8, 8, seed=2)
    (gradient,) = torch.autograd.grad((prior.encode(pixels) * weights).sum(), pixels)
    with torch.no_grad():
        ahead, behind = (float((prior.encode(pixels + sign * step * towards) * weights).sum()) for sign in (1, -1))
    assert float((gradient * towards).sum()) == pytest.approx((ahead - behind) / (2 * step), rel=1e-7)


def test_denoising_equals_the_unet_and_text_none_is_the_empty_prompt(prior):
    z_t, text = random(2, 4, 8, 8), prior.embed(["a cat", "a dog"])
    with torch.no_grad():
        expected = prior.unet(z_t, 321, text).sample
        empty = prior.unet(z_t, 321, prior.embed(["", ""])).sample
    torch.testing.assert_close(prior.denoise(z_t, 321, text), expected)
    torch.testing.assert_close(prior.denoise(z_t, 321, None), empty)
    assert not torch.allclose(expected, empty)
    assert not prior.denoise(z_t.requires_grad_(), 321, text).requires_grad


def test_v_prediction_is_converted_to_noise(prior, copy):
    edit(copy / "scheduler" / "scheduler_config.json", prediction_type="v_prediction")
    other = StableDiffusionPrior.load(copy, dtype=torch.float64)
    z_t = random(1, 4, 8, 8)
    v = prior.denoise(z_t, 700, None)  # the same U-Net, whose output is read as v
    alpha, sigma = prior.schedule.alpha[700], prior.schedule.sigma[700]
    torch.testing.assert_close(other.denoise(z_t, 700, None), sigma * z_t + alpha * v)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_sampling_equals_guided_ddim_of_diffusers(prior, copy, prediction):
    """Coefficients of diffusers' scheduler are float32."""
    edit(copy / "scheduler" / "scheduler_config.json", prediction_type=prediction)
    ours = StableDiffusionPrior.load(copy, dtype=torch.float64)
    texts = ["a cat", "a dog"]
    sampled = ours.sample(texts, 4.0, 10, torch.Generator().manual_seed(5))

    theirs = DDIMScheduler(**SCHEDULER, prediction_type=prediction)
    theirs.set_timesteps(10)
    z_t = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(5))
    text = torch.cat([prior.embed(["", ""]), prior.embed(texts)])
    with torch.no_grad():
        for t in theirs.timesteps:
            null, conditional = prior.unet(torch.cat([z_t, z_t]).double(), t, text).sample.chunk(2)
            z_t = theirs.step(null + 4.0 * (conditional - null), t, z_t).prev_sample
    assert sampled.shape == (2, 3, 16, 16)
    torch.testing.assert_close(sampled.double(), prior.decode(z_t.double()), rtol=0, atol=2e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # numpy 2 and diffusers 0.42
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("steps", [10, 25])
def test_dpm_solver_sampling_equals_guided_dpm_solver_of_diffusers(prior, copy, prediction, steps):
    """Including times and last step. Sigmas and latents of diffusers are float32."""
    edit(copy / "scheduler" / "scheduler_config.json", prediction_type=prediction)
    ours, texts = StableDiffusionPrior.load(copy, dtype=torch.float64), ["a cat", "a dog"]
    noise = random(2, 4, 8, 8)
    sampled = ours.sample_from(noise, texts, 4.0, steps, "dpm-solver++(2M)")

    schedule = {key: SCHEDULER[key] for key in ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")}
    theirs = DPMSolverMultistepScheduler(**schedule, steps_offset=1, prediction_type=prediction)
    theirs.set_timesteps(steps)
    text, z_t = torch.cat([prior.embed(["", ""]), prior.embed(texts)]), noise
    with torch.no_grad():
        for t in theirs.timesteps:
            null, conditional = prior.unet(torch.cat([z_t, z_t]), t, text).sample.chunk(2)
            z_t = theirs.step(null + 4.0 * (conditional - null), t, z_t).prev_sample
    torch.testing.assert_close(sampled, z_t, rtol=0, atol=2e-5)


def test_half_precision_samples_are_close_to_single_precision(folder):
    """bfloat16 has 8 of 24 bits, hence errors of per cents of latents of size one. The result is float32."""
    noise = random(2, 4, 8, 8).float()
    single, half = (
        StableDiffusionPrior.load(folder, dtype=dtype).sample_from(noise, ["a cat"] * 2, 2.0, 10, "dpm-solver++(2M)")
        for dtype in (torch.float32, torch.bfloat16)
    )
    assert half.dtype == torch.float32
    assert float((half - single).norm() / single.norm()) < 0.05


def test_sampling_in_0_steps_is_rejected(prior):
    with pytest.raises(PriorError, match="cannot sample in 0 steps: use 1 to 1000"):
        prior.sample(["a cat"], 4.0, 0, torch.Generator())


def test_half_precision_models_return_float32(folder, prior):
    """bfloat16 has three digits, so one evaluation is within a few per cent."""
    half = StableDiffusionPrior.load(folder, dtype=torch.bfloat16)
    z_t = random(2, 4, 8, 8)
    eps = half.denoise(z_t.float(), 400, half.embed(["a cat", "a dog"]))
    z_0, pixels = half.encode(images().float()), half.decode(z_t.float())
    assert half.dtype == half.embed(["a cat"]).dtype == torch.bfloat16
    assert eps.dtype == z_0.dtype == pixels.dtype == torch.float32
    expected = prior.denoise(z_t, 400, prior.embed(["a cat", "a dog"]))
    assert float((eps - expected).norm() / expected.norm()) < 0.05


def test_published_file_and_parameter_names_are_read(folder, prior, copy):
    """Files of the variant fp16, and older parameter names of the text encoder with a stored position index."""
    for part, name in {
        "vae": "diffusion_pytorch_model",
        "unet": "diffusion_pytorch_model",
        "text_encoder": "model",
    }.items():
        (copy / part / f"{name}.safetensors").rename(copy / part / f"{name}.fp16.safetensors")
    path = copy / "text_encoder" / "model.fp16.safetensors"
    tensors = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in load_file(path).items()}
    tensors["text_model.embeddings.position_ids"] = torch.arange(MAX_TOKENS)[None]
    save_file(tensors, path, metadata={"format": "pt"})
    other = StableDiffusionPrior.load(copy, dtype=torch.float64)
    assert torch.equal(other.embed(["a cat"]), prior.embed(["a cat"]))
    assert torch.equal(other.denoise(random(1, 4, 8, 8), 5, None), prior.denoise(random(1, 4, 8, 8), 5, None))


FORMAT = (
    "expected a folder of the Stable Diffusion format with vae/, unet/, text_encoder/, tokenizer/ and scheduler/, "
    "weights in safetensors"
)


@pytest.mark.parametrize(
    ("removed", "named"),
    [
        ("vae/config.json", "vae/config.json"),
        ("scheduler", "scheduler/scheduler_config.json"),
        ("tokenizer/merges.txt", "tokenizer/tokenizer.json or tokenizer/merges.txt"),
        (
            "unet/diffusion_pytorch_model.safetensors",
            "unet/diffusion_pytorch_model.safetensors or unet/diffusion_pytorch_model.fp16.safetensors",
        ),
        ("text_encoder/model.safetensors", "text_encoder/model.safetensors or text_encoder/model.fp16.safetensors"),
    ],
)
def test_a_missing_file_is_reported(copy, removed, named):
    path = copy / removed
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(PriorError) as error:
        StableDiffusionPrior.load(copy)
    assert str(error.value) == f"{copy} lacks {named}; {FORMAT}: download the checkpoint again"


def test_a_missing_folder_is_reported(tmp_path):
    with pytest.raises(PriorError) as error:
        StableDiffusionPrior.load(tmp_path / "nowhere")
    assert str(error.value) == f"there is no folder {tmp_path / 'nowhere'}; {FORMAT}: check the path"


@pytest.mark.parametrize(
    "damaged",
    [
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
    ],
)
def test_a_damaged_file_is_rejected(copy, damaged):
    path = copy / damaged
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        PriorError, match=rf"{damaged.split('/')[0]}\S* cannot be read \(.+\): download the checkpoint again"
    ):
        StableDiffusionPrior.load(copy)


PARTS = ["vae/diffusion_pytorch_model", "unet/diffusion_pytorch_model", "text_encoder/model"]


def refused_weights(copy, part, capfd, **changed):
    """What is wrong with a part's weights after these changes (None removes one); nothing else may be printed."""
    path = copy / f"{part}.safetensors"
    tensors = {**load_file(path), **changed}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path, {"format": "pt"})
    with pytest.raises(PriorError) as caught:
        StableDiffusionPrior.load(copy)
    assert capfd.readouterr() == ("", "")
    start, end = f"{path.parent} has ", ": expected the parameters of its config.json; download the checkpoint again"
    assert str(caught.value).startswith(start)
    assert str(caught.value).endswith(end)
    return str(caught.value).removeprefix(start).removesuffix(end)


@pytest.mark.parametrize("part", PARTS)
def test_incomplete_weights_are_rejected(copy, part, capfd):
    removed = sorted(name for name in load_file(copy / f"{part}.safetensors") if "norm" in name)[0]
    problem = refused_weights(copy, part, capfd, **{removed: None})
    assert problem == f"no weights for 1 parameters, such as {removed.removeprefix('text_model.')}"


@pytest.mark.parametrize("part", PARTS)
def test_weights_of_another_size_are_rejected(copy, part, capfd):
    name, tensor = sorted(load_file(copy / f"{part}.safetensors").items())[0]
    problem = refused_weights(copy, part, capfd, **{name: torch.zeros(3, 5)})
    assert problem == (
        f"1 weights of another size, such as {name.removeprefix('text_model.')}, [3, 5] instead of {list(tensor.shape)}"
    )


@pytest.mark.parametrize("part", PARTS[:2])
def test_unknown_weights_of_unet_and_vae_are_rejected(copy, part, capfd):
    problem = refused_weights(copy, part, capfd, **{"motion.weight": torch.zeros(2)})
    assert problem == "1 weights too many, such as motion.weight"


def test_a_text_encoder_may_have_its_projection_and_unknown_settings_are_ignored(copy, capfd):
    path = copy / "text_encoder" / "model.safetensors"
    save_file({**load_file(path), "text_projection.weight": torch.zeros(2, 2)}, path, {"format": "pt"})
    for part in "unet", "vae", "text_encoder":
        edit(copy / part / "config.json", setting_of_a_later_version=1)
    StableDiffusionPrior.load(copy)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["to_q", "to_k", "to_v", "to_out.0"])
def test_a_vae_with_the_attention_names_of_2022_is_read(copy, prior, name):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}[name]
    path = copy / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = {key.replace(f".{name}.", f".{old}."): tensor for key, tensor in load_file(path).items()}
    assert any(f".{old}." in key for key in tensors)
    save_file(tensors, path, {"format": "pt"})
    loaded = StableDiffusionPrior.load(copy).vae.state_dict()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in prior.vae.state_dict().items())


def test_unknown_predictions_and_schedules_are_rejected(copy):
    path = copy / "scheduler" / "scheduler_config.json"
    edit(path, prediction_type="flow")
    with pytest.raises(PriorError, match="has prediction_type 'flow'; expected 'epsilon' or 'v_prediction': use a che"):
        StableDiffusionPrior.load(copy)
    edit(path, prediction_type="epsilon", beta_schedule="sigmoid")
    with pytest.raises(PriorError, match=r"scheduler_config.json: beta_schedule is 'sigmoid'; expected"):
        StableDiffusionPrior.load(copy)


def test_parts_of_two_checkpoints_are_rejected(copy):
    config = CLIPTextConfig.from_pretrained(copy / "text_encoder")
    config.hidden_size = 64
    CLIPTextModel(config).save_pretrained(copy / "text_encoder")
    with pytest.raises(
        PriorError, match="has embeddings of width 64, but unet/ expects width 32: use both from the same c"
    ):
        StableDiffusionPrior.load(copy)


def test_the_solver_keeps_the_dtype_of_the_latents(prior):
    """float32 latents through a float64 model stay float32."""
    z_t = random(1, 4, 8, 8).float()
    assert jump(prior.schedule, z_t, prior.denoise(z_t, 500, None), 500, 300).dtype == torch.float32


PARTS = {"vae": AutoencoderKL, "unet": UNet2DConditionModel, "text_encoder": CLIPTextModel}


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_several_files_are_read(copy, prior, variant, capfd):
    for part, kind in PARTS.items():
        model = kind.from_pretrained(copy / part)
        (weights,) = (copy / part).glob("*.safetensors")
        weights.unlink()
        model.save_pretrained(copy / part, max_shard_size="20KB", variant=variant)
        assert len(list((copy / part).glob("*.safetensors"))) > 1
    capfd.readouterr()
    loaded = StableDiffusionPrior.load(copy)
    assert capfd.readouterr() == ("", "")
    for part in PARTS:
        expected = getattr(prior, part).state_dict()
        assert all(torch.equal(tensor, expected[name]) for name, tensor in getattr(loaded, part).state_dict().items())


def test_a_missing_shard_is_reported(copy):
    model = UNet2DConditionModel.from_pretrained(copy / "unet")
    (copy / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    model.save_pretrained(copy / "unet", max_shard_size="20KB")
    sorted((copy / "unet").glob("*-00002-of-*"))[0].unlink()
    with pytest.raises(PriorError, match=r"unet cannot be read \(.*\): download the checkpoint again"):
        StableDiffusionPrior.load(copy)


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize("size", [None, 0, "64", 64.0, True, [64], [64, 0], {}])
def test_a_configuration_without_a_size_is_refused(copy, size):
    change(copy / "unet" / "config.json", sample_size=size)
    for load in (StableDiffusionPrior.load, image_size):
        with pytest.raises(PriorError) as error:
            load(copy)
        assert str(error.value) == (
            f"{copy / 'unet' / 'config.json'} has sample_size {size!r}; expected the side of the latents in training, "
            "64 for images of 512 pixels: add it"
        )


@pytest.mark.parametrize("blocks", [None, [], 4])
def test_a_configuration_without_resolutions_is_refused(copy, blocks):
    change(copy / "vae" / "config.json", block_out_channels=blocks)
    for load in (StableDiffusionPrior.load, image_size):
        with pytest.raises(
            PriorError, match=r"vae/config.json has block_out_channels .*; expected a list with one number"
        ):
            load(copy)


def test_models_of_other_kinds_are_refused(copy):
    scheduler, unet = copy / "scheduler" / "scheduler_config.json", copy / "unet" / "config.json"
    before = scheduler.read_text()
    for values in ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, {"use_flow_sigmas": True}):
        change(scheduler, **values)
        with pytest.raises(
            PriorError, match=r"scheduler_config.json is for flow matching \(\w+\); expected a diffusion model"
        ):
            StableDiffusionPrior.load(copy)
        scheduler.write_text(before)
    change(unet, time_cond_proj_dim=256)
    with pytest.raises(
        PriorError, match=r"unet takes the guidance scale as an input \(time_cond_proj_dim\), as a latent"
    ):
        StableDiffusionPrior.load(copy)


@pytest.mark.parametrize(
    "name",
    [
        "EDMEulerScheduler",
        "CMStochasticIterativeScheduler",
        "ScoreSdeVeScheduler",
        "UnCLIPScheduler",
        "VQDiffusionScheduler",
    ],
)
def test_schedulers_of_other_processes_are_rejected(copy, name):
    edit(copy / "scheduler" / "scheduler_config.json", _class_name=name)
    with pytest.raises(PriorError, match=f"is of the class {name}, which is not for the noise schedule of Stable Diff"):
        StableDiffusionPrior.load(copy)


@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "PNDMScheduler", "EulerAncestralDiscreteScheduler", "DPMSolverMultistepScheduler", None]
)
def test_the_class_of_a_scheduler_for_the_schedule_of_stable_diffusion_does_not_matter(copy, prior, name):
    edit(copy / "scheduler" / "scheduler_config.json", _class_name=name or "DDIMScheduler")
    assert torch.equal(StableDiffusionPrior.load(copy).schedule.alpha, prior.schedule.alpha)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        (
            "unet",
            {"_class_name": "UNetMotionModel"},
            "unet is of the class UNetMotionModel; expected UNet2DConditionModel",
        ),
        ("vae", {"_class_name": "AutoencoderTiny"}, "vae is of the class AutoencoderTiny; expected AutoencoderKL: use"),
        (
            "vae",
            {"shift_factor": 0.1159},
            r"vae shifts its latents \(shift_factor\), as later models do; expected a sca",
        ),
        (
            "vae",
            {"latents_mean": [1, 1, 1, 1]},
            r"vae shifts its latents \(latents_mean\), as later models do; expected",
        ),
        (
            "text_encoder",
            {"architectures": ["T5EncoderModel"]},
            "is of the class T5EncoderModel; expected CLIPTextModel",
        ),
        ("text_encoder", {"vocab_size": None}, r"text_encoder cannot be read \(.*\): download the checkpoint again"),
    ],
)
def test_parts_of_other_models_are_rejected(copy, part, changes, message):
    edit(copy / part / "config.json", **changes)
    with pytest.raises(PriorError, match=message):
        StableDiffusionPrior.load(copy)


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("vae", {"shift_factor": None, "latents_mean": None, "latents_std": None}),
        ("text_encoder", {"architectures": ["CLIPTextModelWithProjection"]}),
    ],
)
def test_parts_without_a_shift_or_with_a_projection_are_read(copy, part, changes):
    edit(copy / part / "config.json", **changes)
    StableDiffusionPrior.load(copy)
