"""The worker of `segmentdreamer reference`; test_moments.py tests the command."""

import numpy as np
import pytest
import torch

from evaluation.references import from_bytes
from pipeline.errors import UserError
from pipeline.reference import worker as reference_worker
from pipeline.reference.cache import Shards
from pipeline.reference.shards import ReferenceImages, Shard
from pipeline.reference.worker import Sampler
from pipeline.store.run_folder import Store
from pipeline.weights import models


@pytest.fixture
def sampler_of(tiny_weights, tmp_path):
    def make(needs_prior=True, keep_images=False, weights=None, **settings) -> Sampler:
        given = {"sampler": "ddim", "dtype": "float32", "guidance_scale": 7.5, "steps": 2, "seed": 5}
        images = ReferenceImages("prior", ("a red cube", "a blue ball"), 6, **(given | settings))
        cache = Store(tmp_path)
        resolved = models.resolve(str(tiny_weights))
        scorer = reference_worker.DISTANCES["fd"].load(resolved, "cpu")
        features = Shards(cache, "features", {"weights": weights or scorer.weights})
        return Sampler(resolved, images, Shards(cache, "images", {}), {"fd": features}, needs_prior, keep_images)

    return make


def finished(work) -> list[tuple[int, int, str]]:
    return [(progress.done, progress.total, progress.note) for progress in work]


def test_the_noise_of_an_image_does_not_depend_on_the_shard(sampler_of):
    sampler = sampler_of()
    whole = sampler._noise(Shard(0, 12))
    shape = sampler.prior.latent_shape
    first, second = (torch.randn(6, *shape, generator=torch.Generator().manual_seed(seed)) for seed in (5, 6))
    assert torch.equal(whole, torch.cat([first, second]))
    assert torch.equal(sampler._noise(Shard(4, 5)), whole[4:9])
    assert torch.equal(sampler._noise(Shard(11, 1)), whole[11:])


def test_large_images_are_processed_in_batches_that_divide_a_shard(sampler_of, monkeypatch):
    assert 1000 % reference_worker.BATCH == 0 == 1000 % reference_worker.SMALL_BATCH
    monkeypatch.setattr(reference_worker, "SMALL_PIXELS", 8)
    monkeypatch.setattr(reference_worker, "BATCH", 4)
    monkeypatch.setattr(reference_worker, "DECODED", 3)
    sampler = sampler_of(keep_images=True)
    assert finished(sampler(Shard(0, 12, ("fd",)))) == [(4, 12, ""), (8, 12, ""), (12, 12, "")]
    file = sampler.features["fd"].file(0)
    content = file.read_bytes()
    file.unlink()
    of_cached = sampler_of(needs_prior=False, keep_images=True)
    assert of_cached.prior is None
    assert [note for *_, note in finished(of_cached(Shard(0, 12, ("fd",))))] == ["cached images"] * 3
    assert file.read_bytes() == content


def test_images_are_rounded_to_bytes(sampler_of):
    """floor(255 x + 0.5), as the views of an asset."""
    sampler = sampler_of()
    noise = sampler._noise(Shard(0, 2))
    z_0 = sampler.prior.sample_from(noise, ["a red cube"] * 2, 7.5, 2)
    with torch.no_grad():
        images = sampler.prior.decode(z_0).permute(0, 2, 3, 1).numpy()
    (views,) = sampler._sampled(Shard(0, 2))
    np.testing.assert_array_equal(views, np.floor(images * 255 + 0.5))


def test_a_worker_with_other_weights_than_the_command_does_not_start(sampler_of):
    sentence = (
        r"^The tiny weights of this worker \(\w{12}, in \S+\) differ from those of the command "
        r"\(0{12}\); install the same"
    )
    with pytest.raises(UserError, match=sentence):
        sampler_of(weights="0" * 64)


def test_images_of_the_bundled_reference_are_reproduced(bundled_weights, tmp_path):
    """It was computed on a GPU in batches of 1,250; compares images 20 and 21 of the eighth prompt."""
    bundled = from_bytes((bundled_weights / "reference.npz").read_bytes())
    made_of = bundled.made_of
    images = ReferenceImages(
        made_of["prior"], tuple(made_of["prompts"]), made_of["per_prompt"], "ddim", "float32",
        made_of["guidance_scale"], made_of["steps"], made_of["seed"],
    )  # fmt: skip
    cache, of_network = Store(tmp_path), {key: made_of[key] for key in ("network", "weights")}
    features = Shards(cache, "features", images.made_of | of_network)
    assert features.made_of | {"suite": made_of["suite"]} == made_of
    image_shards = Shards(cache, "images", images.made_of)
    sampler = Sampler(models.resolve("embedded"), images, image_shards, {"fd": features}, True, False)
    finished(sampler(Shard(7 * 1250 + 20, 2, ("fd",))))
    expected = bundled.features[7 * 25 + 20 :][:2]
    np.testing.assert_allclose(features.features(7 * 1250 + 20, 2), expected, atol=0.05)
