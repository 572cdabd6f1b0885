"""Run by another environment's interpreter: pytorch-fid from folders of images, its weights in torch.hub's folder."""

import os
import sys
from pathlib import Path

import numpy as np
import torch

inputs, out = Path(sys.argv[1]), Path(sys.argv[2])
os.environ["TORCH_HOME"] = str(inputs / "inception")
from pytorch_fid import fid_score  # noqa: E402
from pytorch_fid.inception import InceptionV3  # noqa: E402

folders, device = [str(inputs / name) for name in ("generated", "reference")], torch.device("cpu")
files = [file for folder in folders for file in sorted(Path(folder).glob("*.png"))]
with np.load(inputs / "features.npz") as arrays:
    a, b = arrays["a"], arrays["b"]
np.savez(
    out,
    features_half_pixel=fid_score.get_activations(files, InceptionV3(), batch_size=8, num_workers=0),
    fid_half_pixel=fid_score.calculate_fid_given_paths(folders, batch_size=8, device=device, dims=2048, num_workers=0),
    frechet=fid_score.calculate_frechet_distance(
        a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False)
    ),
)
