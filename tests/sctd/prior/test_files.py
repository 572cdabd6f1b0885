"""Checkpoints as they are published: both versions, both predictions, single files; and what is none of them."""

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sctd.prior.files import CONVERT, PRIOR_FORMAT, clip_names
from sctd.prior.stable_diffusion import PriorError, StableDiffusionPrior
from tests.support.paths import FIXTURES
from tests.support.tiny_diffusion import single_file, write_models, write_narrow

PUBLISHED = {
    "1.5": {"version": 1, "sample_size": 64, "prediction": "epsilon"},
    "2-1-base": {"version": 2, "sample_size": 64, "prediction": "epsilon"},
    "2-1": {"version": 2, "sample_size": 96, "prediction": "v_prediction"},
}
SD21 = FIXTURES / "sd21_config"


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Each published checkpoint's architecture with random weights, in half precision as they are downloaded."""
    root = tmp_path_factory.mktemp("published")
    return {name: write_narrow(root / name, **about) for name, about in PUBLISHED.items()}


@pytest.fixture(scope="module")
def tensors(folders) -> dict[str, dict[str, torch.Tensor]]:
    """The same weights under the names of single files."""
    priors = {name: StableDiffusionPrior.load(folder, dtype=torch.float16) for name, folder in folders.items()}
    return {
        name: single_file(prior.vae, prior.unet, prior.text_encoder, version=PUBLISHED[name]["version"])
        for name, prior in priors.items()
    }


@pytest.fixture
def tuned(folders, tensors, tmp_path) -> Path:
    """A fine-tune of Stable Diffusion 1.5 as one file, with the configuration in the folder of its name."""
    save_file(tensors["1.5"], tmp_path / "tuned.safetensors")
    without_weights(folders["1.5"], tmp_path / "tuned")
    return tmp_path / "tuned.safetensors"


def without_weights(folder: Path, to: Path) -> Path:
    return shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)


def same(one: StableDiffusionPrior, other: StableDiffusionPrior) -> bool:
    """Bit for bit: text, noise, latents and images."""
    z, pixels = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.rand(1, 3, 16, 16)
    text = one.embed(["a cat"])
    return all(
        torch.equal(*pair)
        for pair in (
            (text, other.embed(["a cat"])),
            (one.denoise(z, 300, text), other.denoise(z, 300, text)),
            (one.encode(pixels), other.encode(pixels)),
            (one.decode(z), other.decode(z)),
        )
    )


@pytest.mark.parametrize(("name", "pixels"), [("1.5", 512), ("2-1-base", 512), ("2-1", 768)])
def test_published_folders_say_their_size_and_what_they_predict(folders, name, pixels):
    prior = StableDiffusionPrior.load(folders[name])
    assert prior.image_size == pixels
    assert prior.predicts_v == (name == "2-1")
    assert prior.embed(["a cat"]).shape[-1] == (768 if name == "1.5" else 32)


@pytest.mark.skipif(not SD21.is_dir(), reason="the published configuration of Stable Diffusion 2.1 is not here")
def test_the_published_configuration_with_narrow_layers(tmp_path):
    """Its own files but for the widths; the scheduler and tokenizer as they are."""
    shutil.copytree(SD21, tmp_path / "sd21")
    folder = tmp_path / "sd21"
    for file in folder.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    for part, changes in {
        "unet": {"block_out_channels": [32, 32, 32, 32], "attention_head_dim": [2] * 4, "cross_attention_dim": 16},
        "vae": {"block_out_channels": [32, 32, 32, 32]},
        "text_encoder": {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2},
    }.items():
        change(folder / part / "config.json", **changes)
    write_models(
        folder,
        AutoencoderKL.from_config(AutoencoderKL.load_config(folder / "vae")),
        UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder / "unet")),
        CLIPTextModel(CLIPTextConfig.from_pretrained(folder / "text_encoder")),
    )
    prior = StableDiffusionPrior.load(folder)
    assert (prior.image_size, prior.predicts_v, prior.max_tokens) == (768, True, 77)
    assert prior.latent_shape == (4, 96, 96)
    assert CLIPTokenizer.from_pretrained(SD21 / "tokenizer")("a cat").input_ids == [49406, 320, 2368, 49407]
    change(folder / "scheduler" / "scheduler_config.json", prediction_type="epsilon")
    base = StableDiffusionPrior.load(folder)
    z_t = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    v, (alpha, sigma) = base.denoise(z_t, 400, None), (base.schedule.alpha[400], base.schedule.sigma[400])
    torch.testing.assert_close(prior.denoise(z_t, 400, None), (sigma * z_t + alpha * v).float())


