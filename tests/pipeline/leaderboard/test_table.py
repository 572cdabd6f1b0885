"""Tables of records written by hand, so that every expected number is known."""

import io
import json
import math
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, strategies
from typer.testing import CliRunner

from evaluation import EvaluationError
from evaluation.fid import Moments, frechet_distance
from pipeline.cli import app as cli
from pipeline.errors import UserError
from pipeline.leaderboard import paper_table
from pipeline.leaderboard.columns import definitions
from pipeline.leaderboard.markdown_report import report
from pipeline.leaderboard.table import csv, leaderboard, markdown, per_object, read_csv
from pipeline.prompts import slug
from pipeline.report.publish import compared, publish
from pipeline.store.results import RunResults
from pipeline.weights.models import digest_of
from tests.support import runs
from tests.support.scored_run import SCORES, features, write_reference, write_run


@pytest.fixture
def weights(tmp_path):
    write_reference(tmp_path / "weights")
    return tmp_path / "weights"


def test_averages_are_over_scored_prompts(tmp_path, weights):
    (row,) = leaderboard([RunResults.read(write_run(tmp_path / "run", weights))]).to_dict("records")
    assert (row["n_prompts"], row["n_failed"], row["n_views"], row["protocol"]) == (3, 1, 12, "paper12")
    assert row["clip@embedded"] == pytest.approx(35)
    assert row["clip@embedded_se"] == pytest.approx(5)
    half = 12.706204736 * 5  # Student's t with 1 degree of freedom at 0.975
    assert row["clip@embedded_lo"] == pytest.approx(35 - half)
    assert row["clip@embedded_hi"] == pytest.approx(35 + half)
    assert row["clip_p10@embedded"] == pytest.approx(33)
    assert row["ir@embedded"] == pytest.approx(0.4)
    assert row["clip_rprec@embedded"] == pytest.approx(0.75)
    assert (row["time_min"], row["peak_gib"], row["n_gauss"]) == (1.0, 1.0, 300.0)
    assert (row["method"], row["recipe"], row["cfg_scale"], row["gpu"]) == ("sctd", "embedded", 7.5, "cpu")
    assert (row["run_id"], row["code_sha"], row["date_utc"]) == ("run", "c0ffee", "2026-01-02T03:04:05+00:00")


def test_distance_is_over_all_views_of_finished_objects(tmp_path, weights):
    (row,) = leaderboard([RunResults.read(write_run(tmp_path / "run", weights))]).to_dict("records")
    expected = Moments.of(np.concatenate([features(0), features(2)]))
    reference = write_reference(tmp_path / "same")
    assert row["fd@embedded"] == pytest.approx(frechet_distance(expected, reference.moments), rel=1e-9)
    assert row["fd@embedded_se"] > 0
    assert row["ref_key"] == reference.key
    assert math.isfinite(row["kid_cl@embedded"])


def test_missing_values_are_empty_cells(tmp_path, weights):
    store = write_run(tmp_path / "run", weights, failed=tuple(SCORES))
    text = csv(leaderboard([RunResults.read(store)])).decode()
    (row,) = pd.read_csv(io.StringIO(text)).to_dict("records")
    assert row["n_failed"] == 3
    assert "clip@embedded" not in row
    store = write_run(tmp_path / "one", weights, failed=("green", "blue"))
    (row,) = pd.read_csv(io.BytesIO(csv(leaderboard([RunResults.read(store)])))).to_dict("records")
    assert row["clip@embedded"] == 30
    for name in ("clip@embedded_se", "clip@embedded_lo", "clip_rprec@embedded", "kid_cl@embedded", "fd@embedded_se"):
        assert math.isnan(row[name])
    assert math.isnan(row["q1_rank"])


def test_unfinished_jobs_are_neither_failed_nor_averaged(tmp_path, weights):
    run = RunResults.read(write_run(tmp_path / "run", weights, missing=("blue",)))
    (row,) = leaderboard([run]).to_dict("records")
    assert (row["n_prompts"], row["n_failed"], row["clip@embedded"]) == (3, 1, 30.0)
    assert list(per_object(run)["status"]) == ["done", "failed", "unfinished"]


