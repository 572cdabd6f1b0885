"""Run by another environment's interpreter: torch-fidelity from folders of images."""

import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch_fidelity import calculate_metrics
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_kid import kid_features_to_metric

inputs, out = Path(sys.argv[1]), Path(sys.argv[2])
weights = next((inputs / "inception" / "hub" / "checkpoints").glob("weights-inception-*.pth"))
folders = [inputs / name for name in ("generated", "reference")]
images = [np.asarray(Image.open(file)) for folder in folders for file in sorted(folder.glob("*.png"))]
network = FeatureExtractorInceptionV3("inception", ["2048"], str(weights)).eval()
with torch.no_grad():
    batches = torch.tensor(np.stack(images)).permute(0, 3, 1, 2).split(8)
    features = torch.cat([network(batch)[0] for batch in batches]).numpy()
found = calculate_metrics(
    input1=str(folders[0]), input2=str(folders[1]), fid=True, kid=True, kid_subsets=1, kid_subset_size=len(images) // 2,
    feature_extractor_weights_path=str(weights), cuda=False, batch_size=8, cache=False, verbose=False,
)  # fmt: skip
with np.load(inputs / "features.npz") as arrays:
    a, b = (torch.tensor(arrays[name]) for name in "ab")
given = kid_features_to_metric(a, b[: len(a)], kid_subsets=1, kid_subset_size=len(a), verbose=False)
np.savez(
    out,
    kid=given["kernel_inception_distance_mean"],
    features_tf=features,
    fid_tf=found["frechet_inception_distance"],
    kid_tf=found["kernel_inception_distance_mean"],
)