@pytest.mark.parametrize(
    ("name", "dtype"), [("1.5", torch.float16), ("2-1-base", torch.bfloat16), ("2-1", torch.float32)]
)
def test_a_single_file_is_the_folder(folders, tensors, tmp_path, capfd, name, dtype):
    path = tmp_path / "model.safetensors"
    save_file(tensors[name], path)
    found = StableDiffusionPrior.load(path, dtype=dtype, config=folders[name])
    assert capfd.readouterr() == ("", "")
    assert found.dtype == dtype
    models = found.vae, found.unet, found.text_encoder
    assert {parameter.dtype for model in models for parameter in model.parameters()} == {dtype}
    assert not any(parameter.requires_grad for model in models for parameter in model.parameters())
    assert not any(model.training for model in models)
    assert same(found, StableDiffusionPrior.load(folders[name], dtype=dtype))


@pytest.mark.skipif(not SD21.is_dir(), reason="the published configuration of Stable Diffusion 2.1 is not here")
def test_every_tensor_of_the_full_2_1_finds_its_place(tmp_path, monkeypatch):
    """At full size, 1.29 billion parameters, each tensor one repeated number: the file's reader is the one stand-in."""
    with torch.device("meta"):
        parts = (
            AutoencoderKL.from_config(AutoencoderKL.load_config(SD21 / "vae")),
            UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(SD21 / "unet")),
            CLIPTextModel(CLIPTextConfig.from_pretrained(SD21 / "text_encoder")),
        )
        shapes = {name: tensor.shape for name, tensor in single_file(*parts, version=2).items()}
    tensors = {name: torch.tensor(0.01, dtype=torch.float16).expand(shape) for name, shape in shapes.items()}
    monkeypatch.setattr("sctd.prior.files.load_file", lambda path: tensors)
    (tmp_path / "v2-1_768.safetensors").touch()
    prior = StableDiffusionPrior.load(tmp_path / "v2-1_768.safetensors", dtype=torch.float16, config=SD21)
    counts = [sum(p.numel() for p in model.parameters()) for model in (prior.unet, prior.text_encoder, prior.vae)]
    assert [round(count / 1e6, 1) for count in counts] == [865.9, 340.4, 83.7]
    assert (prior.image_size, prior.predicts_v, prior.max_tokens) == (768, True, 77)


def test_where_the_configuration_of_a_single_file_is_looked_for(folders, tuned, tmp_path):
    expected = StableDiffusionPrior.load(folders["1.5"])
    assert same(StableDiffusionPrior.load(tuned), expected), "the folder of its name"
    own = without_weights(folders["1.5"], tmp_path / "own")
    shutil.copy(tuned, own / "any.safetensors")
    assert same(StableDiffusionPrior.load(own / "any.safetensors"), expected), "the folder that it lies in"
    assert same(StableDiffusionPrior.load(own), expected), "that folder, given in its stead"


