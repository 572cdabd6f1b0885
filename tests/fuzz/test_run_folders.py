"""Readers of run folders, baselines and studies: every JSON file, checkpoints, features and references."""

import io
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import strategies as st

from evaluation import EvaluationError
from evaluation.fid import Moments
from evaluation.references import Reference
from pipeline.errors import UserError
from pipeline.events import status
from pipeline.leaderboard import table, user_study
from pipeline.reference.distances import DistanceCache
from pipeline.report import facts
from pipeline.store import lease, manifest
from pipeline.store.attempts import ATTEMPT, NO_CHECKPOINT, NUMERIC_FAILURE, Attempt, Checkpoint
from pipeline.store.lease import LeaseError
from pipeline.store.records import Record
from pipeline.store.results import RunResults
from pipeline.store.run_folder import BLANK, DISTANCES, RECORD, VERDICT, Store
from pipeline.study import plan
from sctd.recipe.presets import paper
from sctd.scene.gaussians import Gaussians
from sctd.train.checkpoint import CheckpointError, Identity, State, from_bytes, reseeded, to_bytes
from sctd.train.gaussian_splatting import GaussianSplatting
from tests.support import runs, scored_run
from tests.support.fuzzing import (
    Refused,
    changed_trees,
    chosen,
    damaged,
    fuzz,
    json_files,
    outcome,
    put,
    to_json,
)
from tests.support.populations import random_population

JOBS = [
    runs.job("aa00", "a red cube"),
    runs.job("bb11", "a blue ball", "ism"),
    runs.job("cc22", "=1+1"),
    runs.job("dd33", "é"),
]
RECORDS = [runs.done(JOBS[0]), runs.failed(JOBS[1], generation=runs.facts()), runs.generated(JOBS[2])]


@pytest.fixture
def store(tmp_path) -> Store:
    """A run folder with a finished, a failed, a generated and an unfinished job."""
    made = Store(Path(tmp_path) / "run")
    runs.manifest(made, JOBS)
    for record in RECORDS:
        made.write_record(record)
        made.write_json(made.item(record.job_id) / "generation.json", runs.facts())
    Attempt.start(made, JOBS[3].job_id)
    return made


