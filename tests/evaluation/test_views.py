"""evaluation.views: rounding as in torchvision's save_image; colours that are not finite."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.utils import save_image

from evaluation.views import to_bytes


def test_rounding_matches_save_image_bit_for_bit(tmp_path):
    """Sec. 5.5 no. 17, on every multiple of 1/1020 (so each half step) and on values outside [0, 1]."""
    ramp = torch.linspace(-0.1, 1.1, 1225)[None, None].expand(3, -1, -1)
    save_image(ramp, tmp_path / "ramp.png")
    saved = np.asarray(Image.open(tmp_path / "ramp.png"))
    assert np.array_equal(to_bytes(ramp[None])[0], saved)
    halves = (torch.arange(255) + 0.5) / 255
    assert np.array_equal(
        to_bytes(halves.expand(1, 3, 1, -1))[0, 0, :, 0], np.floor(halves.numpy() * np.float32(255) + np.float32(0.5))
    )


def test_colours_that_are_not_finite_are_refused():
    images = torch.zeros(1, 3, 2, 2)
    images[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="1 colour values are not finite: this asset cannot be scored"):
        to_bytes(images)
