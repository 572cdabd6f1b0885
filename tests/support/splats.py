"""Random Gaussians for the tests of file formats, and GaussForge (with Niantic's .spz code) as a second reader."""

from pathlib import Path
from tempfile import TemporaryDirectory

import gaussforge
import pytest
import torch

from sctd.formats import usd, usd_reader
from sctd.formats.common import FormatError
from sctd.formats.ply import from_ply, to_ply
from sctd.scene.gaussians import Gaussians


def some_splats(num: int = 50, degree: int = 0) -> Gaussians:
    """Random Gaussians with colours, opacities and scales that every format can store."""
    generator = torch.Generator().manual_seed(num + degree)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    constant, others = uniform(-1.7, 1.7, num, 1, 3), uniform(-0.9, 0.9, num, (degree + 1) ** 2 - 1, 3)
    return Gaussians(
        means=uniform(-1, 1, num, 3),
        log_scales=uniform(-6, -1, num, 3),
        quats=torch.randn(num, 4, generator=generator),
        logit_opacities=uniform(-4, 4, num),
        sh=torch.cat([constant, others], dim=1),
    )


def read_with_gaussforge(data: bytes, kind: str) -> Gaussians:
    """Read a file of this kind with GaussForge, via the .ply that it converts to."""
    found = gaussforge.GaussForge().convert(data, kind, "ply")
    assert "error" not in found, found
    return from_ply(found["data"])


def compressed(gaussians: Gaussians) -> bytes:
    """A compressed .ply by GaussForge, which scrambles harmonics above the constant one."""
    found = gaussforge.GaussForge().convert(to_ply(gaussians), "ply", "compressed.ply")
    assert "error" not in found, found
    return found["data"]


def degrees_between(first: Gaussians, second: Gaussians) -> torch.Tensor:
    """Angles between the rotations of two sets of Gaussians."""
    quats = [torch.nn.functional.normalize(gaussians.quats.double(), dim=-1) for gaussians in (first, second)]
    sine = torch.minimum((quats[0] - quats[1]).norm(dim=-1), (quats[0] + quats[1]).norm(dim=-1)) / 2
    return torch.rad2deg(4 * torch.asin(sine.clamp(max=1)))


def read_usd_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `from_usd` start no process, which takes half a second; for files that do not crash usd-core."""

    def read(data: bytes):
        with TemporaryDirectory() as folder:
            path = Path(folder, f"splats{usd._suffix(data)}")
            path.write_bytes(data)
            try:
                facts, arrays = usd_reader.splats(str(path))
            except ValueError as error:
                raise FormatError(f"The OpenUSD file cannot be read: {error}.") from error
        return facts, {name: values.copy() for name, values in arrays.items()}

    monkeypatch.setattr(usd, "_read", read)
