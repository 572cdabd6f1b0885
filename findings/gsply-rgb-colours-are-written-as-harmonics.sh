#!/usr/bin/env bash
# gsply: colours in RGB are written into f_dc unconverted, although sizes and opacities are converted on the way.
#
# Version: gsply 0.4.6 with numpy 2.3.5.
# Guess: a cloud knows that its colours are RGB (is_sh0_rgb), so writing converts them, as it converts linear sizes and
#   opacities to logarithms and logits.
# Instead: after denormalize() a written .ply is right; after to_rgb() f_dc, .spz and the compressed .ply get the RGB values
#   as they stand, without a warning, and reading takes them for harmonics: every colour c comes back as 0.5 + 0.282 c.
# Why it matters: black becomes mid grey and white 0.78: the asset is washed out in every viewer, and CLIP scores of its renders
#   fall, while positions and shapes are right. Call to_sh() before each write.
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

NUM = 64
rng = np.random.default_rng(0)
ramp = np.linspace(0, 1, NUM, dtype=np.float32)[:, None].repeat(3, 1)  # grey from black to white
means, quats = rng.normal(size=(NUM, 3)).astype(np.float32), np.tile(np.float32([1, 0, 0, 0]), (NUM, 1))
logs, logits = np.full((NUM, 3), -4, np.float32), np.full(NUM, 1, np.float32)
cloud = gsply.GSData.from_arrays(means, logs, quats, logits, gsply.rgb2sh(ramp), format="ply")


def colours(data):
    """Black, middle grey and white as a viewer shows them."""
    shown = np.sort(gsply.sh2rgb(data.sh0)[:, 0])
    return [round(float(shown[i]), 2) for i in (0, NUM // 2, NUM - 1)]


linear, rgb = cloud.copy().denormalize(), cloud.copy().to_rgb()
knows = linear.is_scales_linear and rgb.is_sh0_rgb
print("the objects know that their sizes are linear and their colours RGB:", knows)
found = {}
for name, data in {"as harmonics": cloud, "linear sizes": linear, "RGB": rgb}.items():
    gsply.plywrite("a.ply", data)
    gsply.write_spz("a.spz", data)
    back = gsply.plyread("a.ply")
    packed = gsply.decompress_from_bytes(gsply.compress_to_bytes(data))
    found[name] = [colours(back), colours(gsply.read_spz("a.spz")), colours(packed)]
    print(f"{name}: sizes {back.scales[0, 0]:.2f}, colours of .ply, .spz and compressed .ply: {found[name]}")
    assert abs(back.scales[0, 0] + 4) < 1e-4 and abs(back.opacities[0] - 1) < 1e-4
right = all(np.abs(np.subtract(shown, [0, 0.5, 1])).max() < 0.03 for shown in found["as harmonics"] + found["linear sizes"])
washed = all(np.abs(np.subtract(shown, [0.5, 0.64, 0.78])).max() < 0.03 for shown in found["RGB"])
raise SystemExit(0 if knows and right and washed else "this has changed")
PYTHON
