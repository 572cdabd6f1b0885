"""Cheap metrics of synthetic objects for the tests of torchmetrics classes, also in several processes."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import distributed

from evaluation.distance_metrics import FrechetDistance, KernelDistance
from evaluation.fid import Moments
from evaluation.metrics import ViewMetric
from evaluation.references import Reference

SIZE = 8


class Brightness(ViewMetric):
    """The mean of the bytes of a view."""

    def scores(self, views, prompt):
        return views.reshape(len(views), -1).mean(1)


class Channels:
    """A `FeatureNetwork`: mean and deviation of each channel, and their products, in units of 100."""

    name, weights = "channels", "c0ffee"

    def __call__(self, views):
        pixels = views.reshape(len(views), -1, 3).astype(np.float32) / 100
        return np.concatenate([pixels.mean(1), pixels.std(1)], axis=1)


def objects(seed=0, views=(7, 3, 1, 5, 4)):
    """Noise of an own colour for each object."""
    random = np.random.default_rng(seed)
    return [random.integers(0, random.integers(40, 256, 3), (count, SIZE, SIZE, 3), np.uint8) for count in views]


def reference(seed=1):
    features = Channels()(np.concatenate(objects(seed, (40, 50, 60))))
    return Reference(Moments.of(features), features, {"network": "channels", "weights": "c0ffee"})


def metrics():
    """One of each kind, by name."""
    made, network = reference(), Channels()
    return {
        "brightness": Brightness(),
        "frechet": FrechetDistance(made, network),
        "frechet_error": FrechetDistance(made, network, with_error=True),
        "kernel": KernelDistance(made, network, with_error=True),
    }


def numbers(computed):
    """The results as plain numbers."""
    return {name: np.atleast_1d(torch.stack([*value]) if isinstance(value, tuple) else value).tolist()
            for name, value in computed.items()}  # fmt: skip


def process(rank, world, folder, rounds):
    """One process of several: in each round add the objects of its share, and write what it computes to a file."""
    place, limit = f"file://{folder}/init", timedelta(minutes=5)
    distributed.init_process_group("gloo", init_method=place, rank=rank, world_size=world, timeout=limit)
    everything, found = objects(), []
    for shares in rounds:
        own = metrics()
        for number in shares[rank]:
            for metric in own.values():
                metric.update(everything[number], "a prompt")
        computed = [numbers({name: metric.compute() for name, metric in own.items()}) for _ in range(2)]
        found.append([*computed, {name: int(metric.count) for name, metric in own.items() if hasattr(metric, "count")}])
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    distributed.destroy_process_group()
