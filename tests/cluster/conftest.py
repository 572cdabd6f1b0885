"""One Ray session for all tests of a run: starting one takes seconds, and every test uses its own actors."""

import warnings

import pytest

from cluster.executor import Executor, InlineExecutor
from cluster.scheduler import Limits

SOON = Limits(backoff_seconds=0.01)  # waits short enough for a test


@pytest.fixture(scope="session")
def ray_session():
    import fake_workers

    from cluster import ray_executor

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray leaves the log files of its processes to the collector
        ray = ray_executor.connect(cpus=4)
        ray.cloudpickle.register_pickle_by_value(fake_workers)  # actors do not see the folder of the tests
        yield ray
        ray_executor.disconnect()


@pytest.fixture(scope="session", params=["inline", "ray"])
def executor(request) -> Executor:
    if request.param == "inline":
        return InlineExecutor(SOON)
    request.getfixturevalue("ray_session")
    from cluster.ray_executor import RayExecutor

    return RayExecutor(limits=SOON)
