"""`.usda`, `.usdz` ⇄ Gaussians: ParticleField3DGaussianSplat of OpenUSD 26.3 and later, through usd-core.

Attributes of one prim, all in float32: positions, orientations, scales (standard deviations), opacities in [0, 1], and
the SH coefficients of each Gaussian in the order and with the signs of 3DGS. OpenUSD has y or z up, as a file says.
Its validators accept arrays of any length, so lengths, degrees and the extent are checked and computed here.
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sctd.formats import usd_reader
from sctd.formats.axes import axes, placed, rotated
from sctd.formats.common import FormatError, checked, exact_logits, joined, unit_quats
from sctd.scene.gaussians import Gaussians, rotations

PRIM = "/Splats"
UP = "y", "z"
SIGMAS = 3  # standard deviations of a Gaussian inside the extent
_MEMORY_BYTES, _MEMORY_PER_BYTE = 2**31, 16  # of the process that reads a file, and more for each byte of the file
_SECONDS, _BYTES_PER_SECOND = 60, 2**20
_EPOCH = time.struct_time((1980, 1, 1, 0, 0, 0, 0, 1, -1))  # the earliest date of a zip: equal Gaussians, equal bytes


def require() -> None:
    """Raises FormatError if usd-core is not installed."""
    if importlib.util.find_spec("pxr") is None:
        raise FormatError("OpenUSD files need usd-core, which is not installed: pip install 'segmentdreamer[usd]'.")


def to_usda(gaussians: Gaussians, up: str = "y") -> bytes:
    """Gaussians as text, in their order. Raises FormatError for none, invalid ones, or without usd-core."""
    return _layer(gaussians, up, "usda").ExportToString().encode()


def to_usdz(gaussians: Gaussians, up: str = "y") -> bytes:
    """A package of one binary layer, which starts at a multiple of 64 bytes. Raises FormatError as `to_usda` does."""
    layer = _layer(gaussians, up, "usdz")
    from pxr import UsdUtils

    with tempfile.TemporaryDirectory() as folder:
        binary, package = Path(folder, "splats.usdc"), Path(folder, "splats.usdz")
        layer.Export(str(binary))
        os.utime(binary, (time.mktime(_EPOCH),) * 2)
        if not UsdUtils.CreateNewUsdzPackage(str(binary), str(package)):
            raise FormatError("usd-core could not write the .usdz; check that the disk is not full.")
        return package.read_bytes()


def from_usd(data: bytes, *, drop_invalid: bool = False) -> Gaussians:
    """Read all splats of a .usda, .usdc or .usdz, with y up and in their places. Raises FormatError."""
    require()
    facts, arrays = _read(data)
    parts = [_part(splats, _arrays_of(number, arrays)) for number, splats in enumerate(facts["splats"])]
    if not parts:
        raise FormatError("The OpenUSD file has no ParticleField3DGaussianSplat; export the splats again.")
    gaussians = rotated(joined(parts), axes("y") @ axes(facts["up"]).T)
    return checked(gaussians, "usd", drop_invalid=drop_invalid)


def _layer(gaussians: Gaussians, up: str, kind: str) -> Any:
    """An anonymous layer with the Gaussians."""
    require()
    if up not in UP:
        raise FormatError(f"OpenUSD has no axis {up!r} that points up; expected y or z.")
    if not gaussians.num:
        raise FormatError(f"There are no Gaussians; a .{kind} needs at least one.")
    gaussians = checked(gaussians.detach(), kind)
    from pxr import Sdf, Usd, UsdGeom, UsdVol, Vt

    layer = Sdf.Layer.CreateAnonymous(".usda")
    layer.customLayerData = {"creator": "SegmentDreamer"}
    stage = Usd.Stage.Open(layer)
    UsdGeom.SetStageUpAxis(stage, up.upper())
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    splats = UsdVol.ParticleField3DGaussianSplat.Define(stage, PRIM)
    stage.SetDefaultPrim(splats.GetPrim())

    def vectors(values: Any) -> Any:
        return Vt.Vec3fArray.FromNumpy(np.ascontiguousarray(values, np.float32))

    quats = unit_quats(gaussians)[:, [1, 2, 3, 0]]  # the layout in memory; the text has w first
    splats.CreatePositionsAttr(vectors(gaussians.means))
    splats.CreateOrientationsAttr(Vt.QuatfArray.FromNumpy(np.ascontiguousarray(quats, np.float32)))
    splats.CreateScalesAttr(vectors(gaussians.scales))
    splats.CreateOpacitiesAttr(Vt.FloatArray.FromNumpy(gaussians.opacities.numpy()))
    splats.CreateRadianceSphericalHarmonicsDegreeAttr(gaussians.sh_degree)
    harmonics = splats.CreateRadianceSphericalHarmonicsCoefficientsAttr(vectors(gaussians.sh.flatten(0, 1)))
    harmonics.SetMetadata("elementSize", gaussians.sh.shape[1])
    splats.CreateExtentAttr(vectors(_extent(gaussians)))
    return layer


def _extent(gaussians: Gaussians) -> np.ndarray:
    """The box around `SIGMAS` standard deviations of all Gaussians, rounded outwards: its corners, [2, 3]."""
    doubles = gaussians.map(torch.Tensor.double)
    spread = (rotations(doubles.quats).square() @ doubles.scales.square()[..., None])[..., 0].sqrt()
    low, high = (doubles.means - SIGMAS * spread).amin(0), (doubles.means + SIGMAS * spread).amax(0)
    corners = np.stack([low.numpy(), high.numpy()]).astype(np.float32)
    return np.nextafter(corners, np.array([[-np.inf], [np.inf]], np.float32))


def _read(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What `usd_reader` finds. Raises FormatError."""
    if not (suffix := _suffix(data)):
        raise FormatError(f"This is not an OpenUSD file (it starts with {data[:8]!r}); export or copy it again.")
    memory, seconds = _MEMORY_BYTES + _MEMORY_PER_BYTE * len(data), _SECONDS + len(data) // _BYTES_PER_SECOND
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, f"splats{suffix}"), Path(folder, "splats.npz")
        source.write_bytes(data)
        command = [sys.executable, "-P", usd_reader.__file__, str(source), str(out), str(memory)]
        env = {**os.environ, "PXR_WORK_THREAD_LIMIT": "1", "OPENBLAS_NUM_THREADS": "1"}
        try:
            subprocess.run(command, env=env, capture_output=True, timeout=seconds, check=True)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            raise FormatError("The OpenUSD file is damaged (usd-core fails on it): export or copy it again.") from None
        with np.load(out, allow_pickle=False) as content:
            arrays = dict(content)
    facts = json.loads(str(arrays.pop("facts")))
    if "reason" in facts:
        raise FormatError(f"The OpenUSD file cannot be read: {facts['reason']}.")
    return facts, arrays


