"""Run by another environment's interpreter: the rewards of `image-reward`, one image and prompt at a time."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch

inputs, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
os.chdir(inputs / "reward")  # where transformers finds the folder bert-base-uncased

import ImageReward  # noqa: E402

model = ImageReward.load("ImageReward.pt", device="cpu", med_config="med_config.json")
names = model.state_dict().keys() ^ torch.load("ImageReward.pt", map_location="cpu").keys()
assert not names, f"its loader skips tensors of other names without a word: {sorted(names)[:3]}"
prompts = json.loads((inputs / "prompts.json").read_text())
files = sorted((inputs / "scored").glob("*.png"))
with torch.no_grad():
    reward = [[model.score(prompt, str(file)) for prompt in prompts] for file in files]
np.savez(out, reward=reward)
