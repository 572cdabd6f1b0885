"""What the formats share: their error, the check of values, unit quaternions and finite logits of opacities."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from jaxtyping import Float
from pydantic import BaseModel, ValidationError
from torch import Tensor

from sctd.errors import SctdError, one_line, shortened
from sctd.scene.gaussians import Gaussians

_FLOAT32 = torch.finfo(torch.float32)
LENGTHS = 1e-12, 1e18  # whose squares float32 can hold: of quaternions; at most the second, of positions and scales
LOG_SCALES = math.log(_FLOAT32.tiny), math.log(LENGTHS[1])
MAX_LOGIT = 16.0  # opacities 0 and 1, up to one step of float32
DEFLATE_FACTOR = 1032  # the most that deflate compresses: more bytes than this times a file's cannot be in it
_MARGIN = 1e-3  # a stored 0 or 255 represents an opacity within half a step (1/510) of 0 or 1


T = TypeVar("T", bound=BaseModel)


class FormatError(SctdError):
    """The bytes are not a file of the expected format, or the Gaussians cannot be stored in it."""


class InvalidGaussiansError(FormatError):
    """Some Gaussians of a file have values that cannot be rendered or stored."""


def checked(gaussians: Gaussians, kind: str, *, drop_invalid: bool = False) -> Gaussians:
    """The Gaussians of a file, with infinite opacity logits and scales of length 0 replaced by finite values.

    A Gaussian is invalid if a value is NaN or infinite, if its covariance or the square of its position overflows
    float32, or if its quaternion cannot be normalized. Raises InvalidGaussiansError if some are, unless `drop_invalid`
    leaves them out.
    """
    lowest, highest = LOG_SCALES
    flat = gaussians.log_scales == -math.inf
    gaussians = replace(
        gaussians,
        log_scales=gaussians.log_scales.masked_fill(flat, lowest),
        logit_opacities=torch.where(
            gaussians.logit_opacities.isinf(),
            gaussians.logit_opacities.clamp(-MAX_LOGIT, MAX_LOGIT),
            gaussians.logit_opacities,
        ),
    )
    lengths = torch.linalg.vector_norm(gaussians.quats, dim=-1)
    faults = {
        "position": ~(gaussians.means.abs() <= LENGTHS[1]),
        "log scale": ~(gaussians.log_scales <= highest),
        "quaternion": ~((lengths >= LENGTHS[0]) & (lengths <= LENGTHS[1]))[:, None],
        "opacity": gaussians.logit_opacities.isnan()[:, None],
        "colour": ~gaussians.sh.flatten(1).isfinite(),
    }
    invalid = torch.stack([fault.any(dim=1) for fault in faults.values()]).any(dim=0)
    if not invalid.any() or drop_invalid:
        return gaussians.select(~invalid) if drop_invalid else gaussians
    row = int(invalid.nonzero()[0])
    name = next(name for name, fault in faults.items() if fault[row].any())
    values = dict(zip(faults, gaussians.tensors().values(), strict=True))[name][row].flatten()
    shown = ", ".join(f"{value:g}" for value in values[:4].tolist())
    raise InvalidGaussiansError(
        f"The .{kind} has {int(invalid.sum()):,} invalid of {gaussians.num:,} Gaussians; the first is number {row}, "
        f"with {name} {shown}. Expected finite values, coordinates up to {LENGTHS[1]:g}, log scales up to "
        f"{highest:.1f} and quaternions of nonzero length. Write a copy without them: segmentdreamer export FILE "
        "--to ply --drop-invalid."
    )


def check_count(num: int, most: int | None, kind: str) -> None:
    """Raise FormatError for a compressed file that announces more than `most` Gaussians; None: any number."""
    if most is not None and num > most:
        raise FormatError(f"The .{kind} announces {num:,} Gaussians; at most {most:,} are read. Reduce the asset.")


def shown(text: str, length: int = 60) -> str:
    """Text of a file in one line, shortened, for a message."""
    return shortened(" ".join(text.split()), length)


def parsed(model: type[T], content: bytes, what: str) -> T:
    """The JSON of a file as a value of a model. Raises FormatError, which names `what` and the first invalid key."""
    try:
        return model.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = " ".join(".".join(map(str, first["loc"])).split())  # a key of the file may have line breaks
        reason = f"{where}: {one_line(first['msg'])}".removeprefix(": ")
        raise FormatError(f"{what} is invalid ({shortened(reason)}); export or copy the file again.") from error


def unit_quats(gaussians: Gaussians) -> Float[Tensor, "num 4"]:
    """Unit quaternions (w, x, y, z)."""
    return torch.nn.functional.normalize(gaussians.quats, dim=-1)


def joined(parts: Sequence[Gaussians]) -> Gaussians:
    """All Gaussians of the parts of a file, with the largest of their SH degrees."""
    degree = max(part.sh_degree for part in parts)
    first, *others = (part.with_sh_degree(degree) for part in parts)
    return first.concatenate(*others)


def exact_logits(opacities: Float[Tensor, " num"]) -> Float[Tensor, " num"]:
    """Finite logits of opacities in [0, 1], of a format that stores floating-point numbers; NaN for others."""
    valid = (opacities >= 0) & (opacities <= 1)
    return opacities.logit(eps=1e-7).where(valid, torch.nan)


def logits(opacities: Float[Tensor, " num"]) -> Float[Tensor, " num"]:
    """Finite logits of opacities in [0, 1]."""
    return opacities.clamp(_MARGIN, 1 - _MARGIN).logit()
