import pytest

from cluster.scheduling.executor import InlineExecutor
from pipeline.errors import UserError
from pipeline.store import manifest
from pipeline.work import devices
from pipeline.work.placement import check_placement, place, spread


class WithGpus(InlineExecutor):
    def __init__(self, count: int):
        self.count = count

    def gpus(self) -> int:
        return self.count


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    monkeypatch.setattr(manifest, "cores", lambda: 6)
    monkeypatch.setattr(devices, "can_use_gpus", lambda: True)


@pytest.mark.parametrize(
    ("gpus", "jobs", "workers", "expected"),
    [
        (0, 40, None, (6, 0.0, 0.0)),  # one per core
        (0, 3, None, (3, 0.0, 0.0)),  # no more than there are jobs
        (0, 40, 2, (2, 0.0, 0.0)),
        (4, 40, None, (4, 0.8, 0.2)),  # one per GPU: no two fit, the evaluator does
        (4, 2, None, (2, 0.8, 0.2)),
        (1, 40, 3, (3, 0.266, 0.2)),  # several to a GPU
        (2, 40, 3, (3, 0.4, 0.2)),
    ],
)
def test_generators_take_the_gpus_or_the_cores(gpus, jobs, workers, expected):
    assert place(WithGpus(gpus), jobs, workers) == expected


@pytest.mark.parametrize(("gpus", "workers"), [(1, 1), (1, 7), (3, 5), (8, 8)])
def test_all_workers_fit_beside_each_other(gpus, workers):
    placement = place(WithGpus(gpus), 100, workers)
    per_gpu = -(-workers // gpus)
    assert per_gpu * placement.generator_gpus + placement.evaluator_gpus <= 1
    assert workers > gpus or 2 * placement.generator_gpus > 1


def test_gpus_that_cannot_render_are_left_alone(monkeypatch):
    monkeypatch.setattr(devices, "can_use_gpus", lambda: False)
    assert place(WithGpus(4), 40, None) == (6, 0.0, 0.0)


@pytest.mark.parametrize(
    ("gpus", "items", "workers", "expected"),
    [
        (0, 50, None, (6, 0.0)),
        (8, 50, None, (8, 1.0)),
        (8, 3, None, (3, 1.0)),
        (1, 50, 2, (2, 0.5)),
        (8, 0, None, (1, 0.0)),
    ],
)
def test_one_kind_of_worker_has_whole_gpus_also_where_nothing_can_render(monkeypatch, gpus, items, workers, expected):
    monkeypatch.setattr(devices, "can_use_gpus", lambda: False)
    assert spread(WithGpus(gpus), items, workers) == expected


@pytest.mark.parametrize(
    ("gpus", "evaluation", "expected"),
    [
        (4, "shared", (4, 0.8, 0.2)),
        (4, "dedicated", (3, 1.0, 1.0)),
        (1, "dedicated", (1, 1.0, 1.0)),  # in turns
        (4, "cpu", (4, 1.0, 0.0)),
        (0, "dedicated", (6, 0.0, 0.0)),
    ],
)
def test_the_evaluator_lives_where_it_is_told_to(gpus, evaluation, expected):
    placement = place(WithGpus(gpus), 40, None, evaluation)
    assert placement == expected
    assert placement.takes_turns == (expected[2] == 1.0)


def test_a_place_to_judge_that_there_is_not_is_named():
    with pytest.raises(UserError) as caught:
        check_placement("gpu")
    assert str(caught.value).startswith("There is no --eval-placement 'gpu'; choose from auto, shared, dedicated, cpu")
