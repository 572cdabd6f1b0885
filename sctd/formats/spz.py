"""`.spz` ⇄ Gaussians: Niantic's compressed splats, version 3 of the published format (README and code of 2025, MIT).

Gzip over a header of 16 bytes and then, for all Gaussians in turn: positions in 24-bit fixed point with 12 fractional
bits; opacities in bytes; colours, 0.15 × the constant SH coefficient around the middle of a byte; log scales in steps
of 1/16 from -10; rotations, 2 bits for the largest of x y z w and 10 bits (sign and magnitude) for each of the others;
the other SH coefficients in steps of 1/128 around 128. The format defines the axes: x right, y up, z to the viewer.
"""

import gzip
import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import torch

from sctd.errors import one_line
from sctd.formats.common import DEFLATE_FACTOR, FormatError, checked, logits, unit_quats
from sctd.scene.gaussians import Gaussians

MAGIC, VERSION, FRACTIONAL_BITS = 0x5053474E, 3, 12
MAX_COORDINATE = 2**23 / 2**FRACTIONAL_BITS  # range of 24 bits: 2048 units
_HEADER = struct.Struct("<IIIBBBB")
_COLOR_SCALE, _SCALE_STEPS, _MIN_LOG_SCALE, _SH_STEPS = 0.15, 16, -10, 128
_MAGNITUDES = 511 * np.sqrt(2)  # steps per unit of the three smaller components, which are at most √½


def num_clamped(gaussians: Gaussians) -> int:
    """Number of Gaussians whose scales or constant colours are outside the range that `to_spz` stores."""
    steps = _SCALE_STEPS * (gaussians.log_scales - _MIN_LOG_SCALE), 255 * (_COLOR_SCALE * gaussians.sh[:, 0] + 0.5)
    outside = torch.cat(steps, dim=1).round()
    return int(((outside < 0) | (outside > 255)).any(dim=1).sum())


def to_spz(gaussians: Gaussians) -> bytes:
    """Gaussians in their order. Raises FormatError for invalid ones or a coordinate of 2048 units or more."""
    gaussians = checked(gaussians, "spz")
    if gaussians.num and (farthest := float(gaussians.means.abs().max())) >= MAX_COORDINATE:
        raise FormatError(
            f"A Gaussian has a coordinate of {farthest:g} units; a .spz stores coordinates below {MAX_COORDINATE:g}: "
            "scale the object down, or choose another format."
        )
    fixed = (gaussians.means.double() * 2**FRACTIONAL_BITS).round().numpy().astype("<i4")
    colors = (255 * (_COLOR_SCALE * gaussians.sh[:, 0] + 0.5)).round()
    parts = [
        fixed.view("u1").reshape(-1, 3, 4)[..., :3],
        _bytes(255 * gaussians.opacities),
        _bytes(colors),
        _bytes(_SCALE_STEPS * (gaussians.log_scales - _MIN_LOG_SCALE)),
        _pack(unit_quats(gaussians).double().numpy()[:, [1, 2, 3, 0]]),
        _bytes(_SH_STEPS * gaussians.sh[:, 1:] + 128),
    ]
    header = _HEADER.pack(MAGIC, VERSION, gaussians.num, gaussians.sh_degree, FRACTIONAL_BITS, 0, 0)
    return gzip.compress(header + b"".join(part.tobytes() for part in parts), mtime=0)


def _other_version(version: int) -> FormatError:
    return FormatError(
        f"The .spz has version {version}; expected {VERSION}. Convert it first, for example with splat-transform "
        "--spz-version 3."
    )


