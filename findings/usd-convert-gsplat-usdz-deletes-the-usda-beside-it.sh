#!/usr/bin/env bash
# usd-convert-gsplat: writing NAME.usdz deletes the file NAME.usda that lies beside it.
#
# Version: usd-convert-gsplat 0.1.15 (NVIDIA) with usd-core 26.11.
# Guess: converting a .ply to a .usdz writes the .usdz, and touches no other file.
# Instead: it writes the layer to NAME.usda in the folder of the output, packs it, and removes it. A NAME.usda that was there, made
#   by the same program a moment before or edited by hand, is overwritten and then gone. No message says so.
# Why it matters: who converts an asset to both forms, in this order, is left with one; and a scene whose .usda was finished by hand
#   loses it when its package is made. Write the .usdz first, or into a folder of its own.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q usd-convert-gsplat==0.1.15 usd-core==26.11 2>/dev/null
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import struct

names = "x y z f_dc_0 f_dc_1 f_dc_2 opacity scale_0 scale_1 scale_2 rot_0 rot_1 rot_2 rot_3".split()
header = ["ply", "format binary_little_endian 1.0", "element vertex 2"]
header += [f"property float {name}" for name in names] + ["end_header", ""]
rows = struct.pack("<28f", *([0.0] * 10 + [1.0, 0, 0, 0]) * 2)
with open("asset.ply", "wb") as file:
    file.write("\n".join(header).encode() + rows)
PYTHON
"$folder/env/bin/usd-convert-gsplat" -i asset.ply -o asset.usda >/dev/null
echo '# edited by hand' >>asset.usda
echo "after -o asset.usda: $(ls asset.usd*)"
"$folder/env/bin/usd-convert-gsplat" -i asset.ply -o asset.usdz >/dev/null
echo "after -o asset.usdz: $(ls asset.usd*)"
if [ -e asset.usda ] || [ ! -e asset.usdz ]; then
    echo "this has changed"
    exit 1
fi
