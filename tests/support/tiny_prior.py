"""A prior that needs no training, and small training runs with it.

A random convolution encodes, its transpose decodes, and the denoiser is the closed form for Gaussian data around the
latent of the prompt.
"""

from collections.abc import Callable

import torch

from sctd.diffusion.schedule import NoiseSchedule
from sctd.recipe import presets as recipes
from sctd.recipe.recipe import Recipe, with_overrides
from sctd.scene.gaussians import Gaussians
from sctd.scene.population import Population
from sctd.train import optimize
from sctd.train.optimize import Step
from sctd.types import Latents
from tests.support.toy_adapters import ToyAdapters

SIZE, VARIANCE = 16, 0.05
COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.8, 0.2), "front": (0.9, 0.1, 0.1), "back": (0.1, 0.1, 0.9)}


class TinyPrior:
    """The embedding of a prompt is its target: the latent of an image in the first colour that the prompt names."""

    latent_shape = (4, 4, 4)
    image_size = SIZE

    def __init__(self) -> None:
        config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
        self.schedule = NoiseSchedule.from_config(config)
        mixing = torch.linalg.qr(torch.randn(48, 48, generator=torch.Generator().manual_seed(5))).Q[:4]
        self.kernel = mixing.reshape(4, 3, 4, 4)
        self.calls: list[tuple[int, int, bool]] = []
        self.prompts: list[str] = []
        self.texts: list[torch.Tensor | None] = []
        self.corrupt: Callable[[int], bool] = lambda call: False

    def encode(self, images: torch.Tensor, noise: Latents | None = None) -> Latents:
        mean = torch.nn.functional.conv2d(2 * images - 1, self.kernel, stride=4)
        return mean if noise is None else mean + 0.01 * noise

    def decode(self, z_0: Latents) -> torch.Tensor:
        """The minimum-norm image of these latents, by the transpose of an orthonormal map."""
        return (torch.nn.functional.conv_transpose2d(z_0, self.kernel, stride=4) / 2 + 0.5).clamp(0, 1)

    def embed(self, texts: list[str]) -> torch.Tensor:
        self.prompts += texts
        return torch.stack([self._target(text).flatten(1) for text in texts])

    def _target(self, prompt: str) -> Latents:
        colour = next((rgb for word, rgb in COLOURS.items() if word in prompt), (0.5, 0.5, 0.5))
        return self.encode(torch.tensor(colour)[:, None, None].expand(1, 3, SIZE, SIZE))

    def denoise(self, z_t: Latents, t: int, text: torch.Tensor | None) -> Latents:
        self.calls.append((len(z_t), t, text is None))
        self.texts.append(text)
        if self.corrupt(len(self.calls)):
            return torch.full_like(z_t, torch.nan)
        return self.predicted(z_t, t, text)

    def adapters(self, rank: int) -> ToyAdapters:
        return ToyAdapters(self.predicted)

    def predicted(self, z_t: Latents, t: int, text: torch.Tensor | None) -> Latents:
        target = self._target("") if text is None else text.reshape(-1, *self.latent_shape)
        alpha, sigma = self.schedule.alpha[t], self.schedule.sigma[t]
        return sigma * (z_t - alpha * target) / (alpha**2 * VARIANCE + sigma**2)


def recipe(**overrides: object) -> Recipe:
    """The embedded recipe, shortened; in keyword names, __ stands for a dot."""
    small = {"iterations": 12, "relocate.interval": 4, "cameras.views": 2, "guidance.scale": 2}
    return with_overrides(recipes.embedded(), small | {key.replace("__", "."): x for key, x in overrides.items()})


def growing(**overrides: object) -> Recipe:
    """A recipe that clones, splits, prunes and resets within 12 iterations, with all randomness of the paper's."""
    small = {
        "iterations": 12,
        "cameras.views": 2,
        "cameras.radius": (3.5, 4.0),
        "cameras.progress_every": 5,
        "densify.after": 2,
        "densify.before": 11,
        "densify.interval": 4,
        "densify.gradient_threshold_pixels": 1e-6,
        "densify.percent_dense": 0.02,
        "densify.reset_interval": 6,
        "encoding.disparity_share": 0.4,
        "bounds.max_gaussians": 100,
        "noise.kind": "fresh",
        "sh_degree": 1,
    }
    return with_overrides(recipes.paper(), small | {key.replace("__", "."): x for key, x in overrides.items()})


def ball(num: int = 60, *, opacity: float = 0.3) -> Gaussians:
    generator = torch.Generator().manual_seed(0)
    means = 0.5 * torch.nn.functional.normalize(torch.randn(num, 3, generator=generator), dim=-1)
    return Gaussians(
        means * torch.rand(num, 1, generator=generator) ** (1 / 3),
        (0.05 + 0.05 * torch.rand(num, 3, generator=generator)).log(),
        torch.randn(num, 4, generator=generator),
        torch.full((num,), opacity).logit(),
        0.1 * torch.randn(num, 1, 3, generator=generator),
    )


def run(chosen: Recipe, prompt: str = "a red ball", seed: int = 0, prior: TinyPrior | None = None) -> list[Step]:
    return list(optimize.optimize(chosen, prior or TinyPrior(), ball(), prompt, seed))


def rows(gaussians: Gaussians) -> torch.Tensor:
    return torch.cat([tensor.reshape(gaussians.num, -1) for tensor in gaussians.tensors().values()], dim=1)


def same(left: Step, right: Step) -> bool:
    populations: list[Population] = [left.scene, right.scene]
    parts = [(p.gaussians, p.first_moment, p.second_moment) for p in populations]
    return (
        (left.iteration, left.loss, left.skipped) == (right.iteration, right.loss, right.skipped)
        and all(torch.equal(rows(a), rows(b)) for a, b in zip(*parts, strict=True))
        and torch.equal(populations[0].gradient_sum, populations[1].gradient_sum)
        and torch.equal(left.random, right.random)
    )