def from_spz(data: bytes, *, drop_invalid: bool = False) -> Gaussians:
    """Read Gaussians of SH degree 0 to 3 from a file of version 3. Raises FormatError for other files."""
    if data.startswith(struct.pack("<I", MAGIC)):  # versions up to 3 are in gzip, later ones are not
        raise _other_version(int.from_bytes(data[4:8], "little"))
    file = gzip.GzipFile(fileobj=io.BytesIO(data))
    header = _content(file, _HEADER.size)
    if len(header) < _HEADER.size:
        raise FormatError(
            f"This is not a .spz (it ends within its header of {_HEADER.size} bytes). Export or copy it again."
        )
    magic, version, num, degree, fractional_bits, _, _ = _HEADER.unpack(header)
    if magic == MAGIC and version != VERSION:
        raise _other_version(version)
    if magic != MAGIC or degree > 3:
        raise FormatError(
            f"The .spz has magic {magic:#x} and SH degree {degree}; expected {MAGIC:#x} and 0 to 3. Export or copy it "
            "again."
        )
    num_basis = (degree + 1) ** 2
    sizes = [9 * num, num, 3 * num, 3 * num, 4 * num, 3 * num * (num_basis - 1)]
    raw = _content(file, sum(sizes)) if sum(sizes) <= DEFLATE_FACTOR * len(data) else b""
    if len(raw) < sum(sizes):
        raise FormatError(f"The .spz is truncated: its header announces {num} Gaussians; copy it again.")
    _content(file, 1)  # at the end, the checksum is compared
    positions, opacities, colors, scales, rotations, rest = _split(raw, sizes)
    fixed = np.zeros((num, 3, 4), "u1")
    fixed[..., 1:] = positions.reshape(num, 3, 3)
    means = np.ldexp(fixed.view("<i4")[..., 0] >> 8, -fractional_bits)  # an arithmetic shift keeps the sign
    constant = (torch.from_numpy(colors.reshape(num, 1, 3) / 255) - 0.5) / _COLOR_SCALE
    others = (torch.from_numpy(rest.reshape(num, num_basis - 1, 3).astype(float)) - 128) / _SH_STEPS
    gaussians = Gaussians(
        means=torch.from_numpy(means).float(),
        log_scales=torch.from_numpy(scales.reshape(num, 3) / _SCALE_STEPS).float() + _MIN_LOG_SCALE,
        quats=torch.from_numpy(_unpack(rotations.reshape(num, 4))[:, [3, 0, 1, 2]]).float(),
        logit_opacities=logits(torch.from_numpy(opacities / 255).float()),
        sh=torch.cat([constant, others], dim=1).float(),
    )
    return checked(gaussians, "spz", drop_invalid=drop_invalid)


def _bytes(values: torch.Tensor) -> np.ndarray:
    return values.detach().round().clamp(0, 255).numpy().astype("u1")


def _content(file: gzip.GzipFile, size: int) -> bytes:
    """The next bytes of the file, at most `size`. Raises FormatError for a damaged file."""
    try:
        return file.read(size)
    except (OSError, EOFError, zlib.error) as error:
        raise FormatError(
            f"This is not a .spz ({one_line(error)}); expected gzip over a header. Export or copy it again."
        ) from error


def _split(raw: bytes, sizes: list[int]) -> Iterator[np.ndarray]:
    ends = np.cumsum([0, *sizes])
    return (np.frombuffer(raw, "u1", size, start) for start, size in zip(ends, sizes, strict=False))


def _pack(xyzw: np.ndarray) -> np.ndarray:
    """32-bit words: the index of the largest component, then the others in order; q and -q are the same rotation."""
    largest = np.abs(xyzw).argmax(1)
    xyzw = xyzw * np.where(xyzw[np.arange(len(xyzw)), largest] < 0, -1, 1)[:, None]
    word = largest.astype("<u4")
    for component in range(4):
        value = xyzw[:, component]
        code = (value < 0).astype("<u4") << 9 | np.rint(_MAGNITUDES * np.abs(value)).clip(0, 511).astype("<u4")
        word = np.where(component == largest, word, word << 10 | code).astype("<u4")
    return word


def _unpack(rows: np.ndarray) -> np.ndarray:
    """Unit quaternions (x, y, z, w), with the largest component computed from the other three."""
    word = np.ascontiguousarray(rows).view("<u4")[:, 0]
    largest, xyzw = word >> 30, np.zeros((len(word), 4))
    for component in (3, 2, 1, 0):
        here = component == largest
        value = (word & 511) / _MAGNITUDES * np.where(word >> 9 & 1, -1, 1)
        xyzw[:, component] = np.where(here, 0, value)
        word = np.where(here, word, word >> 10)
    xyzw[np.arange(len(word)), largest] = np.sqrt(np.maximum(0, 1 - (xyzw**2).sum(1)))
    return xyzw
