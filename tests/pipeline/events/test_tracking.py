"""MLflow and Weights & Biases with their real libraries, if installed, writing to files."""

import importlib.util
import json
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from cluster.scheduling.workers import Event, Progress, Workers
from pipeline.errors import UserError
from pipeline.events import tracking
from pipeline.events.log import Recorder
from pipeline.events.tracking import Tracker, check
from pipeline.store.manifest import Manifest
from pipeline.store.run_folder import Store

SECRET = "hf-0123456789abcdef"
DONE = {"kind": "finished", "stage": "evaluate"}
POINTS = (10, 0.5, 150.0, 1.5), (40, 0.25, 120.0, 4.0)  # iteration, loss, Gaussians, seconds


@pytest.fixture
def folder(tmp_path) -> Store:
    store = Store(tmp_path / "colours-sctd-abc")
    store.write(store.root / "leaderboard.csv", b"method,clip@tiny,note\nsctd,0.25,ok\nsds,,ok\n")
    store.write(store.root / "per_object.csv", b"method,prompt_id,clip@tiny\nsctd,a-red-cube,0.5\n")
    return store


@pytest.fixture
def run(run_of):
    """Its one method comes from a sweep, so its label contains `=`."""
    return run_of(swept=["times.num_segments=2"])


def tracked(name, store, run):
    tracker = Tracker(name, store, Manifest.of(run, store))
    recorder, workers = Recorder([tracker]), Workers()

    def watch(event):
        recorder.watch(event, workers.take(event))

    cube, ball = run.jobs
    for iteration, loss, gaussians, seconds in POINTS:
        numbers = {"loss": loss, "gaussians": gaussians, "seconds": seconds}
        watch(Event("started", "generate", 0, cube))
        watch(Event("progress", "generate", 0, cube, Progress(iteration, 40, numbers=numbers)))
        watch(Event("started", "generate", 1, ball))  # in parallel, a few steps behind
        watch(Event("progress", "generate", 1, ball, Progress(iteration - 5, 40, numbers={"loss": 2 * loss})))
    for record in (DONE, {"kind": "finished", "stage": "generate"}, {"kind": "failed", "stage": "generate"}, DONE):
        tracker.take(record)
    tracker.close()
    tracker.finish()


def contents(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("seconds", [0.0, 1e9], ids=["each by itself", "together"])
def test_mlflow_receives_settings_curves_scores_and_tables(folder, run, seconds, tmp_path, monkeypatch, caplog):
    mlflow = pytest.importorskip("mlflow", reason="the extra mlflow is not installed")
    monkeypatch.setattr(tracking, "SEND_SECONDS", seconds)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "")  # MLflow sets it itself, for the rest of the process
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", SECRET)
    mlflow.set_tracking_uri((tmp_path / "mlflow").as_uri())
    tracked("mlflow", folder, run)
    assert "continues without tracking" not in caplog.text
    (logged,) = mlflow.search_runs(experiment_names=["segmentdreamer"], output_format="list")
    assert logged.info.run_name == "colours-sctd-abc"
    assert logged.data.params["suite"] == "colours"
    assert json.loads(logged.data.params["recipe/sctd num_segments-2"])["iterations"] == 4
    cube, ball = "sctd num_segments-2/a-red-cube", "sctd num_segments-2/a-blue-ball"
    assert logged.data.metrics == {
        "jobs/done": 2, "jobs/failed": 1, "sctd/clip-tiny": 0.25, "sctd/a-red-cube/clip-tiny": 0.5,
        f"{cube}/loss": 0.25, f"{cube}/gaussians": 120.0, f"{cube}/seconds": 4.0, f"{ball}/loss": 0.5,
    }  # fmt: skip
    client = mlflow.MlflowClient()

    def curve(name):
        return [(point.step, point.value) for point in client.get_metric_history(logged.info.run_id, name)]

    assert curve(f"{cube}/loss") == [(10, 0.5), (40, 0.25)]
    assert curve(f"{cube}/gaussians") == [(10, 150.0), (40, 120.0)]
    assert curve(f"{cube}/seconds") == [(10, 1.5), (40, 4.0)]
    assert curve(f"{ball}/loss") == [(5, 1.0), (35, 0.5)]
    assert curve("jobs/done") == [(1, 1.0), (2, 1.0), (3, 2.0)]
    files = {file.path for file in client.list_artifacts(logged.info.run_id)}
    assert files == {"leaderboard.csv", "per_object.csv"}
    assert SECRET.encode() not in contents(tmp_path)


def test_mlflow_receives_at_most_1000_metrics_per_request(monkeypatch):
    sent, own = [], SimpleNamespace
    client = own(log_batch=lambda run_id, metrics: sent.append([(each.key, each.value) for each in metrics]))
    module = own(
        set_experiment=print, start_run=lambda run_name: own(info=own(run_id="r")), log_params=print, end_run=print,
        MlflowClient=lambda: client,
        entities=own(Metric=lambda key, value, timestamp, step: own(key=key, value=value)),
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "mlflow", module)
    monkeypatch.setattr(tracking, "SEND_SECONDS", 1e9)
    service = tracking.Mlflow("run", {})
    values = [(f"sctd/prompt-{n}/clip", float(n)) for n in range(2500)]
    for name, value in values:
        service.metrics({name: value}, None)
    service.end()
    assert [each for batch in sent for each in batch] == values
    assert max(map(len, sent)) <= 1000


