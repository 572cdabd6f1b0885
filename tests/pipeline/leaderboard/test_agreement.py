"""Agreement of a run's metrics with opinions: matching, signs, levels, files and the report."""

import csv
import json

import html5lib
import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.errors import UserError
from pipeline.leaderboard import agreement
from pipeline.leaderboard.opinions import Opinions, read
from pipeline.plan import metrics
from pipeline.store.results import RunResults
from pipeline.store.run_folder import Store
from pipeline.study import results
from pipeline.study.database import Ballot
from pipeline.study.plan import Competitor, StudyPlan
from tests.support import finished_run, runs

METHODS = "sctd", "sds", "ism"
PROMPTS = [f"a cube of side {side}" for side in range(9)]
ASSETS = [(method, prompt) for prompt in PROMPTS for method in METHODS]
CLIP = dict(zip(ASSETS, np.random.default_rng(0).permutation(len(ASSETS)).astype(float).tolist(), strict=True))


def write(root, failed=(), **changes) -> RunResults:
    """Records of nine prompts by three methods, with distinct scores."""
    store = Store(root)
    jobs = {asset: runs.job(f"{asset[0]}-{asset[1][-1]}", asset[1], asset[0], **changes) for asset in ASSETS}
    runs.manifest(store, jobs.values())
    for asset, job in jobs.items():
        scores = runs.scores(CLIP[asset], -CLIP[asset], 0.5)
        store.write_record(runs.failed(job) if asset in failed else runs.done(job, scores=scores))
    return RunResults.read(store)


def opinions(values, is_ranking=False, source="o.csv"):
    return Opinions(source, {"score": dict(values)}, is_ranking)


def rows(found, metric="clip@embedded"):
    return {row.level: row for row in found.agreements.rows if row.metric == metric}


@pytest.fixture
def run(tmp_path):
    return write(tmp_path / "run")


def test_equal_order_agrees_at_every_level(run):
    found = agreement.found(run, opinions(CLIP))
    levels = rows(found)
    assert {level: row.count for level, row in levels.items()} == {"prompts": 9, "methods": 3, "assets": 27}
    assert all((row.kendall, row.spearman, row.accuracy) == pytest.approx((1, 1, 1)) for row in levels.values())
    assert all((row.n_prompts, row.n_assets) == (9, 27) for row in levels.values())
    assert rows(found, "ir@embedded")["assets"].kendall == pytest.approx(-1)
    assert rows(found, "clip_p10@embedded")["prompts"].accuracy == 1
    constant = rows(found, "clip_rprec@embedded")["assets"]
    assert (constant.kendall, constant.spearman, constant.accuracy) == (None, None, 0.5)
    assert found.agreements.note == ""


def test_rows_of_prompts(run):
    found = agreement.found(run, opinions(CLIP))
    own = [row for row in found.prompts if row["metric"] == "ir@embedded"]
    assert [row["prompt"] for row in own] == PROMPTS
    assert own[0] == {
        "dimension": "score", "metric": "ir@embedded", "prompt": PROMPTS[0], "n_assets": 3, "kendall": -1.0,
        "spearman": pytest.approx(-1), "accuracy": 0.0,
    }  # fmt: skip


def test_metrics_of_which_lower_is_better_are_negated(run, monkeypatch):
    lower = {name: metric for name, metric in metrics.METRICS.items() if name == "clip"}
    monkeypatch.setitem(lower, "clip", metrics.replace(lower["clip"], better="lower"))
    monkeypatch.setattr(agreement, "METRICS", lower)
    found = agreement.found(run, opinions(CLIP))
    assert {row.metric for row in found.agreements.rows} == {"clip@embedded", "clip_p10@embedded"}
    assert {row.kendall for row in rows(found).values()} == {-1}


def test_ranks_are_compared_within_prompts_and_by_method(run):
    assert set(rows(agreement.found(run, opinions(CLIP, is_ranking=True)))) == {"prompts", "methods"}


def test_opinions_are_matched_by_text_id_and_label(run):
    """Case, underscores and points at the ends do not matter; the id of a prompt and the label of a study do."""
    by_text = {("SCTD", "A_cube_of_side_0."): 1, ("run/sds", PROMPTS[0]): 2, (" ism", "a-cube-of-side-0"): 3}
    rest = {asset: CLIP[asset] for asset in ASSETS if asset[1] != PROMPTS[0]}
    found = agreement.found(run, opinions(by_text | rest))
    assert rows(found)["assets"].count == 27
    assert found.agreements.note == ""


