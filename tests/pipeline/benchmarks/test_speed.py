"""The benchmark runs and reports all values; no test depends on a speed."""

import json
import math
from dataclasses import fields

import pytest
import torch
from typer.testing import CliRunner

from pipeline.benchmarks import clocks, torch_render
from pipeline.benchmarks.clocks import TimedSpan
from pipeline.benchmarks.speed import Loop, Part, Speed, measure, steady, table
from pipeline.cli.app import app
from pipeline.weights import models
from pipeline.work.roofline import Roofline, operations
from sctd.prior.stable_diffusion import StableDiffusionPrior
from sctd.recipe.presets import embedded, paper
from sctd.recipe.recipe import with_overrides
from sctd.render.cpu_autograd import rasterize
from tests.support.render_reference import leaves_of, random_loss, random_scene


@pytest.fixture(scope="module")
def speed(tiny_weights):
    recipe = with_overrides(embedded(), {"compute.dtype": "float16", "times.threshold": 0})
    return measure(recipe, models.resolve(str(tiny_weights)), 60, 3, lambda line: None)


def test_all_values_are_reported_and_finite(speed):
    tree = json.loads(speed.to_json())
    assert tree.keys() == {field.name for field in fields(Speed)}
    for loop in tree["plain"], tree["fast"]:
        assert loop.keys() == {field.name for field in fields(Loop)}
        for part in loop["parts"]:
            assert part.keys() == {field.name for field in fields(Part)}
            assert 0 <= part["low_ms"] <= part["median_ms"] <= part["high_ms"] < math.inf
        assert loop["low_ms"] <= loop["iteration_ms"] <= loop["high_ms"]
        assert loop["peak_gib"] > 0
        assert loop["sizes"] == {"Gaussians": 60}
    assert tree["teraflops_reached"] > 0
    assert 0 < tree["gradient_error"] == tree["plain_gradient_error"] < 0.1  # of float16; equal for both loops on a CPU
    assert tree["text_effect"] > 0


def test_the_parts_of_an_iteration_are_those_of_sctd(speed):
    parts = {part.name: part for part in speed.fast.parts}
    assert list(parts) == [
        "between", "draws", "render", "encode", "objective", "denoise 4", "denoise 8", "regularizers",
        "encode backward", "render backward", "adam", "densify",
    ]  # fmt: skip
    assert parts["denoise 4"].times == 3  # two inversion steps, and one step back
    assert parts["denoise 8"].times == parts["encode"].times == 1
    assert {name for name, part in parts.items() if part.floor_ms is not None} == {
        "encode", "encode backward", "denoise 4", "denoise 8",
    }  # fmt: skip
    assert parts["denoise 4"].floor_ms / 3 == pytest.approx(parts["denoise 8"].floor_ms / 2)


def test_the_table_has_a_line_for_each_part_and_both_loops(speed):
    lines = table(speed).splitlines()
    assert lines[0].startswith("cpu, float16 at ")
    assert lines[0].endswith("4 views of 16², 60 Gaussians")
    assert [line.split("  ")[0].strip() for line in lines[4:-4]] == [part.name for part in speed.fast.parts]
    assert lines[-4].startswith("plain: ")
    assert "minutes for 300; peak " in lines[-3]
    assert lines[-1].startswith("fast is ")


def test_the_roofline_of_a_convolution_counts_its_products(tiny_weights):
    """A convolution has a multiplication and an addition for each weight and pixel; other operations add to it."""
    prior = StableDiffusionPrior.load(tiny_weights / "prior")
    each = operations(prior)
    kernel = prior.vae.encoder.conv_in.weight
    first = 2 * kernel.numel() * prior.image_size**2  # a multiplication and an addition for each weight and pixel
    assert each["encode"] > first
    assert 0.5 < each["encode backward"] / each["encode"] < 1.5  # only the gradient of the input: about the same work
    roofline = Roofline(each, 2e-6)
    for part, samples in (("encode", 3), ("denoise", 8), ("encode backward", 2)):
        assert roofline.seconds(part, samples) == pytest.approx(samples * each[part] / 2e6)
    assert roofline.seconds("render", 4) is None
    counts = {("encode", 3): 2, ("denoise", 8): 1, ("render", 4): 5}
    assert roofline.total_seconds(counts) == pytest.approx((6 * each["encode"] + 8 * each["denoise"]) / 2e6)


