"""`.splat` ⇄ Gaussians: 32 bytes each, as antimatter15's viewer for the web reads them (2023). There is no header.

x y z and three standard deviations as float32, little-endian; red green blue and opacity in bytes; w x y z of the
rotation in bytes, 128 for 0 and 1/128 a step. One colour for all directions: higher harmonics are left out.
"""

import numpy as np
import torch

from sctd.formats.checked import FormatError, logits, unit_quats
from sctd.scene.gaussians import Gaussians, rgb_to_sh, sh_to_rgb

_ROW = np.dtype([("xyz", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quat", "u1", 4)])


def to_splat(gaussians: Gaussians) -> bytes:
    """Gaussians in the order they have; colours outside [0, 1] are cut off."""
    rows = np.empty(gaussians.num, _ROW)
    rows["xyz"], rows["scales"] = gaussians.means.numpy(), gaussians.scales.numpy()
    rgba = torch.cat([sh_to_rgb(gaussians.sh[:, 0]), gaussians.opacities[:, None]], dim=1)
    rows["rgba"] = (255 * rgba).round().clamp(0, 255).numpy()
    rows["quat"] = (128 * unit_quats(gaussians) + 128).round().clamp(0, 255).numpy()
    return rows.tobytes()


def from_splat(data: bytes) -> Gaussians:
    """Gaussians of SH degree 0. FormatError unless the bytes are whole rows."""
    if not data or len(data) % _ROW.itemsize:
        raise FormatError(
            f"The .splat has {len(data)} bytes; expected a multiple of {_ROW.itemsize}, one row for each Gaussian. "
            "Export or copy it again."
        )
    rows = np.frombuffer(data, _ROW)
    rgba = torch.from_numpy(rows["rgba"] / np.float32(255))
    return Gaussians(
        means=torch.from_numpy(rows["xyz"].copy()),
        log_scales=torch.from_numpy(rows["scales"].copy()).log(),
        quats=torch.from_numpy((rows["quat"] - np.float32(128)) / 128),
        logit_opacities=logits(rgba[:, 3]),
        sh=rgb_to_sh(rgba[:, None, :3]),
    )
