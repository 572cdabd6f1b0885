import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from cluster.scheduling.executor import PREEMPTED, attempt
from pipeline.plan import score_at
from pipeline.store.attempts import HEADER_BYTES, NO_CHECKPOINT, Checkpoint
from pipeline.store.records import Snapshot
from pipeline.store.run_folder import ASSET, CONTACT, GENERATION, TURNTABLE, Store
from pipeline.work import flow, mps
from pipeline.work.execution import ExecutionOptions
from pipeline.work.generate import AssetGenerator, Sharing
from pipeline.work.meter import Meter
from pipeline.work.placement import Placement
from pipeline.work.recovery import NumericError
from pipeline.work.roofline import operations
from sctd.formats import ply, splat
from sctd.recipe.compute import ComputeConfig
from sctd.train.gradient import LoopOptions
from sctd.train.optimize import optimize
from tests.support import tiny_models

SETTINGS = ["iterations=4", "initialization.kind=ball", "initialization.count=150", "relocate.interval=3"]
EMBEDDED = ComputeConfig(dtype="float32")


@pytest.fixture(scope="module")
def make(tiny_weights, tmp_path_factory):
    """A generator with its own run folder, shared by the tests of this module."""
    from pipeline.weights import models

    store = Store(tmp_path_factory.mktemp("generate"))
    return AssetGenerator(store, models.resolve(str(tiny_weights)), 0.0, EMBEDDED)


def finish(work):
    """All progress events of a worker, and its result."""
    seen = []
    while True:
        try:
            seen.append(next(work))
        except StopIteration as stop:
            return seen, stop.value


def test_a_finished_asset_is_not_generated_again(make, run_of):
    job = run_of().jobs[0]
    seen, asset = finish(make(job))
    assert [(step.done, step.total) for step in seen] == [(n, 4) for n in (1, 2, 3, 4)]
    assert seen[0].note == "150 Gaussians"
    assert (asset.job_id, asset.prompt) == (job.id, "a red cube")
    assert asset.facts.resumed_from == 0
    assert asset.facts.image_size == 16
    assert finish(make(job)) == ([], asset)


def test_an_asset_whose_gpu_is_shared_says_so(tiny_weights, run_of, tmp_path):
    from pipeline.weights import models

    sharing = Sharing(4, "nvidia-cuda-mps-control is not installed")
    generator = AssetGenerator(Store(tmp_path), models.resolve(str(tiny_weights)), 1e9, EMBEDDED, sharing=sharing)
    seen, asset = finish(generator(run_of(seed=5).jobs[0]))
    assert seen[0].note == ("150 Gaussians; the assets of a GPU take turns: nvidia-cuda-mps-control is not installed")
    assert seen[1].note == "150 Gaussians"
    assert asset.facts.assets_per_gpu == 4


def test_workers_of_a_shared_gpu_join_mps(tiny_weights, run_of, tmp_path, monkeypatch):
    from pipeline.weights import models

    calls, weights = [], models.resolve(str(tiny_weights))
    monkeypatch.setattr(mps, "join", lambda: calls.append("join"))
    run, execution = run_of(), ExecutionOptions()
    run = replace(run, weights=weights)
    for per_gpu in 1, 2:
        calls.clear()
        placement = Placement(per_gpu, 0.8 / per_gpu, 0.2, per_gpu)
        assert flow.generation(run, Store(tmp_path), placement, execution).make_worker().sharing == (per_gpu, None)
        flow.evaluation(Store(tmp_path), weights, placement, run.protocol, ["a"], "digest").make_worker()
        assert calls == ["join"] * 2 * (per_gpu - 1)


def test_an_interrupted_job_resumes_from_its_checkpoint(make, run_of):
    job = run_of(seed=1).jobs[0]
    work = make(job)
    for _ in range(3):
        next(work)  # three iterations are done, and the first two are saved
    work.close()
    saved = Checkpoint.read(make.store.item(job.id) / "checkpoint")
    assert saved.iteration == 2
    assert saved.seconds > 0
    seen, asset = finish(make(job))
    assert [step.done for step in seen] == [3, 4]
    assert asset.facts.resumed_from == 2
    assert asset.facts.seconds > saved.seconds
    assert not (make.store.item(job.id) / "checkpoint").exists()


