"""Typed values of run folders: their JSON, files of older and newer versions, and damaged files."""

import json

import pytest

from cluster.scheduling.executor import Outcome
from cluster.scheduling.failures import Failure
from pipeline.errors import UserError
from pipeline.store import manifest
from pipeline.store.manifest import Manifest
from pipeline.store.records import Done, Failed, GeneratedAsset, ScoredAsset, of_outcome
from pipeline.store.run_folder import Store
from tests.support import runs
from tests.support.paths import ROOT

FROZEN = ROOT / "tests" / "pipeline" / "frozen" / "fba357d"
JOB = runs.job("a", "a red cube", shape_prompt="a cube")
IDENTITY = "job_id", "prompt_id", "prompt", "method", "objective", "seed"


def keys(store: Store) -> list[str]:
    return list(json.loads((store.item("a") / "record.json").read_text()))


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path)


def test_files_of_the_first_release_are_written_as_they_were(tmp_path):
    """Every byte: keys, their order and values. (Only the frozen run.json lacks its last newline.)"""
    frozen, copy = Store(FROZEN), Store(tmp_path)
    manifest.write(copy, manifest.read(frozen))
    assert (tmp_path / "run.json").read_bytes() == (FROZEN / "run.json").read_bytes() + b"\n"
    for path in FROZEN.glob("items/*/record.json"):
        copy.write_record(frozen.record(path.parent.name))
        assert (copy.item(path.parent.name) / "record.json").read_bytes() == path.read_bytes()
    for path in FROZEN.glob("items/*/generation.json"):
        copy.write_json(tmp_path / "generation.json", frozen.generation(path.parent.name))
        assert (tmp_path / "generation.json").read_bytes() == path.read_bytes()


def test_each_outcome_has_its_record(store):
    asset, entry = GeneratedAsset("a", "a red cube", runs.facts()), JOB
    store.write_record(of_outcome(Outcome("job", asset, deaths=1), entry, None, None))
    assert keys(store) == [*IDENTITY, "status", "evaluation", "error_kind", "error", "deaths", "generation"]
    assert store.record("a").evaluation is None
    store.write_record(of_outcome(Outcome("job", asset, preemptions=2), entry, None, None))
    assert store.record("a").preemptions == 2
    scored = ScoredAsset(asset, runs.scores(), 2.0)
    store.write_record(of_outcome(Outcome("job", scored), entry, "e", None))
    ends = "status", "evaluation", "error_kind", "error", "deaths", "scores", "evaluation_seconds", "generation"
    assert keys(store) == [*IDENTITY, *ends]
    assert store.record("a") == runs.done(JOB)
    failure = Outcome("job", failed_stage="evaluate", error=Failure("died", "its process died"), deaths=3)
    for generation in (None, runs.facts()):
        store.write_record(of_outcome(failure, entry, "e", generation))
        ends = "status", "evaluation", "failed_stage", "error_kind", "error", "details", "deaths"
        assert keys(store) == [*IDENTITY, *ends, *(["generation"] if generation else [])]
        assert store.record("a").generation == generation


def test_older_files_lack_keys(store):
    """Manifests without sweeps, a digest of the evaluation and methods of jobs; records and facts of their time."""
    known = runs.manifest(store, [JOB]).to_json()
    del known["swept"], known["jobs"][0]["method"]
    store.write_json(store.root / "run.json", known)
    found = manifest.read(store)
    assert (found.jobs[0].method, found.swept, found.evaluation) == ("sctd", (), None)
    record = runs.done(JOB).to_json()
    del record["method"]
    store.write_json(store.item("a") / "record.json", record)
    assert store.record("a") == runs.done(JOB)
    assert "mean_loss" not in record["generation"], "absent, not null"
    assert store.record("a").generation.mean_loss is None


def test_keys_of_newer_versions_are_kept(store, run_of):
    run = run_of()
    known = runs.begin(store, run).to_json()
    known["colour"] = "blue"
    known["jobs"][0]["weight"] = 2
    known["sessions"][0]["shell"] = {"name": "sh"}
    store.write_json(store.root / "run.json", known)
    runs.begin(store, run)
    resumed = json.loads((store.root / "run.json").read_text())
    assert (resumed["colour"], resumed["jobs"][0]["weight"], "weight" in resumed["jobs"][1]) == ("blue", 2, False)
    assert resumed["sessions"][0]["shell"] == {"name": "sh"}
    assert len(resumed["sessions"]) == 2
    rescored = manifest.read(store).rescored(run.weights, run.protocol, "other").to_json()
    assert (rescored["colour"], rescored["jobs"], rescored["evaluation"]) == ("blue", resumed["jobs"], "other")


def test_a_newer_schema_is_refused(store):
    runs.manifest(store, [JOB], schema_version=3)
    with pytest.raises(UserError) as caught:
        manifest.read(store)
    assert str(caught.value) == (
        f"{store.root}/run.json has schema version 3, and this version of segmentdreamer reads up to 2; upgrade "
        "segmentdreamer."
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seed": "many"}, "seed: Input should be a valid integer, unable to parse string as an integer"),
        ({"jobs": [{"job_id": "a"}]}, "jobs.0.prompt_id: Field required"),
        ({"sessions": {}}, "sessions: Input should be a valid tuple"),
    ],
)
def test_a_damaged_manifest_is_an_error_that_names_the_field(store, change, reason):
    store.write_json(store.root / "run.json", runs.manifest(store, [JOB]).to_json() | change)
    with pytest.raises(UserError) as caught:
        manifest.read(store)
    assert str(caught.value) == (
        f"{store.root}/run.json is damaged ({reason}); delete it to have its content generated again."
    )


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"job_id": ', "Expecting value: line 1 column 12 (char 11)"),
        ("[]", "Input should be a valid dictionary or object to extract fields from"),
        ('{"job_id": "a"}', "Unable to extract tag using discriminator 'status'"),
        (json.dumps(runs.done(JOB).to_json() | {"deaths": None}), "done.deaths: Input should be a valid integer"),
        (json.dumps(runs.failed(JOB).to_json() | {"status": "lost"}), "Input tag 'lost' found using 'status' does not"),
    ],
)
def test_a_damaged_record_is_an_error_that_names_the_field(store, content, reason):
    store.write(store.item("a") / "record.json", content.encode())
    with pytest.raises(UserError) as caught:
        store.record("a")
    assert str(caught.value).startswith(f"{store.item('a')}/record.json is damaged ({reason}")
    assert str(caught.value).endswith("); delete it to have its content generated again.")


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_nan_is_neither_written_nor_turned_into_null(store, number):
    for record in (runs.done(JOB, scores=runs.scores(clip=number)), runs.done(JOB, generation=runs.facts(loss=number))):
        with pytest.raises(ValueError, match="not JSON compliant"):
            store.write_record(record)
    assert store.record("a") is None


def test_a_record_is_of_the_class_of_its_status(store):
    for record in (runs.done(JOB), runs.failed(JOB), runs.generated(JOB)):
        store.write_record(record)
        assert type(store.record("a")) is type(record)
    assert Done.model_fields.keys() > Failed.model_fields.keys() & {"generation", "deaths"}
    assert isinstance(Manifest.model_validate(runs.manifest(store, [JOB]).to_json()), Manifest)


def test_a_summary_without_a_statistic_is_damaged(store):
    tree = runs.done(JOB).to_json()
    del tree["scores"]["ir"]["p10"]
    store.write_json(store.item("a") / "record.json", tree)
    with pytest.raises(UserError, match=r"record\.json is damaged \(done\.scores: Value error, ir has no p10\)"):
        store.record("a")
