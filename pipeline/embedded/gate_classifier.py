"""The gate classifier: a small convolutional network that predicts type, colour and view of an image.

Only the gates of the bundled models use it (`weights/judge/`), so that the scorer does not evaluate itself. It shares
nothing with the five models: it has another architecture and another seed, uses no text, and is trained on renders
only. Unlike them it is also trained on the held-out pairs: without them it misclassified a third of their true renders,
so the gates on held-out pairs measured the classifier rather than the prior.
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
from pipeline.embedded.training import TrainingPlan, fit

COLOURS = list(world.COLORS)


class Attributes(NamedTuple):
    """Type, colour and view: logits [B, types], [B, colours], [B, views], or indices [B] each."""

    kind: Tensor
    colour: Tensor
    view: Tensor


class GateClassifier(nn.Module):
    """Four strided stages with residual blocks, global mean, three linear heads; 64x64 images in [-1,1]."""

    def __init__(self, widths: tuple[int, ...] = (32, 64, 128, 160)):
        super().__init__()
        stages, previous = [], 3
        for width in widths:
            stages += [nn.Conv2d(previous, width, 4, 2, 1), nn.GroupNorm(8, width), nn.SiLU(), _Residual(width)]
            previous = width
        self.body = nn.Sequential(*stages)
        self.head = nn.Linear(previous, len(world.TYPES) + len(COLOURS) + len(VIEW_WORDS))

    def forward(self, images: Tensor) -> Attributes:
        logits = self.head(self.body(images).mean((2, 3)))
        return Attributes(*logits.split([len(world.TYPES), len(COLOURS), len(VIEW_WORDS)], dim=1))


class _Residual(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.GroupNorm(8, width), nn.SiLU())
        self.last = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.last(self.body(x))


def train_gate_classifier(
    model: GateClassifier, parts: Sequence[Data], plan: TrainingPlan, *, batch: int = 1024, compiled: bool = True
) -> dict[str, float]:
    """Cross-entropy on type, colour and view word. Pairs of objects are excluded: they have no single label."""
    device = parts[0].images.device.type
    model.to(device).train()
    forward = torch.compile(model) if compiled else model
    single = [[i for i, key in enumerate(part.keys) if key[0] in world.TYPES and key[1] in COLOURS] for part in parts]
    examples = [(part, i) for part, indices in zip(parts, single, strict=True) for i in indices]
    images = torch.cat([part.images[torch.tensor(indices)] for part, indices in zip(parts, single, strict=True)])
    kinds = torch.tensor([world.TYPES.index(part.keys[i][0]) for part, i in examples], device=device)
    colours = torch.tensor([COLOURS.index(part.keys[i][1]) for part, i in examples], device=device)
    views = torch.tensor(
        [VIEW_WORDS.index(world.view_word(part.azimuth[i], part.elevation[i])) for part, i in examples], device=device
    )

    def step(_: int) -> tuple[Tensor, dict[str, Tensor]]:
        index = torch.randint(len(images), (batch,), device=device)
        augmented = like_splats(images[index].float() / 127.5 - 1)
        with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
            predicted = forward(augmented)
        labels = kinds[index], colours[index], views[index]
        losses = [F.cross_entropy(logits.float(), label) for logits, label in zip(predicted, labels, strict=True)]
        loss = losses[0] + losses[1] + 0.5 * losses[2]
        return loss, {"kind": (predicted.kind.argmax(1) == kinds[index]).float().mean()}

    done = fit("judge", list(model.parameters()), step, plan, lr=2e-3, warmup=100, betas=(0.9, 0.98))
    model.eval()
    return done


def save_gate_classifier(folder: Path, model: GateClassifier) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().cpu().half().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")


def load_gate_classifier(folder: Path, device: str = "cpu") -> GateClassifier:
    from safetensors.torch import load_file

    model = GateClassifier()
    model.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
    return model.to(device).eval()


@torch.no_grad()
def classify(model: GateClassifier, images: Tensor) -> Attributes:
    """Indices [N] of type, colour and view for uint8 images [N,3,64,64]."""
    parts = [model(part.float() / 127.5 - 1) for part in images.split(1024)]
    return Attributes(*(torch.cat(logits).argmax(1) for logits in zip(*parts, strict=True)))
