"""Published checkpoints: both versions, both prediction types, single files; and files that are rejected."""

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
    """The architecture of each published checkpoint with random weights, in half precision like the downloads."""
    root = tmp_path_factory.mktemp("published")
    return {name: write_narrow(root / name, **about) for name, about in PUBLISHED.items()}


@pytest.fixture(scope="module")
def tensors(folders) -> dict[str, dict[str, torch.Tensor]]:
    """The same weights under the tensor names of single files."""
    priors = {name: StableDiffusionPrior.load(folder, dtype=torch.float16) for name, folder in folders.items()}
    return {
        name: single_file(prior.vae, prior.unet, prior.text_encoder, version=PUBLISHED[name]["version"])
        for name, prior in priors.items()
    }


@pytest.fixture
def tuned(folders, tensors, tmp_path) -> Path:
    """A fine-tune of Stable Diffusion 1.5 as one file, with its configuration in a folder of the same name."""
    save_file(tensors["1.5"], tmp_path / "tuned.safetensors")
    without_weights(folders["1.5"], tmp_path / "tuned")
    return tmp_path / "tuned.safetensors"


def without_weights(folder: Path, to: Path) -> Path:
    return shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)


def are_equal(one: StableDiffusionPrior, other: StableDiffusionPrior) -> bool:
    """Embeddings, predictions, latents and images are equal bit for bit."""
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
def test_published_folders_state_image_size_and_prediction_type(folders, name, pixels):
    prior = StableDiffusionPrior.load(folders[name])
    assert prior.image_size == pixels
    assert prior.predicts_v == (name == "2-1")
    assert prior.embed(["a cat"]).shape[-1] == (768 if name == "1.5" else 32)


@pytest.mark.skipif(not SD21.is_dir(), reason="the published configuration of Stable Diffusion 2.1 is not available")
def test_the_published_configuration_with_narrow_layers(tmp_path):
    """The published files with smaller widths, and the published scheduler and tokenizer."""
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
def test_a_single_file_equals_the_folder(folders, tensors, tmp_path, capfd, name, dtype):
    path = tmp_path / "model.safetensors"
    save_file(tensors[name], path)
    found = StableDiffusionPrior.load(path, dtype=dtype, config=folders[name])
    assert capfd.readouterr() == ("", "")
    assert found.dtype == dtype
    models = found.vae, found.unet, found.text_encoder
    assert {parameter.dtype for model in models for parameter in model.parameters()} == {dtype}
    assert not any(parameter.requires_grad for model in models for parameter in model.parameters())
    assert not any(model.training for model in models)
    assert are_equal(found, StableDiffusionPrior.load(folders[name], dtype=dtype))


@pytest.mark.skipif(not SD21.is_dir(), reason="the published configuration of Stable Diffusion 2.1 is not available")
def test_every_tensor_of_the_full_size_2_1_is_loaded(tmp_path, monkeypatch):
    """At full size, 1.29 billion parameters, with constant tensors; only the reader of the file is replaced."""
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


def test_places_of_the_configuration_of_a_single_file(folders, tuned, tmp_path):
    expected = StableDiffusionPrior.load(folders["1.5"])
    assert are_equal(StableDiffusionPrior.load(tuned), expected), "the folder with the name of the file"
    own = without_weights(folders["1.5"], tmp_path / "own")
    shutil.copy(tuned, own / "any.safetensors")
    assert are_equal(StableDiffusionPrior.load(own / "any.safetensors"), expected), "the folder that contains the file"
    assert are_equal(StableDiffusionPrior.load(own), expected), "that folder passed instead of the file"


