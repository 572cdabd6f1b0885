"""Where published weights and other people's data lie, for tests that run only where they do."""

import os
from pathlib import Path

import pytest

from tests.support.paths import FIXTURES


@pytest.fixture(scope="session")
def shared_file():
    """Of a path, the file in shared/fixtures beside the checkout; where it is not there the test is skipped."""

    def find(path):
        if not (FIXTURES / path).is_file():
            pytest.skip(f"needs shared/fixtures/{path} beside the checkout")
        return FIXTURES / path

    return find


@pytest.fixture(scope="session")
def published():
    """Of a part, its folder or file of published weights below SEGMENTDREAMER_WEIGHTS; without, a test is skipped."""

    def find(part):
        place = Path(os.environ.get("SEGMENTDREAMER_WEIGHTS", "/nonexistent"), part)
        if not place.exists():
            pytest.skip(f"needs published weights, {part} in the folder of SEGMENTDREAMER_WEIGHTS")
        return place

    return find
