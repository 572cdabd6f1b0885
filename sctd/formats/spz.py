"""`.spz` ⇄ Gaussians: Niantic's compressed splats (README and code of 2025 and 2026, MIT), of versions 1 to 4.

Version 3, which is written: gzip over a header of 16 bytes and then, for all Gaussians in turn: positions in 24-bit
fixed point with 12 fractional bits; opacities in bytes; colours, 0.15 × the constant SH coefficient around the middle
of a byte; log scales in steps of 1/16 from -10; rotations, 2 bits for the largest of x y z w and 10 bits (sign and
magnitude) for each of the others; the other SH coefficients in steps of 1/128 around 128. The format defines the axes:
x right, y up, z to the viewer.

Versions 1 and 2 have x y z of the rotation in bytes, and w is not negative; version 1 has positions in half precision.
Version 4 has a header of 32 bytes, the sizes of its streams, and each of the parts above as a stream of Zstandard.
"""

import gzip
import io
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import zstandard

from sctd.errors import one_line
from sctd.formats.common import DEFLATE_FACTOR, FormatError, check_count, checked, logits, unit_quats
from sctd.scene.gaussians import Gaussians

MAGIC, VERSION, FRACTIONAL_BITS = 0x5053474E, 3, 12
READ = range(1, 5)  # versions
ZSTANDARD_LEVEL = 19
MAX_COORDINATE = 2**23 / 2**FRACTIONAL_BITS  # range of 24 bits: 2048 units
_HEADER = struct.Struct("<IIIBBBB")  # magic, version, number, SH degree, fractional bits, flags, reserved
_HEADER_4 = struct.Struct("<IIIBBBBI12x")  # the same with the number of streams, and where their sizes are
_SIZES = struct.Struct("<QQ")  # of a stream, compressed and uncompressed
_COLOR_SCALE, _SCALE_STEPS, _MIN_LOG_SCALE, _SH_STEPS = 0.15, 16, -10, 128
# Uncompressed bytes that any file may announce, and a larger one for each of its bytes: real files have 5.
_ALWAYS_BYTES, _FACTOR = 2**25, 16
_MAGNITUDES = 511 * np.sqrt(2)  # steps per unit of the three smaller components, which are at most √½


def num_clamped(gaussians: Gaussians) -> int:
    """Number of Gaussians whose scales or SH coefficients are outside the range that `to_spz` stores."""
    steps = (
        _SCALE_STEPS * (gaussians.log_scales - _MIN_LOG_SCALE),
        255 * (_COLOR_SCALE * gaussians.sh[:, 0] + 0.5),
        _SH_STEPS * gaussians.sh[:, 1:].flatten(1) + 128,
    )
    outside = torch.cat(steps, dim=1).round()
    return int(((outside < 0) | (outside > 255)).any(dim=1).sum())


def to_spz(gaussians: Gaussians, version: int = VERSION) -> bytes:
    """Gaussians in their order, in version 3 or 4. Raises FormatError for invalid ones or coordinates above 2048."""
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
    about = version, gaussians.num, gaussians.sh_degree, FRACTIONAL_BITS, 0
    if version == VERSION:
        return gzip.compress(_HEADER.pack(MAGIC, *about, 0) + b"".join(part.tobytes() for part in parts), mtime=0)
    streams = [(zstandard.compress(part.tobytes(), ZSTANDARD_LEVEL), part.nbytes) for part in parts if part.size]
    sizes = b"".join(_SIZES.pack(len(stream), size) for stream, size in streams)
    header = _HEADER_4.pack(MAGIC, *about, len(streams), _HEADER_4.size)
    return header + sizes + b"".join(stream for stream, _ in streams)


class _Header(NamedTuple):
    version: int
    num: int
    degree: int
    fractional_bits: int

    @property
    def sizes(self) -> list[int]:
        """Bytes of positions, opacities, colours, scales, rotations and the other SH coefficients."""
        position, rotation = 6 if self.version == 1 else 9, 3 if self.version < 3 else 4
        rows = [position, 1, 3, 3, rotation, 3 * ((self.degree + 1) ** 2 - 1)]
        return [self.num * row for row in rows]


def from_spz(data: bytes, *, drop_invalid: bool = False, most: int | None = None) -> Gaussians:
    """Read Gaussians of SH degree 0 to 3 from a file of version 1 to 4, at most `most`.

    Raises FormatError for other files.
    """
    is_plain = data.startswith(struct.pack("<I", MAGIC))  # versions up to 3 are in gzip, later ones are not
    header, raw = (_read_streams if is_plain else _read_gzip)(data, most)
    num, num_basis = header.num, (header.degree + 1) ** 2
    sizes = header.sizes
    positions, opacities, colors, scales, rotations, rest = _split(raw, sizes)
    quats = _unpack(rotations.reshape(num, 4)) if header.version >= 3 else _with_w(rotations.reshape(num, 3))
    constant = (torch.from_numpy(colors.reshape(num, 1, 3) / 255) - 0.5) / _COLOR_SCALE
    others = (torch.from_numpy(rest.reshape(num, num_basis - 1, 3).astype(np.float32)) - 128) / _SH_STEPS
    gaussians = Gaussians(
        means=torch.from_numpy(_positions(positions, header)).float(),
        log_scales=torch.from_numpy(scales.reshape(num, 3) / _SCALE_STEPS).float() + _MIN_LOG_SCALE,
        quats=torch.from_numpy(quats[:, [3, 0, 1, 2]]).float(),
        logit_opacities=logits(torch.from_numpy(opacities / 255).float()),
        sh=torch.cat([constant, others], dim=1).float(),
    )
    return checked(gaussians, "spz", drop_invalid=drop_invalid)