def test_names_that_differ_in_case_alone_are_not_confused(tmp_path):
    store = Store(tmp_path)
    names = [*PROMPTS, "a cube", "A Cube"]
    jobs = [runs.job(f"{number}", name, prompt_id=str(number)) for number, name in enumerate(names)]
    runs.manifest(store, jobs)
    for number, job in enumerate(jobs):
        store.write_record(runs.done(job, scores=runs.scores(number)))
    run = RunResults.read(store)
    values = {("sctd", name): number for number, name in enumerate(names)}
    assert rows(agreement.found(run, opinions(values)))["assets"].kendall == pytest.approx(1)
    unclear = {asset: value for asset, value in values.items() if asset[1] in PROMPTS} | {("sctd", "A CUBE"): 1}
    note = agreement.found(run, opinions(unclear)).agreements.note
    assert "1 of 10 prompts of o.csv ('A CUBE')" in note
    assert "2 of 11 prompts of the run ('a cube', 'A Cube')" in note


def test_what_is_left_out_is_named_in_one_sentence(tmp_path):
    run = write(tmp_path / "run", failed=[ASSETS[0]])
    values = {asset: value for asset, value in CLIP.items() if asset[1] != PROMPTS[8] and asset[0] != "ism"}
    values |= {(method, "a sphere"): 1 for method in ("sctd", "lgm", "trellis", "hunyuan", "tripo")}
    found = agreement.found(run, opinions(values))
    assert found.agreements.note == (
        "Left out: 1 of 16 rated assets (no scores); 4 of 6 methods of o.csv ('lgm', 'trellis', 'hunyuan', …); 1 of 3 "
        "methods of the run ('ism'); 1 of 9 prompts of o.csv ('a sphere'); 1 of 9 prompts of the run "
        "('a cube of side 8')."
    )
    assert rows(found)["assets"].count == 15


def test_too_few_prompts_are_refused(run):
    few = {asset: value for asset, value in CLIP.items() if asset[1] in PROMPTS[:7]}
    with pytest.raises(UserError, match=r"has opinions on 7 scored prompts of .*run; expected at least 8\. Left out: "):
        agreement.found(run, opinions(few))
    with pytest.raises(UserError, match=r"on 0 scored prompts .* 1 of 1 methods of o.csv \('lgm'\); 3 of 3"):
        agreement.found(run, opinions({("lgm", prompt): 1 for prompt in PROMPTS}))


def test_dimensions_with_too_few_prompts_are_left_out(run):
    few = {asset: value for asset, value in CLIP.items() if asset[1] in PROMPTS[:7]}
    found = agreement.found(run, Opinions("o.csv", {"all": CLIP, "few": few}, False))
    assert {row.dimension for row in found.agreements.rows} == {"all"}
    assert found.agreements.note == "Left out: dimensions with opinions on fewer than 8 prompts ('few')."


def test_opinions_that_do_not_differ_are_refused_or_left_out(run):
    same = dict.fromkeys(CLIP, 3.0)
    with pytest.raises(UserError) as error:
        agreement.found(run, opinions(same))
    assert str(error.value) == (
        f"o.csv has no two different opinions to compare with {run.store.root}; expected assets of several methods, "
        "rated differently. Left out: dimensions that rate all assets alike ('score')."
    )
    found = agreement.found(run, Opinions("o.csv", {"same": same, "clip": CLIP}, False))
    assert {row.dimension for row in found.agreements.rows} == {"clip"}
    assert found.agreements.note == "Left out: dimensions that rate all assets alike ('same')."
    one_method = {(method, prompt): -float(p % 2) for p, prompt in enumerate(PROMPTS) for method in ("sctd",)}
    with pytest.raises(UserError, match="no two different opinions to compare"):
        agreement.found(run, opinions(one_method, is_ranking=True))


def test_one_asset_under_two_names_is_refused(run):
    with pytest.raises(UserError) as error:
        agreement.found(run, opinions(CLIP | {("SCTD", PROMPTS[0]): 1}))
    assert str(error.value).endswith(
        f"run in two ways ({PROMPTS[0]!r} by 'sctd' and {PROMPTS[0]!r} by 'SCTD'); keep one."
    )


