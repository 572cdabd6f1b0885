"""Run by another environment's interpreter: clean-fid from folders of images, in its mode "clean".

It looks for NVIDIA's TorchScript file in /tmp. Here its own class reads one from another folder: the random weights in
pytorch-fid's network, traced.
"""

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from cleanfid import fid
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer
from PIL import Image

inputs, out = Path(sys.argv[1]), Path(sys.argv[2])
os.environ["TORCH_HOME"] = str(inputs / "inception")
from pytorch_fid.inception import InceptionV3  # noqa: E402


class Script(torch.nn.Module):
    """The part that clean-fid calls in mode "clean": `layers` on normalised pixels."""

    def __init__(self):
        super().__init__()
        blocks = InceptionV3(resize_input=False, normalize_input=False).blocks.eval()
        self.layers = torch.jit.trace(torch.nn.Sequential(*blocks), torch.zeros(2, 3, 299, 299))

    def forward(self, pixels):
        return self.layers(pixels)


with tempfile.TemporaryDirectory() as folder:
    torch.jit.script(Script()).save(os.path.join(folder, "inception-2015-12-05.pt"))
    network = InceptionV3W(folder, download=False)
folders = [str(inputs / name) for name in ("generated", "reference")]
options = {"mode": "clean", "num_workers": 0, "device": torch.device("cpu"), "verbose": False}
sets = [fid.get_folder_features(each, network, batch_size=8, **options) for each in folders]
with np.load(inputs / "features.npz") as arrays:
    a, b = arrays["a"], arrays["b"]
view, resize = np.asarray(Image.open(inputs / "generated" / "000.png")), build_resizer("clean")
np.savez(
    out,
    features_clean=np.concatenate(sets),
    fid_clean=fid.compute_fid(*folders, custom_feat_extractor=network, batch_size=8, **options),
    kid_clean=fid.kernel_distance(*sets),  # `compute_kid` takes no other network
    frechet=fid.fid_from_feats(a, b),
    kid=fid.kernel_distance(a, b[: len(a)], num_subsets=1),
    resized_512=resize(view),
    resized_64=resize(view[224:288, 224:288]),
    resized_37x91=resize(view[200:237, 200:291]),
)