def test_each_method_has_a_row_and_the_best_value_is_bold(tmp_path, weights):
    store = write_run(tmp_path / "run", weights, objectives=("sctd", "sds"))
    record = store.record("sds-red")
    store.write_record(runs.done(record, scores=runs.scores(clip=10.0)))
    table = leaderboard([RunResults.read(store)])
    assert len({len(line) for line in markdown(table).splitlines()}) == 1, "columns are aligned"
    header, _, sctd, sds = (re.sub(" +", " ", line) for line in markdown(table).splitlines())
    assert header.startswith("| method | prompts | clip@embedded ↑ | clip_p10@embedded ↑ | ir@embedded ↑")
    assert "fd@embedded ↓" in header
    assert sctd.startswith("| sctd | 2 of 3 | **35 ± 5** |")
    assert sds.startswith("| sds | 2 of 3 | 25 ± 15 |")
    assert "kid_cl" in header
    assert "kid_cl" not in markdown(table, brief=True)


def test_every_metric_column_is_defined(tmp_path, weights):
    table = leaderboard([RunResults.read(write_run(tmp_path / "run", weights))])
    columns = definitions(table.columns)
    assert [name for name in table.columns if "@" in name] == [name for name in columns if "@" in name]
    assert columns["fd@embedded"]["direction"] == "lower"
    assert columns["clip@embedded_se"] == {
        "unit": "points", "direction": "", "definition": "standard error of clip@embedded",
    }  # fmt: skip


def test_per_object_has_a_row_per_job_with_its_error(tmp_path, weights):
    rows = per_object(RunResults.read(write_run(tmp_path / "run", weights))).to_dict("records")
    assert [row["status"] for row in rows] == ["done", "failed", "done"]
    assert (rows[1]["error_kind"], rows[1]["error"]) == ("numeric", "NaN in the loss")
    assert (rows[0]["clip@embedded"], rows[0]["clip@embedded_p10"], rows[0]["t_total_s"]) == (30.0, 28.0, 60.0)
    assert rows[0]["asset"] == "items/sctd-red/asset.ply"


def test_leaderboard_of_several_runs_requires_one_reference(tmp_path, weights):
    first, second = (RunResults.read(write_run(tmp_path / name, weights)) for name in ("first", "second"))
    both = leaderboard([first, second])
    assert list(both["run_id"]) == ["first", "second"]
    assert markdown(both).splitlines()[2].startswith("| first  | sctd ")
    write_reference(tmp_path / "other", seed=7)
    other = RunResults.read(write_run(tmp_path / "third", tmp_path / "other"))
    with pytest.raises(EvaluationError, match="fd@embedded from 2 different references"):
        leaderboard([first, other])


def with_fid(folder, seed):
    """Weights that also measure fid: their reference, and its entry in a run's manifest."""
    write_reference(folder)
    reference = write_reference(folder, seed, "reference-inception.npz")
    return reference, {"reference-inception.npz": digest_of(folder / "reference-inception.npz")}


def test_each_distance_uses_its_features_and_reference(tmp_path):
    reference, sha256 = with_fid(tmp_path / "weights", 5)
    run = RunResults.read(write_run(tmp_path / "run", tmp_path / "weights", sha256=sha256))
    (row,) = leaderboard([run]).to_dict("records")
    expected = Moments.of(np.concatenate([features(50), features(52)]))
    assert row["fid@embedded"] == pytest.approx(frechet_distance(expected, reference.moments), rel=1e-9)
    assert row["fid@embedded_se"] > 0
    assert row["kid_cl_inception@embedded"] != row["kid_cl@embedded"]
    assert row["ref_key_fid"] == reference.key
    assert row["ref_key_fid"] != row["ref_key"]
    header = markdown(leaderboard([run]), brief=True).splitlines()[0]
    assert "fid@embedded ↓" in header
    assert "kid_cl_inception" not in header


def test_different_references_of_one_distance_are_refused(tmp_path, weights):
    """The runs share the reference of fd. A run without fid may be compared with one that has it."""
    runs = []
    for name, seed in [("first", 5), ("second", 6)]:
        _, sha256 = with_fid(tmp_path / f"weights-{name}", seed)
        runs.append(RunResults.read(write_run(tmp_path / name, tmp_path / f"weights-{name}", sha256=sha256)))
    without = RunResults.read(write_run(tmp_path / "without", weights))
    both = leaderboard([without, runs[0]])
    assert both["fid@embedded"].isna().tolist() == both["ref_key_fid"].isna().tolist() == [True, False]
    with pytest.raises(EvaluationError, match=r"^fid@embedded from 2 different references \("):
        leaderboard(runs)


