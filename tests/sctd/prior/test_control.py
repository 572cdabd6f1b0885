import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch.nn.functional import interpolate

from sctd.diffusion.guidance import cfg
from sctd.diffusion.perp_neg import Negatives, perp_neg
from sctd.prior.control import Control, controlled
from sctd.prior.stable_diffusion import PriorError, StableDiffusionPrior
from sctd.render.contract import Rendering
from sctd.render.rasterize import render
from sctd.scene.cameras import Cameras, orbit
from sctd.scene.gaussians import Gaussians
from sctd.train.regularize import disparity_images
from tests.support import tiny_models

PIXELS = tiny_models.IMAGE_PIXELS


@pytest.fixture(scope="module")
def prior_folder(tmp_path_factory) -> Path:
    return tiny_models.write_prior(tmp_path_factory.mktemp("prior"))


@pytest.fixture(scope="module")
def prior(prior_folder) -> StableDiffusionPrior:
    return StableDiffusionPrior.load(prior_folder, dtype=torch.float64)


def write_control(folder: Path, prior: StableDiffusionPrior, *, is_trained: bool) -> Path:
    """A ControlNet initialized from the prior's encoder: its output layers are zero, or random if `is_trained`."""
    torch.manual_seed(1)
    model = ControlNetModel.from_unet(prior.unet, conditioning_embedding_out_channels=(8, 16))
    if is_trained:
        for name, parameter in model.named_parameters():
            if name.startswith("controlnet_"):
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(prior, tmp_path_factory) -> Path:
    return write_control(tmp_path_factory.mktemp("control"), prior, is_trained=True)


@pytest.fixture(scope="module")
def control(folder) -> Control:
    return Control.load(folder, dtype=torch.float64)


@pytest.fixture
def copy(folder, tmp_path) -> Path:
    """A copy of the ControlNet's folder that a test may damage."""
    return shutil.copytree(folder, tmp_path / "copy")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(batch: int = 2, size: int = PIXELS) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_loading_prints_nothing_and_freezes_the_weights(folder, capfd):
    loaded = Control.load(str(folder))
    assert capfd.readouterr() == ("", "")
    assert loaded.factor == 2
    assert not loaded.model.training
    assert {(each.dtype, each.requires_grad) for each in loaded.model.parameters()} == {(torch.float32, False)}


def test_the_fp16_variant_is_loaded(control, copy):
    plain = copy / "diffusion_pytorch_model.safetensors"
    plain.rename(copy / "diffusion_pytorch_model.fp16.safetensors")
    variant = Control.load(copy, dtype=torch.float64)
    assert all(torch.equal(a, b) for a, b in zip(variant.model.parameters(), control.model.parameters(), strict=True))


@pytest.mark.parametrize("prompt", ["a cat", None])
def test_an_untrained_control_changes_nothing(prior, tmp_path, prompt):
    untrained = Control.load(write_control(tmp_path, prior, is_trained=False), dtype=torch.float64)
    z_t, text = random(2, 4, 8, 8), None if prompt is None else prior.embed([prompt] * 2)
    found = controlled(prior, untrained, images(), 1.0)(z_t, 400, text)
    assert torch.equal(found, prior.denoise(z_t, 400, text))


def test_scale_0_changes_nothing(prior, control):
    z_t, text = random(2, 4, 8, 8), prior.embed(["a cat", "a dog"])
    assert torch.equal(controlled(prior, control, images(), 0.0)(z_t, 400, text), prior.denoise(z_t, 400, text))


def by_diffusers(prior, control, z_t, t, text, condition, scale):
    """One sample."""
    with torch.no_grad():
        down, middle = control.model(z_t[None], t, text[None], condition[None], scale, return_dict=False)
        return prior.unet(
            z_t[None], t, text[None], down_block_additional_residuals=down, mid_block_additional_residual=middle
        ).sample[0]


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_each_view_uses_its_own_image_in_every_part_of_guidance(prior, control, scale):
    """Against diffusers, sample by sample, in the batch layout of guidance: [null, null, text, text]."""
    z_t, text, condition = random(2, 4, 8, 8), prior.embed(["", "", "a cat", "a dog"]), images()
    found = controlled(prior, control, condition, scale)(torch.cat([z_t, z_t]), 321, text)
    views = [0, 1, 0, 1]
    expected = [
        by_diffusers(prior, control, z_t[view], 321, text[i], condition[view], scale) for i, view in enumerate(views)
    ]
    torch.testing.assert_close(found, torch.stack(expected))
    assert float((found - prior.denoise(torch.cat([z_t, z_t]), 321, text)).norm()) > 1e-3


