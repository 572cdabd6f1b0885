#!/usr/bin/env bash
# open_clip's evaluation transform and images with transparency: the background depends on the size of the image.
#
# Version: open_clip_torch 3.3.0 with torchvision 0.24.1 and pillow 12.0.0; transformers 5.0.0 for comparison.
# Guess: a transparent background gets one defined colour, the same for every size of the same picture.
# Instead: the transform resizes before it converts to RGB. Pillow resizes RGBA with premultiplied alpha, so transparent
#   pixels become black; at the network's own size (224) nothing is resized, and the hidden RGB under alpha = 0 appears.
#   transformers' processor for the same network converts first, so it shows the hidden RGB at every size.
# Why it matters: renderers write RGBA with white (or black, or garbage) under alpha = 0. The same asset rendered at 224 and
#   at 512 px gets another background, hence another CLIP score, and two CLIP libraries disagree. Composite over a stated
#   colour before scoring; this project renders over white and passes RGB only.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q open_clip_torch==3.3.0 torch==2.9.1 torchvision==0.24.1 pillow==12.0.0 transformers==5.0.0 \
  numpy 2>/dev/null
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/env/bin/python" - <<'PYTHON'
import numpy as np
import open_clip
import torch
from PIL import Image
from transformers import CLIPImageProcessor

MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD))
of_open_clip = open_clip.image_transform(224, is_train=False)
of_transformers = CLIPImageProcessor(size={"shortest_edge": 224}, crop_size={"height": 224, "width": 224})


def picture(size):
    """A green disc on a transparent background whose hidden colour is white."""
    y, x = np.mgrid[:size, :size] / size - 0.5
    rgba = np.full((size, size, 4), 255, np.uint8)
    disc = x**2 + y**2 < 0.1
    rgba[disc, :3] = (0, 128, 0)
    rgba[..., 3] = 255 * disc
    return Image.fromarray(rgba, "RGBA")


def corner(pixels):
    """The colour of the background as the network sees it, 0 to 255."""
    return [round(float(v)) for v in ((pixels * STD + MEAN) * 255)[:, 5, 5]]


found = {}
for size in (224, 256, 512):
    image = picture(size)
    theirs = of_transformers(images=image, return_tensors="pt")["pixel_values"][0]
    found[size] = corner(of_open_clip(image)), corner(theirs)
    print(f"{size} px: background for open_clip {found[size][0]}, for transformers {found[size][1]}")
expected = {224: ([255] * 3, [255] * 3), 256: ([0] * 3, [255] * 3), 512: ([0] * 3, [255] * 3)}
raise SystemExit(0 if found == expected else f"this has changed: expected {expected}")
PYTHON
