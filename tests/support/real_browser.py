"""What tests in a real browser need: what this machine may not have, and eyes."""

import io
import os
import time
from typing import NoReturn

import numpy as np
import pytest
from PIL import Image

REQUIRED = "SEGMENTDREAMER_BROWSER_TESTS"  # "required": what is missing is a failure, as in .ci/run
SECONDS = 60  # that anything may take on a busy machine


def miss(reason: str) -> NoReturn:
    """Skip, or fail where browser tests are required."""
    if os.environ.get(REQUIRED) == "required":
        pytest.fail(reason)
    pytest.skip(reason)


def wait_until(found, told: str):
    """The first true value of a function. Raises TimeoutError."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if value := found():
            return value
        time.sleep(0.1)
    raise TimeoutError(f"in {SECONDS} s it never happened that {told}")


def picture(browser) -> np.ndarray:
    """What is on the screen, as numbers of [height, width, 3]."""
    return np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")).astype(int)


def near(pixels: np.ndarray, strong: int) -> np.ndarray:
    """Where one channel stands out far above both others."""
    weak = [channel for channel in range(3) if channel != strong]
    return pixels[..., strong] - pixels[..., weak].max(axis=-1) > 60


def assert_the_asset_stands_upright(pixels: np.ndarray) -> None:
    """Red, with blue on top of it; its green nose turned to us, lower than the blue cap."""
    rows = {name: np.nonzero(near(pixels, channel))[0] for name, channel in (("red", 0), ("green", 1), ("blue", 2))}
    assert all(len(found) > 200 for found in rows.values()), {name: len(found) for name, found in rows.items()}
    assert rows["blue"].mean() < rows["red"].mean() - 20
    assert rows["blue"].mean() < rows["green"].mean() - 20
