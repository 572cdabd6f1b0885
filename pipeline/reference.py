"""What the Fréchet distance is measured from: moments of the prior's own pictures, equally many of each prompt.

The prompts stand as they are: no template, no view word. Work comes in shards, each kept on disk as a reference of its
own pictures beside the target, so that a command that was stopped goes on. All runs in this process, on its GPU if it
has one. What is wrong with the options is said before torch and the model libraries are imported.
"""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from evaluation import EvaluationError
from evaluation.fid import Moments
from evaluation.references import Reference, from_bytes, to_bytes
from pipeline.errors import UserError, shortened
from pipeline.jobs import Prompt
from pipeline.models import Weights
from pipeline.progress import duration
from pipeline.run import token_counter
from pipeline.store import Store

if TYPE_CHECKING:
    from evaluation.features import ClipTower
    from sctd.prior import StableDiffusionPrior

GUIDANCE_SCALE, STEPS, SEED = 7.5, 25, 2_000_000
KEPT = 25  # features a prompt that go into the file, for the kernel distance
WHOLE_PROMPT, SHARD = 1250, 1000  # pictures: so many of a prompt are one shard, of more each shard has so many
SMALL_PIXELS, LARGE_BATCH = 64, 8  # pictures of up to so many pixels a side go through the prior at once, others by 8


class Shard(NamedTuple):
    """Pictures of a prompt from `start` on."""

    prompt: int
    start: int
    pictures: int

    @property
    def file(self) -> str:
        return f"{self.prompt:04}-{self.start:06}.npz"


@dataclass(frozen=True)
class Sampler:
    """The models that a reference is made with."""

    prior: "StableDiffusionPrior"
    tower: "ClipTower"

    @staticmethod
    def load(weights: Weights) -> "Sampler":
        """On this machine's GPU if it has one. Raises PriorError or EvaluationError naming the file."""
        import torch

        from evaluation.clip_score import ClipScorer
        from evaluation.features import ClipTower
        from sctd.prior import StableDiffusionPrior

        device = "cuda" if torch.cuda.is_available() else "cpu"
        scorer = ClipScorer.load(weights.part("scorer"), device, weights.name)
        return Sampler(StableDiffusionPrior.load(weights.part("prior"), device), ClipTower(scorer))

    def features(self, text: str, shard: Shard) -> np.ndarray:
        """Of the shard's pictures. Those of prompt i come from the generator of seed SEED + i, in their order.

        A batch's size follows from the picture's alone, not from the machine's memory: the last bits depend on it.
        """
        import torch

        generator = torch.Generator().manual_seed(SEED + shard.prompt)
        torch.randn(shard.start, *self.prior.latent_shape, generator=generator)  # the noise of the shards before
        most = WHOLE_PROMPT if self.prior.image_size <= SMALL_PIXELS else LARGE_BATCH
        views = []
        for done in range(0, shard.pictures, most):
            texts = [text] * min(most, shard.pictures - done)
            images = self.prior.sample(texts, GUIDANCE_SCALE, STEPS, generator)
            views.append(images.clamp(0, 1).mul(255).add(0.5).floor().byte().permute(0, 2, 3, 1).cpu().numpy())
        return self.tower(np.concatenate(views))


def make(
    weights: Weights, suite: str, prompts: Sequence[Prompt], count: int, out: Path, say: Callable[[str], None]
) -> Reference:
    """Sample, look, add up, and write `out`; what shards or `out` hold already is not made again.

    Raises UserError, and the models' errors, before the first picture is made.
    """
    _check(weights, suite, prompts, count, out)
    store = Store(out.with_name(f"{out.name}.shards"))
    store.prepare(0)
    with store.locked():
        try:
            reference = _make(weights, suite, [prompt.text for prompt in prompts], count, out, store, say)
        except BaseException:
            if not any(store.item("").iterdir()):
                shutil.rmtree(store.root, ignore_errors=True)
            raise
        shutil.rmtree(store.root, ignore_errors=True)
    return reference


