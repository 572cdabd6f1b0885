#!/usr/bin/env bash
# diffusers: the weight of a LoRA that is changed while it is fused stays in the U-Net for good.
#
# Version: diffusers 0.42.1 with peft 0.21.2, transformers 5.23.0, torch 2.13.0.
# Guess: set_adapters on a fused LoRA raises, or takes effect after unfuse_lora; unfusing and unloading gives the base network.
# Instead: unfuse_lora subtracts the LoRA at its present weight, not at the weight at which it was added. After fuse_lora(),
#   set_adapters(weight 0.5), unfuse_lora(), half of the LoRA remains in the base weights; at weight 0 all of it remains. Disabling,
#   unloading and deleting the LoRA do not remove it, and nothing warns. Also, fuse_lora(lora_scale=0.5) and unfuse_lora() leave
#   the LoRA at half its weight.
# Why it matters: scores over a list of LoRA weights, with fusing for speed, measure a sum of what was tried before. In variational
#   score distillation the pretrained network is the same object with its LoRA off, so the teacher itself is changed. Unfuse
#   before each change of weight, and compare with a forward pass from before.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q diffusers==0.42.1 peft==0.21.2 transformers==5.23.0 torch==2.13.0 numpy 2>/dev/null
cd "$folder"
HF_HUB_OFFLINE=1 "$folder/env/bin/python" - <<'PYTHON'
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig


def generator(seed):
    return torch.Generator().manual_seed(seed)


def network():
    """A small U-Net in eval mode with a LoRA that has been trained."""
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
    unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v"]), adapter_name="style")
    random = generator(1)
    with torch.no_grad():
        for name, weight in unet.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=random))
    return unet.eval()


x, text = torch.randn(1, 4, 8, 8, generator=generator(2)), torch.randn(1, 5, 16, generator=generator(3))


@torch.no_grad()
def output(unet):
    return unet(x, 300, text).sample


def base_output(unet):
    unet.unload_lora()
    return output(unet)


def off(one, other):
    return round(float((one - other).norm() / other.norm()), 3)


base, full = base_output(network()), output(network())
at_half = network()
at_half.set_adapters(["style"], [0.5])
half = output(at_half)
print(f"effect of the LoRA on the output: {off(full, base)} at weight 1, {off(half, base)} at weight 0.5")
found = {}
for weight in (1.0, 0.5, 0.0):
    unet = network()
    unet.fuse_lora()
    unet.set_adapters(["style"], [weight])
    unet.unfuse_lora()
    found[weight] = off(base_output(unet), base)
    print(f"fused at 1, set to {weight}, unfused, unloaded: off the base by {found[weight]}")
scaled = network()
scaled.fuse_lora(lora_scale=0.5)
scaled.unfuse_lora()
left = off(output(scaled), full), off(output(scaled), half)
print(f"fused at lora_scale 0.5 and unfused: off the LoRA at weight 1 by {left[0]}, at weight 0.5 by {left[1]}")
is_as_stated = (
    found == {1.0: 0.0, 0.5: off(half, base), 0.0: off(full, base)} and off(half, base) > 0.1 and left[0] > 0.1 and left[1] == 0
)
raise SystemExit(0 if is_as_stated else "this has changed")
PYTHON
