#!/usr/bin/env bash
# kfp's local runner retries for longer than `backoff_max_duration`, and so a local run hides that retries end after an hour.
#
# Version: kfp 2.17.3.
# Guess: `set_retry(..., backoff_max_duration="2s")` is, as documented, the "maximum duration during which the task will be
#   retried": after 2 s there is no further try, wherever the pipeline runs.
# Instead: the local runner takes it as the longest single wait. With waits of 2 s, all 4 tries are made, over 6 s and more. Without
#   the argument the pipeline has 3600s. Kubeflow gives that to Argo, where it is the time since the start of the first try.
# Why it matters: of a task that has run for an hour, a cluster makes no second try, and one that is retried after ten minutes
#   is killed fifty minutes later, whatever its own time limit. No local test shows it. Pass a `backoff_max_duration` that is
#   longer than all tries together.
# Exits non-zero when this is no longer what happens.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/env"
"$folder/env/bin/pip" install -q kfp==2.17.3 2>/dev/null
cd "$folder"
cat >pipeline.py <<'PYTHON'
import contextlib
import io
import logging
from pathlib import Path

import yaml
from kfp import compiler, dsl, local


@dsl.component(base_image="python", install_kfp_package=False)
def fails(times: str):
    import time

    with open(times, "a") as file:
        file.write(f"{time.time()}\n")
    raise RuntimeError("again")


@dsl.pipeline
def with_window(times: str):
    fails(times=times).set_retry(
        num_retries=3, backoff_duration="2s", backoff_factor=1.0, backoff_max_duration="2s"
    )


@dsl.pipeline
def without_window(times: str):
    fails(times=times).set_retry(num_retries=3)


def window(pipeline):
    compiler.Compiler().compile(pipeline, "pipeline.yaml")
    return yaml.safe_load(Path("pipeline.yaml").read_text())["root"]["dag"]["tasks"]["fails"]["retryPolicy"]["backoffMaxDuration"]


windows = window(with_window), window(without_window)
print(f"the window in the compiled pipeline: {windows[0]}; of a task that names none: {windows[1]}")
local.init(local.SubprocessRunner(use_venv=False), raise_on_error=False)
logging.disable(logging.CRITICAL)
with contextlib.redirect_stdout(io.StringIO()):
    with_window(times=str(Path("times").resolve()))
times = [float(line) for line in Path("times").read_text().split()]
print(f"tries of the local runner: {len(times)}, the last one {times[-1] - times[0]:.0f} s after the first")
is_as_stated = windows == ("2s", "3600s") and len(times) == 4 and times[-1] - times[0] >= 6
raise SystemExit(0 if is_as_stated else "this has changed")
PYTHON
"$folder/env/bin/python" pipeline.py
