#!/usr/bin/env bash
# trimesh: nsphere.minimum_nsphere returns a ball of radius 7.8 for points that fit into one of radius 5.
#
# Version: trimesh 5.2.0 with numpy 2.4.6 and scipy 1.17.1.
# Guess: the smallest ball around (-5, 0, 0), (5, 0, 0) and four points near the origin has its centre there and radius 5.
# Instead: centre (0, 0, -6), radius 7.81. The centre is searched among the corners of the farthest-point Voronoi diagram,
# but the smallest ball may be determined by two points, and then its centre is on an edge of the diagram, at no corner.
# Why it matters: objects that are scaled into "their bounding sphere" are placed beside the middle, and too small.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q trimesh==5.2.0 numpy==2.4.6 scipy==1.17.1 2>/dev/null
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import numpy as np
from trimesh.nsphere import minimum_nsphere

points = np.array([[-5, 0, 0], [5, 0, 0], [0, 1, 0], [0, 0, 1], [0, -1, 0], [1, 0, 0.5]], float)
centre, radius = minimum_nsphere(points)
print(f"trimesh: centre {centre.round(2).tolist()}, radius {radius:.2f}")
print(f"around the origin: radius {np.linalg.norm(points, axis=1).max():.2f}")
raise SystemExit(0 if radius > 7 else "this has changed")
PYTHON
