"""A prior with closed forms: data are a Gaussian or a mixture of Gaussians, and a "text" selects modes.

A text embedding has one token, the weights of the modes. `None`, the empty prompt, has equal weights. Guidance works as
usual, and the score, the denoiser and (for one mode) the solution of the flow are closed forms.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from sctd.diffusion.schedule import NoiseSchedule

# The schedule of Stable Diffusion 1 and 2.
STABLE_DIFFUSION = {
    "num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
}  # fmt: skip


def schedule() -> NoiseSchedule:
    return NoiseSchedule.from_config(STABLE_DIFFUSION)


@dataclass
class Mixture:
    """Modes N(means[m], spread² I) of latents. Callable as a Denoiser; counts calls and samples."""

    schedule: NoiseSchedule
    means: Tensor  # [modes, channels, height, width]
    spread: float
    calls: int = field(default=0)
    samples: int = field(default=0)

    def text(self, modes: list[int], batch: int = 1) -> Tensor:
        """The embedding of a prompt for `modes`, with equal weights."""
        weights = torch.zeros(len(self.means), dtype=self.means.dtype)
        weights[modes] = 1 / len(modes)
        return weights.expand(batch, 1, -1)

    @property
    def null(self) -> Tensor:
        return self.text(list(range(len(self.means))))

    def log_density(self, z_t: Tensor, t: int | None, text: Tensor) -> Tensor:
        """log p_t(z_t | text) per sample; `t=None` is the data distribution."""
        alpha, variance = self._marginal(t)
        return self._joint(z_t, alpha, variance, text).logsumexp(-1)

    def __call__(self, z_t: Tensor, t: int, text: Tensor | None) -> Tensor:
        """ε = −σ_t ∇ log p_t(z_t | text)."""
        self.calls, self.samples = self.calls + 1, self.samples + len(z_t)
        text = self.null.expand(len(z_t), -1, -1) if text is None else text
        alpha, variance = self._marginal(t)
        share = self._joint(z_t, alpha, variance, text).softmax(-1)
        expected = (share @ self.means.flatten(1)).view_as(z_t)
        return self.schedule.sigma[t] * (z_t - alpha * expected) / variance

    def flow(self, z_t: Tensor, t: int, s: int) -> Tensor:
        """The exact probability flow from t to s for a single mode: (z − α μ)/std is constant."""
        (alpha_t, variance_t), (alpha_s, variance_s) = self._marginal(t), self._marginal(s)
        return alpha_s * self.means[0] + (variance_s / variance_t) ** 0.5 * (z_t - alpha_t * self.means[0])

    def _marginal(self, t: int | None) -> tuple[Tensor | float, Tensor | float]:
        if t is None:
            return 1.0, self.spread**2
        return self.schedule.alpha[t], self.schedule.alpha[t] ** 2 * self.spread**2 + self.schedule.sigma[t] ** 2

    def _joint(self, z_t: Tensor, alpha: Tensor | float, variance: Tensor | float, text: Tensor) -> Tensor:
        """log p(mode) + log N(z_t; α μ_mode, variance), [batch, modes]."""
        away = z_t.flatten(1)[:, None] - alpha * self.means.flatten(1)[None]
        normal = -0.5 * (away**2).sum(-1) / variance
        scale = -0.5 * away.shape[-1] * torch.as_tensor(2 * torch.pi * variance).log()
        return text[:, 0].log() + normal + scale


def mixture(modes: int, spread: float, *, shape: tuple[int, int, int] = (4, 2, 2), seed: int = 0) -> Mixture:
    """Modes of norm √dimensions in random directions, float64."""
    means = torch.randn(modes, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Mixture(schedule(), means, spread)
