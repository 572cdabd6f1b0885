import json
from pathlib import Path

import pytest

from cluster.scheduling.workers import Event, Progress, Workers
from pipeline.events import log as events
from pipeline.events.log import EventLog, Recorder
from pipeline.store.records import GeneratedAsset
from pipeline.store.run_folder import Store
from tests.support import runs


class RecordingSink:
    def __init__(self):
        self.records, self.closed = [], 0

    def take(self, record):
        self.records.append(record)

    def close(self):
        self.closed += 1


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def sink():
    return RecordingSink()


@pytest.fixture
def watch(sink, clock):
    recorder, workers = Recorder([sink]), Workers(lambda: clock[0])
    return lambda event: recorder.watch(event, workers.take(event))


def without_time(record):
    return {key: value for key, value in record.items() if key != "time"}


def test_records_have_worker_place_time_and_speed(watch, sink, clock, run_of):
    job = run_of().jobs[0]
    watch(Event("starting", "generate", 2))
    watch(Event("ready", "generate", 2, pid=77, node="n1", gpu="3"))
    watch(Event("started", "generate", 2, job))
    for step in range(101, 113):
        clock[0] += 1.0
        watch(Event("progress", "generate", 2, job, Progress(step, 300, "9 Gaussians", 2**30, 100)))
    watch(Event("checkpoint", "generate", 2, job, Progress(112, 300, saved=111)))
    watch(Event("failed", "generate", 2, job, note="no", error_kind="input"))
    home = {"stage": "generate", "worker": 2, "pid": 77, "node": "n1", "gpu": "3"}
    what = {"job_id": job.id, "prompt_id": "a-red-cube", "method": "sctd"}
    at = {"iterations": 300, "memory_bytes": 2**30, "note": "9 Gaussians"}
    assert [without_time(record) for record in sink.records] == [
        {"kind": "starting", "stage": "generate", "worker": 2},
        {"kind": "ready"} | home,
        {"kind": "started"} | home | what,
        {"kind": "progress"} | home | what | at | {"iteration": 101},
        {"kind": "progress"} | home | what | at | {"iteration": 106, "seconds_per_iteration": 1.0},
        {"kind": "progress"} | home | what | at | {"iteration": 111, "seconds_per_iteration": 1.0},
        {"kind": "checkpoint"} | home | what | {"iteration": 111, "iterations": 300},
        {"kind": "failed"} | home | what | {"seconds": 12.0, "error_kind": "input", "note": "no"},
    ]
    assert all(record["time"].endswith("+00:00") for record in sink.records)


def test_an_item_has_50_progress_records_and_one_of_its_last_step(watch, sink, run_of):
    job = run_of().jobs[0]
    watch(Event("started", "generate", 0, job))
    for step in range(1, 1001):
        watch(Event("progress", "generate", 0, job, Progress(step, 1000)))
    assert [record["iteration"] for record in sink.records[1:]] == [*range(1, 1000, 20), 1000]


def test_records_have_the_finite_numbers_of_a_worker(watch, sink):
    numbers = {"loss": 0.25, "gaussians": 900.0, "ratio": float("nan"), "iteration": -1.0}
    watch(Event("progress", "generate", 0, "cube", Progress(3, 9, numbers=numbers)))
    known = {"kind": "progress", "stage": "generate", "worker": 0, "item": "cube", "iteration": 3, "iterations": 9}
    assert without_time(sink.records[0]) == known | {"loss": 0.25, "gaussians": 900.0}


def test_a_new_process_does_not_inherit_the_place_of_the_last_one(watch, sink):
    watch(Event("ready", "generate", 0, pid=77, node="n1"))
    watch(Event("starting", "generate", 0))
    assert "pid" not in sink.records[-1]


def test_a_worker_that_makes_way_has_the_kind_of_every_exit_and_says_so(watch, sink):
    watch(Event("stopped", "evaluate", 0, note="stopped to free resources", error_kind="preempted"))
    watch(Event("died", "evaluate", 0, note="its process died", error_kind="died"))
    home = {"kind": "died", "stage": "evaluate", "worker": 0}
    assert [without_time(record) for record in sink.records] == [
        home | {"stopped": True, "note": "stopped to free resources", "error_kind": "preempted"},
        home | {"note": "its process died", "error_kind": "died"},
    ]


def test_items_are_identified_by_job_id_or_by_name(watch, sink):
    watch(Event("started", "evaluate", 0, GeneratedAsset("abc", "a red cube", runs.facts())))
    assert sink.records[0]["job_id"] == "abc"
    watch(Event("started", "sample", 0, "shard 7"))
    assert sink.records[1]["item"] == "shard 7"


def lines_in(folder: Path):
    return [json.loads(line) for path in sorted(folder.glob("*.jsonl")) for line in path.read_text().splitlines()]


def test_log_is_flushed_every_few_seconds_and_when_closed(tmp_path, clock):
    log = EventLog(Store(tmp_path), clock=lambda: clock[0])
    log.take({"kind": "started"})
    assert not (tmp_path / events.FOLDER).exists()
    clock[0] += events.FLUSH_SECONDS
    log.take({"kind": "progress", "note": "ü"})
    assert [record["kind"] for record in lines_in(tmp_path / events.FOLDER)] == ["started", "progress"]
    log.take({"kind": "finished"})
    log.close()
    assert [record["kind"] for record in lines_in(tmp_path / events.FOLDER)] == ["started", "progress", "finished"]


def test_a_long_log_has_ordered_parts_and_each_session_its_own_files(tmp_path, clock, monkeypatch):
    monkeypatch.setattr(events, "PART_BYTES", 100)
    logs = [EventLog(Store(tmp_path), clock=lambda: clock[0]) for _ in range(2)]
    for number in range(20):
        clock[0] += events.FLUSH_SECONDS
        for log in logs:
            log.take({"number": number})
    for log in logs:
        log.close()
    names = [path.name for path in sorted((tmp_path / events.FOLDER).iterdir())]
    assert len(names) == len(set(names)) >= 6
    for log in logs:
        mine = [record for path in sorted((tmp_path / events.FOLDER).glob(f"{log.session}-*")) for record in
                map(json.loads, path.read_text().splitlines())]  # fmt: skip
        assert [record["number"] for record in mine] == list(range(20))


def test_a_temporary_storage_failure_loses_no_record(tmp_path, clock, monkeypatch):
    log, write = EventLog(Store(tmp_path), clock=lambda: clock[0]), Store.write
    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
        clock[0] += events.FLUSH_SECONDS
        log.take({"number": 0})
    assert Store.write is write
    log.take({"number": 1})
    log.close()
    assert [record["number"] for record in lines_in(tmp_path / events.FOLDER)] == [0, 1]


def test_every_sink_is_closed_once(sink):
    Recorder([sink]).close()
    assert sink.closed == 1
