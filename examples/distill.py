# %% [markdown]
"""
# Distil an asset in Python

Text → 3D Gaussians → scores, with the bundled models: two minutes on a laptop, no GPU, no download.

This page is `examples/distill.py`, executed. As a command: `uv run python examples/distill.py "a red mushroom"`
"""

# %%
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchmetrics import MetricCollection
from tqdm import tqdm

import evaluation
import sctd
from pipeline.embedded import weights_folder

torch.set_num_threads(1)  # for these small models, more threads are slower on a busy machine
prompt, iterations = "a red mushroom", 300

# %% tags=["script"]
import argparse

parser = argparse.ArgumentParser(description="Distil an asset from a prompt and score it.")
parser.add_argument("prompt", nargs="?", default=prompt)
parser.add_argument("--iterations", type=int, default=iterations)
prompt, iterations = vars(parser.parse_args()).values()

# %% [markdown]
# A recipe holds all settings of a run. `sctd.embedded()` is for the bundled models, `sctd.paper()` for Stable Diffusion
# 2.1. To use another objective: `sctd.for_objective(recipe, "sds")`.

# %%
weights = weights_folder()
recipe = sctd.with_overrides(sctd.embedded(), {"iterations": iterations})
prior = sctd.StableDiffusionPrior.load(weights / "prior")
clip = evaluation.ClipScorer.load(weights / "scorer")

# %% [markdown]
# Point-E turns the CLIP vector of the prompt into a coloured point cloud, which becomes the initial Gaussians.

# %%
point_e = sctd.PointE.load(weights / "shape", clip.text_features)
generator = torch.Generator().manual_seed(0)
initial = sctd.initial_gaussians(recipe.initialization, prompt, generator, point_e)


def strip(gaussians: sctd.Gaussians) -> Image.Image:
    """Eight views on white, side by side."""
    cameras = sctd.orbit(8, 15.0, radius=3.5, fov_y_radians=0.55, size=96)
    views = evaluation.to_bytes(sctd.render_on_white(gaussians, cameras))
    return Image.fromarray(np.hstack(views))


strip(initial)

# %% [markdown]
# `sctd.optimize` yields one `Step` per iteration of the distillation. The caller decides to show, save or stop.

# %%
steps = sctd.optimize(recipe, prior, initial, prompt, seed=0)
for step in (progress := tqdm(steps, total=iterations)):
    progress.set_postfix(gaussians=step.num_gaussians, refresh=False)
Path("asset.ply").write_bytes(sctd.to_ply(step.gaussians))
image = strip(step.gaussians)
image.save("asset.png")
image

# %% [markdown]
# Scores as in the leaderboard, which averages them over prompts: 120 views at the resolution of the prior.

# %%
cameras = sctd.PROTOCOLS["paper120"](prior.image_size)
reward = evaluation.ImageReward.load(weights / "reward")
metrics = MetricCollection(evaluation.CLIPScore(clip), evaluation.ImageRewardScore(reward))
metrics.update(evaluation.to_bytes(sctd.render_on_white(step.gaussians, cameras)), prompt)
for name, score in metrics.compute().items():
    print(f"{name} {score:.2f}")
