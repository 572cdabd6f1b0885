"""Run by another environment's interpreter: 100 cos by OpenAI's code, in float32, from its checkpoint file."""

import json
import sys
from pathlib import Path

import clip
import numpy as np
import torch
from PIL import Image

inputs, out = Path(sys.argv[1]), Path(sys.argv[2])
model, preprocess = clip.load(str(inputs / "clip" / "ViT-L-14.pt"), device="cpu")
prompts = json.loads((inputs / "prompts.json").read_text())
files = sorted((inputs / "scored").glob("*.png"))
with torch.no_grad():
    images = model.encode_image(torch.stack([preprocess(Image.open(file)) for file in files]))
    texts = model.encode_text(clip.tokenize(prompts))
images, texts = (each / each.norm(dim=-1, keepdim=True) for each in (images, texts))
np.savez(out, clip_l14=(100 * images @ texts.T).numpy())
