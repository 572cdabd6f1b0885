"""One Ray session for all tests of a run: starting one takes seconds, and every test uses its own actors."""

import warnings

import pytest

from cluster.scheduling.executor import Executor, InlineExecutor
from cluster.scheduling.scheduler import Limits

SOON = Limits(backoff_seconds=0.01)  # waits short enough for a test


@pytest.fixture(scope="session")
def ray_session():
    from cluster.ray import executor as ray_executor
    from tests.support import fake_workers

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
    from cluster.ray.executor import RayExecutor

    return RayExecutor(limits=SOON)