def _suffix(data: bytes) -> str | None:
    """The suffix by which usd-core finds the encoding."""
    starts = {b"#usda": ".usda", b"PXR-USDC": ".usdc", b"PK\x03\x04": ".usdz"}
    return next((suffix for start, suffix in starts.items() if data.startswith(start)), None)


def _arrays_of(number: int, arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    start = f"{number}."
    return {key.removeprefix(start): torch.from_numpy(v) for key, v in arrays.items() if key.startswith(start)}


def _part(facts: dict[str, Any], arrays: dict[str, torch.Tensor]) -> Gaussians:
    """The Gaussians of one prim, in the file's axes; attributes that it has not have the schema's defaults."""
    num = len(arrays["positions"]) if "positions" in arrays else 0
    if not num:
        raise FormatError("The OpenUSD file has splats without positions at the default time; export them again.")
    if (degree := facts["degree"]) not in range(4):
        raise FormatError(f"The OpenUSD file has spherical harmonics of degree {degree}; expected 0 to 3.")
    if (harmonics := arrays.get(usd_reader.ARRAYS[-1])) is None:
        degree, harmonics = 0, torch.zeros(num, 3)
    num_basis = (degree + 1) ** 2
    for name, values in {**arrays, usd_reader.ARRAYS[-1]: harmonics}.items():
        expected = num * (num_basis if values is harmonics else 1)
        if len(values) != expected:
            raise FormatError(
                f"The OpenUSD file has {len(values)} values of {name} for {num} Gaussians of SH degree {degree}; "
                f"expected {expected}. Export it again."
            )
    quats = arrays.get("orientations", torch.tensor([0.0, 0, 0, 1]).expand(num, 4))
    gaussians = Gaussians(
        means=arrays["positions"],
        log_scales=arrays.get("scales", torch.ones(num, 3)).log(),
        quats=quats[:, [3, 0, 1, 2]],
        logit_opacities=exact_logits(arrays.get("opacities", torch.ones(num))),
        sh=harmonics.reshape(num, num_basis, 3),
    )
    return placed(gaussians, torch.tensor(facts["matrix"], dtype=torch.float64))