def test_weights_of_a_folder_take_precedence_over_a_single_file_in_it(folders, tmp_path):
    """Published folders have both."""
    folder = shutil.copytree(folders["1.5"], tmp_path / "both")
    (folder / "v1-5-pruned.safetensors").write_bytes(b"not read")
    assert are_equal(StableDiffusionPrior.load(folder), StableDiffusionPrior.load(folders["1.5"]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_prior_saved_in_half_precision_is_equal_within_its_precision(folders, tmp_path, dtype):
    """Weights are read bit for bit; computing in half precision is within ten roundings of 2^-11 (2^-8)."""
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
        assert torch.equal(parameter.float(), rounded.unet.get_parameter(name)), "saved weights are read exactly"
    expected, found = (prior.denoise(z_t, 500, prior.embed(["a cat"])) for prior in (rounded, again))
    digits = 2**-11 if dtype == torch.float16 else 2**-8
    assert 0 < float((found - expected).norm() / expected.norm()) < 10 * digits


def test_open_clip_s_joint_matrices_are_split_in_order():
    joint = torch.arange(12.0).reshape(6, 2)
    found = clip_names({"cond_stage_model.model.transformer.resblocks.3.attn.in_proj_weight": joint})
    assert list(found) == [f"encoder.layers.3.self_attn.{letter}_proj.weight" for letter in "qkv"]
    assert torch.equal(torch.cat(list(found.values())), joint)


# Rejected files.


def error_of(path: Path, **options) -> str:
    with pytest.raises(PriorError) as error:
        StableDiffusionPrior.load(path, **options)
    return str(error.value)


def test_a_single_file_without_configuration_reports_what_it_needs(tuned):
    shutil.rmtree(tuned.with_suffix(""))
    places = f"{tuned.with_suffix('')}/unet/config.json or {tuned.parent}/unet/config.json"
    sentence = (
        "a single file needs the configuration of the checkpoint that was fine-tuned, a folder of the Stable "
        "Diffusion format (its weights are not read)"
    )
    assert error_of(tuned) == f"found no {places} for {tuned}; {sentence}: copy one there"
    (tuned.parent / "tuned" / "unet").mkdir(parents=True)
    (tuned.parent / "tuned" / "unet" / "config.json").write_text("{}")
    assert error_of(tuned) == f"{tuned.parent}/tuned lacks vae/config.json; {sentence}: download the checkpoint again"


def test_paths_that_are_no_checkpoint_are_rejected(tmp_path):
    assert error_of(tmp_path / "a.safetensors").startswith(
        f"there is no folder {tmp_path}/a.safetensors; {PRIOR_FORMAT}"
    )
    (tmp_path / "a.txt").write_text("")
    assert error_of(tmp_path / "a.txt").startswith(f"{tmp_path}/a.txt is not a .safetensors file; {PRIOR_FORMAT}")
    assert error_of(tmp_path, config=tmp_path) == (
        f"there is no file {tmp_path}; config= needs a single .safetensors file: check the path"
    )


AGAIN = ": download the checkpoint again"


@pytest.mark.parametrize("kept", [0, 7])
def test_a_file_that_ends_within_its_header_is_called_truncated(tuned, kept):
    tuned.write_bytes(tuned.read_bytes()[:kept])
    reason = f"{tuned.name} is truncated: it ends after {kept} bytes, within its header"
    assert error_of(tuned) == f"{tuned} cannot be read ({reason}){AGAIN}"


def test_truncated_weights_are_called_truncated_with_both_sizes(tuned, folders, tmp_path):
    content = tuned.read_bytes()
    tuned.write_bytes(content[:-1])
    reason = f"{tuned.name} is truncated: {len(content) - 1:,} of {len(content):,} bytes"
    assert error_of(tuned) == f"{tuned} cannot be read ({reason}){AGAIN}"
    for part in "unet", "vae", "text_encoder":
        folder = shutil.copytree(folders["2-1"], tmp_path / part)
        weights = next((folder / part).glob("*.safetensors"))
        content = weights.read_bytes()
        weights.write_bytes(content[: len(content) // 2])
        reason = f"{weights.name} is truncated: {len(content) // 2:,} of {len(content):,} bytes"
        assert error_of(folder) == f"{folder / part} cannot be read ({reason}){AGAIN}"


def test_files_that_are_no_weights_are_called_what_they_are(tuned):
    content = tuned.read_bytes()
    tuned.write_bytes(b"version https://git-lfs.github.com/spec/v1\nsize 5\n")
    reason = f"{tuned.name} is a pointer of Git LFS instead of the file, which git lfs pull fetches"
    assert error_of(tuned) == f"{tuned} cannot be read ({reason}){AGAIN}"
    tuned.write_bytes(b"<!DOCTYPE html><title>Sign in</title>")
    assert error_of(tuned) == f"{tuned} cannot be read ({tuned.name} is not a safetensors file){AGAIN}"
    tuned.write_bytes(content + b"more")
    assert "truncated" not in error_of(tuned)


class Harmful:
    """Unpickling it creates a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["model.ckpt", "model.bin", "model.safetensors"])
def test_a_pickle_is_rejected_unopened_with_the_command_that_converts_it(folders, tmp_path, name):
    path = tmp_path / name
    torch.save({"state_dict": Harmful(tmp_path / "harm")}, path)
    message = error_of(path, config=folders["1.5"])
    assert message.startswith(f"{path} is a pickle, which could run code when opened; expected safetensors: download ")
    assert f"or convert it with {CONVERT} '{path}'" in message
    assert not (tmp_path / "harm").exists()


def test_a_folder_with_only_pickles_is_rejected(folders, tmp_path):
    folder = shutil.copytree(folders["1.5"], tmp_path / "old")
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    torch.save(load_file(weights), weights.with_suffix(".bin"))
    weights.unlink()
    assert error_of(folder).startswith(f"{weights.with_suffix('.bin')} is a pickle, which could run code when opened")
    assert f"'{weights.with_suffix('.bin')}' '{weights}'" in error_of(folder)


def test_the_command_converts_and_runs_no_code_of_the_pickle(folders, tuned, tensors, tmp_path, monkeypatch):
    """The command runs in this process, split as by a shell."""
    old, new = tmp_path / "old.ckpt", tmp_path / "tuned" / "new.safetensors"
    torch.save({"state_dict": tensors["1.5"], "global_step": 3}, old)
    _, flag, code, *paths = shlex.split(f"{CONVERT} '{old}' '{new}'")
    assert flag == "-c"
    monkeypatch.setattr(sys, "argv", ["-c", *paths])
    exec(code)
    assert are_equal(StableDiffusionPrior.load(new), StableDiffusionPrior.load(folders["1.5"]))
    torch.save({"state_dict": {"weight": torch.ones(2), "x": Harmful(tmp_path / "harm")}}, old)
    with pytest.raises(Exception, match="Weights only load failed"):
        exec(code)
    assert not (tmp_path / "harm").exists()


def change(path: Path, **changes) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_other_architectures_in_folders_are_rejected(folders, tmp_path):
    folder = shutil.copytree(folders["2-1"], tmp_path / "other")
    change(folder / "unet" / "config.json", in_channels=9)
    assert error_of(folder) == (
        f"{folder}/unet has a U-Net of 9 input channels, as for inpainting; expected 4, those of a latent: "
        "use a text-to-image checkpoint"
    )
    change(folder / "unet" / "config.json", in_channels=4, addition_embed_type="text_time")
    assert error_of(folder) == (
        f"{folder}/unet is conditioned on more than text and time, as SDXL's or an upscaler's; "
        "expected Stable Diffusion 1 or 2: use such a checkpoint"
    )
    change(folder / "unet" / "config.json", addition_embed_type=None, block_out_channels=[16, 16, 16, 16])
    assert error_of(folder).startswith(f"{folder}/unet has ")
    assert " weights of another size, such as " in error_of(folder)
    change(folder / "text_encoder" / "config.json", intermediate_size=48)
    change(folder / "unet" / "config.json", block_out_channels=[8, 16, 16, 16])
    assert f"{folder}/text_encoder has 9 weights of another size, such as encoder.layers.0.mlp.fc1." in error_of(folder)


def test_other_architectures_in_single_files_are_rejected(tuned, tensors, folders):
    def saved(**changes) -> Path:
        save_file({**tensors["1.5"], **changes}, tuned)
        return tuned

    sdxl = {"conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight": torch.ones(2)}
    assert error_of(saved(**sdxl)) == (
        f"{tuned} is an SDXL checkpoint; expected Stable Diffusion 1 or 2: use such a checkpoint"
    )
    inpainting = {"model.diffusion_model.input_blocks.0.0.weight": torch.ones(8, 9, 3, 3)}
    assert error_of(saved(**inpainting)) == (
        f"{tuned} has a U-Net of 9 input channels, as for inpainting; expected 4, those of a latent: "
        "use a text-to-image checkpoint"
    )
    save_file({"lora_unet_down_blocks_0.lora_up.weight": torch.ones(2)}, tuned)
    assert error_of(tuned) == (
        f"{tuned} has no U-Net (no tensor named model.diffusion_model.…); expected a full checkpoint of Stable "
        "Diffusion 1 or 2 with the original tensor names, not a LoRA or a part: use such a file, or a folder"
    )
    save_file({"model.diffusion_model.double_blocks.0.img_attn.norm.weight": torch.ones(2)} | {
        name: tensor for name, tensor in tensors["1.5"].items() if not name.startswith("model.")
    }, tuned)  # fmt: skip
    assert (
        error_of(tuned)
        == f"{tuned} has another network than the U-Net of Stable Diffusion 1 or 2: use such a checkpoint"
    )
    assert error_of(saved(), config=folders["2-1"]) == (
        f"{tuned} expects embeddings of width 768, the configuration in {folders['2-1']} 32 "
        "(Stable Diffusion 1: 768, 2: 1024): use the configuration of the checkpoint that was fine-tuned"
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
def test_a_single_file_with_a_tensor_too_few_is_rejected(tuned, tensors, removed, named):
    assert removed in tensors["1.5"]
    save_file({name: tensor for name, tensor in tensors["1.5"].items() if name != removed}, tuned)
    message = error_of(tuned)
    assert message.startswith(f"{tuned} has no weights for 1 parameters, such as ")
    assert message.endswith(
        f"{named}: expected all parameters of {tuned.with_suffix('')}; use the configuration of the checkpoint that "
        "was fine-tuned"
    )


def test_a_tensor_of_another_shape_is_rejected(tuned, tensors):
    save_file({**tensors["1.5"], "model.diffusion_model.out.2.weight": torch.ones(4, 8, 1, 1)}, tuned)
    assert error_of(tuned).startswith(f"{tuned} cannot be read (Error(s) in loading state_dict for UNet2D")