def test_a_folder_s_own_weights_win_over_a_single_file_beside_them(folders, tmp_path):
    """As the published folders have both."""
    folder = shutil.copytree(folders["1.5"], tmp_path / "both")
    (folder / "v1-5-pruned.safetensors").write_bytes(b"not read")
    assert same(StableDiffusionPrior.load(folder), StableDiffusionPrior.load(folders["1.5"]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_saved_in_half_precision_the_prior_is_the_same_within_its_digits(folders, tmp_path, dtype):
    """What was saved is read bit for bit; computing in it, each rounding 2^-11 (2^-8), is within ten of them."""
    exact = StableDiffusionPrior.load(folders["2-1"])
    generator = torch.Generator().manual_seed(3)
    for parameter in exact.unet.parameters():
        parameter.add_(1e-3 * torch.randn(parameter.shape, generator=generator))
    folder = shutil.copytree(folders["2-1"], tmp_path / "half")
    (exact.unet.half() if dtype == torch.float16 else exact.unet.bfloat16()).save_pretrained(
        folder / "unet", variant="fp16"
    )
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    rounded = StableDiffusionPrior.load(folder)
    again = StableDiffusionPrior.load(folder, dtype=dtype)
    z_t = torch.randn(1, 4, 8, 8, generator=generator)
    for name, parameter in exact.unet.named_parameters():
        assert torch.equal(parameter.float(), rounded.unet.get_parameter(name)), "what was saved is read"
    expected, found = (prior.denoise(z_t, 500, prior.embed(["a cat"])) for prior in (rounded, again))
    digits = 2**-11 if dtype == torch.float16 else 2**-8
    assert 0 < float((found - expected).norm() / expected.norm()) < 10 * digits


def test_open_clip_s_joint_matrices_are_parted_in_their_order():
    joint = torch.arange(12.0).reshape(6, 2)
    found = clip_names({"cond_stage_model.model.transformer.resblocks.3.attn.in_proj_weight": joint})
    assert list(found) == [f"encoder.layers.3.self_attn.{letter}_proj.weight" for letter in "qkv"]
    assert torch.equal(torch.cat(list(found.values())), joint)


# What is refused.


def refused(path: Path, **options) -> str:
    with pytest.raises(PriorError) as error:
        StableDiffusionPrior.load(path, **options)
    return str(error.value)


def test_a_single_file_without_configuration_says_what_it_needs(tuned):
    shutil.rmtree(tuned.with_suffix(""))
    places = f"{tuned.with_suffix('')}/unet/config.json or {tuned.parent}/unet/config.json"
    sentence = (
        "a single file needs the configuration of the checkpoint that it was tuned from, a folder of the Stable "
        "Diffusion format whose weights are not read"
    )
    assert refused(tuned) == f"there is no {places} to read {tuned} by; {sentence}: put one there"
    (tuned.parent / "tuned" / "unet").mkdir(parents=True)
    (tuned.parent / "tuned" / "unet" / "config.json").write_text("{}")
    assert refused(tuned) == f"{tuned.parent}/tuned lacks vae/config.json; {sentence}: download the checkpoint again"


def test_what_is_no_file_at_all(tmp_path):
    assert refused(tmp_path / "a.safetensors").startswith(
        f"there is no folder {tmp_path}/a.safetensors; {PRIOR_FORMAT}"
    )
    (tmp_path / "a.txt").write_text("")
    assert refused(tmp_path / "a.txt").startswith(f"{tmp_path}/a.txt is no .safetensors file; {PRIOR_FORMAT}, or one")
    assert refused(tmp_path, config=tmp_path) == (
        f"there is no file {tmp_path}; config= goes with a single .safetensors file: check the path"
    )


@pytest.mark.parametrize("keep", [0.5, 0.0001])
def test_a_truncated_single_file_is_refused(tuned, keep):
    content = tuned.read_bytes()
    tuned.write_bytes(content[: int(keep * len(content))])
    message = refused(tuned)
    assert message.startswith(f"{tuned} cannot be read (")
    assert message.endswith("): download the checkpoint again")


class Harmful:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "model.safetensors"])
def test_a_pickle_is_refused_unopened_with_the_command_that_converts_it(folders, tmp_path, name):
    path = tmp_path / name
    torch.save({"state_dict": Harmful(tmp_path / "harm")}, path)
    message = refused(path, config=folders["1.5"])
    assert message.startswith(f"{path} is a pickle, which could run code when opened; expected safetensors: download ")
    assert f"or convert it by {CONVERT} '{path}'" in message
    assert not (tmp_path / "harm").exists()


def test_a_folder_with_pickles_only_is_refused_likewise(folders, tmp_path):
    folder = shutil.copytree(folders["1.5"], tmp_path / "old")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    assert refused(folder).startswith(f"{weights.with_suffix('.bin')} is a pickle, which could run code when opened")
    assert f"'{weights.with_suffix('.bin')}' '{weights}'" in refused(folder)


def test_the_command_converts_and_runs_no_code(folders, tuned, tensors, tmp_path, monkeypatch):
    """It is run here, in this process; as a shell would part it."""
    old, new = tmp_path / "old.ckpt", tmp_path / "tuned" / "new.safetensors"
    torch.save({"state_dict": tensors["1.5"], "global_step": 3}, old)
    _, flag, code, *paths = shlex.split(f"{CONVERT} '{old}' '{new}'")
    assert flag == "-c"
    monkeypatch.setattr(sys, "argv", ["-c", *paths])
    exec(code)
    assert same(StableDiffusionPrior.load(new), StableDiffusionPrior.load(folders["1.5"]))
    torch.save({"state_dict": {"weight": torch.ones(2), "x": Harmful(tmp_path / "harm")}}, old)
    with pytest.raises(Exception, match="Weights only load failed"):
        exec(code)
    assert not (tmp_path / "harm").exists()


