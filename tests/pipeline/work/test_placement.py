from types import SimpleNamespace

import pytest

from cluster.scheduling.executor import InlineExecutor
from pipeline.errors import UserError
from pipeline.store import manifest
from pipeline.work import devices, flow, placement
from pipeline.work.execution import ExecutionOptions
from pipeline.work.placement import check_placement, most_per_gpu, place, spread
from sctd.recipe import presets


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
        (0, 40, None, (6, 0.0, 0.0, 1)),  # one per core
        (0, 3, None, (3, 0.0, 0.0, 1)),  # no more than there are jobs
        (0, 40, 2, (2, 0.0, 0.0, 1)),
        (4, 40, None, (4, 0.8, 0.2, 1)),  # one per GPU: the evaluator fits beside it, a second generator does not
        (4, 2, None, (2, 0.8, 0.2, 1)),
        (1, 40, 3, (3, 0.266, 0.2, 3)),  # several on one GPU
        (2, 40, 3, (3, 0.4, 0.2, 2)),
    ],
)
def test_there_is_one_generator_per_gpu_or_core(gpus, jobs, workers, expected):
    assert place(WithGpus(gpus), jobs, workers) == expected


@pytest.mark.parametrize(("gpus", "workers"), [(1, 1), (1, 7), (3, 5), (8, 8)])
def test_all_workers_fit_on_the_gpus(gpus, workers):
    found = place(WithGpus(gpus), 100, workers)
    per_gpu = -(-workers // gpus)
    assert per_gpu * found.generator_gpus + found.evaluator_gpus <= 1
    assert workers > gpus or 2 * found.generator_gpus > 1


@pytest.mark.parametrize(
    ("gpus", "jobs", "per_gpu", "evaluation", "expected"),
    [
        (1, 40, 8, "auto", (8, 0.1, 0.2, 8)),
        (2, 40, 4, "auto", (8, 0.2, 0.2, 4)),
        (2, 5, 4, "auto", (5, 0.266, 0.2, 3)),  # fewer jobs than places: spread over the GPUs
        (2, 40, 4, "dedicated", (4, 0.25, 1.0, 4)),
        (2, 40, 4, "cpu", (8, 0.25, 0.0, 4)),
        (0, 40, 4, "auto", (6, 0.0, 0.0, 1)),  # without GPUs it has no effect
    ],
)
def test_several_generators_per_gpu(gpus, jobs, per_gpu, evaluation, expected):
    assert place(WithGpus(gpus), jobs, None, evaluation, per_gpu) == expected


@pytest.mark.parametrize(
    ("recipe", "gpus", "memory", "cores", "expected"),
    [
        ("embedded", 1, 140.0, 16, 8),
        ("embedded", 1, 140.0, 5, 5),  # a core each
        ("embedded", 4, 140.0, 16, 4),
        ("embedded", 1, 8.0, 16, 2),  # 3 GiB each
        ("embedded", 1, 2.0, 16, 1),
        ("embedded", 1, 140.0, 0, 1),
        ("paper", 1, 140.0, 16, 4),
        ("paper", 1, 48.0, 16, 3),  # 12 GiB each, and 8 for the evaluator
        ("paper", 1, 24.0, 16, 1),
        ("paper", 1, 8.0, 16, 1),
        ("embedded", 1, None, 16, 1),  # unknown memory
        ("embedded", 0, 140.0, 16, 1),
    ],
)
def test_auto_fills_memory_and_cores(recipe, gpus, memory, cores, expected, monkeypatch):
    monkeypatch.setattr(placement, "smallest_gpu_gib", lambda: memory)
    monkeypatch.setattr(placement.mps, "program", lambda: "/bin/true")
    monkeypatch.setattr(manifest, "cores", lambda: cores)
    recipes = [presets.embedded(), getattr(presets, recipe)()]
    assert most_per_gpu(recipes, gpus) == expected


@pytest.mark.parametrize(("generators", "evaluators"), [(1, 1), (16, 1), (17, 2), (1000, 63)])
def test_one_evaluator_serves_16_generators_and_a_dedicated_one_all(generators, evaluators):
    assert placement.Placement(generators, 0.8, 0.2).evaluators == evaluators
    assert placement.Placement(generators, 1.0, 1.0).evaluators == 1


def test_auto_is_one_without_mps(monkeypatch):
    monkeypatch.setattr(placement, "smallest_gpu_gib", lambda: 140.0)
    monkeypatch.setattr(placement.mps, "program", lambda: None)
    assert most_per_gpu([presets.embedded()], 1) == 1


@pytest.mark.parametrize(
    ("options", "address", "expected"),
    [
        ({}, "", 5),
        ({}, "10.0.0.1:6379", 1),  # the nodes of a cluster are unknown
        ({"assets_per_gpu": "3"}, "10.0.0.1:6379", 3),
        ({"assets_per_gpu": "3"}, "", 3),
        ({"workers": 2}, "", 2),
    ],
)
def test_the_option_decides_before_the_machine(options, address, expected, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setattr(flow, "most_per_gpu", lambda recipes, gpus: 5)
    run = SimpleNamespace(recipes=[presets.embedded()])
    found = flow.placement_of(run, range(40), WithGpus(1), ExecutionOptions(**options))
    assert found.generators_per_gpu == found.generators == expected


def test_ray_counts_a_core_for_each_worker_that_was_asked_for(monkeypatch):
    monkeypatch.setattr(manifest, "gpus", lambda: ["H200", "H200"])
    assert ExecutionOptions().cpus == 0
    assert ExecutionOptions(workers=5).cpus == 5
    assert ExecutionOptions(assets_per_gpu="4").cpus == 8


def test_gpus_without_gsplat_are_not_used(monkeypatch):
    monkeypatch.setattr(devices, "can_use_gpus", lambda: False)
    assert place(WithGpus(4), 40, None) == (6, 0.0, 0.0, 1)


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
        (4, "shared", (4, 0.8, 0.2, 1)),
        (4, "dedicated", (3, 1.0, 1.0, 1)),
        (1, "dedicated", (1, 1.0, 1.0, 1)),  # one after the other
        (4, "cpu", (4, 1.0, 0.0, 1)),
        (0, "dedicated", (6, 0.0, 0.0, 1)),
    ],
)
def test_the_evaluator_follows_eval_placement(gpus, evaluation, expected):
    found = place(WithGpus(gpus), 40, None, evaluation)
    assert found == expected
    assert found.takes_turns == (expected[2] == 1.0)


def test_an_unknown_eval_placement_is_an_error():
    with pytest.raises(UserError) as caught:
        check_placement("gpu")
    assert str(caught.value).startswith(
        "Unknown value 'gpu' for --eval-placement; choose from auto, shared, dedicated, cpu"
    )
