import shutil
from dataclasses import replace

import pytest
import torch

from cluster.scheduling.executor import LEAVING, attempt
from pipeline.store.run_folder import ASSET, CONTACT, GENERATION, TURNTABLE, Store
from pipeline.work.generate import NO_CHECKPOINT, Checkpoint, Generator, NumericError
from sctd.formats import ply, splat
from sctd.recipe.compute import Compute
from tests.support import tiny_models

SETTINGS = ["iterations=4", "initialization.kind=ball", "initialization.count=150", "relocate.interval=3"]
EMBEDDED = Compute(dtype="float32")


@pytest.fixture(scope="module")
def make(tiny_weights, tmp_path_factory):
    """A generator in a folder of its own, and a way to let it work."""
    from pipeline.weights import models

    store = Store(tmp_path_factory.mktemp("generate"))
    return Generator(store, models.resolve(str(tiny_weights)), 0.0, EMBEDDED)


def finish(work):
    """All progress of a worker, and its result."""
    seen = []
    while True:
        try:
            seen.append(next(work))
        except StopIteration as stop:
            return seen, stop.value


def test_an_asset_is_made_once_and_found_again(make, run_of):
    job = run_of().jobs[0]
    seen, asset = finish(make(job))
    assert [(step.done, step.total) for step in seen] == [(n, 4) for n in (1, 2, 3, 4)]
    assert seen[0].note == "150 Gaussians"
    assert (asset.job_id, asset.prompt) == (job.id, "a red cube")
    assert asset.facts["resumed_from"] == 0
    assert asset.facts["image_size"] == 16
    assert finish(make(job)) == ([], asset)


def test_a_started_job_leaves_a_checkpoint_and_goes_on_from_it(make, run_of):
    job = run_of(seed=1).jobs[0]
    work = make(job)
    for _ in range(3):
        next(work)  # the third iteration is done, and only the second saved
    work.close()
    saved = Checkpoint.read(make.store.item(job.id) / "checkpoint")
    assert saved.iteration == 2
    assert saved.seconds > 0
    seen, asset = finish(make(job))
    assert [step.done for step in seen] == [3, 4]
    assert asset.facts["resumed_from"] == 2
    assert asset.facts["seconds"] > saved.seconds
    assert not (make.store.item(job.id) / "checkpoint").exists()


def test_a_generator_whose_node_is_taken_away_saves_its_state_at_once_and_ends_a_step_later(
    tiny_weights, run_of, tmp_path
):
    from pipeline.weights import models

    job, asked = run_of(seed=2).jobs[0], iter(range(100))
    generator = Generator(Store(tmp_path), models.resolve(str(tiny_weights)), 1e9, EMBEDDED)
    seen, reply = finish(attempt(generator, job, lambda: next(asked) >= 2))
    assert reply == LEAVING
    assert [(step.done, step.saved) for step in seen] == [(1, 0), (2, 0), (3, 2)]
    assert Checkpoint.read(tmp_path / "items" / job.id / "checkpoint").iteration == 2


def test_snapshots_are_left_while_an_asset_is_made_and_change_nothing(make, tiny_weights, run_of, tmp_path):
    from pipeline.weights import models

    job = run_of(seed=21).jobs[0]
    watched = Generator(Store(tmp_path), models.resolve(str(tiny_weights)), 1e9, EMBEDDED, snapshot_seconds=0.0)
    folder, kept, work = tmp_path / "items" / job.id, [], watched(job)
    for _ in range(3):
        next(work)
        (snapshot,) = folder.glob("attempt-*/now.splat")
        kept.append(snapshot.read_bytes())
    assert [splat.from_splat(content).num for content in kept] == [150] * 3
    assert len(set(kept)) == 3
    finish(work)
    finish(make(job))
    assert sorted(path.name for path in folder.iterdir()) == [ASSET, CONTACT, GENERATION, TURNTABLE]
    unwatched = make.store.item(job.id)
    assert [(folder / name).read_bytes() for name in (ASSET, CONTACT, TURNTABLE)] == [
        (unwatched / name).read_bytes() for name in (ASSET, CONTACT, TURNTABLE)
    ]


