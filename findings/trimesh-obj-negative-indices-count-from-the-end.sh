#!/usr/bin/env bash
# trimesh: negative indices of an .obj count from the end of the file, not from the line in which they stand.
#
# Version: trimesh 5.2.0 with numpy 2.4.6.
# Guess: the format counts them back from the last vertex so far, so a file may repeat "3 vertices, then f -3 -2 -1".
# Instead: each face gets the last three vertices of the whole file, without a warning: two triangles become one, twice.
# Why it matters: exporters that write piece by piece use this form; all pieces collapse into the last one, and a mesh that
#   is scored or sampled is another one than its viewer shows.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q trimesh==5.2.0 numpy==2.4.6 2>/dev/null
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import io

import trimesh

piece = "v 0 0 {z}\nv 1 0 {z}\nv 0 1 {z}\n"
relative = "".join(piece.format(z=z) + "f -3 -2 -1\n" for z in (0, 5))
absolute = "".join(piece.format(z=z) + f"f {3 * k + 1} {3 * k + 2} {3 * k + 3}\n" for k, z in enumerate((0, 5)))
heights = {}
for name, text in {"f -3 -2 -1": relative, "f 1 2 3": absolute}.items():
    mesh = trimesh.load(io.BytesIO(text.encode()), file_type="obj", process=False)
    heights[name] = mesh.triangles[:, 0, 2].tolist()
    print(f"{name}: the two triangles are at z = {heights[name]}")
raise SystemExit(0 if heights == {"f -3 -2 -1": [5, 5], "f 1 2 3": [0, 5]} else "this has changed")
PYTHON
