"""Settings of all tests: one thread per process, like the pipeline's workers. pyproject.toml enables shape checks."""

import gc
import os
import signal
import sys

import pytest

from tests.support import slow

# A shell's background jobs and their subprocesses ignore SIGINT; some tests send it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Subprocesses import torch and diffusers: 6 seconds with cached bytecode, 18 without.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# By default Ray's workers run at nice 15, behind all other processes, such as tests that run in parallel.
os.environ.setdefault("RAY_worker_niceness", "0")
# Results of tests do not depend on the processor. tests/pipeline/work/test_precision.py unsets it.
os.environ["SEGMENTDREAMER_CPU_DTYPE"] = "float32"
# As in cluster/ray/session.py, for tests that use Ray directly.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")


def pytest_collection_modifyitems(items):
    """Mark the tests of slow.txt, which `make test-fast` leaves out, and run the files with the longest first."""
    listed = slow.read_list()
    seconds = slow.seconds_of_files(listed)
    for item in items:
        if slow.is_slow(item.nodeid, listed):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: -seconds[slow.file_of(item.nodeid)])


def pytest_collection_finish():
    """Exempt what the imported libraries hold from garbage collection, which takes a tenth of the time otherwise."""
    import hypothesis  # noqa: F401  its plugin imports it at the end, and finds no references to what is exempt

    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Let Python free it at its end; else triton reports leaks."""
    gc.unfreeze()
