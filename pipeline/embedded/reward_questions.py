"""What the reward model is asked in training: for each picture its caption, and one that is wrong for a known reason.

Wrong captions are right ones of other pictures (or of two objects with their colours exchanged): whatever a text is,
it is as often right as wrong, so the words alone tell nothing.
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
"""Reasons why a caption is wrong, and how much of a batch each gets: the hard ones more. "any" is another key."""
OVERHEAD = 1 + VIEW_WORDS.index("overhead view")
_RELATION = re.compile(r" (on top of|on|next to) ")


class Questions(NamedTuple):
    """For every picture of a batch the right caption, a wrong one, and whether the wrong one is surely wrong."""

    picture: Tensor  # int64 [B], its index
    right: Tensor  # int64 [B, tokens]
    wrong: Tensor  # int64 [B, tokens]
    sure: Tensor  # bool [B]


class Captions:
    """The captions of N pictures as ids on the device, and which of them are wrong for which picture, and why."""

    def __init__(self, model: ImageReward, pictures: Data, count: int) -> None:
        device = pictures.images.device
        texts = [caption for pair in pictures.captions[:count] for caption in pair]
        keys = pictures.keys[:count]
        swapped = [other_relation(text, keys[i // 2], exchange=i % 4 > 0) for i, text in enumerate(texts)]
        self.ids = encode(model, texts).view(count, 2, -1).to(device)
        self.swapped = encode(model, [text or "" for text in swapped]).view(count, 2, -1).to(device)
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
        single = self.kind >= 0
        asked = {
            "type": single,
            "colour": single & (self.colour >= 0),
            "view": (self.view > 0).any(1) & (self.has_front | (self.view == OVERHEAD).any(1)),
            "relation": self.has_swapped.any(1),
            "any": torch.ones_like(single),
        }
        self.pools = {reason: where.nonzero()[:, 0] for reason, where in asked.items()}

    def draw(self, batch: int) -> Questions:
        """Random pictures for each reason in its share; what a reason without pictures leaves goes to "any"."""
        counts = {reason: round(share * batch) for reason, share in SHARES.items() if len(self.pools[reason])}
        counts["any"] = batch - sum(count for reason, count in counts.items() if reason != "any")
        parts = [self.ask(self._some(self.pools[reason], count), reason) for reason, count in counts.items()]
        return Questions(*(torch.cat(part) for part in zip(*parts, strict=True)))

    @staticmethod
    def _some(pool: Tensor, count: int) -> Tensor:
        return pool[torch.randint(len(pool), (count,), device=pool.device)]

    def ask(self, picture: Tensor, reason: str) -> Questions:
        """A caption of each picture [B] that speaks of `reason`, if one does, against one that is wrong for it."""
        batch, device = len(picture), picture.device
        luck = torch.rand(batch, 2, device=device)
        mine, theirs = luck.argmax(1), torch.randint(2, (batch,), device=device)
        if reason == "relation":
            mine = (luck + self.has_swapped[picture]).argmax(1)
            sure = self.has_swapped[picture, mine]
            return Questions(picture, self.ids[picture, mine], self.swapped[picture, mine], sure)
        if reason == "view":
            mine = (luck + (self.view[picture] > 0)).argmax(1)
            other, theirs, sure = self._other_view(picture, self.view[picture, mine])
        elif reason == "type":
            other = self.by_colour.member_with(self.colour[picture])
            sure = (self.kind[other] != self.kind[picture]) & (self.kind[picture] >= 0) & (self.kind[other] >= 0)
        elif reason == "colour":
            other = self.by_kind.member_with(self.kind[picture])
            said = (self.colour[picture] >= 0) & (self.colour[other] >= 0) & (self.kind[picture] >= 0)
            sure = said & (self.colour[other] != self.colour[picture])
        else:
            other = torch.randint(len(self.ids), (batch,), device=device)
            sure = self.key[other] != self.key[picture]
        return Questions(picture, self.ids[picture, mine], self.ids[other, theirs], sure)

    def _other_view(self, picture: Tensor, view: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A caption of the same scene that names another view: picture, which of its captions, and whether it is wrong.

        Front and back of a ball look the same, so of what has no front only "overhead" can be wrong.
        """
        first = picture - picture % self.siblings
        siblings = (first[:, None] + torch.arange(self.siblings, device=picture.device)).clamp(max=len(self.ids) - 1)
        seen = self.view[siblings].flatten(1)  # [B, 2 x siblings]
        matters = self.has_front[picture][:, None] | ((view == OVERHEAD)[:, None] ^ (seen == OVERHEAD))
        wrong = (seen > 0) & (view > 0)[:, None] & (seen != view[:, None]) & matters
        choice = (torch.rand(seen.shape, device=seen.device) + wrong).argmax(1)
        chosen = wrong.gather(1, choice[:, None])[:, 0]
        return siblings.gather(1, choice[:, None] // 2)[:, 0], choice % 2, chosen


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


def pictures_per_scene(pictures: Data) -> int:
    return len(pictures) // (int(pictures.scene_index[-1]) + 1)
