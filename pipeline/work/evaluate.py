"""The evaluator worker: views of each asset, their scores, and their features by each metric network."""

import hashlib
import io
import time
from collections.abc import Callable, Generator, Sequence
from itertools import count
from pkgutil import resolve_name
from typing import Any

import numpy as np

from cluster.scheduling.workers import Progress
from evaluation.clip_score import ClipScorer
from evaluation.features import ClipTower, FeatureNetwork
from evaluation.image_reward import ImageReward
from evaluation.metrics import Models, ViewMetric
from evaluation.references import from_bytes
from evaluation.statistics import lowest_tenth
from pipeline.assets import objects
from pipeline.plan.metrics import measured
from pipeline.plan.protocol import Protocol
from pipeline.store import files
from pipeline.store.attempts import SCORING, Fence
from pipeline.store.records import GeneratedAsset, ScoredAsset, ScoredSnapshot, Scores, Snapshot
from pipeline.store.run_folder import BLANK, EVALUATION, Store
from pipeline.weights.models import Weights
from pipeline.weights.networks import REQUIRED
from pipeline.work import devices
from sctd.formats.common import FormatError

BLANK_PIXELS = 64  # any size will do: resized white stays white


class Evaluator:
    """A worker with all scorers and metric networks on one device. `texts`: all prompts, which R-precision ranks."""

    def __init__(self, store: Store, weights: Weights, protocol: Protocol, texts: Sequence[str], evaluation: str):
        self.store, self.protocol, self.texts = store, protocol, list(texts)
        self.device = devices.prepare()
        self.scorer = ClipScorer.load(weights.part("scorer"), self.device, weights.name)
        self.tower = ClipTower(self.scorer)
        self.networks: dict[str, FeatureNetwork] = {}  # of the distances that do not use the scorer's features
        for distance in weights.distances:
            network = self.tower if distance.metric == REQUIRED else distance.load(weights, self.device)
            reference = from_bytes(weights.part(distance.reference).read_bytes())
            # The scorer's name is that of its folder, which may be copied and renamed.
            reference.require_network(network.name, network.weights, is_label=distance.metric == REQUIRED)
            if distance.metric != REQUIRED:
                self.networks[distance.features] = network
        self.scorer.keep(texts=self.texts)
        reward = ImageReward.load(weights.part("reward"), self.device)
        models = Models(self.scorer, reward, self.texts, weights.part, self.device)
        self.table = measured(weights)
        self.metrics: dict[str, ViewMetric] = {m.id: resolve_name(m.scorer).of(models) for m in self.table}
        self.compared = [metric for metric in self.table if metric.compared]
        self._score_white(evaluation)

    def __call__(self, asset: GeneratedAsset) -> Generator[Progress, None, ScoredAsset]:
        fence = Fence.claim(self.store, asset.job_id, SCORING)
        started, folder, snapshots = time.monotonic(), self.store.item(asset.job_id), asset.facts.snapshots or ()
        # Rendering and writing are a stage each, and so is each compared metric and each further network.
        done, stages = count(1), (1 + len(self.compared)) * (1 + len(snapshots)) + len(self.networks) + 1

        def progress(note: str) -> Progress:
            return Progress(next(done), stages, note)

        views, arrays = yield from self._scored(objects.of_item(folder), asset, progress)
        scores = _summaries(arrays)
        arrays["image_features"] = self.scorer.image_features(views)
        arrays["text_feature"] = self.scorer.text_features([asset.prompt])[0]
        arrays["features"] = self.tower(views)
        for name, network in self.networks.items():
            arrays[name] = network(views)
            yield progress(network.name)
        content = _npz(arrays, hashlib.sha256(views.tobytes()).hexdigest())
        fence.write(folder / EVALUATION, content)
        seconds, curve = time.monotonic() - started, []
        for snapshot in snapshots:
            curve.append((yield from self._snapshot(snapshot, asset, progress)))
        fence.release()
        yield Progress(stages, stages, "features")
        return ScoredAsset(asset, scores, seconds, tuple(curve), hashlib.sha256(content).hexdigest())

    def _scored(
        self, viewed: objects.Viewed, asset: GeneratedAsset, progress: Callable[[str], Progress]
    ) -> Generator[Progress, None, tuple[np.ndarray, dict[str, np.ndarray]]]:
        """The views of an object, and their scores by metric."""
        cameras, shading = self.protocol.cameras(asset.facts.image_size), asset.facts.shading
        views = viewed.views(cameras, self.device, shading or "unlit")
        yield progress(f"{len(views)} views")
        self.scorer.keep(views=views)
        arrays: dict[str, np.ndarray] = {}
        for metric in self.table:
            arrays[metric.id] = self.metrics[metric.id].scores(views, asset.prompt)
            if metric.compared:
                yield progress(metric.title)
        return views, arrays

    def _snapshot(
        self, snapshot: Snapshot, asset: GeneratedAsset, progress: Callable[[str], Progress]
    ) -> Generator[Progress, None, ScoredSnapshot]:
        """The scores of a snapshot; if its file is missing or damaged, the reason instead."""
        name = snapshot.file(asset.facts.object_file)
        try:
            content = files.read(self.store.item(asset.job_id) / name)
            viewed = objects.of_bytes(content, name)
        except FileNotFoundError:
            return ScoredSnapshot(iteration=snapshot.iteration, error=f"{name} is missing")
        except FormatError as error:
            return ScoredSnapshot(iteration=snapshot.iteration, error=f"{name} is damaged: {error}")
        _, arrays = yield from self._scored(viewed, asset, progress)
        return ScoredSnapshot(iteration=snapshot.iteration, scores=_summaries(arrays))

    def _score_white(self, evaluation: str) -> None:
        """Score a white image for each prompt. On request, its scores stand in for those of failed assets."""
        if (self.store.read_json(self.store.root / BLANK) or {}).get("evaluation") == evaluation:
            return
        white = np.full((1, BLANK_PIXELS, BLANK_PIXELS, 3), 255, np.uint8)
        by_metric = {m.id: self.metrics[m.id].scores_of_prompts(white, self.texts) for m in self.compared}
        scores = {
            text: {name: float(values[number]) for name, values in by_metric.items()}
            for number, text in enumerate(self.texts)
        }
        self.store.write_json(self.store.root / BLANK, {"evaluation": evaluation, "scores": scores})


def _summaries(arrays: dict[str, np.ndarray]) -> Scores:
    return {
        name: {"mean": float(values.mean()), "sd": float(values.std()), "p10": lowest_tenth(values)}
        for name, values in arrays.items()
    }


def _npz(arrays: dict[str, Any], views_sha256: str) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, views_sha256=np.array(views_sha256), **arrays)
    return file.getvalue()
