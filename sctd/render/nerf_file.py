"""The file of a finished NeRF: a .safetensors of weights and occupancy grid, with the architecture as metadata."""

import json
import math

import safetensors.torch
import torch
from safetensors import SafetensorError

from sctd.errors import one_line
from sctd.formats.common import FormatError
from sctd.render.hash_grid import Levels
from sctd.render.nerf import SKY_DEGREE, Field, Lit, Nerf, Occupancy

FORMAT, VERSION = "segmentdreamer.nerf", 1


def to_bytes(lit: Lit) -> bytes:
    """The bytes of a field without light. Equal fields give equal bytes."""
    field = lit.nerf.field
    about = {
        "format": FORMAT,
        "version": VERSION,
        "levels": list(field.levels),
        "hidden": field.hidden,
        "box": field.box,
        "blob_scale": field.blob_scale,
        "blob_radius": field.blob_radius,
        "sky_hidden": field.sky_hidden,
        "steps": lit.steps,
        "empty_density": lit.occupancy.threshold,
    }
    tensors = lit.nerf.tensors() | {"occupancy": lit.occupancy.density}
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(whole, {"nerf": json.dumps(about)})


def from_bytes(content: bytes) -> Lit:
    """The field in a file, on the CPU. Raises FormatError for other or damaged bytes."""
    try:
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about = json.loads(header["__metadata__"]["nerf"])
        if (about["format"], about["version"]) != (FORMAT, VERSION):
            raise ValueError(f"format {about['format']!r}, version {about['version']!r}")
        box, scale, radius = (float(about[name]) for name in ("box", "blob_scale", "blob_radius"))
        field = Field(
            Levels(*map(int, about["levels"])),
            int(about["hidden"]),
            box,
            scale,
            radius,
            int(about.get("sky_hidden", 0)),
        )
        grid = tensors.pop("occupancy")
        levels, hidden, sky = field.levels, field.hidden, field.sky_hidden
        expected = [(levels.entries, levels.features), (levels.width, hidden), (hidden, 4)]
        expected += [((SKY_DEGREE + 1) ** 2, sky), (sky, 3)] if sky else []
        if any(tensor.dtype != torch.float32 for tensor in [*tensors.values(), grid]):
            raise ValueError("a tensor is not float32")
        nerf = Nerf(**tensors, field=field)
        if [tuple(tensor.shape) for tensor in nerf.tensors().values()] != expected:
            raise ValueError("a tensor has another shape than its architecture")
        if grid.ndim != 3 or len(set(grid.shape)) != 1:
            raise ValueError(f"the occupancy grid has shape {tuple(grid.shape)}")
        if not all(bool(tensor.isfinite().all()) for tensor in [*nerf.tensors().values(), grid]):
            raise ValueError("a number is not finite")
        lit = Lit(nerf, Occupancy(grid, float(about["empty_density"])), int(about["steps"]))
        if lit.steps < 1 or not all(0 < length < math.inf for length in (field.box, field.blob_radius)):
            raise ValueError(f"steps {lit.steps}, box {field.box:g}, blob_radius {field.blob_radius:g}")
        return lit
    except (SafetensorError, ValueError, TypeError, KeyError, ArithmeticError) as error:
        raise FormatError(f"The file is not a NeRF of this program ({one_line(error)}).") from error
