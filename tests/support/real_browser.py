"""Helpers for tests in a real browser: skipping without one, waiting, and checks of screenshots."""

import io
import os
import time
from typing import NoReturn

import numpy as np
import pytest
from PIL import Image

REQUIRED = "SEGMENTDREAMER_BROWSER_TESTS"  # "required": a missing browser fails the tests, as in .ci/run
SECONDS = 60  # timeout of `wait_until`, for a busy machine


def skip_or_fail(reason: str) -> NoReturn:
    """Skip the test, or fail if browser tests are required."""
    if os.environ.get(REQUIRED) == "required":
        pytest.fail(reason)
    pytest.skip(reason)


def wait_until(condition, description: str):
    """The first true value of `condition()`. Raises TimeoutError."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if value := condition():
            return value
        time.sleep(0.1)
    raise TimeoutError(f"not within {SECONDS} s: {description}")


def screenshot(browser) -> np.ndarray:
    """The page as integers [height, width, 3]."""
    return np.asarray(Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")).astype(int)


def dominates(pixels: np.ndarray, strong: int) -> np.ndarray:
    """Where a channel exceeds both others by far."""
    weak = [channel for channel in range(3) if channel != strong]
    return pixels[..., strong] - pixels[..., weak].max(axis=-1) > 60


def assert_asset_is_upright(pixels: np.ndarray) -> None:
    """A red body with a blue cap on top, and a visible green nose below the cap."""
    rows = {
        name: np.nonzero(dominates(pixels, channel))[0] for name, channel in (("red", 0), ("green", 1), ("blue", 2))
    }
    assert all(len(found) > 200 for found in rows.values()), {name: len(found) for name, found in rows.items()}
    assert rows["blue"].mean() < rows["red"].mean() - 20
    assert rows["blue"].mean() < rows["green"].mean() - 20
