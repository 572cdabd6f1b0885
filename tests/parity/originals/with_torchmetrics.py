"""Run by another environment's interpreter: torchmetrics' CLIPScore of every image and prompt alone."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchmetrics.multimodal import CLIPScore

inputs, out = Path(sys.argv[1]), Path(sys.argv[2])
metric = CLIPScore(model_name_or_path=str(inputs / "clip" / "openai" / "clip-vit-large-patch14"))
prompts = json.loads((inputs / "prompts.json").read_text())
images = [torch.tensor(np.asarray(Image.open(file))) for file in sorted((inputs / "scored").glob("*.png"))]


def score(image, prompt):
    metric.reset()
    metric.update(image.permute(2, 0, 1), prompt)
    return float(metric.compute())


with torch.no_grad():
    np.savez(out, clip_l14=[[score(image, prompt) for prompt in prompts] for image in images])