def test_text_none_is_the_empty_prompt_with_the_condition(prior, control):
    z_t, denoise = random(2, 4, 8, 8), controlled(prior, control, images())
    assert torch.equal(denoise(z_t, 321, None), denoise(z_t, 321, prior.embed(["", ""])))
    assert not torch.equal(denoise(z_t, 321, None), prior.denoise(z_t, 321, None))


def test_v_prediction_is_converted_to_noise(prior, control):
    z_t, text = random(2, 4, 8, 8), prior.embed(["a cat", "a dog"])
    v = controlled(prior, control, images())(z_t, 700, text)  # the same U-Net, whose output is read as v
    found = controlled(replace(prior, predicts_v=True), control, images())(z_t, 700, text)
    alpha, sigma = prior.schedule.alpha[700], prior.schedule.sigma[700]
    torch.testing.assert_close(found, sigma * z_t + alpha * v)


def test_guidance_wraps_the_controlled_denoiser(prior, control):
    z_t, text, denoise = random(2, 4, 8, 8), prior.embed(["a cat", "a dog"]), controlled(prior, control, images())
    eps_null, eps_text = denoise(z_t, 500, None), denoise(z_t, 500, text)
    guided = cfg(denoise, 7.5, prior.null)(z_t, 500, text)
    torch.testing.assert_close(guided, eps_null + 7.5 * (eps_text - eps_null))
    off = Negatives(prior.embed(["a pig"]).expand(2, 2, -1, -1), torch.zeros(2, 2))
    torch.testing.assert_close(perp_neg(denoise, 7.5, prior.null, off)(z_t, 500, text), guided)


def test_the_controlled_denoiser_has_no_gradient(prior, control):
    z_t, condition = random(2, 4, 8, 8).requires_grad_(), images().requires_grad_()
    assert not controlled(prior, control, condition)(z_t, 500, None).requires_grad


