"""Folders, settings and data that the training stages of one process share."""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from pipeline.embedded import data, tokenizer
from pipeline.embedded.training import TrainingPlan, log

SECONDS = {"vae": 300.0, "scorer": 310.0, "judge": 200.0, "denoiser": 620.0, "reward": 420.0, "shape": 360.0}


@dataclass
class TrainingContext:
    """Folders and settings of a training process, and the data that its stages share."""

    out: Path
    state: Path
    device: str
    scenes: int
    views: int
    seed: int
    workers: int
    part_seconds: float
    scale: float
    steps: int | None
    compiled: bool
    wait_seconds: float
    shared: data.Data | None = None
    described_heldout: data.Scenes | None = None
    caption_tokens: torch.Tensor | None = None

    def plan(self, stage: str) -> TrainingPlan:
        return TrainingPlan(self.scale * SECONDS[stage], self.state / f"{stage}.pt", self.steps, self.part_seconds)

    @property
    def tokenizer(self) -> Path:
        return self.out / "prior" / "tokenizer"

    def ids(self, texts: list[str]) -> torch.Tensor:
        return torch.from_numpy(tokenizer.encode(self.tokenizer, texts)).to(self.device)

    def vocabulary(self) -> int:
        return len(json.loads((self.tokenizer / "vocab.json").read_text()))

    def training_data(self) -> data.Data:
        if self.shared is None:
            described = data.describe(self.scenes, self.views, 1000 + self.seed, workers=self.workers)
            tokens = tokenizer.encode_many(self.tokenizer, described.captions, self.workers)
            log(f"{len(described.counts)} scenes, {len(described.captions)} captions")
            self.caption_tokens = torch.from_numpy(tokens).view(-1, 2, tokenizer.MAX_LENGTH).to(self.device)
            self.shared = data.render_data(described, self.device)
            log("images", tuple(self.shared.images.shape))
        return self.shared

    def describe_heldout(self) -> None:
        """Draw scenes of the held-out pairs, a tenth as many, for the gate classifier only (see gate_classifier.py)."""
        self.described_heldout = data.describe(
            max(1, self.scenes // 10), self.views, 500_000 + self.seed, workers=self.workers, heldout=True
        )

    def training_and_heldout_data(self) -> list[data.Data]:
        """The shared data and the held-out data. Only the gate classifier is trained on the latter."""
        assert self.described_heldout is not None, "the held-out scenes are drawn before CUDA is used"
        return [self.training_data(), data.render_data(self.described_heldout, self.device)]

    def caption_ids(self) -> torch.Tensor:
        """int16 [N, 2, tokens]."""
        self.training_data()
        assert self.caption_tokens is not None
        return self.caption_tokens

    def record(self, stage: str) -> Path:
        return self.state / f"{stage}.json"

    def finished(self, stage: str) -> bool:
        return self.record(stage).exists() and bool(json.loads(self.record(stage).read_text())["finished"])

    def await_stage(self, stage: str) -> None:
        """Wait for a stage that may be running in another process; raises FileNotFoundError after `wait_seconds`."""
        until = time.monotonic() + self.wait_seconds
        while not self.finished(stage):
            if time.monotonic() > until:
                raise FileNotFoundError(f"The stage {stage} is not finished; run it first: --stages {stage}")
            time.sleep(0.5)
