"""The README's turntable strip."""

import io

import numpy as np
import pytest
from PIL import Image

from pipeline.assets.turntable_strip import animated_webp, turntable_strip
from pipeline.store.run_folder import Store
from tests.support import finished_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("strip")
    finished_run.write(Store(root / "run"), root / "weights", ["a red ball", "a ball"], ["sctd"])
    return root / "run"


def test_assets_turn_side_by_side_on_white(run):
    frames = turntable_strip(run, 32, 4)
    assert frames.shape == (4, 32, 64, 3)
    assert (frames[:, :, :32] == frames[:, :, 32:]).all(), "the same asset twice"
    corners = frames[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 255).all()
    assert (frames.min(axis=(1, 2, 3)) < 128).all()
    assert not (frames[0] == frames[1]).all(), "the assets turn"


def test_webp_loops(run):
    frames = turntable_strip(run, 32, 4)
    image = Image.open(io.BytesIO(animated_webp(frames)))
    assert (image.format, image.n_frames, image.size, image.info["loop"]) == ("WEBP", 4, (64, 32), 0)
    assert np.abs(np.asarray(image.convert("RGB"), float) - frames[0]).mean() < 5
