"""The references of the Fréchet distances: moments of images sampled from the prior, the same number for each prompt.

Prompts are used without template and view-dependent suffix. Images are numbered prompt by prompt and sampled in
shards on the executor's workers; every network processes each image once. Features, and images if requested, are
cached under the key of their settings (`pipeline.reference.cache`). The moments are written as one reference per
network. Options are checked before torch and the model libraries are imported.
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
from pipeline.plan.text_limits import token_counter
from pipeline.prompts.prompt import Prompt
from pipeline.reference.cache import DamagedError, Shards
from pipeline.reference.shards import FORMER, ReferenceImages, Shard
from pipeline.store.run_folder import Store
from pipeline.weights import models
from pipeline.weights.models import Weights
from pipeline.weights.networks import DISTANCES, REQUIRED
from pipeline.work import devices
from pipeline.work.placement import spread

GUIDANCE_SCALE, STEPS, SEED = 7.5, 25, 2_000_000
DTYPES = "float32", "float16", "bfloat16"
Log = Callable[[str], None]


@dataclass(frozen=True)
class Request:
    """The options. Empty `metrics`: all whose networks are in the weights. `dtype` None: depends on the device."""

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
        """The request with its metrics. Raises UserError for all errors that are found without loading a model."""
        known = {network_of(metric): metric for metric in DISTANCES}
        for name in self.metrics:
            if name not in known:
                raise UserError(
                    f"Unknown value {name!r} for --network; choose from {', '.join(known)}{nearest(name, known)}."
                )
        if self.dtype not in (None, *DTYPES):
            raise UserError(f"Unknown value {self.dtype!r} for --dtype; choose from {', '.join(DTYPES)}.")
        present = [
            metric for metric, distance in DISTANCES.items() if models.has_files(self.weights.part(distance.part))
        ]
        metrics = tuple(dict.fromkeys([known[name] for name in self.metrics] or [REQUIRED, *present]))
        parts = dict.fromkeys(DISTANCES[metric].part for metric in metrics)
        self.weights.require([*models.GENERATION, *parts])
        _check_count(self.suite, len(self.prompts), self.count)
        counted, most = token_counter(self.weights)
        for prompt in self.prompts:
            if (found := counted(prompt.text)) > most:
                raise UserError(
                    f"The prompt {shortened(prompt.text)!r} has {found} tokens, but the text encoder accepts at most "
                    f"{most}; shorten it."
                )
        if self.out.suffix == ".npz":
            raise UserError(f"--out is {self.out}; pass a folder: its file names are fixed.")
        return replace(self, metrics=metrics)

    def images(self, executor: Executor) -> ReferenceImages:
        """The images to sample: in float16 for published priors on a GPU; for the bundled prior as in its reference."""
        is_bundled = self.weights.name == models.EMBEDDED
        dtype = self.dtype or ("float32" if is_bundled or not _has_gpu(executor) else "float16")
        return ReferenceImages(
            prior=self.weights.digests["prior"],
            prompts=tuple(prompt.text for prompt in self.prompts),
            per_prompt=self.count // len(self.prompts),
            sampler="ddim" if is_bundled else "dpm-solver++(2M)",
            dtype=dtype,
            guidance_scale=GUIDANCE_SCALE,
            steps=STEPS,
            seed=SEED,
        )


@dataclass(frozen=True)
class Target:
    """A reference to compute: its file, its features and their width."""

    file: Path
    features: Shards
    width: int
    suite: str

    @property
    def made_of(self) -> dict[str, Any]:
        return self.features.made_of | {"suite": self.suite}

    @property
    def needed_bytes(self) -> int:
        return 16 * self.width**2  # moments, and the file during writing

    def exists(self) -> bool:
        """Whether the file exists. Raises UserError if it is damaged or was generated with other settings."""
        if not self.file.exists():
            return False
        try:
            found = from_bytes(self.file.read_bytes()).made_of
        except EvaluationError as error:
            raise UserError(f"{self.file} is damaged ({error}); delete it to generate it again.") from error
        for key in [*self.made_of, *found]:
            before, now = (made.get(key, FORMER.get(key)) for made in (found, self.made_of))
            if before != now:
                what = "the prompts differ" if key == "prompts" else f"{key} {before}, now {now}"
                raise UserError(
                    f"{self.file} was generated with other settings: {what}; use those, delete it, or choose another "
                    "--out."
                )
        return True


def network_of(metric: str) -> str:
    """The name of a distance's network in `--network`."""
    stem = Path(DISTANCES[metric].reference).stem
    return stem.removeprefix("reference-") if "-" in stem else DISTANCES[metric].part


def without_weights(weights: Weights) -> list[str]:
    """The networks that are missing in a weights folder."""
    return [network_of(metric) for metric, each in DISTANCES.items() if not models.has_files(weights.part(each.part))]


