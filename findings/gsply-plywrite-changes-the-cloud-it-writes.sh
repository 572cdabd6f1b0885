#!/usr/bin/env bash
# gsply: plywrite turns the arrays of the cloud that it is given from linear into logarithms, in place.
#
# Version: gsply 0.4.6 with numpy 2.3.5.
# Guess: writing a file reads the cloud and leaves it as it is.
# Instead: after plywrite (also compressed, also save) of a cloud with linear sizes and opacities, the object has logarithms and
#   logits, and so has every array that shares their memory, such as the one that a renderer holds. write_spz and
#   compress_to_bytes leave the cloud alone. The file is right in each case.
# Why it matters: an optimizer that saves a snapshot every so many steps goes on with sizes of -4 and opacities of -2, as the
#   arrays that it holds were changed; and a comparison "before export, after import" compares the file with itself. Write a copy.
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

NUM = 32
rng = np.random.default_rng(0)
logs = rng.uniform(-5, -2, (NUM, 3)).astype(np.float32)
logits = rng.normal(size=NUM).astype(np.float32)
others = [rng.normal(size=(NUM, width)).astype(np.float32) for width in (3, 4, 3)]
WRITERS = {
    "plywrite": lambda cloud: gsply.plywrite("a.ply", cloud),
    "plywrite, compressed": lambda cloud: gsply.plywrite("a.compressed.ply", cloud, compressed=True),
    "save": lambda cloud: cloud.save("b.ply"),
    "write_spz": lambda cloud: gsply.write_spz("a.spz", cloud),
    "compress_to_bytes": gsply.compress_to_bytes,
}
changed = {}
for name, write in WRITERS.items():
    means, quats, sh0 = (array.copy() for array in others)
    cloud = gsply.GSData.from_arrays(means, logs.copy(), quats, logits.copy(), sh0, format="ply").denormalize()
    sizes, before = cloud.scales, (float(cloud.scales.min()), float(cloud.opacities.min()))  # `sizes`: as a renderer holds it
    write(cloud)
    after = (float(sizes.min()), float(cloud.opacities.min()))
    changed[name] = after != before
    print(f"{name}: smallest size and opacity {before[0]:.4f}, {before[1]:.4f} before, {after[0]:.4f}, {after[1]:.4f} after")
in_file = float(np.abs(gsply.plyread("a.ply").scales - logs).max())
print(f"logarithms in the .ply are off by {in_file:.1e}")
expected = dict(zip(WRITERS, (True, True, True, False, False), strict=True))
raise SystemExit(0 if changed == expected and in_file < 1e-4 else "this has changed")
PYTHON
