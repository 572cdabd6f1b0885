#!/usr/bin/env bash
# usd-convert-gsplat: the layer in its .usdz starts at byte 42, where the format asks for a multiple of 64.
#
# Version: usd-convert-gsplat 0.1.15 (NVIDIA) with usd-core 26.11.
# Guess: a .usdz from a converter that is built on usd-core passes the validators of usd-core.
# Instead: the package is written by Python's zipfile, without the padding of the specification. Two validators of usd-core report
#   ByteMisalignment, "invalid offset 42". usd-core's reader opens the file all the same, so nobody notices there. A package of
#   UsdUtils.CreateNewUsdzPackage of the same layer starts at 64 and passes.
# Why it matters: the rule is there so that layers are mapped into memory as they are; a pipeline that runs these validators
#   before it accepts a package refuses this one, after a conversion that reported success. Pack the .usda with UsdUtils.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q usd-convert-gsplat==0.1.15 usd-core==26.11 2>/dev/null
cd "$folder"
mkdir theirs
"$folder/env/bin/python" - <<'PYTHON'
import struct
import subprocess

from pxr import Usd, UsdUtils, UsdValidation

names = "x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3".split()
header = ["ply", "format binary_little_endian 1.0", "element vertex 2"]
header += [f"property float {name}" for name in names] + ["end_header", ""]
rows = struct.pack("<28f", *([0.0] * 10 + [1.0, 0, 0, 0]) * 2)
with open("asset.ply", "wb") as file:
    file.write("\n".join(header).encode() + rows)
for output in ("theirs/asset.usdz", "asset.usda"):
    subprocess.run(["env/bin/usd-convert-gsplat", "-i", "asset.ply", "-o", output], check=True, capture_output=True)
UsdUtils.CreateNewUsdzPackage("asset.usda", "usdutils.usdz")


def start(path):
    """Where the content of the first file of the package begins."""
    with open(path, "rb") as file:
        data = file.read()
    name, extra = struct.unpack_from("<HH", data, 26)
    return 30 + name + extra


def errors(path):
    """What the validators of usd-core say about the package."""
    stage = Usd.Stage.Open(path)
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    return sorted(error.GetName() for error in UsdValidation.ValidationContext(validators).Validate(stage))


found = {path: (start(path), errors(path)) for path in ("theirs/asset.usdz", "usdutils.usdz")}
for path, (begin, said) in found.items():
    print(f"{path}: content at byte {begin}, {begin % 64} beyond a multiple of 64; validators: {said or 'no error'}")
theirs, usdutils = found.values()
same = theirs == (42, ["ByteMisalignment"] * 2) and usdutils == (64, [])
raise SystemExit(0 if same else "this has changed")
PYTHON