def fuzz_file(store: Store, path: Path, files: st.SearchStrategy[bytes], read) -> None:
    """Put each file at this path and call `read`."""

    def check(file: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        put(path, file)
        outcome(read, UserError, EvaluationError, LeaseError)

    fuzz(files, check)


def all_of(store: Store) -> None:
    """What reads a run folder: status, leaderboard and report."""
    found = RunResults.read(store)
    assert [record.job_id for record in found.records.values()] == list(
        dict.fromkeys(job.job_id for job in found.manifest.jobs)
    )
    for record in found.records.values():
        assert isinstance(record, Record)
    shown = status.of(store)
    json.dumps(shown, allow_nan=False)
    status.table(shown)
    facts.by_prompt([found])
    facts.origin(found)
    table.per_object(found)
    assert manifest.MANIFEST_FILE.validate_python(json.loads(json.dumps(found.manifest.to_json()))) == found.manifest


def test_manifest(store):
    intact = json.loads((store.root / manifest.FILE).read_bytes())
    fuzz_file(store, store.root / manifest.FILE, json_files(st.just(intact)), lambda: all_of(store))


def test_records(store):
    intact = [record.to_json() for record in RECORDS]
    fuzz_file(store, store.item("aa00") / RECORD, json_files(chosen(intact)), lambda: all_of(store))


def test_generation_facts(store):
    intact = runs.facts(warnings=("a",), attempt=1).to_json()
    fuzz_file(store, store.item("aa00") / "generation.json", json_files(st.just(intact)), lambda: all_of(store))


def test_attempts(store):
    """`attempt.json`, and the count of numeric failures."""
    path = store.item("dd33") / ATTEMPT
    intact = json.loads(path.read_bytes())

    def read() -> None:
        status.of(store)
        attempt = Attempt.start(store, "dd33")
        assert attempt.fence.number >= 1
        attempt.fence.check()

    fuzz_file(store, path, json_files(st.just(intact)), read)


def test_numeric_failures(store):
    path, attempt = store.item("dd33") / NUMERIC_FAILURE, Attempt.start(store, "dd33")

    def read() -> None:
        status.of(store)
        assert attempt.sub_seed >= 0

    fuzz_file(store, path, json_files(st.just({"sub_seed": 1, "iteration": 3, "error": "NaN"})), read)


def test_leases(store):
    path = store.root / lease.FOLDER / "000001.json"
    held = lease.Lease(store.root, 1)
    intact = json.loads(held.content())

    def read() -> None:
        found = lease.holder(store.root)
        assert found is None or lease.name_of(found)
        json.dumps(found)
        held.check()

    fuzz_file(store, path, json_files(st.just(intact)), read)


def test_results_of_studies(store):
    intact = {"study": "s", "methods": {"sctd": {"q1_rank": 1.5, "n_voters": 3}}}

    def read() -> None:
        user_study.require_one([store])
        assert set(user_study.columns(store, "sctd")) == set(user_study.COLUMNS)

    fuzz_file(store, store.root / user_study.FILE, json_files(st.just(intact)), read)


def test_blank_images(store):
    intact = {"evaluation": None, "scores": {job.prompt: {"clip": 20.0, "ir": -2.0} for job in JOBS}}

    results = RunResults.read(store)

    def read() -> None:
        table._penalised(replace(results), RECORDS[:2])  # a copy, which reads the scores again

    fuzz_file(store, store.root / BLANK, json_files(st.just(intact)), read)


def test_cached_distances(store):
    features = np.ones((4, 3), np.float32)
    reference = Reference(Moments.of(scored_run.features(1)), scored_run.features(1), {"network": "n"})
    from pipeline.weights.networks import DISTANCES as KNOWN

    (distance,) = [each for each in KNOWN.values() if each.metric == "fd"] or [next(iter(KNOWN.values()))]
    cache = DistanceCache({})
    cache.estimates(distance, [features, features * 2], reference, 1)

    def read() -> None:
        cached = DistanceCache.read([store])
        for estimate in cached.estimates(distance, [features, features * 2], reference, 1).values():
            assert estimate is None or math.isfinite(estimate.value)

    fuzz_file(store, store.root / DISTANCES, json_files(st.just(cache.used)), read)


def test_verdicts(store):
    gate = {
        "method": "sctd", "metric": "clip", "better": "higher", "prompts": 3, "difference": -0.1, "standard_error": 0.1,
        "low": -0.2, "high": 0.1, "p": 0.5, "p_holm": None, "delta": 0.5, "verdict": "PASS", "reason": "",
    }  # fmt: skip
    intact = {"verdict": "PASS", "reason": "a", "gates": [gate]}
    found = RunResults.read(store)
    fuzz_file(store, store.root / VERDICT, json_files(st.just(intact)), lambda: facts.verdict(found))


EVENT = {
    "time": "2026-01-01",
    "kind": "progress",
    "stage": "generate",
    "job_id": "aa00",
    "iteration": 3,
    "iterations": 30,
    "loss": 0.5,
    "seconds": 1.0,
}


def test_event_logs(store):
    path = store.root / "events" / "a-0000.jsonl"
    found = RunResults.read(store)
    lines = st.lists(changed_trees(st.just(EVENT)).map(to_json), max_size=4).map(b"\n".join)
    fuzz_file(
        store, path, st.one_of(lines, damaged(lines), json_files(st.just(EVENT))), lambda: facts.progress([found])
    )


def test_checkpoint_files(tmp_path):
    path = Path(tmp_path) / "checkpoint"
    intact = Checkpoint(3, 1.5, b"the state", 0.25)

    def check(file: bytes) -> None:
        put(path, file)
        found = outcome(lambda: Checkpoint.read(path))
        assert found == NO_CHECKPOINT or Checkpoint.from_bytes(found.to_bytes()) == found
        outcome(lambda: status._iteration(file))

    header, _, state = intact.to_bytes().partition(b"\n")
    headers = changed_trees(st.just(json.loads(header))).map(lambda tree: to_json(tree) + b"\n" + state)
    fuzz(st.one_of(headers, damaged(st.just(intact.to_bytes()))), check)


def _state() -> State:
    population = random_population(2)
    return State(
        3, 3, 0, 0, 0.5, population, torch.zeros(1, 1, 2, 2), torch.Generator().manual_seed(0).get_state()[:16]
    )


IDENTITY = Identity("recipe", "a cat", 3)
RESTORED = GaussianSplatting(paper()).restored
STATE = to_bytes(_state(), IDENTITY)
STATE_TREE = torch.load(io.BytesIO(STATE), weights_only=True)


def test_states_of_training():
    def check(file: bytes) -> None:
        found = outcome(lambda: from_bytes(file, IDENTITY, torch.device("cpu"), RESTORED), CheckpointError)
        if not isinstance(found, Refused):
            assert found.iteration >= 0
            assert {len(tensor) for tensor in found.scene.gaussians.tensors().values()} == {found.scene.gaussians.num}
            outcome(lambda: reseeded(file, 5), CheckpointError)

    def saved(tree) -> bytes:
        file = io.BytesIO()
        torch.save(tree, file)
        return file.getvalue()

    fuzz(st.one_of(changed_trees(st.just(STATE_TREE)).map(saved), damaged(st.just(STATE))), check)


def test_studies(tmp_path):
    made = plan.StudyPlan(
        "id", (plan.Competitor("a", "r", "sctd"), plan.Competitor("a", "r", "sds")), ("a cat",), (("x.mp4", "y.mp4"),)
    )
    store = Store(Path(tmp_path))
    plan.write(store, made)
    intact = json.loads((store.root / plan.FILE).read_bytes())

    def check(file: bytes) -> None:
        put(store.root / plan.FILE, file)
        found = outcome(lambda: plan.read(store), UserError)
        if not isinstance(found, Refused):
            assert plan.FEWEST <= len(found.competitors) <= plan.MOST
            assert found.prompts
            assert [len(each) for each in found.turntables] == [len(found.competitors)] * len(found.prompts)
            assert len(found.labels) == len(set(found.competitors))

    fuzz(json_files(st.just(intact)), check)


def test_gaussians_of_a_state_are_those_that_were_saved():
    found = from_bytes(STATE, IDENTITY, torch.device("cpu"), RESTORED)
    assert isinstance(found.scene.gaussians, Gaussians)
    assert to_bytes(found, IDENTITY) == STATE
