"""Lost workers that still write, and damaged checkpoints: faults 12 and 19 of docs/cluster.md, on files."""

import json
import uuid
from pathlib import Path

import pytest

from pipeline.store import files
from pipeline.store.attempts import (
    BEFORE,
    NUMERIC_FAILURE,
    SCORING,
    Attempt,
    Checkpoint,
    Fence,
    SupersededError,
    published,
)
from pipeline.store.records import Snapshot
from pipeline.store.run_folder import ASSET, CHECKPOINT, CONTACT, GENERATION, TURNTABLE, Store
from tests.support import runs

JOB = "0123456789abcdef"


@pytest.fixture(params=["folder", "memory", "s3"])
def store(request, tmp_path) -> Store:
    if request.param == "folder":
        return Store(tmp_path)
    server = "memory://" if request.param == "memory" else request.getfixturevalue("s3")
    return Store(files.place(f"{server}/{uuid.uuid4()}"))


def make(attempt: Attempt, word: bytes) -> None:
    for name in (ASSET, TURNTABLE, CONTACT):
        attempt.write_output(name, word + b" " + name.encode())


def names(store: Store) -> set[str]:
    return {path.name for path in store.item(JOB).glob("*")}


def content(store: Store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.item(JOB).glob("*")}


def test_an_accepted_attempt_leaves_only_its_outputs(store):
    attempt = Attempt.start(store, JOB)
    for iteration in (1, 2):
        attempt.save(Checkpoint(iteration, 1.0, b"state"))
    assert published(store, JOB) is None
    make(attempt, b"mine")
    assert attempt.commit(runs.facts(loss=2.0)) == runs.facts(loss=2.0)
    assert names(store) == {ASSET, TURNTABLE, CONTACT, GENERATION}
    assert files.read(store.item(JOB) / ASSET) == b"mine asset.ply"


def test_fault_19_a_lost_worker_cannot_overwrite_the_checkpoint_of_a_later_attempt(store):
    lost = Attempt.start(store, JOB)
    lost.save(Checkpoint(1, 1.0, b"old"))
    later = Attempt.start(store, JOB)
    later.save(Checkpoint(7, 1.0, b"new"))
    before = content(store)
    with pytest.raises(SupersededError) as caught:
        lost.save(Checkpoint(2, 1.0, b"old"))
    assert str(caught.value) == f"attempt 1 of job {JOB} was superseded: attempt 2 has started"
    with pytest.raises(SupersededError):
        lost.record_numeric_failure("NaN", 2, None)
    with pytest.raises(SupersededError):
        lost.write_snapshot(Snapshot(iteration=2, seconds=1.0), b"old", "asset.ply")
    assert content(store) == before


def test_fault_19_a_lost_worker_cannot_replace_the_asset_of_a_later_attempt(store):
    lost, later = Attempt.start(store, JOB), Attempt.start(store, JOB)
    make(lost, b"lost")
    make(later, b"later")
    later.commit(runs.facts(device="later"))
    make(lost, b"lost again")  # into its own folder, which is not read
    with pytest.raises(SupersededError, match=r"was superseded: the job is done$"):
        lost.commit(runs.facts(device="lost"))
    assert files.read(store.item(JOB) / ASSET) == b"later asset.ply"
    assert published(store, JOB) == runs.facts(device="later")
    assert names(store) == {ASSET, TURNTABLE, CONTACT, GENERATION}


def test_fault_19_of_two_concurrent_commits_the_first_is_accepted_whole(store, monkeypatch):
    """Both attempts pass the check, as if each had checked before either wrote."""
    monkeypatch.setattr(Fence, "check", lambda self: None)
    first, second = Attempt.start(store, JOB), Attempt.start(store, JOB)
    make(first, b"first")
    make(second, b"second")
    real = files.move

    def interrupted(source: Path, target: Path) -> None:
        if target.name == TURNTABLE:
            monkeypatch.setattr(files, "move", real)
            found = second.commit(runs.facts(device="second"))
            assert found == runs.facts(device="first"), "it finishes the move that the first started"
        real(source, target)

    monkeypatch.setattr(files, "move", interrupted)
    assert first.commit(runs.facts(device="first")) == runs.facts(device="first")
    assert {files.read(store.item(JOB) / name).split()[0] for name in (ASSET, TURNTABLE, CONTACT)} == {b"first"}
    assert second.commit(runs.facts(device="second")) == runs.facts(device="first")
    assert names(store) == {ASSET, TURNTABLE, CONTACT, GENERATION}


def test_fault_19_a_lost_evaluator_cannot_overwrite_the_scores_of_a_later_one(store):
    lost, later = Fence.claim(store, JOB, SCORING), Fence.claim(store, JOB, SCORING)
    path = store.item(JOB) / "evaluation.npz"
    later.write(path, b"later")
    with pytest.raises(SupersededError):
        lost.write(path, b"lost")
    later.release()
    with pytest.raises(SupersededError):
        lost.write(path, b"lost")
    assert files.read(path) == b"later"
    assert names(store) == {"evaluation.npz"}


def test_two_checkpoints_are_kept(store):
    attempt = Attempt.start(store, JOB)
    for iteration in (1, 2, 3):
        attempt.save(Checkpoint(iteration, 1.0, b"state"))
    assert Checkpoint.read(store.item(JOB) / CHECKPOINT).iteration == 3
    assert Checkpoint.read(store.item(JOB) / BEFORE).iteration == 2


def test_after_a_numeric_failure_the_next_attempt_has_another_seed_and_the_given_state(store):
    attempt = Attempt.start(store, JOB)
    assert attempt.sub_seed == 0
    for iteration in (1, 2):
        attempt.save(Checkpoint(iteration, 1.0, b"state"))
    attempt.record_numeric_failure("NaN", 2, Checkpoint(1, 1.0, b"reseeded"))
    again = Attempt.start(store, JOB)
    assert (again.sub_seed, again.fence.number) == (1, 2)
    assert Checkpoint.read(store.item(JOB) / CHECKPOINT).state == b"reseeded"
    assert BEFORE not in names(store)
    again.record_numeric_failure("NaN", 5, None)
    assert Attempt.start(store, JOB).sub_seed == 2
    assert CHECKPOINT not in names(store)
    assert store.read_json(store.item(JOB) / NUMERIC_FAILURE) == {"sub_seed": 2, "iteration": 5, "error": "NaN"}


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:10], lambda b: b[:-1] + b"!", lambda b: b""])
def test_a_damaged_checkpoint_is_detected_by_its_digest(damage):
    whole = Checkpoint(3, 1.0, b"the state", -2.5).to_bytes()
    assert Checkpoint.from_bytes(whole) == Checkpoint(3, 1.0, b"the state", -2.5)
    with pytest.raises(ValueError, match=r"digest|Expecting|Unterminated"):
        Checkpoint.from_bytes(damage(whole))


@pytest.mark.parametrize("header", [b"[" * 100_000, b'{"iteration": "a"}', b'{"iteration": -1}', b'{"seconds": NaN}'])
def test_a_checkpoint_with_a_wrong_header_is_none(tmp_path, header):
    content = Checkpoint(3, 1.0, b"state").to_bytes()
    if header.startswith(b"{"):
        header = json.dumps(json.loads(content.partition(b"\n")[0]) | json.loads(header)).encode()
    (tmp_path / "checkpoint").write_bytes(header + b"\n" + b"state")
    assert Checkpoint.read(tmp_path / "checkpoint").state == b""
