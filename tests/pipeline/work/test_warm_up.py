"""What is compiled before the first iteration, with stand-ins for the captured networks, which need a GPU."""

from dataclasses import replace

import pytest
import torch

from cluster.scheduling.workers import Event, Workers, progress_events
from pipeline.store.attempts import published
from pipeline.store.run_folder import Store
from pipeline.weights import models
from pipeline.work import warm_up
from pipeline.work.generate import AssetGenerator
from sctd.prior.stable_diffusion import CapturedNetworks, predicted_by
from sctd.recipe.recipe import with_overrides


class SlowNetwork:
    """A network that builds at the first call with new shapes, which takes 10 s of a clock."""

    def __init__(self, network, clock, memory=99):
        self.network, self.clock, self.memory = network, clock, memory
        self.graphs, self.built, self.seconds = set(), [], 0.0

    def __call__(self, *arguments):
        shapes = tuple(argument.shape for argument in arguments)
        if shapes not in self.graphs:
            if arguments[0].shape[0] > self.memory:
                raise torch.OutOfMemoryError("no memory")
            self.clock[0] += 10.0
            self.graphs.add(shapes)
            self.built.append(arguments[0].shape[0])
        return self.network(*arguments)

    def has(self, *shapes):
        return shapes in self.graphs

    def release_graphs(self):
        self.graphs.clear()


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def slow(tiny_weights, run_of, tmp_path, clock):
    """A generator whose prior builds its networks slowly."""
    compute = run_of().jobs[0].recipe.compute
    generator = AssetGenerator(Store(tmp_path), models.resolve(str(tiny_weights)), 1e9, compute)
    plain = generator.prior
    unet = SlowNetwork(lambda *arguments: predicted_by(plain.unet, *arguments), clock)
    generator.prior = replace(plain, captured=CapturedNetworks(unet, SlowNetwork(plain._moments, clock)))
    return generator


def heartbeats(generator, job):
    """The notes of the preparation with the sizes that are built when they come, and the first step."""
    found = []
    for progress in generator(job):
        if not progress.is_preparing:
            return found, progress
        unet, encoder = generator.prior.captured
        found.append((progress.note, list(unet.built), list(encoder.built)))
    raise AssertionError("no step")


def test_each_network_is_announced_before_it_is_built_and_the_first_step_builds_nothing(slow, run_of):
    found, step = heartbeats(slow, run_of().jobs[0])
    assert found == [
        ("capturing the encoder for 4 views", [], []),
        ("compiling the U-Net for batches of 4 (1 of 2)", [], [4]),
        ("compiling the U-Net for batches of 8 (2 of 2)", [4], [4]),
    ]
    assert step.done == 1
    assert (slow.prior.captured.predict.built, slow.prior.captured.moments.built) == ([4, 8], [4])


def test_the_next_asset_of_a_worker_has_nothing_to_compile(slow, run_of):
    first, second = run_of().jobs
    list(slow(first))
    assert heartbeats(slow, second)[0] == []


def test_without_cuda_graphs_nothing_is_compiled(slow, run_of):
    slow.prior = replace(slow.prior, captured=None)
    assert list(warm_up.builds(run_of().jobs[0].recipe, slow.prior, 4)) == []


def test_with_a_controlnet_the_note_says_that_the_first_iteration_compiles(slow, run_of):
    recipe = with_overrides(run_of().jobs[0].recipe, {"guidance.control": "depth"})
    encoder, unet = warm_up.builds(recipe, slow.prior, 4)
    assert (encoder.note, unet.note) == (
        "capturing the encoder for 4 views",
        "compiling the U-Net for batches of 4 and 8",
    )
    unet.run()
    assert slow.prior.captured.predict.built == []


def test_an_asset_that_lacks_memory_for_its_graphs_is_generated_with_fewer_views(slow, run_of):
    slow.prior.captured.predict.memory = 4
    (job,) = run_of(texts=["a red cube"]).jobs
    list(slow(job))
    assert published(slow.store, job.id).views_at_once == 2


def test_a_point_cloud_is_announced_before_it_is_sampled(slow, run_of, monkeypatch):
    monkeypatch.setattr(slow, "_initial", lambda job: pytest.fail("sampled"))
    job = run_of().jobs[0]
    progress = next(slow(replace(job, recipe=with_overrides(job.recipe, {"initialization.kind": "point_e"}))))
    assert (progress.done, progress.note, progress.is_preparing) == (0, "sampling a point cloud with Point-E", True)


def test_compilation_does_not_count_for_the_pace(slow, clock, run_of):
    job = run_of().jobs[0]
    workers = Workers(lambda: clock[0])
    view = workers.take(Event("started", "generate", 0, job))
    for progress in slow(job):
        clock[0] += 0.0 if progress.is_preparing else 1.0
        for event in progress_events(view, progress):
            view = workers.take(event)
        assert view.heard_at == clock[0]
    assert clock[0] == 30.0 + 4
    assert view.pace == 1.0
    assert view.intervals == (1.0, 1.0, 1.0)
