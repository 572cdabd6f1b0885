"""Train the bundled reward model: a small ImageReward, with the Bradley-Terry loss on pairs whose better side is known.

Each step compares two pairs per image: its caption against a wrong one (`caption_pairs`), and the image against a
damaged version of itself (`damage`). Afterwards rewards are standardised as ImageReward's are: mean 0 and standard
deviation 1 over undamaged images with right captions.
"""

import dataclasses
import re
import string
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.blip import RewardConfig
from evaluation.image_reward import ImageReward, load_tokenizer, normalise
from pipeline.embedded import damage, data, tokenizer
from pipeline.embedded.caption_pairs import CaptionPairs, Captions, encode, images_per_scene
from pipeline.embedded.data import Data
from pipeline.embedded.training import TrainingPlan, fit, log
from pipeline.embedded.training_context import TrainingContext

SIZES = RewardConfig(
    image_size=64,
    patch_size=8,
    vision_width=128,
    vision_layers=5,
    vision_heads=4,
    text_width=96,
    text_layers=3,
    text_heads=3,
    text_hidden=384,
    text_positions=40,
    max_length=35,
    head_widths=(128, 64, 32, 16),
    mean=0.0,
    std=1.0,
)
MAX_IMAGES = 400_000
"""Images of the shared data used; more would cost time to tokenise without improving the model."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def vocabulary() -> list[str]:
    """BERT's special tokens, the world's words, and every character, so that any ASCII text can be tokenised."""
    words = {word for text in tokenizer.corpus() for word in re.findall(r"[a-z0-9]+", text.lower())}
    letters = string.ascii_lowercase + string.digits
    alphabet = [*letters, *string.punctuation, *("##" + letter for letter in letters)]
    return [*dict.fromkeys([*SPECIAL, *alphabet, *sorted(words)])]


def build_model(words: list[str], folder: Path) -> ImageReward:
    """A randomly initialised model; `vocab.txt` is written to `folder`, where the tokenizer reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    config = dataclasses.replace(SIZES, vocab_size=len(words))
    model = ImageReward(config, load_tokenizer(folder / "vocab.txt"))
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 or name.endswith("cls_token"):
            torch.nn.init.trunc_normal_(parameter, std=0.02 if "mlp.layers" not in name else parameter.shape[1] ** -0.5)
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    return model


def save_model(folder: Path, model: ImageReward, mean: float, std: float) -> None:
    """Write config.json with the standardisation and model.safetensors (fp16) beside vocab.txt."""
    from safetensors.torch import save_file

    state = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(dataclasses.replace(model.config, mean=mean, std=std).to_json())


def _rewards(model: ImageReward, mild: Tensor, bad: Tensor, right: Tensor, wrong: Tensor) -> Tensor:
    """[3, B]: the right caption, the wrong one, and the right one on the damaged image."""
    states, damaged = model.encode_image(torch.cat([mild, bad])).chunk(2)
    ids = torch.cat([right, wrong, right])
    return model.raw_reward(torch.cat([states, states, damaged]), ids, ids > 0).view(3, -1)


def train_reward(
    model: ImageReward, dataset: Data, plan: TrainingPlan, *, batch: int = 512, compiled: bool = True
) -> dict:
    """Minimise the Bradley-Terry loss -log σ(better - worse) over captions and damages."""
    device = dataset.images.device.type
    count = min(len(dataset), MAX_IMAGES - MAX_IMAGES % images_per_scene(dataset))
    model.to(device).train()
    captions = Captions(model, dataset, count)
    log("reward", f"{count} images, vocabulary {model.config.vocab_size}")
    rewards = torch.compile(_rewards) if compiled else _rewards

    def step(_: int) -> tuple[Tensor, dict[str, Tensor]]:
        shuffled = torch.randperm(batch, device=device)  # so that every damage is combined with every reason
        pairs = CaptionPairs(*(tensor[shuffled] for tensor in captions.draw(batch)))
        clean = dataset.images[pairs.image].float() / 255
        mild, bad, visible = damage.damaged_pairs(clean)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            good, wrong, damaged = rewards(model, _pixels(mild), _pixels(bad), pairs.right, pairs.wrong).float()
        by_caption = _mean(F.softplus(wrong - good), pairs.sure)
        by_damage = _mean(F.softplus(damaged - good), visible)
        # Rewards are defined up to a constant. Keep the right ones near 0, or bfloat16 loses their differences.
        loss = by_caption + by_damage + 1e-3 * good.square().mean()
        return loss, {
            "caption": _mean((good > wrong).float(), pairs.sure),
            "damage": _mean((good > damaged).float(), visible),
        }

    done = fit("reward", list(model.parameters()), step, plan, lr=7e-4, warmup=300, weight_decay=0.02)
    model.eval()
    return done


