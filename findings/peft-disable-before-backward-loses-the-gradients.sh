#!/usr/bin/env bash
# peft through diffusers: a loss that was computed with a LoRA has no gradients if the LoRA is off when backward() runs.
#
# Version: diffusers 0.42.1 with peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Guess: disable_adapters() concerns later forward passes. A graph that exists keeps its gradients, or backward() raises.
# Instead: disable_adapters() sets requires_grad of the LoRA's weights to False, and a leaf is given no gradient that does
#   not require one at that moment. backward() of the earlier loss ends without a word, and every .grad is None; if another
#   part of the loss can be differentiated, an optimizer step then trains that part alone. Turned on again before
#   backward(), all gradients are there. Turning on also thaws weights that the user had frozen.
# Why it matters: variational score distillation needs the LoRA's loss and, from the same network with the LoRA off, the
#   teacher's prediction. If the teacher comes between the loss and backward(), the LoRA never learns, and the run looks
#   like classifier score distillation instead of failing. Call the teacher first, or keep two networks that share weights.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q diffusers==0.42.1 peft==0.21.2 transformers==5.23.0 torch==2.13.0 numpy 2>/dev/null
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/env/bin/python" - <<'PYTHON'
import warnings

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig

torch.manual_seed(0)
unet = UNet2DConditionModel(
    sample_size=8,
    block_out_channels=(32,),
    layers_per_block=1,
    down_block_types=("CrossAttnDownBlock2D",),
    up_block_types=("CrossAttnUpBlock2D",),
    cross_attention_dim=16,
    attention_head_dim=4,
    norm_num_groups=8,
)
unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v"]))
unet.eval()
lora = {name: weight for name, weight in unet.named_parameters() if "lora" in name}
x, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 16)
bias = torch.nn.Parameter(torch.zeros(1))  # another part of the loss that learns


def gradients(order):
    """How many weights of the LoRA have a gradient after backward(), and whether the other part has one."""
    for weight in (*lora.values(), bias):
        weight.grad = None
    loss = (unet(x, 300, text).sample + bias).square().mean()
    if order != "on":
        unet.disable_adapters()
        with torch.no_grad():
            unet(x, 300, text)  # the teacher
    if order == "on again":
        unet.enable_adapters()
    loss.backward()
    unet.enable_adapters()
    return sum(weight.grad is not None for weight in lora.values()), bias.grad is not None


with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = {order: gradients(order) for order in ("on", "off", "on again")}
for order, (number, other) in found.items():
    print(f"LoRA {order} at backward(): {number} of {len(lora)} weights have a gradient, the other part: {other}")
print(f"warnings: {len(caught)}")
frozen = next(iter(lora.values()))
frozen.requires_grad_(False)
unet.disable_adapters()
unet.enable_adapters()
print(f"a weight that was frozen by hand requires a gradient after off and on: {frozen.requires_grad}")
whole = (len(lora), True)
is_as_stated = found == {"on": whole, "off": (0, True), "on again": whole} and not caught and frozen.requires_grad
raise SystemExit(0 if is_as_stated else "this has changed")
PYTHON
