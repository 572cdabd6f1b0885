"""Fixtures that locate published weights and shared data, and skip a test if they are missing."""

import os
from pathlib import Path

import pytest

from tests.support.paths import FIXTURES


@pytest.fixture(scope="session")
def shared_file():
    """Function from a path to that file in shared/fixtures next to the checkout; skips the test if it is missing."""

    def find(path):
        if not (FIXTURES / path).is_file():
            pytest.skip(f"needs shared/fixtures/{path} next to the checkout")
        return FIXTURES / path

    return find


@pytest.fixture(scope="session")
def published():
    """Function from a part to its published weights in SEGMENTDREAMER_WEIGHTS; skips the test if they are missing."""

    def find(part):
        place = Path(os.environ.get("SEGMENTDREAMER_WEIGHTS", "/nonexistent"), part)
        if not place.exists():
            pytest.skip(f"needs published weights, {part} in the folder of SEGMENTDREAMER_WEIGHTS")
        return place

    return find
