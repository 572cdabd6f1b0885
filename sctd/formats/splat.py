"""`.splat` ⇄ Gaussians: 32 bytes per Gaussian without a header, as in antimatter15's web viewer (2023).

x y z and three standard deviations as little-endian float32; red green blue and opacity in bytes; w x y z of the
rotation in bytes, 128 for 0 in steps of 1/128. Colours are view-independent: SH of degree 1 and higher are dropped.
"""

import numpy as np
import torch

from sctd.formats.common import FormatError, checked, logits, unit_quats
from sctd.scene.gaussians import Gaussians, rgb_to_sh, sh_to_rgb

_ROW = np.dtype([("xyz", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def to_splat(gaussians: Gaussians, *, drop_invalid: bool = False) -> bytes:
    """Gaussians in their order; colours are clamped to [0, 1]. Raises FormatError for invalid ones, unless dropped."""
    gaussians = checked(gaussians, "splat", drop_invalid=drop_invalid)
    rows = np.empty(gaussians.num, _ROW)
    rows["xyz"], rows["scales"] = gaussians.means.numpy(), gaussians.scales.numpy()
    rgba = torch.cat([sh_to_rgb(gaussians.sh[:, 0]), gaussians.opacities[:, None]], dim=1)
    rows["rgba"] = (255 * rgba).round().clamp(0, 255).numpy()
    rows["quat"] = (128 * unit_quats(gaussians) + 128).round().clamp(0, 255).numpy()
    return rows.tobytes()


def from_splat(data: bytes, *, drop_invalid: bool = False) -> Gaussians:
    """Read Gaussians of SH degree 0. Raises FormatError if the size is not a multiple of 32 bytes."""
    if not data or len(data) % _ROW.itemsize:
        raise FormatError(
            f"The .splat has {len(data)} bytes; expected a multiple of {_ROW.itemsize}, one row per Gaussian. "
            "Export or copy it again."
        )
    rows = np.frombuffer(data, _ROW)
    rgba = torch.from_numpy(rows["rgba"] / np.float32(255))
    gaussians = Gaussians(
        means=torch.from_numpy(rows["xyz"].copy()),
        log_scales=torch.from_numpy(rows["scales"].copy()).log(),
        quats=torch.from_numpy((rows["quat"] - np.float32(128)) / 128),
        logit_opacities=logits(rgba[:, 3]),
        sh=rgb_to_sh(rgba[:, None, :3]),
    )
    return checked(gaussians, "splat", drop_invalid=drop_invalid)
