"""What the Fréchet distances are measured from: moments of the prior's own pictures, equally many of each prompt.

The prompts stand as they are: no template, no view word. Pictures are numbered prompt by prompt and made in shards, on
the executor's workers; every network sees each picture once. Three things are kept, each under the key of what made it:
pictures if asked for, features (`pipeline.reference.cache`), and the moments, a reference per network. What is wrong
with the options is said before torch and the model libraries are imported.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial, reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from cluster.scheduling.executor import Executor, InlineExecutor, Stage, Worker
from evaluation import EvaluationError
from evaluation.fid import Moments
from evaluation.references import Reference, from_bytes, to_bytes
from pipeline.errors import UserError, nearest, shortened
from pipeline.events.progress import Display
from pipeline.plan.run import token_counter
from pipeline.prompts.prompt import Prompt
from pipeline.reference.cache import DamagedError, Shards
from pipeline.reference.shards import FORMER, Pictures, Shard
from pipeline.store.run_folder import Store
from pipeline.weights import models
from pipeline.weights.models import Weights
from pipeline.weights.networks import DISTANCES, REQUIRED
from pipeline.work import devices
from pipeline.work.placement import spread

GUIDANCE_SCALE, STEPS, SEED = 7.5, 25, 2_000_000
DTYPES = "float32", "float16", "bfloat16"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """What was asked for. `metrics` empty: all whose networks are in the weights. `dtype` None: by the device."""

    weights: Weights
    suite: str
    prompts: Sequence[Prompt]
    count: int
    metrics: tuple[str, ...]
    out: Path
    cache: Path | None
    keep_images: bool
    dtype: str | None

    def checked(self) -> "Request":
        """The same, with metrics. Raises UserError for all that can be told without loading a model."""
        known = {network_of(metric): metric for metric in DISTANCES}
        for name in self.metrics:
            if name not in known:
                raise UserError(f"There is no network {name!r}; choose from {', '.join(known)}{nearest(name, known)}.")
        if self.dtype not in (None, *DTYPES):
            raise UserError(f"--dtype is {self.dtype}; choose from {', '.join(DTYPES)}.")
        there = [metric for metric, distance in DISTANCES.items() if models.has_files(self.weights.part(distance.part))]
        metrics = tuple(dict.fromkeys([known[name] for name in self.metrics] or [REQUIRED, *there]))
        parts = dict.fromkeys(DISTANCES[metric].part for metric in metrics)
        self.weights.require([*models.GENERATION, *parts])
        _check_count(self.suite, len(self.prompts), self.count)
        counted, most = token_counter(self.weights)
        for prompt in self.prompts:
            if (found := counted(prompt.text)) > most:
                raise UserError(
                    f"The prompt {shortened(prompt.text)!r} comes to {found} tokens, and this prior reads {most}: "
                    "shorten it."
                )
        if self.out.suffix == ".npz":
            raise UserError(f"--out is {self.out}; give a folder: the files in it have names of their own.")
        return replace(self, metrics=metrics)

    def pictures(self, executor: Executor) -> Pictures:
        """Published priors in half precision where there is a GPU; the packaged one as its packaged reference."""
        is_packaged = self.weights.name == models.EMBEDDED
        dtype = self.dtype or ("float32" if is_packaged or not _has_gpu(executor) else "float16")
        return Pictures(
            prior=self.weights.digests["prior"],
            prompts=tuple(prompt.text for prompt in self.prompts),
            per_prompt=self.count // len(self.prompts),
            sampler="ddim" if is_packaged else "dpm-solver++(2M)",
            dtype=dtype,
            guidance_scale=GUIDANCE_SCALE,
            steps=STEPS,
            seed=SEED,
        )


@dataclass(frozen=True)
class Target:
    """A reference to make: its file, the features that it is summed from, and how wide they are."""

    file: Path
    features: Shards
    width: int
    suite: str

    @property
    def made_of(self) -> dict[str, Any]:
        return self.features.made_of | {"suite": self.suite}

    @property
    def needed_bytes(self) -> int:
        return 16 * self.width**2  # moments, and the file while it is written

    def is_there(self) -> bool:
        """Raises UserError unless what is there is whole and was made of this."""
        if not self.file.exists():
            return False
        try:
            found = from_bytes(self.file.read_bytes()).made_of
        except EvaluationError as error:
            raise UserError(f"{self.file} is damaged ({error}); delete it, and it is made again.") from error
        for key in [*self.made_of, *found]:
            before, now = (made.get(key, FORMER.get(key)) for made in (found, self.made_of))
            if before != now:
                what = "the prompts differ" if key == "prompts" else f"{key} {before}, now {now}"
                raise UserError(
                    f"{self.file} was made with other settings: {what}; use those, delete it, or choose another --out."
                )
        return True


def network_of(metric: str) -> str:
    """What `--network` calls the network of a distance."""
    stem = Path(DISTANCES[metric].reference).stem
    return stem.removeprefix("reference-") if "-" in stem else DISTANCES[metric].part


def without_weights(weights: Weights) -> list[str]:
    """The networks that a folder of weights lacks."""
    return [network_of(metric) for metric, each in DISTANCES.items() if not models.has_files(weights.part(each.part))]


def make(request: Request, executor: Executor, workers: int | None, say: Say) -> tuple[list[Path], list[str]]:
    """Sample, look, add up and write what is not there yet; the files, and what failed."""
    pictures = request.pictures(executor)
    option = "--out" if request.cache is None else "--cache"
    cache = Store((request.cache or request.out / "reference-cache").absolute(), option)
    images = Shards(cache, "images", pictures.made_of)
    targets = {metric: _target(request, metric, cache, pictures) for metric in request.metrics}
    missing = {metric: target for metric, target in targets.items() if not target.is_there()}
    for metric, target in targets.items():
        if metric not in missing:
            say(f"{target.file} is there already")
    failures: list[str] = []
    if missing or request.keep_images:
        todo = _todo(request, pictures, images, missing, say)
        cache.prepare(_needed_bytes(request, todo, {metric: target.width for metric, target in missing.items()}))
        Store(request.out).prepare(sum(target.needed_bytes for target in missing.values()))
        with cache.locked():
            if todo:
                features = {metric: target.features for metric, target in missing.items()}
                failures = _run(request, pictures, images, features, todo, executor, workers, say)
            for target in missing.values():
                _add_up(target, pictures, say)
    return [target.file for target in targets.values() if target.file.exists()], failures


def _target(request: Request, metric: str, cache: Store, pictures: Pictures) -> Target:
    """The network is loaded for its digest, and shown a black picture for the length of its features."""
    distance = DISTANCES[metric]
    tower = distance.load(request.weights, "cpu")
    made_of = pictures.made_of | {"network": tower.name, "weights": tower.weights}
    width = tower(np.zeros((1, 32, 32, 3), np.uint8)).shape[1]
    return Target(request.out / distance.reference, Shards(cache, "features", made_of), width, request.suite)


def _todo(request: Request, pictures: Pictures, images: Shards, missing: Mapping[str, Target], say: Say) -> list[Shard]:
    """The shards that lack a network's features, or the pictures that shall be kept; a damaged file lacks all."""
    todo = []
    for shard in pictures.shards:
        metrics = tuple(metric for metric, target in missing.items() if not _is_whole(target.features, shard, say))
        if metrics or (request.keep_images and not images.file(shard.start).exists()):
            todo.append(replace(shard, metrics=metrics))
    return todo


