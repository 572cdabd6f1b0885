"""segmentdreamer export as a converter: each format of splats to each other, at each degree, within stated bounds."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pipeline.assets import export as flow
from sctd.formats.ply import to_ply
from sctd.scene.gaussians import Gaussians
from tests.support.splats import degrees_between, read_usd_in_this_process, some_splats


@dataclass(frozen=True)
class Loss:
    """The largest error of each value in a format, for `some_splats`: sizes from e^-6 to e^-1 at up to 1 from 0."""

    position: float = 1e-6
    log_scale: float = 2e-5
    degrees: float = 1e-3
    opacity: float = 2e-7
    constant: float = 2e-5  # of the constant SH coefficient
    rest: float = 2e-5  # of the others
    has_rest: bool = True


def of_rotations(step: float) -> float:
    """Degrees, if three components are off by half a step each and the fourth by √3 times their norm."""
    return 2 * 57.3 * (3**0.5 + 3) * 0.5 * step


BYTE, COLOR = 0.5 / 255, 0.5 / 255 / 0.28209
CODEBOOK = 4 / 256  # of a range: entries are quantiles
LOSSES = {
    "ply": Loss(),
    "compressed.ply": Loss(
        1 / 1023, 2.5 / 1023, of_rotations(2**0.5 / 1023), BYTE, 3.4 * 0.5 / 255, 1 / 64
    ),
    "splat": Loss(degrees=of_rotations(1 / 128), opacity=BYTE, constant=COLOR, has_rest=False),
    "spz": Loss(0.5 / 4096, 0.5 / 16, of_rotations(0.70711 / 511), BYTE, 0.5 / 255 / 0.15, 0.5 / 128),
    "sog": Loss(
        2 * 1.39 / 65535, 5 * CODEBOOK, of_rotations(2**0.5 / 255), BYTE, 3.4 * CODEBOOK, has_rest=False
    ),
    "glb": Loss(),
    "usda": Loss(),
    "usdz": Loss(),
}  # fmt: skip
TURNED = 7**0.5  # the most by which a rotation enlarges the error of a coefficient of degree 3


def converted(source: Path, folder: Path, kinds=LOSSES) -> dict[str, Path]:
    """The file in every format."""
    folder.mkdir()
    for _ in flow.export(source, list(kinds), folder, flow.Options(), None, None, viewer=pytest.fail):
        pass
    return {kind: folder / f"a.{kind}" for kind in kinds}


@pytest.fixture
def usd_core(monkeypatch):
    """usd-core, reading in this process, which is faster than a process for each file."""
    pytest.importorskip("pxr", reason="usd-core is not installed: pip install 'segmentdreamer[usd]'")
    read_usd_in_this_process(monkeypatch)


@pytest.mark.parametrize("degree", range(4))
@pytest.mark.usefixtures("usd_core")
def test_every_format_is_converted_to_every_other(tmp_path, degree):
    splats = some_splats(12, degree)
    splats.sh[:, 1:] *= 0.9 / TURNED  # a .spz stores coefficients up to 1
    (tmp_path / "a.ply").write_bytes(to_ply(splats))
    sources = converted(tmp_path / "a.ply", tmp_path / "first")
    for first, source in sources.items():
        assert_close(flow._read(source, drop_invalid=False), splats, [LOSSES["ply"], LOSSES[first]], first)
        for second, path in converted(source, tmp_path / first).items():
            found = flow._read(path, drop_invalid=False)
            assert_close(found, splats, [LOSSES[first], LOSSES[second]], f"{first} to {second}")


def assert_close(found: Gaussians, splats: Gaussians, losses: list[Loss], what: str) -> None:
    order = torch.cdist(found.means, splats.means).argmin(dim=1)  # a compressed .ply is in Morton order
    assert sorted(order.tolist()) == list(range(splats.num)), what
    expected = splats.select(order)
    degree = splats.sh_degree if all(loss.has_rest for loss in losses) else 0
    assert found.sh_degree == degree, what
    errors = {
        "position": found.means - expected.means,
        "log_scale": found.log_scales - expected.log_scales,
        "degrees": degrees_between(found, expected),
        "opacity": found.opacities - expected.opacities,
        "constant": found.sh[:, :1] - expected.sh[:, :1],
        "rest": (found.sh - expected.with_sh_degree(degree).sh)[:, 1:] / TURNED,
    }
    for name, error in errors.items():
        bound = 1.01 * sum(getattr(loss, name) for loss in losses)
        assert not error.numel() or float(error.abs().max()) <= bound, (what, name)
