from pathlib import Path

import pytest

from pipeline.errors import UserError
from pipeline.store import manifest
from pipeline.store.manifest import Manifest
from pipeline.store.run_folder import Store
from tests.support import runs


@pytest.fixture
def store(tmp_path, run_of) -> Store:
    """A run folder of the default small run."""
    store = Store(tmp_path / "folder")
    runs.begin(store, run_of(), ["bench", "--limit", "2"])
    return store


def test_manifest_has_settings_jobs_weights_and_the_session(store):
    written = manifest.read(store)
    assert written.run_id == "folder"
    assert written.recipes["sctd"]["iterations"] == 4
    assert set(written.weights.sha256) == {"prior", "scorer", "reward", "reference.npz"}
    assert [job.prompt for job in written.jobs] == ["a red cube", "a blue ball"]
    (session,) = written.sessions
    assert session.command == "segmentdreamer bench --limit 2"
    assert {"python", "torch", "ray", "numpy"} <= set(session.versions)
    assert session.hardware.cores >= 1
    assert session.commit is None or len(session.commit.rstrip("+")) == 40


def test_a_run_resumes_with_the_same_settings_or_more_jobs(store, run_of):
    for run in (
        run_of(),
        run_of(texts=("a green cube", "a blue ball", "a red cube")),
        run_of(objectives=("sctd", "sds")),
    ):
        assert len(Manifest.of(run, store, manifest.check_same(store, run)).with_session([]).sessions) == 2


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"texts": ("a red cube",)}, "1 of its jobs are missing now, first 'a blue ball'"),
        ({"objectives": ("sds",)}, "methods sctd, now sds"),
        ({"settings": ["iterations=5", "initialization.kind=ball"]}, "iterations 4, now 5"),
        ({"seed": 3}, "seed 0, now 3"),
        ({"views": 9}, "views 4, now 9"),
    ],
)
def test_other_settings_are_an_error_with_the_first_difference(store, run_of, options, difference):
    with pytest.raises(UserError) as caught:
        manifest.check_same(store, run_of(**options))
    assert str(caught.value) == (
        f"{store.root} was generated with other settings: {difference}; use those, or choose another --out."
    )


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(UserError) as caught:
        manifest.read(Store(tmp_path))
    assert str(caught.value) == f"{tmp_path} contains no run (no run.json); pass the run folder of a bench run."


def test_the_commit_of_a_surrounding_repository_is_ignored(tmp_path, monkeypatch):
    inside = tmp_path / "venv" / "pipeline" / "store" / "manifest.py"
    monkeypatch.setattr(manifest, "__file__", str(inside))
    monkeypatch.setattr(
        manifest, "_git", lambda tree, *command: str(tmp_path) if "--show-toplevel" in command else "c0ffee"
    )
    assert manifest.commit() is None
    monkeypatch.setattr(manifest, "__file__", str(Path(tmp_path) / "pipeline" / "store" / "manifest.py"))
    assert manifest.commit() == "c0ffee+"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tree: tree.update(sessions=[]), "sessions: it has none"),
        (lambda tree: tree["recipes"].clear(), "recipes: 'sctd' is missing"),
        (lambda tree: tree["jobs"].append(tree["jobs"][0]), "jobs: two have the same job_id"),
        (lambda tree: tree["jobs"][0].update(job_id="../outside"), "jobs: '../outside' is no job_id"),
        (lambda tree: tree["jobs"][0].update(job_id="a" * 300), "is no job_id"),
        (
            lambda tree: tree["recipes"]["sctd"].update(name=[]),
            "recipes.sctd: its name or guidance.scale has another type",
        ),
    ],
)
def test_a_manifest_that_contradicts_itself_is_damaged(tmp_path, change, reason):
    made = Store(tmp_path)
    tree = runs.manifest(made, [runs.job("a")]).to_json()
    change(tree)
    made.write_json(tmp_path / "run.json", tree)
    with pytest.raises(UserError) as caught:
        manifest.read(made)
    assert str(caught.value).startswith(f"{tmp_path}/run.json is damaged (")
    assert reason in str(caught.value)