def _is_whole(features: Shards, shard: Shard, say: Say) -> bool:
    if not features.file(shard.start).exists():
        return False
    try:
        features.features(shard.start, shard.count)
    except DamagedError as error:
        say(f"{error}; it is made again")
        return False
    return True


def _run(
    request: Request,
    pictures: Pictures,
    images: Shards,
    features: Mapping[str, Shards],
    todo: Sequence[Shard],
    executor: Executor,
    workers: int | None,
    say: Say,
) -> list[str]:
    """Make these shards; what failed, and why."""
    from_kept = sum(images.file(shard.start).exists() for shard in todo)
    sought = "features of " + " and ".join(map(network_of, features)) if features else "pictures"
    say(
        f"{sought}: {len(todo)} of {len(pictures.shards)} shards to make, {len(todo) - from_kept} to be sampled and "
        f"{from_kept} from kept pictures, in {images.cache.root}"
    )
    make_worker = partial(
        _sampler, request.weights, pictures, images, features, from_kept < len(todo), request.keep_images
    )
    stage = Stage("sample", make_worker, *spread(executor, len(todo), workers))
    failures = []
    with Display(len(todo), stage.name, lambda shard: str(shard or "")) as display:
        for outcome in executor.run([stage], todo, display.watcher):
            if outcome.error is not None:
                failures.append(f"{outcome.item}: {outcome.error.message}")
                if outcome.error.kind == "error":  # not the user's fault: whoever is told of it needs to know where
                    say(outcome.error.details)
    return failures


def _sampler(*arguments: Any) -> Worker:
    from pipeline.reference.worker import Sampler  # here, so that only workers load the models

    return Sampler(*arguments)


def _add_up(target: Target, pictures: Pictures, say: Say) -> None:
    """Write the reference if every shard is there; their order is that of the pictures, whoever made which."""
    lacking = sum(not target.features.file(shard.start).exists() for shard in pictures.shards)
    if lacking:
        say(f"{target.file} waits for {lacking} of {len(pictures.shards)} shards: start the same command again")
        return
    every = [target.features.features(shard.start, shard.count) for shard in pictures.shards]
    kept = [features[pictures.kept(shard)] for features, shard in zip(every, pictures.shards, strict=True)]
    reference = Reference(reduce(add, map(Moments.of, every)), np.concatenate(kept), target.made_of)
    Store(target.file.parent).write(target.file, to_bytes(reference))
    say(f"{target.file}: {reference.moments.count} pictures, key {reference.key[:16]}")


def _needed_bytes(request: Request, todo: Sequence[Shard], widths: Mapping[str, int]) -> int:
    """What the cache may grow by, generously: a PNG file is no larger than its pixels, most are half as large."""
    from sctd.prior.files import image_size

    picture = 3 * image_size(request.weights.part("prior")) ** 2 if request.keep_images else 0
    return sum(shard.count * (picture + sum(4 * widths[metric] for metric in shard.metrics)) for shard in todo)


def _check_count(suite: str, num: int, count: int) -> None:
    least = max(num, 2)  # a covariance needs two
    if count < least or count % num:
        below = count // num * num
        right = f"{below} or {below + num}" if below >= least else f"{least} or more, a multiple of {num}"
        raise UserError(
            f"--count is {count}, and each of the {num} prompts of {suite} has equally many pictures; give {right}."
        )


def _has_gpu(executor: Executor) -> bool:
    return devices.sees_gpu() if isinstance(executor, InlineExecutor) else executor.gpus() > 0
