"""evaluation.views: rounding as in torchvision's save_image, alpha composited on white."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.utils import save_image

from evaluation.views import on_white, to_bytes


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


def test_alpha_is_composited_on_white():
    """Sec. 5.5 no. 18: premultiplied colour and alpha over white give the bytes of a render on white."""
    random = torch.Generator().manual_seed(0)
    colour, alpha = torch.rand(4, 3, 8, 8, generator=random), torch.randint(0, 257, (4, 8, 8), generator=random) / 256
    colour = torch.round(colour * 256) / 256  # so that both orders of operation are exact
    rendered_on_white = colour * alpha[:, None] + 1.0 * (1 - alpha[:, None])
    assert np.array_equal(to_bytes(on_white(colour * alpha[:, None], alpha)), to_bytes(rendered_on_white))
    empty = to_bytes(on_white(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2)))
    assert (empty == 255).all()


def test_colours_that_are_not_finite_are_refused():
    images = torch.zeros(1, 3, 2, 2)
    images[0, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="1 colour values are not finite: this asset cannot be scored"):
        to_bytes(images)
