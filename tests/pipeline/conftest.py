"""Weights for the tests of the pipeline: tiny random ones made here, and the packaged ones where they are."""

from pathlib import Path

import pytest
import tiny_models
from study_fixtures import made_clips, runs, study

from pipeline import models, sweep
from pipeline.embedded import weights_folder
from pipeline.jobs import Prompt
from pipeline.protocol import Protocol
from pipeline.recipes import settings as read_settings
from pipeline.run import Run
from sctd.recipes import embedded

__all__ = ["made_clips", "runs", "study"]  # fixtures of the user study
SMALL = ["iterations=4", "seed_shape.kind=ball", "seed_shape.count=150", "relocate.interval=3"]


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> Path:
    """A folder named `tiny` that `--weights` takes."""
    return tiny_models.write(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="session")
def packaged_weights() -> Path:
    """The packaged models."""
    folder = weights_folder()
    for part in ("prior/unet", "scorer", "reward", "reference.npz"):
        if not (folder / part).exists():
            pytest.skip(f"the packaged models are not complete: {part} is missing (python -m pipeline.embedded.build)")
    return folder


@pytest.fixture
def run_of(tiny_weights):
    """A small run over the tiny weights; arguments as those of the command line."""

    def make(
        texts=("a red cube", "a blue ball"), objectives=("sctd",), settings=SMALL, seed=0, views=4, swept=()
    ) -> Run:
        prompts = [Prompt(text.replace(" ", "-"), text, text) for text in texts]
        sweeps = sweep.combined([], sweep.given(swept, embedded()))
        methods = sweep.methods(embedded(), objectives, read_settings(settings), sweeps)
        return Run("colours", prompts, methods, seed, models.resolve(str(tiny_weights)), Protocol(views))

    return make