def test_the_loss_that_is_told_is_the_trainers(make, run_of, monkeypatch):
    monkeypatch.setattr("pipeline.work.generate.LOSSES", 1)
    seen, asset = finish(make(run_of(seed=22).jobs[0]))
    assert seen[-1].numbers["loss"] == pytest.approx(asset.facts["loss"])
    losses = [step.numbers["loss"] for step in seen]
    assert asset.facts["mean_loss"] == pytest.approx(torch.tensor(losses).log().mean().exp().item(), rel=1e-5)


def test_nobody_who_looks_on_means_no_snapshot(make, run_of):
    job = run_of(seed=23).jobs[0]
    work = make(job)
    next(work)
    assert list(make.store.item(job.id).rglob("*.splat")) == []
    work.close()


@pytest.mark.parametrize("content", [b"", b"\x00\x01", b'{"iteration": 2', b'{"iteration": 2}\nstate', b"[]\nstate"])
def test_a_checkpoint_that_cannot_be_read_is_the_beginning(tmp_path, content):
    (tmp_path / "checkpoint").write_bytes(content)
    assert Checkpoint.read(tmp_path / "checkpoint") == NO_CHECKPOINT
    assert Checkpoint.read(tmp_path / "absent") == NO_CHECKPOINT


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    checkpoint = Checkpoint(7, 1.5, b"state\nwith lines\n")
    (tmp_path / "checkpoint").write_bytes(checkpoint.to_bytes())
    assert Checkpoint.read(tmp_path / "checkpoint") == checkpoint


def test_a_checkpoint_of_another_run_is_not_used(make, run_of):
    """As after a change of its format: the asset is made from the beginning, not given up."""
    job = run_of(seed=2).jobs[0]
    make.store.write(make.store.item(job.id) / "checkpoint", Checkpoint(3, 9.0, b"of an older version").to_bytes())
    seen, asset = finish(make(job))
    assert [step.done for step in seen] == [1, 2, 3, 4]
    assert asset.facts["resumed_from"] == 0
    assert asset.facts["seconds"] >= asset.facts["optimize_seconds"]


@pytest.mark.parametrize("damage", ["cut short", "one byte"])
def test_fault_12_after_a_damaged_checkpoint_the_one_before_is_used_and_it_is_said(make, run_of, damage):
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
    assert seen[0].note == ("150 Gaussians; checkpoint cannot be used (its digest is not that of its state)")
    assert asset.facts["resumed_from"] == 2
    assert asset.facts["warnings"] == ["checkpoint cannot be used (its digest is not that of its state)"]
    resumed = (make.store.item(job.id) / "asset.ply").read_bytes()
    shutil.rmtree(make.store.item(job.id))
    finish(make(job))
    assert (make.store.item(job.id) / "asset.ply").read_bytes() == resumed


@pytest.fixture
def breakdown(make, monkeypatch):
    """Once `armed` holds something, the prior gives NaN in one iteration."""
    encode, armed = type(make.prior).encode, []

    def nan(prior, images, noise=None):
        z_0 = encode(prior, images, noise)
        return z_0 * armed.pop() if armed else z_0

    monkeypatch.setattr(type(make.prior), "encode", nan)
    return armed


def test_after_nan_the_checkpoint_before_the_last_goes_on_with_other_random_numbers(make, run_of, breakdown):
    job = run_of(seed=8, settings=[*SETTINGS, "iterations=6", "max_skipped_iterations=1"]).jobs[0]
    work = make(job)
    for _ in range(4):
        next(work)  # states 2 and 3 are saved
    breakdown.append(float("nan"))
    with pytest.raises(NumericError, match="NaN or infinity in 1 iterations in a row, up to iteration 5"):
        finish(work)
    seen, asset = finish(make(job))
    assert [step.done for step in seen] == [4, 5, 6], "states 3 and 4 were saved: from 3 on"
    assert (asset.facts["resumed_from"], asset.facts["sub_seed"], asset.facts["attempt"]) == (3, 1, 2)
    other = (make.store.item(job.id) / "asset.ply").read_bytes()
    shutil.rmtree(make.store.item(job.id))
    _, undisturbed = finish(make(job))
    assert undisturbed.facts["sub_seed"] == 0
    assert (make.store.item(job.id) / "asset.ply").read_bytes() != other


