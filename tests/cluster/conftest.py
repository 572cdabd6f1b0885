"""One Ray session for all tests: starting it takes seconds, and every test uses its own actors."""

import warnings

import pytest

from cluster.scheduling.executor import Executor, InlineExecutor
from cluster.scheduling.scheduler import Limits

SOON = Limits(backoff_seconds=0.01)  # backoffs short enough for a test


@pytest.fixture(scope="session")
def ray_session():
    from cluster.ray import session
    from tests.support import fake_workers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # Ray does not close the log files of its processes
        ray = session.connect(cpus=4)
        ray.cloudpickle.register_pickle_by_value(fake_workers)  # actors cannot import the tests
        yield ray
        session.disconnect()


@pytest.fixture(scope="session", params=["inline", "ray"])
def executor(request) -> Executor:
    if request.param == "inline":
        return InlineExecutor(SOON)
    request.getfixturevalue("ray_session")
    from cluster.ray.executor import RayExecutor

    return RayExecutor(limits=SOON)