def make(request: Request, executor: Executor, workers: int | None, log: Log) -> tuple[list[Path], list[str]]:
    """Compute the missing references: sample images, compute features, sum moments. Returns files and failures."""
    images = request.images(executor)
    option = "--out" if request.cache is None else "--cache"
    cache = Store((request.cache or request.out / "reference-cache").absolute(), option)
    image_shards = Shards(cache, "images", images.made_of)
    targets = {metric: _target(request, metric, cache, images) for metric in request.metrics}
    missing = {metric: target for metric, target in targets.items() if not target.exists()}
    for metric, target in targets.items():
        if metric not in missing:
            log(f"{target.file} already exists")
    failures: list[str] = []
    if missing or request.keep_images:
        models.require_own(cache.root, option)
        models.require_own(request.out, "--out")
        todo = _unfinished_shards(request, images, image_shards, missing, log)
        cache.prepare(_needed_bytes(request, todo, {metric: target.width for metric, target in missing.items()}))
        Store(request.out).prepare(sum(target.needed_bytes for target in missing.values()))
        with cache.locked():
            if todo:
                features = {metric: target.features for metric, target in missing.items()}
                failures = _run(request, images, image_shards, features, todo, executor, workers, log)
            for target in missing.values():
                _write_reference(target, images, log)
    return [target.file for target in targets.values() if target.file.exists()], failures


def _target(request: Request, metric: str, cache: Store, images: ReferenceImages) -> Target:
    """Load the network for its digest, and run it on a black image for the width of its features."""
    distance = DISTANCES[metric]
    tower = distance.load(request.weights, "cpu")
    made_of = images.made_of | {"network": tower.name, "weights": tower.weights}
    width = tower(np.zeros((1, 32, 32, 3), np.uint8)).shape[1]
    return Target(request.out / distance.reference, Shards(cache, "features", made_of), width, request.suite)


def _unfinished_shards(
    request: Request, images: ReferenceImages, image_shards: Shards, missing: Mapping[str, Target], log: Log
) -> list[Shard]:
    """The shards without a network's features, or without images to cache. A damaged file counts as missing."""
    todo = []
    for shard in images.shards:
        metrics = tuple(metric for metric, target in missing.items() if not _is_intact(target.features, shard, log))
        if metrics or (request.keep_images and not image_shards.file(shard.start).exists()):
            todo.append(replace(shard, metrics=metrics))
    return todo


def _is_intact(features: Shards, shard: Shard, log: Log) -> bool:
    if not features.file(shard.start).exists():
        return False
    try:
        features.features(shard.start, shard.count)
    except DamagedError as error:
        log(f"{error}; generating it again")
        return False
    return True


def _run(
    request: Request,
    images: ReferenceImages,
    image_shards: Shards,
    features: Mapping[str, Shards],
    todo: Sequence[Shard],
    executor: Executor,
    workers: int | None,
    log: Log,
) -> list[str]:
    """Process these shards; returns the failures with their reasons."""
    from_cache = sum(image_shards.file(shard.start).exists() for shard in todo)
    results = "features of " + " and ".join(map(network_of, features)) if features else "images"
    log(
        f"{results}: {len(todo)} of {len(images.shards)} shards to process, {len(todo) - from_cache} to sample and "
        f"{from_cache} from cached images, in {image_shards.cache.root}"
    )
    make_worker = partial(
        _sampler, request.weights, images, image_shards, features, from_cache < len(todo), request.keep_images
    )
    stage = Stage("sample", make_worker, *spread(executor, len(todo), workers))
    failures = []
    with Display(len(todo), stage.name, lambda shard: str(shard or "")) as display:
        for outcome in executor.run([stage], todo, display.watcher):
            if outcome.error is not None:
                failures.append(f"{outcome.item}: {outcome.error.message}")
                if outcome.error.kind == "error":  # not the user's error: a bug report needs the traceback
                    log(outcome.error.details)
    return failures


def _sampler(*arguments: Any) -> Worker:
    with devices.loading():
        from pipeline.reference.worker import Sampler  # imported here, so that only workers import the models

        return Sampler(*arguments)


def _write_reference(target: Target, images: ReferenceImages, log: Log) -> None:
    """Write the reference if all shards exist. They are summed in the order of the images, not of the workers."""
    missing = sum(not target.features.file(shard.start).exists() for shard in images.shards)
    if missing:
        found = f"{missing} of {len(images.shards)} shards missing"
        log(f"{target.file} is incomplete: {found}; run the same command again")
        return
    every = [target.features.features(shard.start, shard.count) for shard in images.shards]
    kept = [features[images.kept_indices(shard)] for features, shard in zip(every, images.shards, strict=True)]
    reference = Reference(reduce(add, map(Moments.of, every)), np.concatenate(kept), target.made_of)
    Store(target.file.parent).write(target.file, to_bytes(reference))
    log(f"{target.file}: {reference.moments.count} images, key {reference.key[:16]}")


def _needed_bytes(request: Request, todo: Sequence[Shard], widths: Mapping[str, int]) -> int:
    """Upper limit of the growth of the cache. A PNG file is at most as large as its pixels, usually half of that."""
    from sctd.prior.files import image_size

    png = 3 * image_size(request.weights.part("prior")) ** 2 if request.keep_images else 0
    return sum(shard.count * (png + sum(4 * widths[metric] for metric in shard.metrics)) for shard in todo)


def _check_count(suite: str, num: int, count: int) -> None:
    least = max(num, 2)  # a covariance needs two
    if count < least or count % num:
        below = count // num * num
        right = f"{below} or {below + num}" if below >= least else f"{least} or more, a multiple of {num}"
        raise UserError(
            f"--count is {count}, but each of the {num} prompts of {suite} needs the same number of images; "
            f"pass {right}."
        )


def _has_gpu(executor: Executor) -> bool:
    return devices.sees_gpu() if isinstance(executor, InlineExecutor) else executor.gpus() > 0
