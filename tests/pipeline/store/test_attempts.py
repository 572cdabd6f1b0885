"""Who was given up for dead and still writes: faults 12 and 19 of docs/cluster.md, at the level of files."""

import uuid
from pathlib import Path

import pytest

from pipeline.store import files
from pipeline.store.attempts import BEFORE, BREAKDOWN, JUDGING, Attempt, Checkpoint, Fence, SupersededError, published
from pipeline.store.run_folder import ASSET, CHECKPOINT, CONTACT, GENERATION, TURNTABLE, Store

JOB = "0123456789abcdef"


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request, tmp_path) -> Store:
    if request.param == "folder":
        return Store(tmp_path)
    server = "memory://" if request.param == "memory" else request.getfixturevalue("s3")
    return Store(files.place(f"{server}/{uuid.uuid4()}"))


def make(attempt: Attempt, word: bytes) -> None:
    for name in (ASSET, TURNTABLE, CONTACT):
        attempt.write(name, word + b" " + name.encode())


def names(store: Store) -> set[str]:
    return {path.name for path in store.item(JOB).glob("*")}


def content(store: Store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.item(JOB).glob("*")}


def test_an_accepted_attempt_leaves_what_it_made_and_nothing_else(store):
    attempt = Attempt.begin(store, JOB)
    for iteration in (1, 2):
        attempt.save(Checkpoint(iteration, 1.0, b"state"))
    assert published(store, JOB) is None
    make(attempt, b"mine")
    assert attempt.commit({"loss": 1.0}) == {"loss": 1.0}
    assert names(store) == {ASSET, TURNTABLE, CONTACT, GENERATION}
    assert files.read(store.item(JOB) / ASSET) == b"mine asset.ply"


def test_fault_19_a_zombie_overwrites_no_checkpoint_of_a_later_attempt(store):
    zombie = Attempt.begin(store, JOB)
    zombie.save(Checkpoint(1, 1.0, b"old"))
    later = Attempt.begin(store, JOB)
    later.save(Checkpoint(7, 1.0, b"new"))
    before = content(store)
    with pytest.raises(SupersededError) as caught:
        zombie.save(Checkpoint(2, 1.0, b"old"))
    assert str(caught.value) == f"attempt 1 at {JOB} was given up: attempt 2 has begun"
    with pytest.raises(SupersededError):
        zombie.broke_down("NaN", 2, None)
    assert content(store) == before


def test_fault_19_a_zombie_publishes_nothing_over_a_later_attempt_that_was_accepted(store):
    zombie, later = Attempt.begin(store, JOB), Attempt.begin(store, JOB)
    make(zombie, b"zombie")
    make(later, b"later")
    later.commit({"by": "later"})
    make(zombie, b"zombie again")  # it writes where nobody looks
    with pytest.raises(SupersededError, match=r"was given up: the job is done$"):
        zombie.commit({"by": "zombie"})
    assert files.read(store.item(JOB) / ASSET) == b"later asset.ply"
    assert published(store, JOB) == {"by": "later"}
    assert names(store) == {ASSET, TURNTABLE, CONTACT, GENERATION}


def test_fault_19_of_two_that_commit_at_once_the_first_is_accepted_whole(store, monkeypatch):
    """As if both had looked before either wrote: the check is passed by both."""
    monkeypatch.setattr(Fence, "check", lambda self: None)
    first, second = Attempt.begin(store, JOB), Attempt.begin(store, JOB)
    make(first, b"first")
    make(second, b"second")
    real = files.move

    def interrupted(source: Path, target: Path) -> None:
        if target.name == TURNTABLE:
            monkeypatch.setattr(files, "move", real)
            assert second.commit({"by": "second"}) == {"by": "first"}, "it ends what the first began"
        real(source, target)

    monkeypatch.setattr(files, "move", interrupted)
    assert first.commit({"by": "first"}) == {"by": "first"}
    assert {files.read(store.item(JOB) / name).split()[0] for name in (ASSET, TURNTABLE, CONTACT)} == {b"first"}
    assert second.commit({"by": "second"}) == {"by": "first"}
    assert names(store) == {ASSET, TURNTABLE, CONTACT, GENERATION}


def test_fault_19_a_zombie_judge_writes_nothing_over_a_later_one(store):
    zombie, later = Fence.claim(store, JOB, JUDGING), Fence.claim(store, JOB, JUDGING)
    path = store.item(JOB) / "evaluation.npz"
    later.write(path, b"later")
    with pytest.raises(SupersededError):
        zombie.write(path, b"zombie")
    later.release()
    with pytest.raises(SupersededError):
        zombie.write(path, b"zombie")
    assert files.read(path) == b"later"
    assert names(store) == {"evaluation.npz"}


def test_two_checkpoints_are_kept(store):
    attempt = Attempt.begin(store, JOB)
    for iteration in (1, 2, 3):
        attempt.save(Checkpoint(iteration, 1.0, b"state"))
    assert Checkpoint.read(store.item(JOB) / CHECKPOINT).iteration == 3
    assert Checkpoint.read(store.item(JOB) / BEFORE).iteration == 2


def test_after_a_breakdown_the_next_attempt_has_another_seed_and_the_state_it_was_given(store):
    attempt = Attempt.begin(store, JOB)
    assert attempt.sub_seed == 0
    for iteration in (1, 2):
        attempt.save(Checkpoint(iteration, 1.0, b"state"))
    attempt.broke_down("NaN", 2, Checkpoint(1, 1.0, b"reseeded"))
    again = Attempt.begin(store, JOB)
    assert (again.sub_seed, again.fence.number) == (1, 2)
    assert Checkpoint.read(store.item(JOB) / CHECKPOINT).state == b"reseeded"
    assert BEFORE not in names(store)
    again.broke_down("NaN", 5, None)
    assert Attempt.begin(store, JOB).sub_seed == 2
    assert CHECKPOINT not in names(store)
    assert store.read_json(store.item(JOB) / BREAKDOWN) == {"sub_seed": 2, "iteration": 5, "error": "NaN"}


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:10], lambda b: b[:-1] + b"!", lambda b: b""])
def test_a_damaged_checkpoint_is_known_by_its_digest(damage):
    whole = Checkpoint(3, 1.0, b"the state", -2.5).to_bytes()
    assert Checkpoint.from_bytes(whole) == Checkpoint(3, 1.0, b"the state", -2.5)
    with pytest.raises(ValueError, match=r"digest|Expecting|Unterminated"):
        Checkpoint.from_bytes(damage(whole))
