"""One thread a process, as the pipeline's own actors run. Shape annotations are checked (pyproject.toml)."""

import os
import signal

# A background job of a shell is deaf to Ctrl-C, and so is all that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# As cluster/ray_executor.py sets it, also where tests use Ray themselves.
os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