def wandb_records(path: Path) -> Iterator:
    """The records in the file of an offline run: LevelDB's log format, blocks of 32 KiB after a 7-byte header."""
    from wandb.proto import wandb_internal_pb2 as protocol

    data, at, parts = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while at < len(data):
        if 2**15 - at % 2**15 < 7:  # too short for the header of a part
            at += 2**15 - at % 2**15
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole, or its last part
            yield protocol.Record.FromString(parts)
            parts = b""


def test_wandb_writes_a_run_offline(folder, run, tmp_path, monkeypatch, caplog):
    pytest.importorskip("wandb", reason="the extra wandb is not installed")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    tracked("wandb", folder, run)
    assert "continues without tracking" not in caplog.text
    (offline,) = (tmp_path / "wandb").glob("offline-run-*")
    (log,) = offline.glob("*.wandb")
    written = log.read_bytes()
    assert b"sctd/a-red-cube/clip@tiny" in written
    assert b"colours-sctd-abc" in written
    cube, ball = "sctd num_segments=2/a-red-cube", "sctd num_segments=2/a-blue-ball"
    records = list(wandb_records(log))
    axes = {record.metric.name: record.metric.step_metric for record in records if record.metric.step_metric}
    assert axes == {
        **{f"{cube}/{name}": f"{cube}/iteration" for name in ("loss", "gaussians", "seconds")},
        f"{ball}/loss": f"{ball}/iteration", "jobs/done": "jobs/ended", "jobs/failed": "jobs/ended",
    }  # fmt: skip
    rows = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.history.item
    ]

    def curve(name, axis):
        return [(row[axis], row[name]) for row in rows if name in row]

    assert curve(f"{cube}/loss", f"{cube}/iteration") == [(10, 0.5), (40, 0.25)]
    assert curve(f"{ball}/loss", f"{ball}/iteration") == [(5, 1.0), (35, 0.5)]
    assert curve("jobs/done", "jobs/ended") == [(1, 1.0), (2, 1.0), (3, 2.0)]
    assert (offline / "files" / "leaderboard.csv").exists()
    assert SECRET.encode() not in contents(tmp_path)


class RecordingService:
    """A service that keeps the metrics it receives."""

    def __init__(self, name, settings):
        self.received = []

    def metrics(self, values, step, axis=""):
        self.received.append((axis, step, values))

    def file(self, path):
        pass

    def end(self):
        pass


def test_training_curves_are_logged_for_each_job_over_its_iterations(folder, run, monkeypatch):
    service = RecordingService("", {})
    monkeypatch.setitem(tracking.SERVICES, "wandb", lambda name, settings: service)
    tracked("wandb", folder, run)
    cube, ball = "sctd num_segments=2/a-red-cube", "sctd num_segments=2/a-blue-ball"
    assert service.received == [
        (f"{cube}/iteration", 10, {f"{cube}/loss": 0.5, f"{cube}/gaussians": 150.0, f"{cube}/seconds": 1.5}),
        (f"{ball}/iteration", 5, {f"{ball}/loss": 1.0}),
        (f"{cube}/iteration", 40, {f"{cube}/loss": 0.25, f"{cube}/gaussians": 120.0, f"{cube}/seconds": 4.0}),
        (f"{ball}/iteration", 35, {f"{ball}/loss": 0.5}),
        ("jobs/ended", 1, {"jobs/done": 1, "jobs/failed": 0}),
        ("jobs/ended", 2, {"jobs/done": 1, "jobs/failed": 1}),
        ("jobs/ended", 3, {"jobs/done": 2, "jobs/failed": 1}),
        ("", None, {"sctd/clip@tiny": 0.25}),
        ("", None, {"sctd/a-red-cube/clip@tiny": 0.5}),
    ]


class Failing:
    def __init__(self, name, settings):
        self.calls = 0

    def metrics(self, values, step, axis=""):
        raise ConnectionError("nobody at\n127.0.0.1:1")

    file = end = metrics


def test_failing_service_is_reported_once_and_does_not_stop_the_run(folder, run, monkeypatch, caplog):
    monkeypatch.setitem(tracking.SERVICES, "mlflow", Failing)
    tracked("mlflow", folder, run)
    assert caplog.messages == ["--track mlflow: nobody at 127.0.0.1:1; the run continues without tracking"]


def test_missing_and_unknown_services_are_errors(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as missing:
        check("wandb")
    assert str(missing.value) == (
        "--track wandb needs a package that is not installed; install it with pip install 'segmentdreamer[wandb]'."
    )
    with pytest.raises(UserError) as unknown:
        check("mlfow")
    assert str(unknown.value) == (
        "Unknown value 'mlfow' for --track; choose from mlflow, wandb; the nearest is 'mlflow'."
    )
    check(None)