def test_after_nan_without_a_checkpoint_a_job_begins_anew_with_other_random_numbers(make, run_of, breakdown):
    job = run_of(seed=9, settings=[*SETTINGS, "max_skipped_iterations=1"]).jobs[0]
    breakdown.append(float("nan"))
    with pytest.raises(NumericError):
        finish(make(job))
    seen, asset = finish(make(job))
    assert [step.done for step in seen] == [1, 2, 3, 4]
    assert (asset.facts["resumed_from"], asset.facts["sub_seed"]) == (0, 1)
    assert {path.name for path in make.store.item(job.id).iterdir()} == {
        "asset.ply", "contact.png", "generation.json", "turntable.mp4",
    }  # fmt: skip


def test_where_memory_is_short_fewer_views_go_at_once_and_the_asset_is_made(make, run_of, monkeypatch):
    """From the last good step on: the third iteration runs out with four views at once, and is done with two."""
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
    assert asset.facts["views_at_once"] == 2


def test_where_one_view_is_too_much_the_job_fails(make, run_of, monkeypatch):
    sizes = []

    def short(prior, images, noise=None):
        sizes.append(len(images))
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(type(make.prior), "encode", short)
    with pytest.raises(torch.OutOfMemoryError):
        finish(make(run_of(seed=4).jobs[0]))
    assert sizes == [4, 2, 1]


def test_an_asset_says_how_far_it_was_from_the_floor(make, run_of):
    _, asset = finish(make(run_of(seed=5).jobs[0]))
    assert asset.facts["seconds_per_iteration"] > 0
    assert asset.facts["times_floor"] > 1
    assert asset.facts["build_seconds"] == 0  # nothing is compiled on a CPU
    assert asset.facts["peak_bytes"] > 2**20


@pytest.fixture(scope="module")
def controlled_weights(tiny_weights, tmp_path_factory):
    """The tiny models with a ControlNet beside them."""
    folder = tmp_path_factory.mktemp("controlled") / "tiny"
    shutil.copytree(tiny_weights, folder)
    tiny_models.write_control(folder / "control", folder / "prior")
    return folder


def controlled(run, folder):
    run = replace(run, weights=replace(run.weights, folder=folder))
    run.check(judged=True)
    return run


def test_a_recipe_with_a_control_follows_it_as_strongly_as_it_says(controlled_weights, run_of, tmp_path):
    """From weights in a folder to the .ply: at scale 0 in every bit what is made without, at scale 1 something else."""
    assets = {}
    for control, scale in (("none", 1), ("depth", 0), ("depth", 1)):
        settings = ["iterations=2", "initialization.kind=ball", "initialization.count=60"]
        run = run_of(settings=[*settings, f"guidance.control={control}", f"guidance.control_scale={scale}"])
        run = controlled(run, controlled_weights)
        generator = Generator(Store(tmp_path), run.weights, 0.0, EMBEDDED)
        seen, asset = finish(generator(run.jobs[0]))
        assert len(seen) == 2
        assets[control, scale] = (generator.store.item(asset.job_id) / "asset.ply").read_bytes()
    assert len(assets) == 3
    assert assets["depth", 0] == assets["none", 1]
    assert assets["depth", 1] != assets["none", 1]
    assert bool(ply.from_ply(assets["depth", 1]).means.isfinite().all())


def test_a_recipe_with_a_control_goes_on_from_its_checkpoint(controlled_weights, run_of, tmp_path):
    settings = ["iterations=3", "initialization.kind=ball", "initialization.count=60", "guidance.control=depth"]
    run = controlled(run_of(settings=settings), controlled_weights)
    job, made = run.jobs[0], []
    for name in ("undisturbed", "killed"):
        generator = Generator(Store(tmp_path / name), run.weights, 0.0, EMBEDDED)
        if name == "killed":
            work = generator(job)
            next(work), next(work)  # the first is saved
            work.close()
        _, asset = finish(generator(job))
        assert asset.facts["resumed_from"] == (1 if name == "killed" else 0)
        made.append((generator.store.item(job.id) / "asset.ply").read_bytes())
    assert made[0] == made[1]


def test_a_control_for_another_prior_fails_the_job_with_its_reason(controlled_weights, run_of, tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(controlled_weights, folder)
    shutil.copy(folder / "prior" / "unet" / "config.json", folder / "control" / "config.json")
    run = controlled(run_of(settings=["initialization.kind=ball", "guidance.control=depth"]), folder)
    with pytest.raises(ValueError, match="has _class_name 'UNet2DConditionModel'; expected 'ControlNetModel'"):
        finish(Generator(Store(tmp_path / "run"), run.weights, 0.0, EMBEDDED)(run.jobs[0]))
