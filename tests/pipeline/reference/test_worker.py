"""A worker of `segmentdreamer reference`; what it makes is the matter of test_reference.py."""

import numpy as np
import pytest
import torch

from evaluation.references import from_bytes
from pipeline.errors import UserError
from pipeline.reference import worker as reference_worker
from pipeline.reference.cache import Shards
from pipeline.reference.moments import Pictures, Shard
from pipeline.reference.worker import Sampler
from pipeline.store.run_folder import Store
from pipeline.weights import models


@pytest.fixture
def sampler_of(tiny_weights, tmp_path):
    def make(samples=True, keeps=False, weights=None, **settings) -> Sampler:
        given = {"sampler": "ddim", "dtype": "float32", "guidance_scale": 7.5, "steps": 2, "seed": 5}
        pictures = Pictures("prior", ("a red cube", "a blue ball"), 6, **(given | settings))
        cache = Store(tmp_path)
        resolved = models.resolve(str(tiny_weights))
        scorer = reference_worker.DISTANCES["fd"].load(resolved, "cpu")
        features = Shards(cache, "features", {"weights": weights or scorer.weights})
        return Sampler(resolved, pictures, Shards(cache, "images", {}), {"fd": features}, samples, keeps)

    return make


def finished(work) -> list[tuple[int, int, str]]:
    return [(progress.done, progress.total, progress.note) for progress in work]


def test_noise_is_that_of_the_picture_whatever_the_shard(sampler_of):
    sampler = sampler_of()
    whole = sampler._noise(Shard(0, 12))
    shape = sampler.prior.latent_shape
    first, second = (torch.randn(6, *shape, generator=torch.Generator().manual_seed(seed)) for seed in (5, 6))
    assert torch.equal(whole, torch.cat([first, second]))
    assert torch.equal(sampler._noise(Shard(4, 5)), whole[4:9])
    assert torch.equal(sampler._noise(Shard(11, 1)), whole[11:])


def test_large_pictures_go_in_batches_that_divide_a_shard(sampler_of, monkeypatch):
    assert 1000 % reference_worker.BATCH == 0 == 1000 % reference_worker.SMALL_BATCH
    monkeypatch.setattr(reference_worker, "SMALL_PIXELS", 8)
    monkeypatch.setattr(reference_worker, "BATCH", 4)
    monkeypatch.setattr(reference_worker, "DECODED", 3)
    sampler = sampler_of(keeps=True)
    assert finished(sampler(Shard(0, 12, ("fd",)))) == [(4, 12, ""), (8, 12, ""), (12, 12, "")]
    seen = sampler.features["fd"].file(0)
    content = seen.read_bytes()
    seen.unlink()
    of_kept = sampler_of(samples=False, keeps=True)
    assert of_kept.prior is None
    assert [note for *_, note in finished(of_kept(Shard(0, 12, ("fd",))))] == ["kept pictures"] * 3
    assert seen.read_bytes() == content


def test_pictures_are_rounded_to_bytes_as_everywhere(sampler_of):
    """floor(255 x + 0.5), as the views of an asset."""
    sampler = sampler_of()
    noise = sampler._noise(Shard(0, 2))
    z_0 = sampler.prior.sample_from(noise, ["a red cube"] * 2, 7.5, 2)
    with torch.no_grad():
        pictures = sampler.prior.decode(z_0).permute(0, 2, 3, 1).numpy()
    (views,) = sampler._sampled(Shard(0, 2))
    np.testing.assert_array_equal(views, np.floor(pictures * 255 + 0.5))


def test_a_worker_with_other_weights_than_the_commands_is_not_born(sampler_of):
    with pytest.raises(UserError, match=r"of this worker has a tiny of \w{12}, the command's is of 0{12}; give all"):
        sampler_of(weights="0" * 64)


def test_the_packaged_references_pictures_are_made_again(packaged_weights, tmp_path):
    """The rule is the same though it was made on a GPU in batches of 1,250: pictures 20 and 21 of the eighth prompt."""
    packaged = from_bytes((packaged_weights / "reference.npz").read_bytes())
    made_of = packaged.made_of
    pictures = Pictures(
        made_of["prior"], tuple(made_of["prompts"]), made_of["per_prompt"], "ddim", "float32",
        made_of["guidance_scale"], made_of["steps"], made_of["seed"],
    )  # fmt: skip
    cache, of_network = Store(tmp_path), {key: made_of[key] for key in ("network", "weights")}
    features = Shards(cache, "features", pictures.made_of | of_network)
    assert features.made_of | {"suite": made_of["suite"]} == made_of
    images = Shards(cache, "images", pictures.made_of)
    sampler = Sampler(models.resolve("embedded"), pictures, images, {"fd": features}, True, False)
    finished(sampler(Shard(7 * 1250 + 20, 2, ("fd",))))
    expected = packaged.features[7 * 25 + 20 :][:2]
    np.testing.assert_allclose(features.features(7 * 1250 + 20, 2), expected, atol=0.05)
