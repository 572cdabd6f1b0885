"""A program that copies the splats of an OpenUSD file into an .npz, or the reason why it does not.

    python usd_reader.py FILE OUT MEMORY_BYTES

It has a process of its own, because some damaged files crash usd-core, and imports neither torch nor this package.
Other files that the file names are not opened. Values at the default time are read, not animation.
"""

import json
import resource
import sys
from typing import Any

import numpy as np

HARMONICS = "radiance:sphericalHarmonics"
ARRAYS = "positions", "orientations", "scales", "opacities", f"{HARMONICS}Coefficients"
"""The attributes of splats; with an h at the end in half precision."""


def splats(path: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Facts about a file, and its arrays by `number.name`; orientations are x y z w. Raises ValueError."""
    from pxr import Sdf, Tf, Usd, UsdGeom, UsdVol

    try:
        layer = Sdf.Layer.OpenAsAnonymous(path)
    except (Tf.ErrorException, RuntimeError):
        layer = None
    if layer is None:
        raise ValueError("it is damaged; export or copy it again")
    if others := layer.GetCompositionAssetDependencies():
        raise ValueError(f"it needs another file, {others[0][:100]!r}; flatten it into one file first")
    stage = Usd.Stage.Open(layer)
    arrays: dict[str, np.ndarray] = {}
    found: list[dict[str, Any]] = []
    for prim in stage.Traverse():
        if not prim.IsA(UsdVol.ParticleField3DGaussianSplat):
            continue
        for name in ARRAYS:
            values = [prim.GetAttribute(each).Get() for each in (name, f"{name}h")]
            if (value := next((value for value in values if value is not None), None)) is not None:
                arrays[f"{len(found)}.{name}"] = np.asarray(value, np.float32)
        matrix = UsdGeom.Xformable(prim).ComputeLocalToWorldTransform(Usd.TimeCode.Default())
        degree = prim.GetAttribute(f"{HARMONICS}Degree").Get()
        found.append({"degree": degree, "matrix": np.array(matrix).T.tolist()})
    return {"up": str(UsdGeom.GetStageUpAxis(stage)).lower(), "splats": found}, arrays


def main(path: str, out: str, memory_bytes: str) -> None:
    """Write the splats of a file within limited memory."""
    resource.setrlimit(resource.RLIMIT_AS, (int(memory_bytes), int(memory_bytes)))
    try:
        facts, arrays = splats(path)
    except ValueError as error:
        facts, arrays = {"reason": str(error)}, {}
    np.savez(out, allow_pickle=False, facts=np.array(json.dumps(facts)), **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
