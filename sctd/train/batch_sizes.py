"""The batch sizes at which a recipe calls the U-Net, so that its graphs can be built before the first iteration."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sctd.diffusion.schedule import NoiseSchedule
from sctd.recipe.recipe import Recipe
from sctd.scene.cameras import Cameras
from sctd.train import draws
from sctd.train.gradient import USUAL, Distillation, Prior
from sctd.types import Images, Latents, Text

DRAWS = 4  # of times, in each of the iterations that are tried


def batch_sizes(recipe: Recipe, prior: Prior, views: int) -> list[int]:
    """The batch sizes, ascending, for `views` views at once: found by running the objective on random predictions.

    A size that only other times or iterations need may be missing. It is then built when it is needed.
    """
    recorder, random = _Recorder(prior), draws.generator_of(0)
    distillation = Distillation.of(recipe, recorder, "", 0, None, USUAL)
    state = distillation.initial_state(random)
    latents = torch.randn(views, *prior.latent_shape, generator=random)
    flat = torch.ones(views, prior.image_size, prior.image_size)
    maps = {"alpha": flat, "depth": flat, "positions": torch.stack([flat] * 3, dim=1)}
    for iteration in sorted({1, (recipe.iterations + 1) // 2, recipe.iterations}):
        cameras = draws.views(recipe, iteration, prior.image_size, random).select(slice(views))
        for _ in range(DRAWS):
            distillation.residual(
                latents,
                unguided=recorder.denoise,
                cameras=cameras,
                noise=torch.randn(latents.shape, generator=random),
                times=draws.times(recipe, iteration, random),
                progress=iteration / recipe.iterations,
                state=state,
                **maps,
            )
    return sorted(recorder.seen)


@dataclass(frozen=True)
class _Recorder:
    """A prior with random predictions that records the sizes of their batches."""

    prior: Prior
    seen: set[int] = field(default_factory=set)
    random: torch.Generator = field(default_factory=torch.Generator)

    @property
    def schedule(self) -> NoiseSchedule:
        return self.prior.schedule

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        return self.prior.latent_shape

    @property
    def image_size(self) -> int:
        return self.prior.image_size

    def encode(self, images: Images, noise: Latents | None = None) -> Latents:
        return torch.zeros(len(images), *self.latent_shape)

    def embed(self, texts: list[str]) -> Text:
        return torch.zeros(len(texts), 1, 1)

    def decode(self, z_0: Latents) -> Images:
        return torch.zeros(len(z_0), 3, self.image_size, self.image_size)

    def denoise(self, z_t: Latents, t: int, text: Text | None) -> Latents:
        self.seen.add(len(z_t))
        return torch.randn(z_t.shape, generator=self.random)

    def adapters(self, rank: int) -> "_NoAdapters":
        return _NoAdapters()


class _NoAdapters:
    """Adapters run without graphs, so their batch sizes do not matter."""

    def initial(self, generator: torch.Generator) -> Tensor:
        return torch.zeros(0)

    def __call__(self, psi: Tensor, z_t: Latents, t: int, text: Text, cameras: Cameras) -> Latents:
        return z_t
