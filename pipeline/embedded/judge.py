"""The judge: a small convolutional classifier trained on renders alone, so that the scorer does not mark its own work.

It shares nothing with the five models: another architecture, another seed, no text. It names type, colour and view.
It alone is taught the held-out pairs too: ignorant of them it erred on a third of their true renders, and what it said
of a model's pictures of them told more of the judge than of the model.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.embedded import world
from pipeline.embedded.augment import like_splats
from pipeline.embedded.data import VIEW_WORDS, Data
from pipeline.embedded.training import Plan, fit

COLOURS = list(world.COLORS)


class Verdict(NamedTuple):
    """Logits [B, types], [B, colours], [B, views]."""

    kind: Tensor
    colour: Tensor
    view: Tensor


class Judge(nn.Module):
    """Four strided stages with residual blocks, global mean, three linear heads; 64x64 pictures in [-1,1]."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 160)):
        super().__init__()
        stages, previous = [], 3
        for width in widths:
            stages += [nn.Conv2d(previous, width, 4, 2, 1), nn.GroupNorm(8, width), nn.SiLU(), _Residual(width)]
            previous = width
        self.body = nn.Sequential(*stages)
        self.head = nn.Linear(previous, len(world.TYPES) + len(COLOURS) + len(VIEW_WORDS))

    def forward(self, pictures: Tensor) -> Verdict:
        logits = self.head(self.body(pictures).mean((2, 3)))
        return Verdict(*logits.split([len(world.TYPES), len(COLOURS), len(VIEW_WORDS)], dim=1))


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.GroupNorm(8, width), nn.SiLU())
        self.last = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.body(x))


def train_judge(model: Judge, parts: Sequence[Data], plan: Plan, *, batch: int = 1024, compiled: bool = True):
    """Cross-entropy on type, colour and view word; pairs of objects are left out: they have no single answer."""
    device = parts[0].images.device.type
    model.to(device).train()
    forward = torch.compile(model) if compiled else model
    singles = [[i for i, key in enumerate(part.keys) if key[0] in world.TYPES and key[1] in COLOURS] for part in parts]
    shown = [(part, i) for part, some in zip(parts, singles, strict=True) for i in some]
    images = torch.cat([part.images[torch.tensor(some)] for part, some in zip(parts, singles, strict=True)])
    kinds = torch.tensor([world.TYPES.index(part.keys[i][0]) for part, i in shown], device=device)
    colours = torch.tensor([COLOURS.index(part.keys[i][1]) for part, i in shown], device=device)
    views = torch.tensor(
        [VIEW_WORDS.index(world.view_word(part.azimuth[i], part.elevation[i])) for part, i in shown], device=device
    )

    def step(_: int) -> tuple[Tensor, dict[str, Tensor]]:
        index = torch.randint(len(images), (batch,), device=device)
        pictures = like_splats(images[index].float() / 127.5 - 1)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            verdict = forward(pictures)
        answers = kinds[index], colours[index], views[index]
        losses = [F.cross_entropy(logits.float(), answer) for logits, answer in zip(verdict, answers, strict=True)]
        loss = losses[0] + losses[1] + 0.5 * losses[2]
        return loss, {"kind": (verdict.kind.argmax(1) == kinds[index]).float().mean()}

    done = fit("judge", list(model.parameters()), step, plan, lr=2e-3, warmup=100, betas=(0.9, 0.98))
    model.eval()
    return done


def save_judge(folder: Path, model: Judge) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")


def load_judge(folder: Path, device: str = "cpu") -> Judge:
    from safetensors.torch import load_file

    model = Judge()
    model.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
    return model.to(device).eval()


@torch.no_grad()
def judged(model: Judge, images: Tensor) -> Verdict:
    """Indices [N] of type, colour and view for uint8 pictures [N,3,64,64]."""
    parts = [model(part.float() / 127.5 - 1) for part in images.split(1024)]
    return Verdict(*(torch.cat(logits).argmax(1) for logits in zip(*parts, strict=True)))
