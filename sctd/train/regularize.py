"""Regularizers added to the objective. All are means, so weights do not depend on image size or number of Gaussians."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

from sctd.recipe.scene import RegularizersConfig
from sctd.render.contract import Rendering
from sctd.scene.cameras import Cameras
from sctd.scene.gaussians import Gaussians

Scalar = Float[Tensor, ""]


def penalty(weights: RegularizersConfig, gaussians: Gaussians | None, rendering: Rendering, cameras: Cameras) -> Scalar:
    """The weighted sum of all terms, without Gaussians of those on images. Terms of weight 0 are not computed."""
    of_gaussians = {
        "scale": lambda rows: rows.scales.mean(),
        "oversize": lambda rows: oversize(rows, weights.oversize_limit),
        "opacity_entropy": opacity_entropy,
    }
    terms: dict[str, Callable[[], Tensor]] = {
        "total_variation": lambda: total_variation(rendering.rgb),
        "disparity_variation": lambda: total_variation(disparity(rendering, cameras)),
        **{name: partial(term, gaussians) for name, term in of_gaussians.items() if gaussians is not None},
        "alpha_entropy": lambda: alpha_entropy(rendering.alpha),
    }
    total = rendering.rgb.new_zeros(())
    for name, term in terms.items():
        if getattr(weights, name) > 0:
            total = total + getattr(weights, name) * term()
    return total


def total_variation(images: Float[Tensor, "views channels height width"]) -> Scalar:
    """Mean squared difference of vertical neighbours plus that of horizontal neighbours."""
    return images.diff(dim=2).square().mean() + images.diff(dim=3).square().mean()


def oversize(gaussians: Gaussians, limit: float) -> Scalar:
    """Mean of max(0, s − limit) over all scales s."""
    return (gaussians.scales - limit).relu().mean()


def opacity_entropy(gaussians: Gaussians) -> Scalar:
    """Mean of −o ln o − (1 − o) ln(1 − o): 0 if every opacity is 0 or 1, ln 2 if all are 1/2."""
    # With the logit l, ln o = −softplus(−l) and ln(1 − o) = −softplus(l), which avoids 0 ln 0.
    logit = gaussians.logit_opacities
    return (softplus(logit) - gaussians.opacities * logit).mean()


def alpha_entropy(alpha: Float[Tensor, "views height width"]) -> Scalar:
    """Mean of 4α(1 − α): 1 if every pixel is half transparent, 0 if every pixel is opaque or background."""
    return (4 * alpha * (1 - alpha)).mean()


def disparity(rendering: Rendering, cameras: Cameras) -> Float[Tensor, "views 1 height width"]:
    """f / (D + 10 T), scaled per view from [minimum where T ≤ 0.1, maximum] to [0, 1], as in LucidDreamer's family.

    D is the accumulated depth, T = 1 − α the transmittance, f the focal length in image heights. A view without opaque
    pixels, or with a constant disparity, is 0.
    """
    transmittance = 1 - rendering.alpha
    focal = (cameras.intrinsics[:, 1, 1] / cameras.height).to(rendering.depth)
    raw = focal[:, None, None] / (rendering.depth + 10 * transmittance + 1e-5)
    with torch.no_grad():
        low = torch.where(transmittance <= 0.1, raw, torch.inf).amin(dim=(1, 2), keepdim=True)
        span = raw.amax(dim=(1, 2), keepdim=True) - low
        is_flat = ~(span > 0)
    scaled = (raw - torch.where(is_flat, 0, low)) / torch.where(is_flat, 1, span)
    return torch.where(is_flat, 0, scaled.clamp(0, 1))[:, None]


def disparity_images(rendering: Rendering, cameras: Cameras) -> Float[Tensor, "views 3 height width"]:
    """The disparity as a grey image: encoded instead of colours, and the control image of depth ControlNets."""
    return disparity(rendering, cameras).expand(-1, 3, -1, -1)
