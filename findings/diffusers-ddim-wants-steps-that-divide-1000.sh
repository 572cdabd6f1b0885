#!/usr/bin/env bash
# diffusers' DDIM with a number of steps that does not divide 1000: more steps, worse samples, in every spacing.
#
# Version: diffusers 0.42.1 with torch 2.13.0.
# Guess: more steps give a finer grid over the same times, and a smaller error.
# Instead: the stride is 1000 // steps. With leading spacing, that of Stable Diffusion, 501 steps start at t = 501 and 334 at
#   667, from pure noise nevertheless. With trailing and linspace spacing the times are right, but `step` still goes from t to
#   t - 1000 // steps, which is not the next time: at 600 steps it covers 1 of 1.67. No error, no warning.
# Why it matters: a long run of DDIM is the usual reference for inversions, distillation and FID. Here the data are a normal
#   distribution of mean -0.8 and the denoiser is exact, so that only the solver can err: 100 and 500 steps miss the mean by 0.02,
#   600 steps by 0.16 and 0.25. Use steps that divide 1000, or a solver that steps from time to time, such as Euler with trailing.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q diffusers==0.42.1 torch==2.13.0 numpy 2>/dev/null
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/env/bin/python" - <<'PYTHON'
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler

MEAN, DEVIATION = -0.8, 0.5
SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
DDIM = {"clip_sample": False, "set_alpha_to_one": False}


def sampled(kind, steps, spacing, **settings):
    """The first time of a sampler, and the mean of what it makes of pure noise."""
    scheduler = kind(**SCHEDULE, timestep_spacing=spacing, **settings)
    scheduler.set_timesteps(steps)
    x = torch.randn(1, 1, 100, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        z = scheduler.scale_model_input(x, t)
        alpha = scheduler.alphas_cumprod[int(t)].double()
        # The exact noise prediction for data of N(MEAN, DEVIATION²).
        eps = (1 - alpha).sqrt() * (z - alpha.sqrt() * MEAN) / (alpha * DEVIATION**2 + 1 - alpha)
        x = scheduler.step(eps, t, x).prev_sample
    return int(scheduler.timesteps[0]), round(float(x.mean()), 2)


found = {}
for steps in (50, 100, 150, 300, 500, 501, 600):
    for spacing in ("leading", "trailing", "linspace"):
        found[steps, spacing] = sampled(DDIMScheduler, steps, spacing, **DDIM)
    print(f"DDIM, {steps} steps, first time and mean: " + ", ".join(f"{s} {found[steps, s]}" for s in ("leading", "trailing", "linspace")))
euler = sampled(EulerDiscreteScheduler, 600, "trailing")
print(f"Euler, 600 steps, trailing: {euler}")
errors = {key: abs(mean - MEAN) for key, (_, mean) in found.items()}
is_as_stated = (
    found[501, "leading"][0] == 501
    and max(errors[steps, spacing] for steps in (50, 100, 500) for spacing in ("leading", "trailing")) < 0.06
    and min(errors[steps, spacing] for steps in (501, 600) for spacing in ("leading", "trailing", "linspace")) > 0.1
    and abs(euler[1] - MEAN) < 0.06
)
raise SystemExit(0 if is_as_stated else "this has changed")
PYTHON
