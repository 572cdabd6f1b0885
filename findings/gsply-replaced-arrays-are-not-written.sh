#!/usr/bin/env bash
# gsply: an array of a loaded cloud that is replaced, instead of changed in place, is not what plywrite writes.
#
# Version: gsply 0.4.6 with numpy 2.3.5.
# Guess: a file has the values that the object had when it was written, however they came into it.
# Instead: plyread gives arrays that are views of one block of rows, and plywrite writes this block. After
#   `cloud.means = cloud.means + 1` the object shows the moved positions, and the .ply has the old ones, without a warning.
#   A copy() and a slice of a loaded cloud do the same. `cloud.means += 1` is written, and so is a cloud made by from_arrays.
#   write_spz and the compressed .ply of the same object have the new values, so two exports of one object differ.
# Why it matters: centring, scaling or recolouring a splat by an expression is the usual way to edit one. The program ends
#   well, its own checks of the object pass, and the exported asset is the unedited one. Change arrays in place, or make a
#   new cloud with GSData.from_arrays before writing.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q gsply==0.4.6 numpy==2.3.5 2>/dev/null
cd "$folder"
"$folder/env/bin/python" - <<'PYTHON'
import gsply
import numpy as np

NUM, FIELDS = 100, ("means", "scales", "quats", "opacities", "sh0")
rng = np.random.default_rng(0)


def floats(*shape):
    return rng.normal(size=shape).astype(np.float32)


def cloud_of(arrays):
    return gsply.GSData.from_arrays(*arrays, format="ply")


made = cloud_of([floats(NUM, 3), floats(NUM, 3) - 4, floats(NUM, 4), floats(NUM), floats(NUM, 3)])
gsply.plywrite("made.ply", made)


def shift(cloud):
    """The mean x of a cloud that was moved by 100 and written, less the mean x of what is in the file."""
    cloud.means = cloud.means + 100
    gsply.plywrite("moved.ply", cloud)
    return round(float(cloud.means[:, 0].mean() - gsply.plyread("moved.ply").means[:, 0].mean()), 3)


in_file = {
    "loaded, array replaced": shift(gsply.plyread("made.ply")),
    "its copy, array replaced": shift(gsply.plyread("made.ply").copy()),
    "its first ten, array replaced": shift(gsply.plyread("made.ply")[:10]),
    "from_arrays, array replaced": shift(cloud_of([getattr(made, name).copy() for name in FIELDS])),
}
for name, off in in_file.items():
    print(f"{name}: the .ply is off by {off} in x")
loaded = gsply.plyread("made.ply")
loaded.sh0 = np.zeros_like(loaded.sh0)
gsply.plywrite("black.ply", loaded)
gsply.write_spz("black.spz", loaded)
colours = [float(np.abs(read("black." + end).sh0).max()) for read, end in ((gsply.plyread, "ply"), (gsply.read_spz, "spz"))]
print(f"all sh0 replaced by 0: largest in the .ply {colours[0]:.3f}, in the .spz {colours[1]:.3f}")
changed = gsply.plyread("made.ply")
changed.means += 100
gsply.plywrite("moved.ply", changed)
kept = float(np.abs(gsply.plyread("moved.ply").means - made.means - 100).max())
print(f"changed in place: the .ply is off by {kept}")
is_as_stated = list(in_file.values()) == [100, 100, 100, 0] and colours[0] > 1 and colours[1] < 0.1 and kept < 1e-3
raise SystemExit(0 if is_as_stated else "this has changed")
PYTHON