def _checked(header: _Header, magic: int, data: bytes, most: int | None) -> _Header:
    """The header of a file that can be read. Raises FormatError."""
    if magic == MAGIC and header.version not in READ:
        raise FormatError(
            f"The .spz has version {header.version}; expected {READ[0]} to {READ[-1]}. Convert it first, for example "
            "with splat-transform --spz-version 3."
        )
    if magic != MAGIC or header.degree > 3:
        raise FormatError(
            f"The .spz has magic {magic:#x} and SH degree {header.degree}; expected {MAGIC:#x} and 0 to 3. Export or "
            "copy it again."
        )
    if (size := sum(header.sizes)) > DEFLATE_FACTOR * len(data):
        raise _truncated(header)
    if size > max(_ALWAYS_BYTES, _FACTOR * len(data)):
        raise FormatError(
            f"The .spz announces {header.num:,} Gaussians in {len(data):,} bytes, more than a .spz of real Gaussians "
            "holds; export it again."
        )
    check_count(header.num, most, "spz")
    return header


def _truncated(header: _Header) -> FormatError:
    return FormatError(f"The .spz is truncated: its header announces {header.num} Gaussians; copy it again.")


def _read_gzip(data: bytes, most: int | None) -> tuple[_Header, bytes]:
    """Header and parts of a file of version 1 to 3."""
    file = gzip.GzipFile(fileobj=io.BytesIO(data))
    start = _content(file, _HEADER.size)
    if len(start) < _HEADER.size:
        raise FormatError(
            f"This is not a .spz (it ends within its header of {_HEADER.size} bytes). Export or copy it again."
        )
    magic, *values, _, _ = _HEADER.unpack(start)
    header = _checked(_Header(*values), magic, data, most)
    raw = _content(file, sum(header.sizes))
    if len(raw) < sum(header.sizes):
        raise _truncated(header)
    _content(file, 1)  # at the end, the checksum is compared
    return header, raw


def _read_streams(data: bytes, most: int | None) -> tuple[_Header, bytes]:
    """Header and parts of a file of version 4."""
    if len(data) < _HEADER_4.size:
        raise FormatError(f"This is not a .spz (it ends within its header of {_HEADER_4.size} bytes). Copy it again.")
    magic, *values, _, num_streams, at = _HEADER_4.unpack_from(data)
    header = _checked(_Header(*values), magic, data, most)
    wanted = [size for size in header.sizes if size]
    if num_streams < len(wanted) or at + num_streams * _SIZES.size > len(data):
        raise _truncated(header)
    sizes = [_SIZES.unpack_from(data, at + number * _SIZES.size) for number in range(len(wanted))]
    place, parts = at + num_streams * _SIZES.size, []
    for (compressed, announced), size in zip(sizes, wanted, strict=True):
        part = _zstandard(data[place : place + compressed], size)
        if announced != size or len(part) != size:
            raise _truncated(header)
        parts.append(part)
        place += compressed
    return header, b"".join(parts)


def _zstandard(stream: bytes, size: int) -> bytes:
    """At most `size` bytes of a stream. Raises FormatError for a damaged one."""
    try:
        return zstandard.ZstdDecompressor(max_window_size=2**27).stream_reader(stream).read(size)
    except zstandard.ZstdError as error:
        raise FormatError(f"The .spz is damaged ({one_line(error)}); export or copy it again.") from error


def _positions(stored: np.ndarray, header: _Header) -> np.ndarray:
    if header.version == 1:
        return stored.view("<f2").reshape(header.num, 3).astype(float)
    fixed = np.zeros((header.num, 3, 4), "u1")
    fixed[..., 1:] = stored.reshape(header.num, 3, 3)
    return np.ldexp(fixed.view("<i4")[..., 0] >> 8, -header.fractional_bits)  # an arithmetic shift keeps the sign


def _with_w(rows: np.ndarray) -> np.ndarray:
    """Quaternions (x, y, z, w) of which x y z are stored."""
    xyz = rows / 127.5 - 1
    return np.concatenate([xyz, np.sqrt(np.maximum(0, 1 - (xyz**2).sum(1, keepdims=True)))], axis=1)


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