def test_a_generator_on_a_draining_node_saves_a_checkpoint_and_stops_one_step_later(tiny_weights, run_of, tmp_path):
    from pipeline.weights import models

    job, asked = run_of(seed=2).jobs[0], iter(range(100))
    generator = AssetGenerator(Store(tmp_path), models.resolve(str(tiny_weights)), 1e9, EMBEDDED)
    seen, reply = finish(attempt(generator, job, lambda: next(asked) >= 2))
    assert reply == PREEMPTED
    assert [(step.done, step.saved) for step in seen] == [(1, 0), (2, 0), (3, 2)]
    assert Checkpoint.read(tmp_path / "items" / job.id / "checkpoint").iteration == 2


def test_snapshots_are_written_during_generation_and_do_not_change_the_asset(make, tiny_weights, run_of, tmp_path):
    from pipeline.weights import models

    job = run_of(seed=21).jobs[0]
    watched = AssetGenerator(Store(tmp_path), models.resolve(str(tiny_weights)), 1e9, EMBEDDED, snapshot_seconds=0.0)
    folder, snapshots, work = tmp_path / "items" / job.id, [], watched(job)
    for _ in range(3):
        next(work)
        (snapshot,) = folder.glob("attempt-*/now.splat")
        snapshots.append(snapshot.read_bytes())
    assert [splat.from_splat(content).num for content in snapshots] == [150] * 3
    assert len(set(snapshots)) == 3
    finish(work)
    finish(make(job))
    assert sorted(path.name for path in folder.iterdir()) == [ASSET, CONTACT, GENERATION, TURNTABLE]
    unwatched = make.store.item(job.id)
    assert [(folder / name).read_bytes() for name in (ASSET, CONTACT, TURNTABLE)] == [
        (unwatched / name).read_bytes() for name in (ASSET, CONTACT, TURNTABLE)
    ]


def test_snapshots_are_the_asset_after_their_iterations(make, tiny_weights, run_of, tmp_path):
    """They change no asset. An attempt that resumes after one keeps it, with its cost."""
    from pipeline.weights import models

    job, weights = run_of(seed=24).jobs[0], models.resolve(str(tiny_weights))
    _, whole = finish(make(job))
    steps = optimize(job.recipe, make.prior, make._initial(job), job.prompt.text, job.seed)
    expected = {step.iteration: ply.to_ply(step.gaussians) for step in steps}
    stored = []
    for name, until in (("undisturbed", 0), ("resumed", 3)):
        generator = AssetGenerator(Store(tmp_path / name), weights, 0.0, EMBEDDED, shares=(0.25, 0.5, 1.0))
        work = generator(job)
        for _ in range(until):
            next(work)
        work.close()
        _, asset = finish(generator(job))
        stored.append(asset.facts)
        folder = tmp_path / name / "items" / job.id
        assert [(folder / file).read_bytes() for file in ("asset-1.ply", "asset-2.ply", ASSET)] == [
            expected[iteration] for iteration in (1, 2, 4)
        ]
        assert (folder / ASSET).read_bytes() == (make.store.item(job.id) / ASSET).read_bytes()
    assert [facts.resumed_from for facts in stored] == [0, 2]
    costs = [[(each.iteration, each.unet_samples) for each in facts.snapshots] for facts in stored]
    assert costs[0] == costs[1]
    assert [iteration for iteration, _ in costs[0]] == [1, 2]
    assert {facts.unet_samples for facts in stored} == {whole.facts.unet_samples}
    assert whole.facts.snapshots is None


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_samples_of_the_unet_are_counted(device, make, run_of, monkeypatch):
    """With classifier-free guidance, SDS has two for each of the four views, on a GPU with the next iteration ahead."""
    monkeypatch.setattr("pipeline.work.meter.devices.reset_peak", lambda device: None)
    job = run_of(objectives=["sds"], seed=25).jobs[0]
    meter = Meter(SimpleNamespace(device=torch.device(device), build_seconds=0.0))
    loop = LoopOptions(ahead=device == "cuda", mark=meter.mark)
    counted = []
    for step in optimize(job.recipe, make.prior, make._initial(job), job.prompt.text, job.seed, loop=loop):
        meter.step(step)
        counted.append(meter.unet_samples)
    assert counted == [8, 16, 24, 32]


