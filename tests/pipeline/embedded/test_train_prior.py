"""The prior's training: whitening is exact, text towers agree, and every training makes a step."""

import numpy as np
import pytest
import torch

from pipeline.embedded import train_prior, train_scorer
from pipeline.embedded.data import Data
from pipeline.embedded.training import TrainingPlan

VOCABULARY = 40


@pytest.fixture
def dataset() -> Data:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8, generator=generator)
    keys = [("cube", "red", "", "")] * 8
    views = torch.zeros(8, 2, dtype=torch.int64)
    return Data(images, [("a", "b")] * 8, keys, torch.arange(8), views, np.arange(8), np.zeros(8), np.zeros(8))


@torch.no_grad()
def test_whitening_is_exact(dataset):
    torch.manual_seed(0)
    vae = train_prior.build_vae().eval()
    x = train_prior.as_input(dataset.images)
    before = vae.encode(x).latent_dist
    image, std = vae.decode(before.mean).sample, before.std
    train_prior.whiten(vae, dataset.images)
    after = vae.encode(x).latent_dist
    torch.testing.assert_close(after.mean.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(after.mean.std((0, 2, 3)), torch.ones(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(vae.decode(after.mean).sample, image, atol=1e-4, rtol=0)
    scale = before.mean.std((0, 2, 3))[None, :, None, None]
    torch.testing.assert_close(after.std, std / scale, atol=0, rtol=1e-3)


@torch.no_grad()
def test_the_text_encoder_starts_from_the_scorers_text_tower():
    torch.manual_seed(1)
    scorer = train_scorer.build_model(VOCABULARY).eval()
    text = train_prior.build_text_encoder(VOCABULARY).eval()
    train_prior.start_from_scorer(text, scorer.state_dict())
    ids = torch.randint(0, VOCABULARY - 2, (3, 32))
    ids[:, -1] = VOCABULARY - 1
    pooled = text(input_ids=ids).last_hidden_state[:, -1] @ scorer.text_projection
    torch.testing.assert_close(pooled, scorer.encode_text(ids), atol=1e-5, rtol=0)


def test_a_scorer_of_another_size_is_refused():
    text = train_prior.build_text_encoder(VOCABULARY)
    smaller = {k: v for k, v in train_scorer.build_model(VOCABULARY).state_dict().items() if "resblocks.3" not in k}
    with pytest.raises(KeyError, match=r"resblocks\.3"):
        train_prior.start_from_scorer(text, smaller)


def test_trainings_make_a_step_and_the_prior_is_saved_in_the_published_format(dataset, tmp_path):
    from pipeline.embedded import weights_folder
    from sctd.prior.stable_diffusion import StableDiffusionPrior

    torch.manual_seed(2)
    ids = torch.randint(0, VOCABULARY, (8, 2, 32), dtype=torch.int16)
    vae, unet = train_prior.build_vae(), train_prior.build_unet()
    vocabulary = 1068  # of the bundled tokenizer, with which the folder is loaded
    text = train_prior.build_text_encoder(vocabulary)
    train_prior.train_vae(vae, dataset, TrainingPlan(1, tmp_path / "vae.pt", steps=1), batch=2, compiled=False)
    latents = train_prior.latents_of(vae, dataset.images)
    assert latents.shape == (8, 4, 16, 16)
    plan = TrainingPlan(1, tmp_path / "denoiser.pt", steps=1)
    done = train_prior.train_denoiser(unet, text, latents, ids, ids[0, 0], plan, batch=2, compiled=False)
    assert done["steps"] == 1
    train_prior.save_prior(tmp_path / "prior", vae, unet, text, weights_folder() / "prior" / "tokenizer")
    prior = StableDiffusionPrior.load(tmp_path / "prior")
    assert prior.latent_shape == (4, 16, 16)
    assert prior.image_size == 64


def test_psnr_of_a_perfect_and_of_a_constant_reconstruction(dataset):
    class Perfect(torch.nn.Module):
        error = 0.0

        def encode(self, x):
            return type("E", (), {"latent_dist": type("D", (), {"mean": x})})

        def decode(self, z):
            return type("S", (), {"sample": z + 2 * self.error})

    grey = torch.full_like(dataset.images, 128)
    model = Perfect()
    assert train_prior.reconstruction_psnr(model, grey) == pytest.approx(100.0)
    model.error = 0.1
    assert train_prior.reconstruction_psnr(model, grey) == pytest.approx(20.0, abs=1e-3)
