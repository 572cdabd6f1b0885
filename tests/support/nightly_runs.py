"""A small nightly run with two jobs, one of which failed."""

import numpy as np

from pipeline.nightly.verdict import JobResult, NightlyRun


def nightly_run(run_id="run") -> NightlyRun:
    features = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    objects = (
        JobResult("sctd", "a cube", 0, {"clip": 30.1, "ir": -0.2}, "", {"fd": features, "fid": features + 1}),
        JobResult("sctd", "a ball", 0, None, "NaN in the loss"),
    )
    return NightlyRun(run_id, "2026-01-02", None, "a CPU", {"protocol": "paper4"}, {"sctd": {"iterations": 3}}, objects)
