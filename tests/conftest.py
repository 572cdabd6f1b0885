"""One thread a process, as the pipeline's own actors run. Shape annotations are checked (pyproject.toml)."""

import os
import signal
import sys

import pytest

from tests.support import slow

# A background job of a shell is deaf to Ctrl-C, and so is all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# What a test starts imports torch and diffusers: 6 seconds where their bytecode is kept, else 18.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# Ray's workers would stand back (nice 15) from all else that runs here, such as the tests beside them.
os.environ.setdefault("RAY_worker_niceness", "0")
# As cluster/ray/executor.py sets it, also where tests use Ray themselves.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


def pytest_collection_modifyitems(items):
    """Mark the tests of slow.txt: `make test-fast` leaves them out."""
    listed = slow.listed()
    for item in items:
        if slow.name_of(item.nodeid) in listed:
            item.add_marker(pytest.mark.slow)
