#!/usr/bin/env bash
# diffusers' VaeImageProcessor: one pixel below 0 in a batch of renders, and none of them is scaled to [-1, 1].
#
# Version: diffusers 0.42.1 with torch 2.13.0.
# Guess: float images of [0, 1] become 2 x - 1 for the VAE, and a value of -0.001 becomes -1.002 or is clipped.
# Instead: preprocess looks at the smallest value of the whole batch. Below 0 it takes all of it for images of [-1, 1] and
#   returns them as they are, with a FutureWarning. Black then reaches the VAE as mid grey, in every image of the batch.
#   Arrays and lists do the same as tensors.
# Why it matters: renders of [0, 1] get such values from torch's bicubic resizing, which overshoots at edges, and from the
#   spherical harmonics of Gaussians. Whether view 3 has a sharp edge decides how views 1, 2 and 4 are encoded: refinement by
#   image-to-image and distillation start from washed-out images in some batches only. Clamp to [0, 1] before.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q diffusers==0.42.1 torch==2.13.0 pillow==12.0.0 numpy 2>/dev/null
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/env/bin/python" - <<'PYTHON'
import warnings

import torch
from diffusers.image_processor import VaeImageProcessor

processor = VaeImageProcessor()
y, x = torch.meshgrid(*[torch.linspace(-1, 1, 256)] * 2, indexing="ij")
blurred = ((0.6 - (x**2 + y**2).sqrt()) / 0.5).clamp(0, 1).expand(1, 3, -1, -1)  # white in the middle, black outside
sharp = (x**2 + y**2 < 0.36).float().expand(1, 3, -1, -1)
views = torch.cat([blurred, blurred, sharp, blurred])


def resized(images):
    return torch.nn.functional.interpolate(images, size=(128, 128), mode="bicubic", antialias=True)


def corner(images):
    """The black corner of the first view as the VAE gets it; the messages of the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pixels = processor.preprocess(images)
    return round(float(pixels[0, 0, 0, 0]), 3), [warning.category.__name__ for warning in caught]


small = resized(views)
touched = resized(blurred).clamp(0, 1).repeat(2, 1, 1, 1)
touched[1, 0, 64, 64] = -1e-6
cases = {
    "smooth views": resized(blurred).clamp(0, 1),
    "the same, one pixel of another view is -0.000001": touched,
    "the same as an array": touched.permute(0, 2, 3, 1).numpy(),
    f"smooth views and a sharp one, resized ({float(small.min()):.3f} to {float(small.max()):.3f})": small,
    "the same, clamped": small.clamp(0, 1),
}
found = []
for name, images in cases.items():
    found.append(corner(images))
    print(f"{name}: black is {found[-1][0]} for the VAE; warnings: {found[-1][1]}")
is_as_stated = [round(black, 1) for black, _ in found] == [-1.0, 0.0, 0.0, 0.0, -1.0]
raise SystemExit(0 if is_as_stated else "this has changed")
PYTHON
