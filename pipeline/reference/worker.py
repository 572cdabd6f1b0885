"""The worker of `segmentdreamer reference`: samples or reads the images of a shard and computes their features."""

from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch

from cluster.scheduling.workers import Progress
from evaluation.views import Views
from pipeline.errors import UserError
from pipeline.reference.cache import Shards, features_file, from_png, images_file, to_png
from pipeline.reference.shards import ReferenceImages, Shard
from pipeline.weights.models import Weights
from pipeline.weights.networks import DISTANCES
from pipeline.work import devices
from sctd.prior.stable_diffusion import StableDiffusionPrior
from sctd.types import Latents

SMALL_PIXELS, SMALL_BATCH = 64, 250  # batch size for images of at most this many pixels a side
BATCH, DECODED = 50, 10  # for larger images: batch size of the U-Net, and of the VAE, whose layers are 64 times as wide


class NonFiniteImageError(ArithmeticError):
    """The prior returned NaN or infinity."""


class BatchOutput(NamedTuple):
    """The results of a batch of images: features by metric, and the PNG files if images are cached."""

    features: dict[str, np.ndarray]
    pngs: list[bytes]


class Sampler:
    """A worker with the metric networks and, unless all images are cached, the prior on one device.

    `features` are the cache folders of the networks by metric; `keep_images` is whether to cache the images.
    """

    def __init__(
        self,
        weights: Weights,
        images: ReferenceImages,
        image_shards: Shards,
        features: Mapping[str, Shards],
        needs_prior: bool,
        keep_images: bool,
    ):
        self.images, self.image_shards, self.features, self.keep_images = images, image_shards, features, keep_images
        self.device = devices.prepare(renders=False)
        self.prior: StableDiffusionPrior | None = None
        if needs_prior:
            dtype, on_gpu = getattr(torch, images.dtype), self.device.type == "cuda"
            self.prior = StableDiffusionPrior.load(weights.part("prior"), self.device, dtype, cuda_graphs=on_gpu)
        self.networks = {metric: DISTANCES[metric].load(weights, self.device) for metric in features}
        for metric, network in self.networks.items():
            if network.weights != (expected := features[metric].made_of["weights"]):
                raise UserError(
                    f"The {network.name} weights of this worker ({network.weights[:12]}, in {weights.folder}) differ "
                    f"from those of the command ({expected[:12]}); install the same weights on all nodes."
                )

    def __call__(self, shard: Shard) -> Generator[Progress, None, None]:
        """Process a shard. The networks run in a separate thread while the next batch is sampled."""
        is_sampled = not self.image_shards.file(shard.start).exists()
        keep_images = self.keep_images and is_sampled
        futures, done = [], 0
        with ThreadPoolExecutor(1) as pool:
            for views in self._sampled(shard) if is_sampled else self._cached(shard):
                futures.append(pool.submit(self._process, shard, views, keep_images))
                done += len(views)
                yield Progress(done, shard.count, "" if is_sampled else "cached images")
        parts = [future.result() for future in futures]
        if keep_images:
            pngs = [png for part in parts for png in part.pngs]
            self.image_shards.write(shard.start, images_file(pngs, self.images.names(shard)))
        for metric in shard.metrics:
            features = np.concatenate([part.features[metric] for part in parts])
            self.features[metric].write(shard.start, features_file(features, self.features[metric].key))

    def _process(self, shard: Shard, views: Views, keep_images: bool) -> BatchOutput:
        features = {metric: self.networks[metric](views) for metric in shard.metrics}
        return BatchOutput(features, [to_png(view) for view in views] if keep_images else [])

    def _sampled(self, shard: Shard) -> Iterator[Views]:
        """Sample in batches whose size depends on the image size only, not on the memory: it affects the last bits."""
        assert self.prior is not None
        size, texts = self.prior.image_size, self.images.texts(shard)
        noise = self._noise(shard)
        for i, j in _batches(shard.count, size):
            z_0 = self.prior.sample_from(
                noise[i:j], texts[i:j], self.images.guidance_scale, self.images.steps, self.images.sampler
            )
            if not z_0.isfinite().all():
                raise NonFiniteImageError(f"NaN or infinity in images of {self.images.dtype}: use another --dtype")
            yield np.concatenate(
                [_views(self.prior, part) for part in z_0.split(SMALL_BATCH if size <= SMALL_PIXELS else DECODED)]
            )

    def _cached(self, shard: Shard) -> Iterator[Views]:
        pngs = self.image_shards.pngs(shard.start, shard.count)
        for i, j in _batches(shard.count, len(from_png(pngs[0]))):
            yield np.stack([from_png(png) for png in pngs[i:j]])

    def _noise(self, shard: Shard) -> Latents:
        """The noise of image j of prompt i is draw j of the generator with seed `seed + i`, whatever the shards are."""
        assert self.prior is not None
        shape = self.prior.latent_shape
        drawn: list[torch.Tensor] = []
        for prompt, first, last in self.images.spans(shard):
            generator = torch.Generator().manual_seed(self.images.seed + prompt)
            draws = (torch.randn(*shape, generator=generator) for _ in range(last))
            drawn += islice(draws, first, None)
        return torch.stack(drawn)


@torch.no_grad()
def _views(prior: StableDiffusionPrior, z_0: Latents) -> Views:
    return prior.decode(z_0).mul(255).add(0.5).floor().byte().permute(0, 2, 3, 1).cpu().numpy()


def _batches(count: int, size: int) -> list[tuple[int, int]]:
    """The same batches for sampled and cached images, so that their features are equal."""
    step = SMALL_BATCH if size <= SMALL_PIXELS else BATCH
    return [(i, min(i + step, count)) for i in range(0, count, step)]