def change(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_other_architectures_in_folders_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders["2-1"], tmp_path / "other")
    change(folder / "unet" / "config.json", in_channels=9)
    assert refused(folder) == (
        f"{folder}/unet has a U-Net of 9 input channels, as for inpainting; expected 4, a latent's alone: "
        "use a text-to-image checkpoint"
    )
    change(folder / "unet" / "config.json", in_channels=4, addition_embed_type="text_time")
    assert refused(folder) == (
        f"{folder}/unet is conditioned on more than text and time, as SDXL's or an upscaler's; "
        "expected Stable Diffusion 1 or 2: use such a checkpoint"
    )
    change(folder / "unet" / "config.json", addition_embed_type=None, block_out_channels=[16, 16, 16, 16])
    assert f"{folder}/unet cannot be read (" in refused(folder)
    change(folder / "text_encoder" / "config.json", intermediate_size=48)
    change(folder / "unet" / "config.json", block_out_channels=[8, 16, 16, 16])
    assert f"{folder}/text_encoder cannot be read (" in refused(folder)


def test_other_architectures_in_single_files_are_refused(tuned, tensors, folders):
    def saved(**changes) -> Path:
        save_file({**tensors["1.5"], **changes}, tuned)
        return tuned

    sdxl = {"conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight": torch.ones(2)}
    assert refused(saved(**sdxl)) == (
        f"{tuned} is an SDXL checkpoint; expected Stable Diffusion 1 or 2: use such a checkpoint"
    )
    inpainting = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(8, 9, 3, 3)}
    assert refused(saved(**inpainting)) == (
        f"{tuned} has a U-Net of 9 input channels, as for inpainting; expected 4, a latent's alone: "
        "use a text-to-image checkpoint"
    )
    save_file({"lora_unet_down_blocks_0.lora_up.weight": torch.ones(2)}, tuned)
    assert refused(tuned) == (
        f"{tuned} has no U-Net (no tensor called model.diffusion_model.…); expected a whole checkpoint of Stable "
        "Diffusion 1 or 2 under its authors' names, neither a LoRA nor a part: use such a file, or a folder"
    )
    save_file({"model.diffusion_model.double_blocks.0.img_attn.norm.weight": torch.ones(2)} | {
        name: tensor for name, tensor in tensors["1.5"].items() if not name.startswith("model.")
    }, tuned)  # fmt: skip
    assert refused(tuned) == f"{tuned} holds no U-Net of Stable Diffusion 1 or 2, but another network: use such a file"
    assert refused(saved(), config=folders["2-1"]) == (
        f"{tuned} attends to embeddings of width 768, the configuration in {folders['2-1']} to 32 "
        "(Stable Diffusion 1: 768, 2: 1024): give the configuration of the checkpoint that it was tuned from"
    )


@pytest.mark.parametrize(
    ("removed", "named"),
    [
        ("model.diffusion_model.middle_block.1.norm.weight", "mid_block.attentions.0.norm.weight"),
        ("first_stage_model.decoder.up.2.block.1.conv1.bias", "decoder.up_blocks.1.resnets.1.conv1.bias"),
        (
            "cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc2.bias",
            "encoder.layers.0.mlp.fc2.bias",
        ),
    ],
)
def test_a_single_file_with_a_tensor_too_few_is_refused(tuned, tensors, removed, named):
    assert removed in tensors["1.5"]
    save_file({name: tensor for name, tensor in tensors["1.5"].items() if name != removed}, tuned)
    message = refused(tuned)
    assert message.startswith(f"{tuned} has no weights for 1 parameters, ")
    assert message.endswith(
        f"{named} among them, that {tuned.with_suffix('')} asks for: give the configuration of the checkpoint that "
        "it was tuned from"
    )


def test_a_tensor_of_another_shape_is_refused(tuned, tensors):
    save_file({**tensors["1.5"], "model.diffusion_model.out.2.weight": torch.ones(4, 8, 1, 1)}, tuned)
    assert refused(tuned).startswith(f"{tuned} cannot be read (Error(s) in loading state_dict for UNet2D")
