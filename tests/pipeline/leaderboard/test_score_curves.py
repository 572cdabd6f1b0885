"""Scores over cost, from records written by hand."""

import io

import pandas as pd
import pytest

from evaluation.statistics import mean_over_prompts
from pipeline.leaderboard import score_curves
from pipeline.store.manifest import Imported
from pipeline.store.records import ScoredSnapshot, Snapshot
from pipeline.store.results import RunResults
from pipeline.store.run_folder import Store
from tests.support import runs

SHARES, ITERATIONS = (0.25, 0.5, 1.0), 40
PROMPTS = "a red cube", "a blue ball", "a green cone"


def facts(number=0, snapshots=(10, 20)):
    """Each iteration takes a second and eight samples, and each asset a second more than the one before."""
    made = [Snapshot(iteration=i, seconds=i + number, unet_samples=8 * i) for i in snapshots]
    known = {"iterations": ITERATIONS, "optimize_seconds": float(ITERATIONS + number), "unet_samples": 8 * ITERATIONS}
    return runs.facts(**known, snapshots=made or None)


def scored(*clips, first=10):
    return [ScoredSnapshot(iteration=first * n, scores=runs.scores(clip)) for n, clip in enumerate(clips, start=1)]


@pytest.fixture
def results(tmp_path):
    """A function that writes a run of these records, by prompt, and reads it."""

    def write(records, method="sctd", shares=SHARES, **changes):
        store = Store(tmp_path)
        jobs = [runs.job(f"job{n}", prompt, method) for n, prompt in enumerate(PROMPTS)]
        recipes = {method: {**runs.recipe(method), "iterations": ITERATIONS}}
        runs.manifest(store, jobs, recipes=recipes, score_at=shares, **changes)
        for job, record in zip(jobs, records, strict=True):
            if record is not None:
                store.write_record(record(job))
        return RunResults.read(store)

    return write


def done(number, *clips, end, snapshots=(10, 20)):
    return lambda job: runs.done(
        job, scores=runs.scores(end), generation=facts(number, snapshots), snapshots=scored(*clips) or None
    )


def test_a_row_for_each_asset_and_share(results):
    run = results([done(0, 20.0, 25.0, end=30.0), done(1, 21.0, 27.0, end=31.0), done(2, 22.0, 26.0, end=35.0)])
    rows = score_curves.rows([run])
    assert [(row["prompt"], row["share"], row["clip@embedded"]) for row in rows[:4]] == [
        ("a red cube", 0.25, 20.0), ("a red cube", 0.5, 25.0), ("a red cube", 1.0, 30.0), ("a blue ball", 0.25, 21.0),
    ]  # fmt: skip
    assert rows[4] == {
        "run_id": run.manifest.run_id, "method": "sctd", "prompt": "a blue ball", "seed": 0, "share": 0.5,
        "iterations": 20, "seconds": 21.0, "unet_samples": 160, "clip@embedded": 27.0, "ir@embedded": 0.5,
        "clip_rprec@embedded": 0.75, "status": "done", "error": "",
    }  # fmt: skip
    (curve,) = score_curves.curves(run)
    assert (curve.method, curve.note, [point.share for point in curve.points]) == ("sctd", "", list(SHARES))
    assert curve.points[1].costs == {"iterations": 20, "seconds": 21, "unet_samples": 160}
    assert curve.points[1].scores["clip@embedded"] == mean_over_prompts(pd.Series([25.0, 27.0, 26.0]).to_numpy())
    assert curve.points[-1].costs == {"iterations": 40, "seconds": 41, "unet_samples": 320}


def test_a_missing_snapshot_is_a_row_and_its_asset_is_left_out_of_the_averages(results):
    def planted(job):
        missing = ScoredSnapshot(iteration=10, error="asset-10.ply is missing")
        return runs.done(job, generation=facts(), snapshots=[missing, *scored(24.0, first=20)])

    run = results([done(0, 20.0, 25.0, end=30.0), planted, done(2, 22.0, 26.0, end=35.0)])
    row = score_curves.rows([run])[3]
    assert (row["status"], row["error"], row["seconds"]) == ("missing", "asset-10.ply is missing", 10.0)
    assert row["clip@embedded"] is None
    (curve,) = score_curves.curves(run)
    assert {point.assets for point in curve.points} == {2}
    note = "1 of 3 assets lack scores at some share and are left out"
    assert curve.note == note
    assert f"\nsctd: {note}.\n" in score_curves.section(run)


def test_without_snapshots_there_is_only_the_end(results):
    run = results([done(0, end=30.0, snapshots=()), None, runs.failed])
    rows = score_curves.rows([run])
    assert [row["status"] for row in rows] == ["missing", "missing", "done", *["unfinished"] * 3, *["failed"] * 3]
    assert rows[0]["error"] == "generated without this snapshot"
    assert rows[-1]["error"] == "NaN in the loss"
    (curve,) = score_curves.curves(run)
    assert [(point.share, point.assets) for point in curve.points] == [(1.0, 1)]
    assert curve.note == "no asset has scores at all shares, so only the end is shown"
    table = pd.read_csv(io.BytesIO(score_curves.table_of(rows)))
    assert table["unet_samples"].tolist()[2] == 320
    assert b",40,40.0,320,30.0," in score_curves.table_of(rows), "a whole number beside empty cells"


def test_assets_of_older_versions_have_no_samples(results):
    run = results([lambda job: runs.done(job, generation=runs.facts(iterations=ITERATIONS)), None, None])
    (curve,) = score_curves.curves(run)
    assert curve.points[0].costs == {"iterations": 40, "seconds": 50, "unet_samples": None}
    assert score_curves.lines([curve])[1][:6] == ["sctd", "1", "1", "40", "50", ""]


def test_runs_without_the_option_and_imported_methods_have_no_curve(results):
    records = [done(0, 20.0, 25.0, end=30.0), None, None]
    for changes in {"shares": None}, {"imported": {"sctd": Imported(folder="x", front="0", fit="ball", shading="lit")}}:
        run = results(records, **changes)
        assert score_curves.rows([run]) == score_curves.curves(run) == []
        assert score_curves.section(run) == ""
