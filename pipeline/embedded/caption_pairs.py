"""Caption pairs for training the reward model: a right caption of an image, and one that is wrong for a known reason.

Wrong captions are right captions of other images (or of two objects with their colours exchanged). So every text is
right as often as it is wrong, and the text alone carries no information.
"""

import re
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from evaluation.image_reward import ImageReward
from pipeline.embedded import world
from pipeline.embedded.data import VIEW_WORDS, Data

SHARES = {"type": 0.2, "colour": 0.15, "view": 0.25, "relation": 0.3, "any": 0.1}
"""Reasons why a caption is wrong, and their shares of a batch, larger for harder ones. "any" is another key."""
OVERHEAD = 1 + VIEW_WORDS.index("overhead view")
_RELATION = re.compile(r" (on top of|on|next to) ")


class CaptionPairs(NamedTuple):
    """For every image of a batch a right caption, a wrong one, and whether the wrong one is certainly wrong."""

    image: Tensor  # int64 [B], index of the image
    right: Tensor  # int64 [B, tokens]
    wrong: Tensor  # int64 [B, tokens]
    sure: Tensor  # bool [B]


class Captions:
    """The captions of N images as token ids on the device, and which are wrong for which image, by reason."""

    def __init__(self, model: ImageReward, dataset: Data, count: int) -> None:
        device = dataset.images.device
        texts = [caption for pair in dataset.captions[:count] for caption in pair]
        keys = dataset.keys[:count]
        swapped = [other_relation(text, keys[i // 2], exchange=i % 4 > 0) for i, text in enumerate(texts)]
        self.ids = encode(model, texts).view(count, 2, -1).to(device)
        self.swapped = encode(model, [text or "" for text in swapped]).view(count, 2, -1).to(device)
        self.has_swapped = torch.tensor([text is not None for text in swapped], device=device).view(count, 2)
        # Indices of type and colour; -1 for two objects, or if the caption names none.
        kinds, colours = world.TYPES, list(world.COLORS)
        self.kind = torch.tensor([kinds.index(k[0]) if k[0] in kinds else -1 for k in keys], device=device)
        self.colour = torch.tensor([colours.index(k[1]) if k[1] in colours else -1 for k in keys], device=device)
        fronts = torch.tensor([world.has_front(kind) for kind in kinds], device=device)
        self.has_front = fronts[self.kind] & (self.kind >= 0)
        self.key, self.view = dataset.key_ids[:count], dataset.view_ids[:count]
        self.siblings = images_per_scene(dataset)
        self.by_kind, self.by_colour = _Groups(self.kind), _Groups(self.colour)
        single = self.kind >= 0
        eligible = {
            "type": single,
            "colour": single & (self.colour >= 0),
            "view": (self.view > 0).any(1) & (self.has_front | (self.view == OVERHEAD).any(1)),
            "relation": self.has_swapped.any(1),
            "any": torch.ones_like(single),
        }
        self.pools = {reason: where.nonzero()[:, 0] for reason, where in eligible.items()}

    def draw(self, batch: int) -> CaptionPairs:
        """Random images for each reason according to its share. The share of a reason without images goes to "any"."""
        counts = {reason: round(share * batch) for reason, share in SHARES.items() if len(self.pools[reason])}
        counts["any"] = batch - sum(count for reason, count in counts.items() if reason != "any")
        parts = [self.pairs_for(self._some(self.pools[reason], count), reason) for reason, count in counts.items()]
        return CaptionPairs(*(torch.cat(part) for part in zip(*parts, strict=True)))

    @staticmethod
    def _some(pool: Tensor, count: int) -> Tensor:
        return pool[torch.randint(len(pool), (count,), device=pool.device)]

    def pairs_for(self, image: Tensor, reason: str) -> CaptionPairs:
        """A caption of each image [B], mentioning `reason` if possible, and one that is wrong in that respect."""
        batch, device = len(image), image.device
        chance = torch.rand(batch, 2, device=device)
        own, others = chance.argmax(1), torch.randint(2, (batch,), device=device)
        if reason == "relation":
            own = (chance + self.has_swapped[image]).argmax(1)
            sure = self.has_swapped[image, own]
            return CaptionPairs(image, self.ids[image, own], self.swapped[image, own], sure)
        if reason == "view":
            own = (chance + (self.view[image] > 0)).argmax(1)
            other, others, sure = self._other_view(image, self.view[image, own])
        elif reason == "type":
            other = self.by_colour.member_with(self.colour[image])
            sure = (self.kind[other] != self.kind[image]) & (self.kind[image] >= 0) & (self.kind[other] >= 0)
        elif reason == "colour":
            other = self.by_kind.member_with(self.kind[image])
            is_known = (self.colour[image] >= 0) & (self.colour[other] >= 0) & (self.kind[image] >= 0)
            sure = is_known & (self.colour[other] != self.colour[image])
        else:
            other = torch.randint(len(self.ids), (batch,), device=device)
            sure = self.key[other] != self.key[image]
        return CaptionPairs(image, self.ids[image, own], self.ids[other, others], sure)

    def _other_view(self, image: Tensor, view: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A caption of the same scene that names another view: image, index of the caption, and whether it is wrong.

        Front and back of a ball look the same. So for an object without a front only "overhead" can be wrong.
        """
        first = image - image % self.siblings
        siblings = (first[:, None] + torch.arange(self.siblings, device=image.device)).clamp(max=len(self.ids) - 1)
        views = self.view[siblings].flatten(1)  # [B, 2 x siblings]
        matters = self.has_front[image][:, None] | ((view == OVERHEAD)[:, None] ^ (views == OVERHEAD))
        wrong = (views > 0) & (view > 0)[:, None] & (views != view[:, None]) & matters
        choice = (torch.rand(views.shape, device=views.device) + wrong).argmax(1)
        chosen = wrong.gather(1, choice[:, None])[:, 0]
        return siblings.gather(1, choice[:, None] // 2)[:, 0], choice % 2, chosen


class _Groups:
    """Indices grouped by label [N], to draw a random member for every image of a batch at once."""

    def __init__(self, labels: Tensor) -> None:
        self.order = labels.argsort(stable=True)
        self.counts = torch.bincount(labels + 1)
        self.starts = self.counts.cumsum(0) - self.counts

    def member_with(self, labels: Tensor) -> Tensor:
        count = self.counts[labels + 1]
        place = (torch.rand(len(labels), device=labels.device) * count).long()
        return self.order[self.starts[labels + 1] + place.clamp(max=count - 1)]


def other_relation(caption: str, key: world.Key, exchange: bool) -> str | None:
    """A caption that is wrong for a pair but right for others: exchanged colours, or "on" and "next to" exchanged.

    `exchange` prefers the first. None if the caption is of one object, or if either caption would never be right in
    training: the text alone would then reveal it.
    """
    match = _RELATION.search(caption)
    if key[0] not in world.RELATIONS or match is None:
        return None
    relation, upper, upper_colour, _, _, lower, lower_colour, *_ = key
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


def encode(model: ImageReward, texts: list[str]) -> Tensor:
    """int64 [texts, max_length] ids; 0 is padding."""
    length = model.config.max_length
    batch = model.tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="np")
    return torch.from_numpy(batch.input_ids.astype(np.int64))


def images_per_scene(dataset: Data) -> int:
    return len(dataset) // (int(dataset.scene_index[-1]) + 1)
