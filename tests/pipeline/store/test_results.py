"""The results in a run folder, and how often a command reads its records."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.commands import bench
from pipeline.report.publish import publish
from pipeline.store import files
from pipeline.store.records import Done, Failed, Generated, Unfinished
from pipeline.store.results import RunResults
from pipeline.store.run_folder import Store
from pipeline.work.execution import ExecutionOptions
from tests.support import runs

TEXTS = "done", "failed", "other scorer", "generated", "new"
QUIET = ExecutionOptions(executor="inline", log="lines", report=False)


@pytest.fixture
def results(tmp_path, run_of) -> RunResults:
    """A job of each kind."""
    store, run = Store(tmp_path), run_of(texts=TEXTS)
    entries = {entry.prompt: entry for entry in runs.begin(store, run).jobs}
    store.write_record(runs.done(entries["done"], evaluation=run.evaluation))
    store.write_record(runs.failed(entries["failed"], evaluation=run.evaluation))
    store.write_record(runs.done(entries["other scorer"], evaluation="before"))
    store.write_record(runs.generated(entries["generated"]))
    return RunResults.read(store)


def test_records_have_the_order_of_the_manifest_and_a_kind(results):
    assert [record.prompt for record in results.records.values()] == list(TEXTS)
    kinds = [Done, Failed, Generated, Generated, Unfinished]
    assert [type(record) for record in results.records.values()] == kinds
    assert [record.prompt for record in results.failed] == ["failed"]
    assert [record.prompt for record in results.done("sctd")] == ["done"]


def test_jobs_without_scores_by_these_scorers_are_unscored(results, run_of):
    run = run_of(texts=TEXTS)
    assert [job.prompt.text for job in results.unscored(run.jobs)] == ["failed", "other scorer", "generated", "new"]


def test_an_older_manifest_does_not_know_its_scorers(results):
    older = results.manifest.model_copy(update={"evaluation": None})
    assert len(RunResults.read(results.store, older).done("sctd")) == 2


def test_records_have_the_method_of_the_manifest(results):
    """A resumed run may label the same job differently."""
    jobs = tuple(job.model_copy(update={"method": "sctd again"}) for job in results.manifest.jobs)
    found = RunResults.read(results.store, results.manifest.model_copy(update={"jobs": jobs}))
    assert len(found.of("sctd again")) == len(TEXTS)


def test_updated_records_replace_earlier_ones_in_place(results):
    record = runs.done(next(job for job in results.manifest.jobs if job.prompt == "failed"))
    found = results.updated([record])
    assert [record.prompt for record in found.records.values()] == list(TEXTS)
    assert found.failed == []
    assert results.failed != []


@pytest.fixture
def reads(monkeypatch) -> Counter[str]:
    """How often each file is read, by item and name."""
    found, read = Counter(), files.read

    def counting(path: Path) -> bytes:
        found[f"{path.parent.name}/{path.name}"] += 1
        return read(path)

    monkeypatch.setattr(files, "read", counting)
    return found


def records(reads: Counter[str]) -> set[int]:
    """How often records were read."""
    found = {count for path, count in reads.items() if path.endswith("/record.json")}
    reads.clear()
    return found


def test_commands_read_each_record_once(run_of, tmp_path, reads):
    """Resumed and extended runs do so under the lock, a finished run without it. A new job has no folder to read."""
    two, out = run_of(), tmp_path / "run"
    assert bench.finish(replace(two, prompts=two.prompts[:1]), out, QUIET) == 0
    assert records(reads) == set(), "new"
    first = two.jobs[0].id
    for name in ("record.json", "report.md"):
        next(path for path in (out / "items" / first / name, out / name) if path.exists()).unlink()
    assert bench.finish(replace(two, prompts=two.prompts[:1]), out, QUIET) == 0
    assert records(reads) == {1}, "resumed"
    assert bench.finish(replace(two, prompts=two.prompts[:1]), out, QUIET) == 0
    assert records(reads) == {1}, "finished"
    assert bench.finish(two, out, QUIET) == 0
    assert records(reads) == {1}, "with more prompts"
    publish(RunResults.read(Store(out)))
    assert records(reads) == {1}, "published again"
