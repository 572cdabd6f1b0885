"""MLflow and Weights & Biases, each with its real library writing to files, where it is installed."""

import importlib.util
import json
from pathlib import Path

import pytest

from pipeline import tracking
from pipeline.errors import UserError
from pipeline.store import Store
from pipeline.tracking import Tracker, check

SECRET = "hf-0123456789abcdef"
DONE = {"kind": "finished", "stage": "evaluate"}


@pytest.fixture
def folder(tmp_path) -> Store:
    store = Store(tmp_path / "colours-sctd-abc")
    store.write(store.root / "leaderboard.csv", b"method,clip@tiny,note\nsctd,0.25,ok\nsds,,ok\n")
    store.write(store.root / "per_object.csv", b"method,prompt_id,clip@tiny\nsctd,a-red-cube,0.5\n")
    return store


@pytest.fixture
def settings(run_of):
    return run_of().settings()


def tracked(name, store, settings):
    tracker = Tracker(name, store, settings)
    for record in (DONE, {"kind": "finished", "stage": "generate"}, {"kind": "failed", "stage": "generate"}, DONE):
        tracker.take(record)
    tracker.close()
    tracker.finish()


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_mlflow_has_settings_scores_and_tables(folder, settings, tmp_path, monkeypatch, capsys):
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    mlflow.set_tracking_uri((tmp_path / "mlflow").as_uri())
    tracked("mlflow", folder, settings)
    assert capsys.readouterr().err.count("goes on without it") == 0
    (run,) = mlflow.search_runs(experiment_names=["segmentdreamer"], output_format="list")
    assert run.info.run_name == "colours-sctd-abc"
    assert run.data.params["suite"] == "colours"
    assert json.loads(run.data.params["recipe/sctd"])["iterations"] == 4
    assert run.data.metrics == {
        "jobs/done": 2, "jobs/failed": 1, "sctd/clip-tiny": 0.25, "sctd/a-red-cube/clip-tiny": 0.5
    }  # fmt: skip
    files = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id)}
    assert files == {"leaderboard.csv", "per_object.csv"}
    assert SECRET.encode() not in contents(tmp_path)


def test_wandb_writes_a_run_offline(folder, settings, tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    tracked("wandb", folder, settings)
    assert capsys.readouterr().err.count("goes on without it") == 0
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    (log,) = offline.glob("*.wandb")
    written = log.read_bytes()
    assert b"sctd/a-red-cube/clip@tiny" in written
    assert b"colours-sctd-abc" in written
    assert (offline / "files" / "leaderboard.csv").exists()
    assert SECRET.encode() not in contents(tmp_path)


class Failing:
    def __init__(self, name, settings):
        self.calls = 0

    def metrics(self, values, step):
        raise ConnectionError("nobody at\n127.0.0.1:1")

    file = end = metrics


def test_a_service_that_fails_is_said_so_once_and_stops_nothing(folder, settings, monkeypatch, capsys):
    monkeypatch.setitem(tracking.SERVICES, "mlflow", Failing)
    tracked("mlflow", folder, settings)
    assert capsys.readouterr().err == "--track mlflow: nobody at 127.0.0.1:1; the run goes on without it\n"


def test_a_service_that_is_not_installed_or_not_known_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as missing:
        check("wandb")
    assert str(missing.value) == (
        "--track wandb needs a library that is not installed: pip install 'segmentdreamer[wandb]'."
    )
    with pytest.raises(UserError) as unknown:
        check("mlfow")
    assert str(unknown.value) == "There is no --track 'mlfow'; choose from mlflow, wandb; the nearest is 'mlflow'."
    check(None)