def test_steady_keeps_the_timed_settings():
    recipe = steady(paper(), 1234)
    assert (recipe.initialization.kind, recipe.initialization.count, recipe.bounds.max_gaussians) == (
        "ball",
        1234,
        1234,
    )
    assert recipe.densify.enabled
    kept = ("objective", "guidance", "times", "noise", "encoding", "cameras", "optimizer", "regularizers", "compute")
    assert all(getattr(recipe, part) == getattr(paper(), part) for part in kept)


def test_spans_are_grouped_by_iteration(monkeypatch):
    ticks = iter([1.0, 1.5, 1.75, 2.75, 3.0])
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: next(ticks))
    clock = clocks.Clock(torch.device("cpu"))
    for part, samples in (("begin", 0), ("render", 0), ("begin", 0), ("denoise", 8), ("adam", 0)):
        clock(part, samples)
    assert clock.spans() == [
        TimedSpan(0, "render", 0, 500.0),
        TimedSpan(1, "between", 0, 250.0),
        TimedSpan(1, "denoise", 8, 1000.0),
        TimedSpan(1, "adam", 0, 250.0),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_the_renderer_in_torch_equals_the_cpu_renderer(seed):
    """Compares images, radii and gradients, so that the baseline of the benchmark is correct."""
    splats, cameras, backgrounds = random_scene(seed, num=150, views=2, size=37)
    found = []
    for draw in (torch_render.rasterize, rasterize):
        leaves = leaves_of(splats)
        drawn = draw(leaves, cameras, backgrounds)
        loss = random_loss(drawn.image, drawn.alpha, drawn.depth)
        found.append((drawn, torch.autograd.grad(loss, [*leaves, drawn.means2d])))
    (ours, our_gradients), (theirs, their_gradients) = found
    for name in ("image", "alpha", "depth"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-4, atol=1e-5)
    assert torch.equal(ours.radii, theirs.radii)
    for left, right in zip(our_gradients, their_gradients, strict=True):
        assert float((left - right).norm() / right.norm()) < 1e-4


def test_minutes_scale_with_the_iterations(speed):
    assert speed.fast.minutes(60_000) == pytest.approx(speed.fast.iteration_ms)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--objective", "sctd,sds"], "--objective is 'sctd,sds'; expected one objective."),
        (["--iterations", "1"], "--iterations is 1; expected 2 to 1000."),
        (["--gaussians", "-3"], "--gaussians is -3; expected 1 to 10,000,000."),
        (["--recipe", "papr"], "Unknown recipe or file 'papr'"),
        (["--set", "guidance.scal=3"], "unknown recipe key 'guidance.scal'; the nearest is 'guidance.scale'"),
        (["--recipe", "paper", "--weights", "published"], "run segmentdreamer weights fetch prior"),
    ],
)
def test_invalid_options_are_errors_before_work(options, message, monkeypatch, tmp_path):
    monkeypatch.setenv("SEGMENTDREAMER_WEIGHTS", str(tmp_path / "none"))
    ended = CliRunner().invoke(app, ["benchmark", "speed", *options])
    assert ended.exit_code == 2
    assert message in " ".join(ended.stderr.split())


def test_the_command_writes_its_results(tiny_weights, tmp_path):
    command = ["benchmark", "speed", "--weights", str(tiny_weights), "--iterations", "2", "--gaussians", "40", "--json"]
    ended = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "speed.json")])
    assert ended.exit_code == 0, ended.stderr
    assert json.loads(ended.stdout) == json.loads((tmp_path / "speed.json").read_text())