def test_the_reported_loss_is_that_of_the_optimizer(make, run_of, monkeypatch):
    monkeypatch.setattr("pipeline.work.meter.LOSSES", 1)
    seen, asset = finish(make(run_of(seed=22).jobs[0]))
    assert seen[-1].numbers["loss"] == pytest.approx(asset.facts.loss)
    losses = [step.numbers["loss"] for step in seen]
    assert asset.facts.mean_loss == pytest.approx(torch.tensor(losses).log().mean().exp().item(), rel=1e-5)


def test_without_a_live_view_no_snapshot_is_written(make, run_of):
    job = run_of(seed=23).jobs[0]
    work = make(job)
    next(work)
    assert list(make.store.item(job.id).rglob("*.splat")) == []
    work.close()


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b'{"iteration": 2', b'{"iteration": 2}\nstate', b"[]\nstate"])
def test_an_unreadable_checkpoint_counts_as_none(tmp_path, content):
    (tmp_path / "checkpoint").write_bytes(content)
    assert Checkpoint.read(tmp_path / "checkpoint") == NO_CHECKPOINT
    assert Checkpoint.read(tmp_path / "absent") == NO_CHECKPOINT


def test_a_checkpoint_survives_a_round_trip(tmp_path):
    snapshots = Snapshot(iteration=2, seconds=0.5, unet_samples=16), Snapshot(iteration=5, seconds=1.0)
    checkpoint = Checkpoint(7, 1.5, b"state\nwith lines\n", -2.5, 56, snapshots)
    (tmp_path / "checkpoint").write_bytes(checkpoint.to_bytes())
    assert Checkpoint.read(tmp_path / "checkpoint") == checkpoint
    most = [Snapshot(iteration=10**6, seconds=1e6 / 3, unet_samples=10**8)] * score_at.MOST
    header = replace(checkpoint, snapshots=most).to_bytes().partition(b"\n")[0]
    assert len(header) < HEADER_BYTES, "which is what the command status reads"


def test_checkpoints_of_older_versions_have_no_samples(tmp_path):
    header, _, state = Checkpoint(7, 1.5, b"state").to_bytes().partition(b"\n")
    about = json.loads(header)
    del about["unet_samples"], about["snapshots"]
    (tmp_path / "checkpoint").write_bytes(json.dumps(about).encode() + b"\n" + state)
    assert Checkpoint.read(tmp_path / "checkpoint") == Checkpoint(7, 1.5, b"state")


def test_a_checkpoint_of_another_version_is_not_used(make, run_of):
    """As after a change of its format: the job starts from the beginning and does not fail."""
    job = run_of(seed=2).jobs[0]
    make.store.write(make.store.item(job.id) / "checkpoint", Checkpoint(3, 9.0, b"of an older version").to_bytes())
    seen, asset = finish(make(job))
    assert [step.done for step in seen] == [1, 2, 3, 4]
    assert asset.facts.resumed_from == 0
    assert asset.facts.seconds >= asset.facts.optimize_seconds


@pytest.mark.parametrize("damage", ["cut short", "one byte"])
def test_fault_12_a_damaged_checkpoint_is_reported_and_the_previous_one_used(make, run_of, damage):
    job = run_of(seed=6 + len(damage)).jobs[0]
    work = make(job)
    for _ in range(4):
        next(work)  # states 2 and 3 are saved
    work.close()
    path = make.store.item(job.id) / "checkpoint"
    content = path.read_bytes()
    path.write_bytes(content[:-100] if damage == "cut short" else content[:-200] + b"X" + content[-199:])
    seen, asset = finish(make(job))
    assert [step.done for step in seen] == [3, 4]
    assert seen[0].note == ("150 Gaussians; checkpoint cannot be used (the digest does not match the state)")
    assert asset.facts.resumed_from == 2
    assert asset.facts.warnings == ("checkpoint cannot be used (the digest does not match the state)",)
    resumed = (make.store.item(job.id) / "asset.ply").read_bytes()
    shutil.rmtree(make.store.item(job.id))
    finish(make(job))
    assert (make.store.item(job.id) / "asset.ply").read_bytes() == resumed