def test_changed_reference_is_an_error(tmp_path):
    _, sha256 = with_fid(tmp_path / "weights", 5)
    run = RunResults.read(write_run(tmp_path / "run", tmp_path / "weights", sha256=sha256))
    write_reference(tmp_path / "weights", 6, "reference-inception.npz")
    with pytest.raises(UserError) as caught:
        leaderboard([run])
    assert str(caught.value) == (
        f"{tmp_path}/weights/reference-inception.npz is not the reference that {tmp_path}/run was scored against; "
        f"restore that file, or score the assets again with segmentdreamer evaluate {tmp_path}/run."
    )


def edited(store, **changes):
    settings = json.loads((store.root / "run.json").read_text())
    store.write_json(store.root / "run.json", settings | changes)
    return RunResults.read(store)


def test_scores_by_other_scorers_than_the_manifests_are_ignored(tmp_path, weights):
    """An interrupted `evaluate` with other scorers leaves such records. Older manifests name no scorers: all count."""
    store = write_run(tmp_path / "run", weights)
    store.write_record(store.record("sctd-blue").model_copy(update={"evaluation": "other"}))
    run = edited(store, evaluation="e")
    assert [record.status for record in run.of("sctd")] == ["done", "failed", "generated"]
    assert leaderboard([run])["clip@embedded"].tolist() == [30.0]
    assert per_object(run)["clip@embedded"].notna().tolist() == [True, False, False]
    store = write_run(tmp_path / "older", weights)
    store.write_record(store.record("sctd-blue").model_copy(update={"evaluation": "other"}))
    assert leaderboard([RunResults.read(store)])["clip@embedded"].tolist() == [35.0]


BLANK = {"evaluation": "e", "scores": {f"a {name} cube": {"clip": 15.0, "ir": -2.0} for name in SCORES}}


def test_penalised_columns_count_failed_objects_as_white_images(tmp_path, weights):
    store = write_run(tmp_path / "run", weights, objectives=("sctd", "sds"), failed=())
    store.write_record(runs.failed(store.record("sctd-green"), failed_stage="evaluate", generation=runs.facts()))
    store.write_json(store.root / "blank.json", BLANK)
    table = leaderboard([edited(store, evaluation="e")])
    sctd, sds = table.to_dict("records")
    assert (sctd["n_failed"], sds["n_failed"]) == (1, 0)
    assert (sctd["clip@embedded"], sctd["ir@embedded"]) == (35.0, pytest.approx(0.4)), "not penalised"
    assert sctd["clip_penalised@embedded"] == pytest.approx((30 + 15 + 40) / 3)
    assert sctd["ir_penalised@embedded"] == pytest.approx((0.5 - 2.0 + 0.3) / 3)
    assert sctd["clip_penalised@embedded_se"] == pytest.approx(np.std([30, 15, 40], ddof=1) / math.sqrt(3))
    assert sds["clip_penalised@embedded"] == sds["clip@embedded"], "no object failed"
    assert definitions(table.columns)["clip_penalised@embedded"]["direction"] == "higher"


def test_method_without_successes_has_penalised_scores_only(tmp_path, weights):
    store = write_run(tmp_path / "run", weights, failed=tuple(SCORES))
    store.write_json(store.root / "blank.json", BLANK)
    (row,) = leaderboard([edited(store, evaluation="e")]).to_dict("records")
    assert (row["clip_penalised@embedded"], row["ir_penalised@embedded"]) == (15.0, -2.0)
    assert "clip@embedded" not in row


def test_no_penalised_columns_without_failures_or_for_other_scorers(tmp_path, weights):
    for name, failed, blank in [
        ("whole", (), BLANK),
        ("other", ("green",), BLANK | {"evaluation": "other"}),
        ("older", ("green",), {}),
    ]:
        store = write_run(tmp_path / name, weights, failed=failed)
        if blank:
            store.write_json(store.root / "blank.json", blank)
        assert not any("penalised" in column for column in leaderboard([edited(store, evaluation="e")]).columns)


def test_missing_reference_is_an_error(tmp_path, weights):
    run = RunResults.read(write_run(tmp_path / "run", weights))
    (weights / "reference.npz").unlink()
    with pytest.raises(UserError) as caught:
        leaderboard([run])
    assert str(caught.value) == (
        f"{weights}/reference.npz is missing; {tmp_path}/run was scored against it: restore the file."
    )