def test_a_run_without_scores_is_refused(tmp_path):
    run = write(tmp_path / "run", failed=ASSETS)
    with pytest.raises(
        UserError, match=r"run has no scored asset; score it with segmentdreamer evaluate .*run first\."
    ):
        agreement.found(run, opinions(CLIP))


def test_shuffled_opinions_do_not_agree(tmp_path):
    run = write(tmp_path / "run")
    shuffled = dict(zip(ASSETS, np.random.default_rng(1).permutation(list(CLIP.values())).tolist(), strict=True))
    for row in rows(agreement.found(run, opinions(shuffled))).values():
        assert row.kendall_lo <= 0 <= row.kendall_hi, row.level
        assert row.accuracy_lo <= 0.5 <= row.accuracy_hi, row.level


def test_several_seeds_of_a_prompt_are_averaged(tmp_path):
    store = Store(tmp_path)
    jobs = [runs.job(f"{n}-{seed}", prompt, seed=seed) for n, prompt in enumerate(PROMPTS) for seed in (0, 1)]
    runs.manifest(store, jobs)
    for number, job in enumerate(jobs):
        store.write_record(runs.done(job, scores=runs.scores(-number if job.seed else 3 * number)))
    values = {("sctd", prompt): number for number, prompt in enumerate(PROMPTS)}
    level = rows(agreement.found(RunResults.read(store), opinions(values)))["assets"]
    assert (level.count, level.kendall) == (9, pytest.approx(1))


def test_scores_that_changed_since_are_not_shown(run):
    found = agreement.found(run, opinions(CLIP))
    assert agreement.section(run) == ""
    run.store.write_json(run.store.root / agreement.FILE, found.agreements)
    assert agreement.read(run) == found.agreements
    assert "| clip@embedded" in agreement.section(run)
    job = next(iter(run.manifest.jobs))
    run.store.write_record(runs.done(job, scores=runs.scores(99)))
    changed = RunResults.read(run.store)
    assert agreement.read(changed) is None
    assert "scored since `agreement.csv` was written; run segmentdreamer agreement again." in agreement.section(changed)


def test_table_marks_intervals_that_exclude_chance():
    row = agreement.Row(
        dimension="D|x", metric="clip@tiny", level="prompts", count=9, n_prompts=9, n_assets=27, kendall=0.5,
        kendall_lo=0.2, kendall_hi=0.8, spearman=0.5, spearman_lo=-0.1, spearman_hi=0.9, accuracy=0.75, accuracy_lo=0.6,
        accuracy_hi=0.9,
    )  # fmt: skip
    other = row.model_copy(update={"dimension": "E", "spearman": None, "kendall_lo": None, "accuracy_lo": 0.4})
    known = agreement.Agreements(opinions="o.csv", scores="", seed=0, note="A note on <b>.", rows=(row, other))
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in agreement.markdown(known).splitlines()]
    assert lines[2] == ["dimension", "metric", "prompts", "Kendall's τ-b", "Spearman's ρ", "pairwise accuracy"]
    assert lines[4] == [
        "D\\|x", "clip@tiny", "9", "**0.50 (0.20 to 0.80)**", "0.50 (-0.10 to 0.90)", "**0.75 (0.60 to 0.90)**"
    ]  # fmt: skip
    assert lines[5] == ["E", "clip@tiny", "9", "0.50", "", "0.75 (0.40 to 0.90)"]
    assert lines[-1] == ["A note on \\<b\\>."]