@pytest.fixture
def numeric_failures(make, monkeypatch):
    """A list: each value appended to it, such as NaN, multiplies the latents of one iteration."""
    encode, armed = type(make.prior).encode, []

    def nan(prior, images, noise=None):
        z_0 = encode(prior, images, noise)
        return z_0 * armed.pop() if armed else z_0

    monkeypatch.setattr(type(make.prior), "encode", nan)
    return armed


def test_after_nan_the_job_resumes_from_the_previous_checkpoint_with_another_seed(make, run_of, numeric_failures):
    job = run_of(seed=8, settings=[*SETTINGS, "iterations=6", "max_skipped_iterations=1"]).jobs[0]
    work = make(job)
    for _ in range(4):
        next(work)  # states 2 and 3 are saved
    numeric_failures.append(float("nan"))
    with pytest.raises(NumericError, match="NaN or infinity in 1 iterations in a row, up to iteration 5"):
        finish(work)
    seen, asset = finish(make(job))
    assert [step.done for step in seen] == [4, 5, 6], "states 3 and 4 were saved; it resumes from 3"
    assert (asset.facts.resumed_from, asset.facts.sub_seed, asset.facts.attempt) == (3, 1, 2)
    other = (make.store.item(job.id) / "asset.ply").read_bytes()
    shutil.rmtree(make.store.item(job.id))
    _, undisturbed = finish(make(job))
    assert undisturbed.facts.sub_seed == 0
    assert (make.store.item(job.id) / "asset.ply").read_bytes() != other


def test_after_nan_without_a_checkpoint_the_job_restarts_with_another_seed(make, run_of, numeric_failures):
    job = run_of(seed=9, settings=[*SETTINGS, "max_skipped_iterations=1"]).jobs[0]
    numeric_failures.append(float("nan"))
    with pytest.raises(NumericError):
        finish(make(job))
    seen, asset = finish(make(job))
    assert [step.done for step in seen] == [1, 2, 3, 4]
    assert (asset.facts.resumed_from, asset.facts.sub_seed) == (0, 1)
    assert {path.name for path in make.store.item(job.id).iterdir()} == {
        "asset.ply", "contact.png", "generation.json", "turntable.mp4",
    }  # fmt: skip


def test_out_of_memory_halves_the_views_at_once_and_continues(make, run_of, monkeypatch):
    """The third iteration runs out of memory with four views at once and is repeated with two."""
    job, encode, sizes = run_of(seed=3).jobs[0], type(make.prior).encode, []

    def short(prior, images, noise=None):
        sizes.append(len(images))
        if len(images) == 4 and len(sizes) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(prior, images, noise)

    monkeypatch.setattr(type(make.prior), "encode", short)
    seen, asset = finish(make(job))
    assert [step.done for step in seen] == [1, 2, 3, 4]
    assert sizes == [4, 4, 4, 2, 2, 2, 2]
    assert asset.facts.views_at_once == 2


def test_times_floor_counts_the_samples_of_each_call_also_after_views_were_halved(make, run_of, monkeypatch):
    """The third iteration runs out of memory with four views at once: 16 views are encoded, in six calls."""
    prior, encoded, denoised = type(make.prior), [], []
    encode, denoise = prior.encode, prior.denoise

    def short(prior, images, noise=None):
        if len(images) == 4 and len(encoded) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        encoded.append(len(images))
        return encode(prior, images, noise)

    def counted(prior, z_t, *rest):
        denoised.append(len(z_t))
        return denoise(prior, z_t, *rest)

    monkeypatch.setattr(prior, "encode", short)
    monkeypatch.setattr(prior, "denoise", counted)
    monkeypatch.setattr("pipeline.work.generate.matrix_teraflops", lambda *_: 1e-3)
    facts = finish(make(run_of(seed=31).jobs[0]))[1].facts
    assert encoded == [4, 4, 2, 2, 2, 2]
    each = operations(make.prior)
    total = 16 * (each["encode"] + each["encode backward"]) + sum(denoised) * each["denoise"]
    assert facts.times_floor == pytest.approx(4 * facts.seconds_per_iteration / (total / 1e9))


