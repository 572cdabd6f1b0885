"""A shard of the reference: pictures by the prior, or those that are kept, and what each network sees in them."""

from collections.abc import Generator as Progressing
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from cluster.scheduling.executor import Progress
from evaluation.views import Views
from pipeline.errors import UserError
from pipeline.reference.cache import Shards, features_file, from_png, pictures_file, to_png
from pipeline.reference.shards import Pictures, Shard
from pipeline.weights.models import Weights
from pipeline.weights.networks import DISTANCES
from pipeline.work import devices
from sctd.prior.stable_diffusion import StableDiffusionPrior
from sctd.types import Latents

SMALL_PIXELS, SMALL_BATCH = 64, 250  # pictures of up to so many pixels a side go through the prior so many at once,
BATCH, DECODED = 50, 10  # larger ones so many, and through the VAE so many: its layers are 64 times as wide


class NumericError(ArithmeticError):
    """The prior made no picture but NaN."""


class Seen(NamedTuple):
    """What is left of a batch of pictures: features by metric, and the PNG files if they are to be kept."""

    features: dict[str, np.ndarray]
    pngs: list[bytes]


class Sampler:
    """A worker: on one device the networks and, unless every picture is kept, the prior.

    `features` are the folders of the networks that see the pictures, by metric; `keeps` says whether pictures are kept.
    """

    def __init__(
        self,
        weights: Weights,
        pictures: Pictures,
        images: Shards,
        features: Mapping[str, Shards],
        samples: bool,
        keeps: bool,
    ):
        self.pictures, self.images, self.features, self.keeps = pictures, images, features, keeps
        self.device = devices.prepare(renders=False)
        self.prior: StableDiffusionPrior | None = None
        if samples:
            dtype = getattr(torch, pictures.dtype)
            prior = StableDiffusionPrior.load(weights.part("prior"), self.device, dtype)
            self.prior = prior.with_cuda_graphs() if self.device.type == "cuda" else prior
        self.networks = {metric: DISTANCES[metric].load(weights, self.device) for metric in features}
        for metric, network in self.networks.items():
            if network.weights != (asked := features[metric].made_of["weights"]):
                raise UserError(
                    f"{weights.folder} of this worker has a {network.name} of {network.weights[:12]}, the command's is "
                    f"of {asked[:12]}; give all nodes the same weights."
                )

    def __call__(self, shard: Shard) -> Progressing[Progress, None, None]:
        """The networks look in a thread of their own, on all but the GPU's time, while the next batch is sampled."""
        is_sampled = not self.images.file(shard.start).exists()
        keeps = self.keeps and is_sampled
        seen, done = [], 0
        with ThreadPoolExecutor(1) as looking:
            for views in self._sampled(shard) if is_sampled else self._kept(shard):
                seen.append(looking.submit(self._look, shard, views, keeps))
                done += len(views)
                yield Progress(done, shard.count, "" if is_sampled else "kept pictures")
        parts = [future.result() for future in seen]
        if keeps:
            pngs = [png for part in parts for png in part.pngs]
            self.images.write(shard.start, pictures_file(pngs, self.pictures.names(shard)))
        for metric in shard.metrics:
            features = np.concatenate([part.features[metric] for part in parts])
            self.features[metric].write(shard.start, features_file(features, self.features[metric].key))

    def _look(self, shard: Shard, views: Views, keeps: bool) -> Seen:
        features = {metric: self.networks[metric](views) for metric in shard.metrics}
        return Seen(features, [to_png(view) for view in views] if keeps else [])

    def _sampled(self, shard: Shard) -> Iterator[Views]:
        """In batches whose size follows from the picture's alone, not from the memory: last bits depend on it."""
        assert self.prior is not None
        size, texts = self.prior.image_size, self.pictures.texts(shard)
        noise = self._noise(shard)
        for i, j in _batches(shard.count, size):
            z_0 = self.prior.sample_from(
                noise[i:j], texts[i:j], self.pictures.guidance_scale, self.pictures.steps, self.pictures.sampler
            )
            if not z_0.isfinite().all():
                raise NumericError(f"NaN or infinity in pictures of {self.pictures.dtype}: use another --dtype")
            yield np.concatenate(
                [_views(self.prior, part) for part in z_0.split(SMALL_BATCH if size <= SMALL_PIXELS else DECODED)]
            )

    def _kept(self, shard: Shard) -> Iterator[Views]:
        pngs = self.images.pngs(shard.start, shard.count)
        for i, j in _batches(shard.count, len(from_png(pngs[0]))):
            yield np.stack([from_png(png) for png in pngs[i:j]])

    def _noise(self, shard: Shard) -> Latents:
        """That of picture j of prompt i is draw j of the generator of seed `seed + i`: no shard can be told from it."""
        assert self.prior is not None
        shape = self.prior.latent_shape
        drawn: list[torch.Tensor] = []
        for prompt, first, last in self.pictures.spans(shard):
            generator = torch.Generator().manual_seed(self.pictures.seed + prompt)
            draws = (torch.randn(*shape, generator=generator) for _ in range(last))
            drawn += islice(draws, first, None)
        return torch.stack(drawn)


@torch.no_grad()
def _views(prior: StableDiffusionPrior, z_0: Latents) -> Views:
    return prior.decode(z_0).mul(255).add(0.5).floor().byte().permute(0, 2, 3, 1).cpu().numpy()


def _batches(count: int, size: int) -> list[tuple[int, int]]:
    """The same for pictures that are sampled and that were kept, so that what is seen in them is, too."""
    step = SMALL_BATCH if size <= SMALL_PIXELS else BATCH
    return [(i, min(i + step, count)) for i in range(0, count, step)]
