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
        (4, 40, None, (4, 0.8, 0.2)),  # one per GPU: the evaluator fits beside it, a second generator does not
        (4, 2, None, (2, 0.8, 0.2)),
        (1, 40, 3, (3, 0.266, 0.2)),  # several on one GPU
        (2, 40, 3, (3, 0.4, 0.2)),
    ],
)
def test_there_is_one_generator_per_gpu_or_core(gpus, jobs, workers, expected):
    assert place(WithGpus(gpus), jobs, workers) == expected


@pytest.mark.parametrize(("gpus", "workers"), [(1, 1), (1, 7), (3, 5), (8, 8)])
def test_all_workers_fit_on_the_gpus(gpus, workers):
    placement = place(WithGpus(gpus), 100, workers)
    per_gpu = -(-workers // gpus)
    assert per_gpu * placement.generator_gpus + placement.evaluator_gpus <= 1
    assert workers > gpus or 2 * placement.generator_gpus > 1


def test_gpus_without_gsplat_are_not_used(monkeypatch):
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
def test_a_single_stage_uses_whole_gpus_even_without_gsplat(monkeypatch, gpus, items, workers, expected):
    monkeypatch.setattr(devices, "can_use_gpus", lambda: False)
    assert spread(WithGpus(gpus), items, workers) == expected


@pytest.mark.parametrize(
    ("gpus", "evaluation", "expected"),
    [
        (4, "shared", (4, 0.8, 0.2)),
        (4, "dedicated", (3, 1.0, 1.0)),
        (1, "dedicated", (1, 1.0, 1.0)),  # one after the other
        (4, "cpu", (4, 1.0, 0.0)),
        (0, "dedicated", (6, 0.0, 0.0)),
    ],
)
def test_the_evaluator_follows_eval_placement(gpus, evaluation, expected):
    placement = place(WithGpus(gpus), 40, None, evaluation)
    assert placement == expected
    assert placement.takes_turns == (expected[2] == 1.0)


def test_an_unknown_eval_placement_is_an_error():
    with pytest.raises(UserError) as caught:
        check_placement("gpu")
    assert str(caught.value).startswith(
        "Unknown value 'gpu' for --eval-placement; choose from auto, shared, dedicated, cpu"
    )
