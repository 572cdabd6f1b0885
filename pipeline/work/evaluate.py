"""The evaluator worker: views of each asset, their scores, and their features by each metric network."""

import hashlib
import io
import time
from collections.abc import Generator, Sequence
from typing import Any

import numpy as np

from cluster.scheduling.workers import Progress
from evaluation.clip_score import ClipScorer, clip_score, is_nearest
from evaluation.features import ClipTower, FeatureNetwork
from evaluation.image_reward import ImageReward
from evaluation.references import from_bytes
from evaluation.statistics import lowest_tenth
from pipeline.assets import images
from pipeline.plan.protocol import Protocol
from pipeline.store.attempts import SCORING, Fence
from pipeline.store.records import GeneratedAsset, ScoredAsset
from pipeline.store.run_folder import ASSET, BLANK, EVALUATION, Store
from pipeline.weights.models import Weights
from pipeline.weights.networks import REQUIRED
from pipeline.work import devices
from sctd.formats import ply

METRICS = "clip", "ir", "clip_rprec"  # one number per view
STAGES = 4  # rendering, two scorers and writing; one more for each further metric network
BLANK_PIXELS = 64  # any size will do: resized white stays white


class Evaluator:
    """A worker with all scorers and metric networks on one device. `texts`: all prompts, which R-precision ranks."""

    def __init__(self, store: Store, weights: Weights, protocol: Protocol, texts: Sequence[str], evaluation: str):
        self.store, self.protocol, self.texts = store, protocol, list(texts)
        self.device = devices.prepare()
        self.scorer = ClipScorer.load(weights.part("scorer"), self.device, weights.name)
        self.tower = ClipTower(self.scorer)
        self.reward = ImageReward.load(weights.part("reward"), self.device)
        self.networks: dict[str, FeatureNetwork] = {}  # of the distances that do not use the scorer's features
        for distance in weights.distances:
            network = self.tower if distance.metric == REQUIRED else distance.load(weights, self.device)
            reference = from_bytes(weights.part(distance.reference).read_bytes())
            # The scorer's name is that of its folder, which may be copied and renamed.
            reference.require_network(network.name, network.weights, is_label=distance.metric == REQUIRED)
            if distance.metric != REQUIRED:
                self.networks[distance.features] = network
        self.text_features = self.scorer.text_features(self.texts)
        self._score_white(evaluation)

    def __call__(self, asset: GeneratedAsset) -> Generator[Progress, None, ScoredAsset]:
        fence = Fence.claim(self.store, asset.job_id, SCORING)
        started, stages = time.monotonic(), STAGES + len(self.networks)
        folder = self.store.item(asset.job_id)
        gaussians = ply.from_ply((folder / ASSET).read_bytes()).to(self.device)
        views = images.on_white(gaussians, self.protocol.cameras(asset.facts.image_size))
        yield Progress(1, stages, f"{len(views)} views")
        number = self.texts.index(asset.prompt)
        image_features = self.scorer.image_features(views)
        yield Progress(2, stages, "CLIP")
        rewards = self.reward.score(views, asset.prompt)
        yield Progress(3, stages, "ImageReward")
        arrays = {
            "clip": clip_score(image_features, self.text_features[number]),
            "clip_rprec": is_nearest(image_features, self.text_features, number),
            "ir": rewards,
            "image_features": image_features,
            "text_feature": self.text_features[number],
            "features": self.tower.scaled(image_features),
        }
        for done, (name, network) in enumerate(self.networks.items(), start=STAGES):
            arrays[name] = network(views)
            yield Progress(done, stages, network.name)
        fence.write(folder / EVALUATION, _npz(arrays, hashlib.sha256(views.tobytes()).hexdigest()))
        fence.release()
        yield Progress(stages, stages, "features")
        scores = {name: _summary(arrays[name]) for name in METRICS}
        return ScoredAsset(asset, scores, time.monotonic() - started)

    def _score_white(self, evaluation: str) -> None:
        """Score a white image for each prompt. On request, its scores stand in for those of failed assets."""
        if (self.store.read_json(self.store.root / BLANK) or {}).get("evaluation") == evaluation:
            return
        white = np.full((1, BLANK_PIXELS, BLANK_PIXELS, 3), 255, np.uint8)
        clips = clip_score(self.text_features, self.scorer.image_features(white)[0])
        scores = {
            text: {"clip": float(clip), "ir": float(self.reward.score(white, text)[0])}
            for text, clip in zip(self.texts, clips, strict=True)
        }
        self.store.write_json(self.store.root / BLANK, {"evaluation": evaluation, "scores": scores})


def _summary(values: np.ndarray) -> dict[str, float]:
    return {"mean": float(values.mean()), "sd": float(values.std()), "p10": lowest_tenth(values)}


def _npz(arrays: dict[str, Any], views_sha256: str) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, views_sha256=np.array(views_sha256), **arrays)
    return file.getvalue()