def _pixels(images: Tensor) -> Tensor:
    """Normalise images in [0,1] after rounding them to bytes, as the scorer does."""
    return normalise((images * 255 + 0.5).clamp(0, 255).to(torch.uint8))


def _mean(values: Tensor, kept: Tensor) -> Tensor:
    return (values * kept).sum() / kept.sum().clamp(min=1)


def train(context: TrainingContext) -> dict:
    """The stage of build.py: train, standardise, save; returns the record."""
    folder = context.out / "reward"
    model = build_model(vocabulary(), folder)
    dataset = context.training_data()
    batch = 512 if context.device == "cuda" else 32  # on a CPU only a test whether it runs
    record = train_reward(model, dataset, context.plan("reward"), batch=batch, compiled=context.compiled)
    raw = right_rewards(model, dataset, min(8192, len(dataset)))
    save_model(folder, model, float(raw.mean()), float(raw.std()))
    return record | {"mean": float(raw.mean()), "std": float(raw.std())}


@torch.no_grad()
def score(model: ImageReward, images: Tensor, ids: Tensor) -> Tensor:
    """Raw rewards [N] of images [N,3,64,64] in [0,1] for ids [N, tokens], in float32."""
    parts = zip(images.split(512), ids.split(512), strict=True)
    return torch.cat([model(_pixels(part), text, text > 0) for part, text in parts])


def right_rewards(model: ImageReward, dataset: Data, count: int) -> Tensor:
    """Raw rewards of random undamaged images with a right caption each."""
    index = torch.randperm(len(dataset))[:count].tolist()
    ids = encode(model, [dataset.captions[i][0] for i in index])
    images = dataset.images[torch.tensor(index, device=dataset.images.device)].float() / 255
    return score(model, images, ids.to(images.device))


@torch.no_grad()
def measure(model: ImageReward, dataset: Data, *, seed: int = 0) -> dict[str, float]:
    """Shares of pairs in the right order on `dataset`, by kind; in float32, with undamaged images for the captions."""
    torch.manual_seed(seed)
    device = dataset.images.device
    captions = Captions(model, dataset, len(dataset))
    clean = dataset.images.float() / 255
    result: dict[str, float] = {}
    for reason in ("type", "colour", "view", "relation"):
        pairs = captions.pairs_for(captions.pools[reason], reason)
        pairs = CaptionPairs(*(tensor[pairs.sure] for tensor in pairs))
        if len(pairs.image):
            images = clean[pairs.image]
            better = score(model, images, pairs.right) > score(model, images, pairs.wrong)
            result[f"right_over_wrong_{reason}"] = float(better.float().mean())
    result["right_over_wrong_caption"] = float(np.mean([result[key] for key in sorted(result)]))
    right = captions.ids[:, 0]
    clean_rewards = score(model, clean, right)
    orders = []
    for name, apply in damage.DAMAGES.items():
        damaged = apply(clean, 0.4 + 0.6 * torch.rand(len(clean), device=device))
        visible = damage.visible(name, clean, damaged)
        better = (clean_rewards > score(model, damaged, right))[visible]
        result[f"clean_over_{name}"] = float(better.float().mean())
        orders.append(result[f"clean_over_{name}"])
    result["clean_over_damaged"] = float(np.mean(orders))
    blurred = [
        score(model, damage.blur_by(clean, torch.full((len(clean),), pixels, device=device)), right).mean()
        for pixels in (0.5, 1.0, 1.5, 2.0, 3.0, 4.0)
    ]
    means = torch.stack([clean_rewards.mean(), *blurred])
    result["monotone_in_blur"] = float((means.diff() < 0).float().mean())
    result["mean"] = float((clean_rewards.mean() - model.config.mean) / model.config.std)
    result["std"] = float(clean_rewards.std() / model.config.std)
    return result


def gate(weights: Path, device: str) -> dict[str, float]:
    """The reward gates: new scenes of trained combinations, and of held-out ones (`reward_heldout_…`)."""
    model = ImageReward.load(weights / "reward", device)
    result: dict[str, float] = {}
    for prefix, heldout in (("reward_", False), ("reward_heldout_", True)):
        dataset = data.generate(500, 8, seed=900_020 + heldout, device=device, heldout=heldout)
        result |= {prefix + name: value for name, value in measure(model, dataset).items()}
    return result