def test_out_of_memory_with_one_view_fails_the_job(make, run_of, monkeypatch):
    sizes = []

    def short(prior, images, noise=None):
        sizes.append(len(images))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(make.prior), "encode", short)
    with pytest.raises(torch.OutOfMemoryError):
        finish(make(run_of(seed=4).jobs[0]))
    assert sizes == [4, 2, 1]


def test_generation_json_has_speed_roofline_ratio_and_memory(make, run_of):
    _, asset = finish(make(run_of(seed=5).jobs[0]))
    assert asset.facts.seconds_per_iteration > 0
    assert asset.facts.times_floor > 1
    assert asset.facts.build_seconds == 0  # nothing is compiled on a CPU
    assert asset.facts.peak_bytes > 2**20


@pytest.fixture(scope="module")
def controlled_weights(tiny_weights, tmp_path_factory):
    """The tiny models with a ControlNet."""
    folder = tmp_path_factory.mktemp("controlled") / "tiny"
    shutil.copytree(tiny_weights, folder)
    tiny_models.write_control(folder / "control", folder / "prior")
    return folder


def controlled(run, folder):
    run = replace(run, weights=replace(run.weights, folder=folder))
    run.check(scored=True)
    return run


def test_control_scale_sets_the_effect_of_the_controlnet(controlled_weights, run_of, tmp_path):
    """At scale 0 the .ply is bit for bit the one without control; at scale 1 it differs."""
    assets = {}
    for control, scale in (("none", 1), ("depth", 0), ("depth", 1)):
        settings = ["iterations=2", "initialization.kind=ball", "initialization.count=60"]
        scales = [] if control == "none" else [f"guidance.control_scale={scale}"]
        run = run_of(settings=[*settings, f"guidance.control={control}", *scales])
        run = controlled(run, controlled_weights)
        generator = AssetGenerator(Store(tmp_path), run.weights, 0.0, EMBEDDED)
        seen, asset = finish(generator(run.jobs[0]))
        assert len(seen) == 2
        assets[control, scale] = (generator.store.item(asset.job_id) / "asset.ply").read_bytes()
    assert len(assets) == 3
    assert assets["depth", 0] == assets["none", 1]
    assert assets["depth", 1] != assets["none", 1]
    assert bool(ply.from_ply(assets["depth", 1]).means.isfinite().all())


def test_a_recipe_with_control_resumes_from_its_checkpoint(controlled_weights, run_of, tmp_path):
    settings = ["iterations=3", "initialization.kind=ball", "initialization.count=60", "guidance.control=depth"]
    run = controlled(run_of(settings=settings), controlled_weights)
    job, assets = run.jobs[0], []
    for name in ("undisturbed", "killed"):
        generator = AssetGenerator(Store(tmp_path / name), run.weights, 0.0, EMBEDDED)
        if name == "killed":
            work = generator(job)
            next(work), next(work)  # the first iteration is saved
            work.close()
        _, asset = finish(generator(job))
        assert asset.facts.resumed_from == (1 if name == "killed" else 0)
        assets.append((generator.store.item(job.id) / "asset.ply").read_bytes())
    assert assets[0] == assets[1]


def test_a_controlnet_for_another_model_fails_the_job_with_the_reason(controlled_weights, run_of, tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(controlled_weights, folder)
    shutil.copy(folder / "prior" / "unet" / "config.json", folder / "control" / "config.json")
    run = controlled(run_of(settings=["initialization.kind=ball", "guidance.control=depth"]), folder)
    with pytest.raises(ValueError, match="has _class_name 'UNet2DConditionModel'; expected 'ControlNetModel'"):
        finish(AssetGenerator(Store(tmp_path / "run"), run.weights, 0.0, EMBEDDED)(run.jobs[0]))