def shards(num_prompts: int, per_prompt: int) -> list[Shard]:
    """Prompt by prompt; one shard each unless they are very many."""
    step = per_prompt if per_prompt <= WHOLE_PROMPT else SHARD
    starts = range(0, per_prompt, step)
    return [Shard(i, start, min(step, per_prompt - start)) for i in range(num_prompts) for start in starts]


def _check(weights: Weights, suite: str, prompts: Sequence[Prompt], count: int, out: Path) -> None:
    num = len(prompts)
    least = max(num, 2)  # a covariance needs two
    if count < least or count % num:
        below = count // num * num
        right = f"{below} or {below + num}" if below >= least else f"{least} or more, a multiple of {num}"
        raise UserError(
            f"--count is {count}, and each of the {num} prompts of {suite} has equally many pictures; give {right}."
        )
    counted, most = token_counter(weights)
    for prompt in prompts:
        if (found := counted(prompt.text)) > most:
            raise UserError(
                f"The prompt {shortened(prompt.text)!r} comes to {found} tokens, and this prior reads {most}: shorten "
                "it."
            )
    if out.is_dir():
        raise UserError(f"{out} is a folder; give a file as --out, as {out / 'reference.npz'}.")


def _make(
    weights: Weights, suite: str, texts: list[str], count: int, out: Path, store: Store, say: Callable[[str], None]
) -> Reference:
    sampler = Sampler.load(weights)
    made_of = {
        "network": sampler.tower.name,
        "weights": sampler.tower.weights,
        "prior": weights.digests["prior"],
        "suite": suite,
        "prompts": texts,
        "per_prompt": count // len(texts),
        "guidance_scale": GUIDANCE_SCALE,
        "steps": STEPS,
        "seed": SEED,
    }
    every = shards(len(texts), count // len(texts))
    whole = [shard for shard in every if store.item(shard.file).exists()]
    for file in store.item("").glob("*.npz"):  # of other settings, whatever they are called
        _read(file, made_of, store.root)
    if out.exists():
        reference = _read(out, made_of)
        say(f"{out} is there already")
        return reference
    if whole:
        say(f"{len(whole)} of {len(every)} shards are there already")
    todo, begun = [shard for shard in every if shard not in whole], time.monotonic()
    for i, shard in enumerate(todo, 1):
        features = sampler.features(texts[shard.prompt], shard)
        kept = features[:KEPT] if shard.start == 0 else None
        part = Reference(Moments.of(features), kept, made_of | {"shard": list(shard)})
        store.write(store.item(shard.file), to_bytes(part))
        seconds = time.monotonic() - begun
        left = duration(seconds / i * (len(todo) - i))
        where = f"[{duration(seconds)}] {len(whole) + i} of {len(every)}"
        say(f"{where}: {shortened(texts[shard.prompt])}: {shard.pictures} pictures, {left} left")
    parts = [_read(store.item(shard.file), made_of, store.root) for shard in every]
    kept = np.concatenate([part.features for part in parts if part.features is not None])
    reference = Reference(reduce(add, (part.moments for part in parts)), kept, made_of)
    store.write(out, to_bytes(reference))
    return reference


def _read(file: Path, made_of: dict[str, Any], root: Path | None = None) -> Reference:
    """A reference or, in the folder `root`, a shard. Raises UserError unless it is whole and was made of this."""
    try:
        reference = from_bytes(file.read_bytes())
    except EvaluationError as error:
        raise UserError(f"{file} is damaged ({error}); delete it, and it is made again.") from error
    found = {key: value for key, value in reference.made_of.items() if key != "shard"}
    for key in [*made_of, *found]:
        if found.get(key) != made_of.get(key):
            what = "the prompts differ" if key == "prompts" else f"{key} {found.get(key)}, now {made_of.get(key)}"
            raise UserError(
                f"{root or file} was made with other settings: {what}; use those, delete it, or choose another --out."
            )
    return reference
