import pytest

from pipeline.generate import NO_CHECKPOINT, Checkpoint, Generator
from pipeline.store import Store


@pytest.fixture(scope="module")
def make(tiny_weights, tmp_path_factory):
    """A generator in a folder of its own, and a way to let it work."""
    from pipeline import models

    store = Store(tmp_path_factory.mktemp("generate"))
    return Generator(store, models.resolve(str(tiny_weights)), checkpoint_seconds=0.0)


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