@pytest.mark.parametrize("size", [2 * PIXELS, PIXELS // 2])
def test_images_are_resized_to_the_size_of_the_control(prior, control, size):
    condition, z_t = images(size=size), random(2, 4, 8, 8)
    resized = interpolate(condition, PIXELS, mode="bilinear", antialias=True)
    found, expected = (controlled(prior, control, each)(z_t, 500, None) for each in (condition, resized))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_half_precision_returns_float32(prior_folder, folder, prior, control, dtype):
    """For any dtype of the ControlNet. bfloat16 has three digits, so one evaluation is within a few per cent."""
    half = StableDiffusionPrior.load(prior_folder, dtype=torch.bfloat16)
    z_t, condition = random(2, 4, 8, 8), images()
    eps = controlled(half, Control.load(folder, dtype=dtype), condition.float())(z_t.float(), 400, None)
    assert eps.dtype == torch.float32
    expected = controlled(prior, control, condition)(z_t, 400, None)
    assert float((eps - expected).norm() / expected.norm()) < 0.05


FORMAT = "expected a folder of diffusers' ControlNet format, weights in safetensors"


def test_a_missing_folder_is_reported(tmp_path):
    with pytest.raises(PriorError) as error:
        Control.load(tmp_path / "nowhere")
    assert str(error.value) == f"there is no folder {tmp_path / 'nowhere'}; {FORMAT}: check the path"


@pytest.mark.parametrize(
    ("removed", "named"),
    [
        ("config.json", "config.json"),
        (
            "diffusion_pytorch_model.safetensors",
            "diffusion_pytorch_model.safetensors or diffusion_pytorch_model.fp16.safetensors",
        ),
    ],
)
def test_a_missing_file_is_reported(copy, removed, named):
    (copy / removed).unlink()
    with pytest.raises(PriorError) as error:
        Control.load(copy)
    assert str(error.value) == f"{copy} lacks {named}; {FORMAT}: download the checkpoint again"


@pytest.mark.parametrize("damaged", ["config.json", "diffusion_pytorch_model.safetensors"])
def test_a_damaged_file_is_rejected(copy, damaged):
    path = copy / damaged
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(PriorError, match=r"copy\S* cannot be read \(.+\): download the checkpoint again"):
        Control.load(copy)


def test_incomplete_weights_are_rejected(copy):
    path = copy / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    del tensors["controlnet_mid_block.bias"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(PriorError, match=r"has no weights for 1 parameters, such as controlnet_mid_block\.bias: exp"):
        Control.load(copy)


def test_a_model_that_is_no_controlnet_is_rejected(prior_folder):
    with pytest.raises(PriorError) as error:
        Control.load(prior_folder / "unet")
    assert str(error.value) == (
        f"{prior_folder}/unet/config.json has _class_name 'UNet2DConditionModel'; expected 'ControlNetModel': "
        "use a ControlNet of diffusers"
    )


def test_a_control_for_another_prior_is_rejected(prior, tmp_path):
    config = {**json.loads((Path(prior.unet.config["_name_or_path"]) / "config.json").read_text())}
    unet = UNet2DConditionModel.from_config({**config, "cross_attention_dim": 24})
    ControlNetModel.from_unet(unet).save_pretrained(tmp_path)
    with pytest.raises(PriorError) as error:
        controlled(prior, Control.load(tmp_path), images())
    assert str(error.value) == (
        "the ControlNet has cross_attention_dim 24, but the prior's unet/ has 16: "
        "use one that was trained for this prior"
    )


def test_a_control_that_was_never_saved_passes_the_check(prior):
    """Its configuration has tuples where a loaded one has lists."""
    model = ControlNetModel.from_unet(prior.unet, conditioning_embedding_out_channels=(8, 16))
    model.register_to_config(block_out_channels=tuple(model.config["block_out_channels"]))
    Control(model).check(prior)


def test_a_batch_that_is_no_multiple_of_the_images_is_rejected(prior, control):
    with pytest.raises(PriorError) as error:
        controlled(prior, control, images(2))(random(3, 4, 8, 8), 500, None)
    assert str(error.value) == ("3 latents for 2 images of the condition; expected a multiple: give one image per view")


def rendering_and_cameras() -> tuple[Rendering, Cameras]:
    """Two opaque balls seen from the front, the near one above and the far one below the line of sight."""
    gaussians = Gaussians(
        torch.tensor([[0.6, 0.0, 0.35], [-0.6, 0.0, -0.35]], requires_grad=True),
        torch.full((2, 3), 0.1).log(),
        torch.tensor([[1.0, 0, 0, 0]] * 2),
        torch.full((2,), 8.0),
        torch.zeros(2, 1, 3),
    )
    cameras = orbit(2, elevation_degrees=0.0, radius=3.5, fov_y_radians=0.55, size=32)  # from the front, from behind
    return render(gaussians, cameras, torch.zeros(3)), cameras


def test_the_disparity_condition_is_brightest_at_the_nearest_point_and_black_in_the_background():
    rendering, cameras = rendering_and_cameras()
    condition = disparity_images(rendering, cameras).detach()
    assert condition.shape == (2, 3, 32, 32)
    assert (float(condition.min()), float(condition.max())) == (0, 1)
    assert torch.equal(condition[:, 0], condition[:, 1])
    assert torch.equal(condition[:, 0], condition[:, 2])
    assert float(condition[:, 0][rendering.alpha < 0.01].max()) == 0
    upper, lower = condition[:, 0, :16].amax((1, 2)), condition[:, 0, 16:].amax((1, 2))
    assert upper[0] == lower[1] == 1  # the near ball, from either side
    assert max(upper[1], lower[0]) < 0.5


def test_the_prediction_depends_on_the_depth_of_the_view(prior, control):
    rendering, cameras = rendering_and_cameras()
    denoise = controlled(prior, control, disparity_images(rendering, cameras))
    z_t = random(1, 4, 8, 8).expand(2, -1, -1, -1)
    front, behind = denoise(z_t, 500, None)
    assert not torch.allclose(front, behind)