def test_report_shows_every_asset_and_failure(tmp_path, weights):
    run = RunResults.read(write_run(tmp_path / "run", weights, missing=("blue",)))
    text = report(run, "| table |\n")
    assert "3 jobs of suite `cubes`, seed 0: 1 done, 1 failed, 1 unfinished." in text
    reconstructed = report(replace(run, manifest=run.manifest.model_copy(update={"suite": "dreamfusion40"})), "")
    assert "suite `dreamfusion40` (reconstructed: the authors' list is not public), seed 0:" in reconstructed
    assert "| a green cube | sctd | generate | NaN in the loss |" in text
    assert "![a red cube, contact sheet](items/sctd-red/contact.png)" in text
    assert "### a blue cube (sctd)\n\nNot generated." in text
    assert "segmentdreamer bench" in text
    assert "a CPU, 2 cores; commit c0ffee" in text


def paper_run(root, weights, *, models="published", recipe="paper"):
    """A run of two objectives with the paper's recipe on published models."""
    store = write_run(root, weights, objectives=("sctd", "sds"))
    manifest = json.loads((root / "run.json").read_text())
    for settings in manifest["recipes"].values():
        settings["name"] = recipe
    manifest["weights"]["name"] = models
    store.write_json(root / "run.json", manifest)
    return store


PUBLISHED = """
| method         | clip@Table-2 | ir@Table-2 | fid@Table-2 | time_min@Table-2 | q1_rank@Table-2 | q2_rank@Table-2 | q3_rank@Table-2 |
| -------------- | ------------ | ---------- | ----------- | ---------------- | --------------- | --------------- | --------------- |
| DreamFusion    | 28.47        | -0.004     | 140.84      | 60               | 4.73            | 4.87            | 4.90            |
| LucidDreamer   | 29.99        | 0.006      | 121.80      | 45               | 2.93            | 2.98            | 2.93            |
| Consistent3D   | 30.60        | 0.004      | 113.61      | 140              | 4.14            | 3.88            | 3.93            |
| ConnectCD      | 30.73        | 0.018      | 112.61      | 80               | 1.63            | 1.80            | 1.93            |
| SegmentDreamer | 30.88        | 0.020      | 110.45      | 38               | 1.57            | 1.47            | 1.33            |
"""  # noqa: E501


def test_paper_rows_follow_in_separate_columns(tmp_path, weights):
    run = RunResults.read(paper_run(tmp_path / "run", weights))
    table, measured = leaderboard([run]), leaderboard([run], paper=False)
    run_rows, paper_rows = table[table["source"] == "run"], table[table["source"] == "paper"]
    assert list(table["source"]) == ["run"] * 2 + ["paper"] * 5
    assert list(table["comparable"]) == [True] * 2 + [False] * 5
    paper_columns = [name for name in table.columns if name not in measured.columns]
    numbers = "clip", "ir", "fid", "time_min", "q1_rank", "q2_rank", "q3_rank"
    assert paper_columns == [f"{name}@Table-2" for name in numbers]
    assert run_rows[paper_columns].isna().all(axis=None), "no measured row has a published number"
    shared = {"method", "source", "comparable", "n_prompts", "n_views"}
    assert paper_rows[[name for name in measured.columns if name not in shared]].isna().all(axis=None), (
        "no published row has a measured number"
    )
    assert paper_rows["run_id"].isna().all(), "grouping by run leaves them out"


def test_paper_rows_change_no_measured_cell(tmp_path, weights):
    run = RunResults.read(paper_run(tmp_path / "run", weights))
    with_paper, without = (csv(leaderboard([run], paper=paper)).decode().splitlines() for paper in (True, False))
    assert [line + "," * 7 for line in without[1:]] == with_paper[1:3], "integers stay integers"
    for brief in (True, False):
        text = markdown(leaderboard([run], paper=False), brief=brief)
        assert markdown(leaderboard([run], paper=True), brief=brief) == f"{text}\n{paper_table.CAPTION}{PUBLISHED}"
        assert "**" in text
    assert "**" not in PUBLISHED


def test_paper_columns_are_separate_and_have_no_direction(tmp_path, weights):
    assert slug(paper_table.MODELS) != paper_table.MODELS, "names of weights are slugs"
    columns = definitions(leaderboard([RunResults.read(paper_run(tmp_path / "run", weights))]).columns)
    for name in ("clip", "ir", "fid", "time_min", "q1_rank"):
        found = columns[f"{name}@Table-2"]
        assert found["direction"] == ""
        assert found["definition"] == f"{name} in Table 2 of SegmentDreamer; comparable with no other column"
    assert columns["clip@published"]["direction"] == "higher"


