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
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from evaluation.blip import RewardConfig
from evaluation.image_reward import ImageReward, load_tokenizer, normalise
from pipeline.embedded import damage, data, tokenizer, world
from pipeline.embedded.data import VIEW_WORDS, Data
from pipeline.embedded.training import Plan, fit, log

SIZES = RewardConfig(
    image_size=64,
    patch_size=8,
    vision_width=192,
    vision_layers=6,
    vision_heads=6,
    text_width=192,
    text_layers=4,
    text_heads=6,
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
WRONG = ("type", "colour", "view", "relation", "any")
_RELATION = re.compile(r" (on top of|on|next to) ")
OVERHEAD = 1 + VIEW_WORDS.index("overhead view")


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


class Questions(NamedTuple):
    """For every picture of a batch the right caption, a wrong one, and whether the wrong one is surely wrong."""

    right: Tensor  # int64 [B, tokens]
    wrong: Tensor  # int64 [B, tokens]
    sure: Tensor  # bool [B]


class Captions:
    """The captions of N pictures as ids on the device, and which of them are wrong for which picture, and why."""

    def __init__(self, model: ImageReward, pictures: Data, count: int) -> None:
        device = pictures.images.device
        texts = [caption for pair in pictures.captions[:count] for caption in pair]
        keys = pictures.keys[:count]
        swapped = [other_relation(text, keys[i // 2], exchange=i % 4 < 2) for i, text in enumerate(texts)]
        length = model.config.max_length
        self.ids = _encode(model, texts, length).view(count, 2, length).to(device)
        self.swapped = _encode(model, [text or "" for text in swapped], length).view(count, 2, length).to(device)
        self.has_swapped = torch.tensor([text is not None for text in swapped], device=device).view(count, 2)
        # Indices of type and colour, -1 where there are two objects or nothing is said.
        kinds, colours = world.TYPES, list(world.COLORS)
        self.kind = torch.tensor([kinds.index(k[0]) if k[0] in kinds else -1 for k in keys], device=device)
        self.colour = torch.tensor([colours.index(k[1]) if k[1] in colours else -1 for k in keys], device=device)
        fronts = torch.tensor([world.has_front(kind) for kind in kinds], device=device)
        self.has_front = fronts[self.kind] & (self.kind >= 0)
        self.key, self.view = pictures.key_ids[:count], pictures.view_ids[:count]
        self.siblings = pictures_per_scene(pictures)
        self.by_kind, self.by_colour = _Groups(self.kind), _Groups(self.colour)

    def ask(self, index: Tensor, reason: str) -> Questions:
        """One of the two captions of each picture [B] against one that is wrong for `reason`."""
        batch, device = len(index), index.device
        mine, theirs = torch.randint(2, (2, batch), device=device).unbind()
        right = self.ids[index, mine]
        if reason == "relation":
            return Questions(right, self.swapped[index, mine], self.has_swapped[index, mine])
        if reason == "type":
            other = self.by_colour.member_with(self.colour[index])
            sure = (self.kind[other] != self.kind[index]) & (self.kind[index] >= 0) & (self.kind[other] >= 0)
        elif reason == "colour":
            other = self.by_kind.member_with(self.kind[index])
            said = (self.colour[index] >= 0) & (self.colour[other] >= 0) & (self.kind[index] >= 0)
            sure = said & (self.colour[other] != self.colour[index])
        elif reason == "view":
            other = index - index % self.siblings + torch.randint(self.siblings, (batch,), device=device)
            asked, seen = self.view[index, mine], self.view[other, theirs]
            # Front and back of a ball are one; above is above for everything.
            matters = self.has_front[index] | ((asked == OVERHEAD) ^ (seen == OVERHEAD))
            sure = (asked > 0) & (seen > 0) & (asked != seen) & matters
        else:
            other = torch.randint(len(self.ids), (batch,), device=device)
            sure = self.key[other] != self.key[index]
        return Questions(right, self.ids[other, theirs], sure)

    def ask_anything(self, index: Tensor) -> Questions:
        """A fifth of the batch for each reason; where that reason does not apply, another picture's caption."""
        parts = []
        for reason, part in zip(WRONG, index.tensor_split(len(WRONG)), strict=True):
            first, fallback = self.ask(part, reason), self.ask(part, "any")
            keep = first.sure[:, None]
            parts.append(
                Questions(
                    torch.where(keep, first.right, fallback.right),
                    torch.where(keep, first.wrong, fallback.wrong),
                    first.sure | fallback.sure,
                )
            )
        return Questions(*(torch.cat(part) for part in zip(*parts, strict=True)))


class _Groups:
    """Members of equal labels [N], so that a random one can be drawn for every picture of a batch at once."""

    def __init__(self, labels: Tensor) -> None:
        self.order = labels.argsort(stable=True)
        self.counts = torch.bincount(labels + 1)
        self.starts = self.counts.cumsum(0) - self.counts

    def member_with(self, labels: Tensor) -> Tensor:
        count = self.counts[labels + 1]
        place = (torch.rand(len(labels), device=labels.device) * count).long()
        return self.order[self.starts[labels + 1] + place.clamp(max=count - 1)]


def other_relation(caption: str, key: world.Key, exchange: bool) -> str | None:
    """What is wrong of a pair but said of others: its two colours exchanged, or "on" for "next to" and back.

    `exchange` prefers the first. None where the caption is of one object, or where either sentence would never be true
    in training: then the words alone would tell.
    """
    if key[0] not in world.RELATIONS:
        return None
    relation, upper, upper_colour, _, _, lower, lower_colour, *_ = key
    match = _RELATION.search(caption)
    left, right = caption[: match.start()], caption[match.end() :]
    swapped = [(upper, lower_colour), (lower, upper_colour)]
    may_exchange = upper_colour != lower_colour and all(
        colour in world.REGISTRY[kind].colors and (kind, colour) not in world.HELD_OUT for kind, colour in swapped
    )
    may_change = lower in world.TOPS and lower in world.BASES
    if may_exchange and (exchange or not may_change):
        left = _recolour(left, upper_colour, lower_colour)
        return left + match[0] + _recolour(right, lower_colour, upper_colour)
    return left + (" on " if relation == "next to" else " next to ") + right if may_change else None


def _recolour(words: str, old: str, new: str) -> str:
    article = "an " if new[0] in "aeiou" else "a "
    return re.sub(rf"\ban? {old}\b", article + new, words, count=1)


def _encode(model: ImageReward, texts: list[str], length: int) -> Tensor:
    """int64 [texts, length] ids; 0 is padding."""
    batch = model.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="np")
    return torch.from_numpy(batch.input_ids.astype(np.int64))


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
        index = torch.randint(count, (batch,), device=device)
        asked = captions.ask_anything(index)
        order = torch.randperm(batch, device=device)  # so that kinds of damage and of captions mix
        clean = pictures.images[index[order]].float() / 255
        mild, bad, seen = damage.worse_and_worse(clean)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            good, wrong, spoiled = rewards(
                model, _pixels(mild), _pixels(bad), asked.right[order], asked.wrong[order]
            ).float()
        by_caption = _mean(F.softplus(wrong - good), asked.sure[order])
        by_damage = _mean(F.softplus(spoiled - good), seen)
        # Rewards are free up to a constant: hold the right ones near 0, or bfloat16 loses their differences.
        loss = by_caption + by_damage + 1e-3 * good.square().mean()
        return loss, {
            "caption": _mean((good > wrong).float(), asked.sure[order]),
            "damage": _mean((good > spoiled).float(), seen),
        }

    done = fit("reward", list(model.parameters()), step, plan, lr=7e-4, warmup=300, weight_decay=0.02)
    model.eval()
    return done


def pictures_per_scene(pictures: Data) -> int:
    return len(pictures) // (int(pictures.scene_index[-1]) + 1)


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
    ids = _encode(model, [pictures.captions[i][0] for i in index], model.config.max_length)
    images = pictures.images[torch.tensor(index, device=pictures.images.device)].float() / 255
    return score(model, images, ids.to(images.device))


@torch.no_grad()
def measure(model: ImageReward, pictures: Data, *, seed: int = 0) -> dict[str, float]:
    """Shares of pairs in the right order on `pictures`, by kind; float32, undamaged pictures for the captions."""
    torch.manual_seed(seed)
    device = pictures.images.device
    captions = Captions(model, pictures, len(pictures))
    index = torch.arange(len(pictures), device=device)
    clean = pictures.images.float() / 255
    result: dict[str, float] = {}
    for reason in WRONG[:-1]:
        asked = captions.ask(index, reason)
        if asked.sure.any():
            sure = asked.sure
            better = score(model, clean[sure], asked.right[sure]) > score(model, clean[sure], asked.wrong[sure])
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
    result = {}
    for prefix, heldout in (("reward_", False), ("reward_heldout_", True)):
        pictures = data.make(500, 8, seed=900_020 + heldout, device=device, heldout=heldout)
        result |= {prefix + name: value for name, value in measure(model, pictures).items()}
    return result
