import io

import numpy as np
import pytest
from PIL import Image

from pipeline.assets import turntable_strip as strip
from pipeline.store.run_folder import Store
from tests.support import finished_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    root = tmp_path_factory.mktemp("strip")
    finished_run.write(Store(root / "run"), root / "weights", ["a red ball", "a ball"], ["sctd"])
    return root / "run"


def test_assets_turn_side_by_side_over_white(run):
    frames = strip.strip(run, 32, 4)
    assert frames.shape == (4, 32, 64, 3)
    assert (frames[:, :, :32] == frames[:, :, 32:]).all(), "the same asset twice"
    corners = frames[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 255).all()
    assert (frames.min(axis=(1, 2, 3)) < 128).all()
    assert not (frames[0] == frames[1]).all(), "the nose goes round"


def test_a_turn_is_an_animation_for_ever(run):
    frames = strip.strip(run, 32, 4)
    image = Image.open(io.BytesIO(strip.animated_webp(frames)))
    assert (image.format, image.n_frames, image.size, image.info["loop"]) == ("WEBP", 4, (64, 32), 0)
    assert np.abs(np.asarray(image.convert("RGB"), float) - frames[0]).mean() < 5