@pytest.mark.parametrize(
    ("models", "recipe", "shown"),
    [("published", "paper", True), ("embedded", "paper", False), ("published", "embedded", False)],
)
def test_paper_is_shown_for_its_recipe_on_published_models_or_on_request(tmp_path, weights, models, recipe, shown):
    store = paper_run(tmp_path / "run", weights, models=models, recipe=recipe)
    run = RunResults.read(store)
    assert ("paper" in set(leaderboard([run])["source"])) == shown
    assert len(leaderboard([run], paper=True)) == 7
    assert len(leaderboard([run], paper=False)) == 2
    other = RunResults.read(write_run(tmp_path / "other", weights))
    assert list(leaderboard([other, run], paper=True)["source"]) == ["run"] * 3 + ["paper"] * 5, "once, below all runs"
    text, content = compared([run, run], paper=True)
    assert "SegmentDreamer" in text
    assert content.count(b"SegmentDreamer") == 1


def test_paper_is_in_leaderboard_and_report_only(tmp_path, weights, monkeypatch):
    store = paper_run(tmp_path / "run", weights)
    monkeypatch.setattr("pipeline.leaderboard.comparison.grid", lambda run: b"")
    assert "| SegmentDreamer |" in publish(RunResults.read(store))
    assert b"SegmentDreamer" in (store.root / "leaderboard.csv").read_bytes()
    assert "not measured" in (store.root / "report.md").read_text()
    for name in ("differences.csv", "grid.csv", "per_object.csv"):
        assert b"SegmentDreamer" not in (store.root / name).read_bytes()
        assert b"Table-2" not in (store.root / name).read_bytes()
    publish(RunResults.read(store), paper=False)
    assert b"SegmentDreamer" not in (store.root / "leaderboard.csv").read_bytes()


def test_paper_is_an_option_of_the_command(tmp_path, weights):
    store, run, out = write_run(tmp_path / "run", weights), CliRunner(), tmp_path / "leaderboard.csv"
    for options, shown in (([], False), (["--paper"], True), (["--no-paper"], False)):
        result = run.invoke(cli.app, ["leaderboard", str(store.root), "--out", str(out), *options])
        assert result.exit_code == 0
        assert ("SegmentDreamer" in result.stdout) == shown
        assert (b"SegmentDreamer" in out.read_bytes()) == shown


def test_columns_without_a_metric_have_no_definition():
    assert json.loads(json.dumps(definitions(["method"]))) == {}


@pytest.mark.parametrize("text", ['=HYPERLINK("http://x","a")', "+1+2", "-cmd", "@SUM(A1)", "\t=1", "'=1", "''-x"])
def test_texts_are_no_formulas_in_a_spreadsheet(text):
    table = pd.DataFrame({"prompt": [text, "a red cube"], "clip@embedded": [-1.5, 2.0]})
    written = csv(table)
    (cell, _) = pd.read_csv(io.BytesIO(written))["prompt"]
    assert cell == f"'{text}"
    assert b"-1.5" in written
    assert b"'-1.5" not in written
    pd.testing.assert_frame_equal(read_csv(written), table)


@given(strategies.lists(strategies.text("=+-@'\"ab,é木", min_size=1).filter(lambda text: not text.isspace())))
def test_any_text_is_read_as_written(texts):
    table = pd.DataFrame({"prompt": ["a", *texts]})
    assert [str(text) for text in read_csv(csv(table))["prompt"]] == ["a", *texts]


def test_excel_reads_other_characters_and_scripts_see_no_mark_in_ascii():
    assert csv(pd.DataFrame({"prompt": ["一只红色的猫"]})).startswith(b"\xef\xbb\xbfprompt")
    assert csv(pd.DataFrame({"prompt": ["a red cat"]})) == b"prompt\na red cat\n"


def test_a_carriage_return_is_a_line_of_the_text_not_of_the_table():
    table = pd.DataFrame({"prompt": ["a\rb", "c\r\nd"], "clip": [1.0, 2.0]})
    assert list(read_csv(csv(table))["prompt"]) == ["a\nb", "c\nd"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'a,b\n"1', b"a\n1,2\n3,4,5\n"])
def test_other_bytes_are_no_table(content):
    with pytest.raises(UserError, match=r"^The table is not a CSV in UTF-8 \(.*\); generate it again\.$"):
        read_csv(content)
