#!/usr/bin/env bash
# kfp's local runner makes one try of a pipeline inside a pipeline, whatever its `set_retry` says.
#
# Version: kfp 2.17.3.
# Guess: a pipeline is used as a component, so `inner(...).set_retry(num_retries=2)` gives three tries, as for a component.
# Instead: the policy stands in the compiled pipeline, and the local runner retries tasks of components only. It warns of other
#   settings that it ignores, and not of this one.
# Why it matters: a run that would pass on a cluster fails locally, and a local test of the retry tests nothing. Set retries on
#   the tasks inside.
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
import warnings
from pathlib import Path

from kfp import dsl, local


@dsl.component(base_image="python", install_kfp_package=False)
def fails(tries: str):
    with open(tries, "a") as file:
        file.write("x")
    raise RuntimeError("again")


@dsl.pipeline
def inner(tries: str):
    fails(tries=tries)


@dsl.pipeline
def of_a_component(tries: str):
    fails(tries=tries).set_retry(num_retries=2)


@dsl.pipeline
def of_a_pipeline(tries: str):
    inner(tries=tries).set_retry(num_retries=2)


local.init(local.SubprocessRunner(use_venv=False), raise_on_error=False)
logging.disable(logging.CRITICAL)
found = {}
for pipeline in (of_a_component, of_a_pipeline):
    (task,) = pipeline.pipeline_spec.root.dag.tasks.values()
    asked = 1 + task.retry_policy.max_retry_count
    path = Path(pipeline.name).resolve()
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipeline(tries=str(path))
    about = [str(warning.message) for warning in caught if "retr" in str(warning.message).lower()]
    found[pipeline.name] = asked, len(path.read_text()), len(about)
    print(f"{pipeline.name}: {asked} tries compiled, {len(path.read_text())} made, {len(about)} warnings about retries")
is_as_stated = list(found.values()) == [(3, 3, 0), (3, 1, 0)]
raise SystemExit(0 if is_as_stated else "this has changed")
PYTHON
"$folder/env/bin/python" pipeline.py