def test_votes_of_a_study_are_compared(run, tmp_path):
    """The best of nine prompts by CLIP score is ranked first in two of the questions, and last in the third."""
    plan = StudyPlan("s", tuple(Competitor("run", "run", method) for method in METHODS), tuple(PROMPTS), ((),) * 9)
    ranks = [np.argsort(np.argsort([-CLIP[method, prompt] for method in METHODS])) + 1 for prompt in PROMPTS]
    ballots = [
        Ballot(voter, group, question, (4 - ranks[group] if question == 2 else ranks[group]).tolist())
        for voter in ("v", "w") for group in range(9) for question in range(3)
    ]  # fmt: skip
    results.write(Store(tmp_path / "study"), plan, results.found(plan, ballots, 0), ballots)
    found = agreement.found(run, read(tmp_path / "study"))
    own = {(row.dimension, row.level): row.kendall for row in found.agreements.rows if row.metric == "clip@embedded"}
    assert {key: own[key, "prompts"] for key in ("q1", "q2", "q3")} == pytest.approx({"q1": 1, "q2": 1, "q3": -1})
    assert own["q1", "methods"] == -own["q3", "methods"]
    assert len(own) == 6


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run with real files, and opinions in the layout of MATE-3D."""
    folder = tmp_path_factory.mktemp("agreement")
    finished_run.write(Store(folder / "run"), folder / "weights", PROMPTS, METHODS)
    lines = [
        f"{method},{prompt},{finished_run.score(p, m)},{(p * 7 + m * 5) % 4}"
        for p, prompt in enumerate(PROMPTS)
        for m, method in enumerate(METHODS)
    ]
    (folder / "mos.csv").write_text("\n".join(["model,prompt,Alignment,Texture", *lines]) + "\n")
    return folder


def invoke(*arguments):
    return CliRunner().invoke(app, ["agreement", *map(str, arguments)])


def test_command_writes_tables_and_the_report(finished):
    run = finished / "run"
    (run / "report").mkdir()
    result = invoke(run, "--opinions", finished / "mos.csv")
    assert result.exit_code == 0, result.output
    assert "| Alignment | clip@embedded" in result.stdout
    assert result.stderr == "Dimensions of mos.csv: Alignment, Texture\n"
    written = "agreement.csv", "agreement_prompts.csv", "report.md", "report/index.html"
    assert result.stdout.splitlines()[-4:] == [str(run / name) for name in written]
    with open(run / "agreement.csv", newline="") as file:
        written = list(csv.DictReader(file))
    assert list(written[0]) == list(agreement.Row.model_fields)
    assert len(written) == 2 * 5 * 3
    assert (written[0]["dimension"], written[0]["metric"], written[0]["kendall"]) == (
        "Alignment",
        "clip@embedded",
        "1.0",
    )
    with open(run / "agreement_prompts.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 2 * 5 * 9
    assert "## Agreement with people" in (run / "report.md").read_text()
    assert {"kendall", "spearman", "accuracy"} < json.loads((run / "columns.json").read_text()).keys()
    page = (run / "report" / "index.html").read_text()
    html5lib.HTMLParser(strict=True).parse(page)
    assert "<h2>Agreement with people</h2>" in page
    assert "plots/agreement-1.svg" in page
    plot = (run / "report" / "plots" / "agreement-1.svg").read_text()
    assert "Alignment: clip@embedded" in plot
    assert "clip_p10" not in plot


def test_command_is_deterministic_and_prints_json(finished):
    arguments = finished / "run", "--opinions", finished / "mos.csv", "--dimension", "texture", "--json"
    first, second, other = invoke(*arguments), invoke(*arguments), invoke(*arguments, "--seed", 1)
    assert first.exit_code == 0, first.output
    assert first.stdout == second.stdout != other.stdout
    found = json.loads(first.stdout)
    assert {row["dimension"] for row in found} == {"Texture"}
    assert {tuple(row) for row in found} == {tuple(agreement.Row.model_fields)}


def test_wrong_arguments_are_sentences(finished, tmp_path):
    run, mos = finished / "run", finished / "mos.csv"
    for arguments, expected in (
        ([tmp_path / "none", "--opinions", mos], "contains no run"),
        (
            [run, "--opinions", tmp_path / "none.csv"],
            "none.csv cannot be read (No such file or directory); pass a CSV of opinions.",
        ),
        (
            [run, "--opinions", mos, "--dimension", "Colour"],
            "has no dimension 'Colour'; choose from Alignment, Texture.",
        ),
        ([run, "--opinions", mos, "--seed", -1], "--seed is -1; expected a whole number from 0 to 2^63 - 1."),
        ([run, "--opinions", tmp_path], "is a folder without votes.csv"),
    ):
        result = invoke(*arguments)
        assert (result.exit_code, result.stdout) == (2, ""), result.output
        assert expected in result.stderr
        assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "none").exists()
