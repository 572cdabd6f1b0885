"""What is compiled before the first iteration, with stand-ins for the captured networks, which need a GPU."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from cluster.scheduling.workers import Event, Workers, progress_events
from pipeline.cli.app import app
from pipeline.store.attempts import published
from pipeline.store.run_folder import Store
from pipeline.weights import models
from pipeline.work import warm_up
from pipeline.work.generate import AssetGenerator
from sctd.prior.stable_diffusion import CapturedNetworks, predicted_by
from sctd.recipe.recipe import with_overrides
from tests.support import tiny_models


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


def test_ahead_of_a_run_each_part_is_reported_and_the_run_then_compiles_nothing(slow, run_of, monkeypatch, clock):
    job, notes = run_of().jobs[0], []
    monkeypatch.setattr(warm_up, "load_prior", lambda *_: slow.prior)
    monkeypatch.setattr(warm_up.time, "monotonic", lambda: clock[0])
    seconds = warm_up.ahead(job.recipe, slow.weights, torch.device("cpu"), notes.append)
    assert seconds == {
        "loading the prior": 0.0,
        "capturing the encoder for 4 views": 10.0,
        "compiling the U-Net for batches of 4 (1 of 2)": 10.0,
        "compiling the U-Net for batches of 8 (2 of 2)": 10.0,
        "running an iteration": 0.0,
    }
    assert notes == list(seconds)
    assert heartbeats(slow, job)[0] == []


def test_ahead_of_a_run_with_a_controlnet_the_iteration_compiles_the_u_net(slow, run_of, monkeypatch, tmp_path):
    recipe = with_overrides(run_of().jobs[0].recipe, {"guidance.control": "depth"})
    predict, inputs = slow.prior.captured.predict, []
    predict.network = lambda z_t, *rest: (inputs.append(len(rest)), z_t)[1]
    folder = tiny_models.write_control(tmp_path / "control", slow.weights.part("prior"))
    weights = SimpleNamespace(part=lambda name: folder)
    monkeypatch.setattr(warm_up, "load_prior", lambda *_: slow.prior)
    warm_up.ahead(recipe, weights, torch.device("cpu"), lambda note: None)
    assert inputs
    assert min(inputs) > 2  # times, text and the residuals


def test_the_command_prints_what_it_compiled_and_where_it_is_kept(tiny_weights):
    lines = CliRunner().invoke(app, ["warmup", "--weights", str(tiny_weights)]).stdout.splitlines()
    assert [line.split(" s  ")[1] for line in lines[:-1]] == [
        "loading the prior",
        "running an iteration",
        "in all for embedded on cpu",
    ]
    found = json.loads(CliRunner().invoke(app, ["warmup", "--weights", str(tiny_weights), "--json"]).stdout)
    assert (found["device"], found["recipe"]) == ("cpu", "embedded")
    assert list(found["seconds"]) == ["loading the prior", "running an iteration"]
    assert lines[-1] == f"Cache: {found['cache']}"
    assert list(Path(found["cache"]).glob("cpu_projection.project*.nbi"))


def test_the_command_compiles_for_one_objective(tiny_weights):
    done = CliRunner().invoke(app, ["warmup", "--weights", str(tiny_weights), "--objective", "sds,sctd"])
    assert done.exit_code == 2
    assert "--objective is 'sds,sctd'; expected one objective." in done.stderr
