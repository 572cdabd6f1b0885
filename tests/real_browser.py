"""What tests in a real browser need that this machine may not have."""

import os
from typing import NoReturn

import pytest

REQUIRED = "SEGMENTDREAMER_BROWSER_TESTS"  # "required": what is missing is a failure, as in .ci/run


def miss(reason: str) -> NoReturn:
    """Skip, or fail where browser tests are required."""
    if os.environ.get(REQUIRED) == "required":
        pytest.fail(reason)
    pytest.skip(reason)
