"""One thread a process, as the pipeline's own actors run. Shape annotations are checked (pyproject.toml)."""

import os
import signal

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell's background jobs, and all that they start, are deaf to it
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault(
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0"
)  # as cluster/ray_executor.py sets it, also where tests use ray
