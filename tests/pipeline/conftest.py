"""Fixtures of the pipeline tests: tiny random weights, the bundled models, an S3 server, and small runs."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.embedded import weights_folder
from pipeline.plan import sweep
from pipeline.plan.protocol import Protocol
from pipeline.plan.recipes import settings as read_settings
from pipeline.plan.run import Run
from pipeline.prompts.prompt import Prompt
from pipeline.weights import models
from sctd.recipe.presets import embedded
from tests.support import tiny_models
from tests.support.on_terminal import terminals
from tests.support.processes import PROMPTS, SMALL
from tests.support.study_fixtures import made_clips, runs, study

__all__ = ["made_clips", "runs", "study", "terminals"]  # fixtures of other modules
SETTINGS = ["iterations=4", "initialization.kind=ball", "initialization.count=150", "relocate.interval=3"]


@pytest.fixture(scope="session")
def tiny_weights(tmp_path_factory) -> Path:
    """A folder of tiny random weights for `--weights`, named `tiny`."""
    return tiny_models.write(tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="session")
def bundled_weights() -> Path:
    """The folder of the bundled models."""
    folder = weights_folder()
    for part in ("prior/unet", "scorer", "reward", "reference.npz"):
        if not (folder / part).exists():
            pytest.skip(f"the bundled models are incomplete: {part} is missing (python -m pipeline.embedded.build)")
    return folder


@pytest.fixture(scope="session")
def s3():
    """The URL of a bucket on a local S3 server. Subprocesses find the server by environment variables."""
    import logging

    from moto.server import ThreadedMotoServer

    from pipeline.store.files import place

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "nothing")
        place("s3://bucket").fs.mkdir("bucket")
        yield "s3://bucket"
    server.stop()


@pytest.fixture
def run_of(tiny_weights):
    """A function that makes a small run with the tiny weights. Its arguments are like those of the command line."""

    def make(
        texts=("a red cube", "a blue ball"), objectives=("sctd",), settings=SETTINGS, seed=0, views=4, swept=()
    ) -> Run:
        prompts = [Prompt(text.replace(" ", "-"), text, text) for text in texts]
        sweeps = sweep.combined([], sweep.from_options(swept, embedded()))
        methods = sweep.methods(embedded(), objectives, read_settings(settings), sweeps)
        return Run("colours", prompts, methods, seed, models.resolve(str(tiny_weights)), Protocol(views))

    return make


@pytest.fixture(scope="session")
def undisturbed(tiny_weights, tmp_path_factory) -> Path:
    """The run folder of `PROMPTS` and `SMALL`, generated in this process without faults."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    arguments = ["bench", *PROMPTS, *SMALL, "--weights", str(tiny_weights), "--executor", "inline", "--out", str(out)]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return out
