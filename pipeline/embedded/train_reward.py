"""Train the embedded reward model: ImageReward's class, small, by Bradley-Terry on pairs whose better side is known.

Each step asks two questions of every picture: is its caption better than a wrong one (other type, other colour, other
view, other relation: captions that are right elsewhere, so that the text alone tells nothing), and is it better than
the same picture spoiled. Afterwards rewards are standardised as ImageReward's are: mean 0 and deviation 1 over
undamaged pictures with right captions.
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
from pipeline.embedded.data import Data
from pipeline.embedded.reward_questions import Captions, Questions, encode, pictures_per_scene
from pipeline.embedded.training import Plan, fit, log

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
MOST_PICTURES = 400_000
"""Of the shared data; more would cost more time to tokenise than it would teach."""
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def vocabulary() -> list[str]:
    """BERT's special tokens, the world's words whole, and every letter, so that any text in ASCII has pieces."""
    words = {word for text in tokenizer.corpus() for word in re.findall(r"[a-z0-9]+", text.lower())}
    letters = string.ascii_lowercase + string.digits
    alphabet = [*letters, *string.punctuation, *("##" + letter for letter in letters)]
    return [*dict.fromkeys([*SPECIAL, *alphabet, *sorted(words)])]


def build_model(words: list[str], folder: Path) -> ImageReward:
    """A randomly initialised model; `vocab.txt` is written to `folder`, from where the tokenizer reads it."""
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
    """[3, B]: the right caption, the wrong one, and the right one on the spoiled picture."""
    states, spoiled = model.see(torch.cat([mild, bad])).chunk(2)
    ids = torch.cat([right, wrong, right])
    return model.judge(torch.cat([states, states, spoiled]), ids, ids > 0).view(3, -1)


def train_reward(model: ImageReward, pictures: Data, plan: Plan, *, batch: int = 512, compiled: bool = True) -> dict:
    """Bradley-Terry: -log σ(better - worse), on captions and on damage."""
    device = pictures.images.device.type
    count = min(len(pictures), MOST_PICTURES - MOST_PICTURES % pictures_per_scene(pictures))
    model.to(device).train()
    captions = Captions(model, pictures, count)
    log("reward", f"{count} pictures, vocabulary {model.config.vocab_size}")
    rewards = torch.compile(_rewards) if compiled else _rewards

    def step(_: int) -> tuple[Tensor, dict[str, Tensor]]:
        shuffled = torch.randperm(batch, device=device)  # so that every damage meets every reason
        asked = Questions(*(tensor[shuffled] for tensor in captions.draw(batch)))
        clean = pictures.images[asked.picture].float() / 255
        mild, bad, seen = damage.worse_and_worse(clean)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            good, wrong, spoiled = rewards(model, _pixels(mild), _pixels(bad), asked.right, asked.wrong).float()
        by_caption = _mean(F.softplus(wrong - good), asked.sure)
        by_damage = _mean(F.softplus(spoiled - good), seen)
        # Rewards are free up to a constant: hold the right ones near 0, or bfloat16 loses their differences.
        loss = by_caption + by_damage + 1e-3 * good.square().mean()
        return loss, {
            "caption": _mean((good > wrong).float(), asked.sure),
            "damage": _mean((good > spoiled).float(), seen),
        }

    done = fit("reward", list(model.parameters()), step, plan, lr=7e-4, warmup=300, weight_decay=0.02)
    model.eval()
    return done


def _pixels(images: Tensor) -> Tensor:
    """As the scorer would see the same picture in bytes."""
    return normalise((images * 255 + 0.5).clamp(0, 255).to(torch.uint8))


def _mean(values: Tensor, kept: Tensor) -> Tensor:
    return (values * kept).sum() / kept.sum().clamp(min=1)


def train(shop) -> dict:
    """The stage of build.py: train, standardise, save; returns the record."""
    folder = shop.out / "reward"
    model = build_model(vocabulary(), folder)
    pictures = shop.pictures()
    batch = 512 if shop.device == "cuda" else 32  # a CPU can only try whether it runs
    record = train_reward(model, pictures, shop.plan("reward"), batch=batch, compiled=shop.compiled)
    raw = right_rewards(model, pictures, min(8192, len(pictures)))
    save_model(folder, model, float(raw.mean()), float(raw.std()))
    return record | {"mean": float(raw.mean()), "std": float(raw.std())}


@torch.no_grad()
def score(model: ImageReward, images: Tensor, ids: Tensor) -> Tensor:
    """Raw rewards [N] of pictures [N,3,64,64] in [0,1] for ids [N, tokens], in float32."""
    parts = zip(images.split(512), ids.split(512), strict=True)
    return torch.cat([model(_pixels(part), text, text > 0) for part, text in parts])


def right_rewards(model: ImageReward, pictures: Data, count: int) -> Tensor:
    """Raw rewards of random undamaged pictures with a right caption each."""
    index = torch.randperm(len(pictures))[:count].tolist()
    ids = encode(model, [pictures.captions[i][0] for i in index])
    images = pictures.images[torch.tensor(index, device=pictures.images.device)].float() / 255
    return score(model, images, ids.to(images.device))


@torch.no_grad()
def measure(model: ImageReward, pictures: Data, *, seed: int = 0) -> dict[str, float]:
    """Shares of pairs in the right order on `pictures`, by kind; float32, undamaged pictures for the captions."""
    torch.manual_seed(seed)
    device = pictures.images.device
    captions = Captions(model, pictures, len(pictures))
    clean = pictures.images.float() / 255
    result: dict[str, float] = {}
    for reason in ("type", "colour", "view", "relation"):
        asked = captions.ask(captions.pools[reason], reason)
        asked = Questions(*(tensor[asked.sure] for tensor in asked))
        if len(asked.picture):
            seen = clean[asked.picture]
            better = score(model, seen, asked.right) > score(model, seen, asked.wrong)
            result[f"right_over_wrong_{reason}"] = float(better.float().mean())
    result["right_over_wrong_caption"] = float(np.mean([result[key] for key in sorted(result)]))
    right = captions.ids[:, 0]
    clean_rewards = score(model, clean, right)
    orders = []
    for name, spoil in damage.DAMAGES.items():
        spoiled = spoil(clean, 0.4 + 0.6 * torch.rand(len(clean), device=device))
        seen = damage.visible(name, clean, spoiled)
        better = (clean_rewards > score(model, spoiled, right))[seen]
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
    """The gates of build.py's model: unseen scenes of seen combinations, and held-out ones (`reward_heldout_...`)."""
    model = ImageReward.load(weights / "reward", device)
    result: dict[str, float] = {}
    for prefix, heldout in (("reward_", False), ("reward_heldout_", True)):
        pictures = data.make(500, 8, seed=900_020 + heldout, device=device, heldout=heldout)
        result |= {prefix + name: value for name, value in measure(model, pictures).items()}
    return result
