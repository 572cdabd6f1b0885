"""Run by another environment's interpreter: 100 cos by open_clip, by the names of its own architectures."""

import json
import sys
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from safetensors.torch import load_file

inputs, out = Path(sys.argv[1]), Path(sys.argv[2])
states = {
    "clip_l14": ("ViT-L-14", True, lambda: torch.jit.load(inputs / "clip" / "ViT-L-14.pt").state_dict()),
    "clip_b32": ("ViT-B-32", False, lambda: load_file(inputs / "clip" / "ViT-B-32" / "open_clip_model.safetensors")),
}
prompts = json.loads((inputs / "prompts.json").read_text())
files = sorted((inputs / "scored").glob("*.png"))
found = {}
for key, (name, quick, state) in states.items():
    plain = out.with_suffix(".pt")
    torch.save(dict(state()), plain)
    model, _, preprocess = open_clip.create_model_and_transforms(
        name, pretrained=str(plain), precision="fp32", force_quick_gelu=quick
    )
    plain.unlink()
    model.eval()
    with torch.no_grad():
        images = model.encode_image(torch.stack([preprocess(Image.open(file)) for file in files]), normalize=True)
        texts = model.encode_text(open_clip.get_tokenizer(name)(prompts), normalize=True)
    found[key] = (100 * images @ texts.T).numpy()
np.savez(out, **found)
