#!/usr/bin/env bash
# trimesh: the colours of an .off are dropped, although its first word COFF, which announces them, is understood.
#
# Version: trimesh 5.2.0 with numpy 2.4.6.
# Guess: COFF gives vertex_colors, and colours behind the corners of a face give face_colors, as the same data in .ply do.
# Instead: both load as a mesh without colours; nothing is logged at the level of warnings.
# Why it matters: a coloured mesh is scored or fitted as a grey one.
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

vertices = "COFF\n3 1 0\n0 0 0 255 0 0 255\n1 0 0 255 0 0 255\n0 1 0 255 0 0 255\n3 0 1 2\n"
faces = "OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2 255 0 0\n"
ply = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
ply += "property uchar red\nproperty uchar green\nproperty uchar blue\nelement face 1\n"
ply += "property list uchar int vertex_indices\nend_header\n0 0 0 255 0 0\n1 0 0 255 0 0\n0 1 0 255 0 0\n3 0 1 2\n"
kinds = {}
for name, text, suffix in (("COFF", vertices, "off"), ("OFF with coloured faces", faces, "off"), ("PLY", ply, "ply")):
    mesh = trimesh.load(io.BytesIO(text.encode()), file_type=suffix, process=False)
    kinds[name] = mesh.visual.kind
    print(f"{name}: {len(mesh.faces)} face, colours: {kinds[name]}")
raise SystemExit(0 if kinds == {"COFF": None, "OFF with coloured faces": None, "PLY": "vertex"} else "this has changed")
PYTHON
