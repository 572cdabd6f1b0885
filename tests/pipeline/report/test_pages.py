"""Report pages of 40 prompts by 5 methods: self-contained, equal to the tables, and with all text escaped."""

import csv
import json
import re
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import html5lib
import pytest
from typer.testing import CliRunner

from pipeline.cli import app as cli
from pipeline.cli import error_handling
from pipeline.leaderboard.table import leaderboard
from pipeline.report import facts, viewer
from pipeline.report.pages import FOLDER, write
from pipeline.store.records import Unfinished
from pipeline.store.results import RunResults
from pipeline.store.run_folder import Store
from tests.support import finished_run, runs
from tests.support.processes import BALL

HOSTILE = '<script>alert(1)</script> & "a" $x$ | ../../etc <img src=x onerror=alert(2)>'
PROMPTS = [HOSTILE, *(f"a thing of number {number}" for number in range(1, 40))]
METHODS = ["sctd", "sds", "ism", "<i>cds</i>", "gcs"]
FAILED, UNFINISHED = (3, 1), (4, 2)
VIEWER = viewer.Files({"supersplat.js": b"", "supersplat.css": b"", "start.js": b"", "viewer.css": b""})
XHTML = "{http://www.w3.org/1999/xhtml}"
MOST_BYTES = 5_000_000


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Store:
    folder = tmp_path_factory.mktemp("site")
    store = Store(folder / "large")
    finished_run.write(store, folder / "weights", PROMPTS, METHODS, failed=[FAILED], unfinished=[UNFINISHED])
    return store


@pytest.fixture(scope="module")
def report(run) -> Path:
    finished = RunResults.read(run)
    return write([finished], leaderboard([finished]), Store(run.root / FOLDER), VIEWER).parent


def pages(report: Path) -> list[Path]:
    return sorted(report.rglob("*.html"))


def parsed(page: Path):
    return html5lib.parse(page.read_text(encoding="utf-8"))


def text_of(node) -> str:
    return " ".join("".join(node.itertext()).split())


@pytest.fixture(scope="module")
def quality(tmp_path_factory) -> Path:
    """The report of a run with scores at shares; of the second method, one asset lacks a snapshot."""
    folder = tmp_path_factory.mktemp("quality")
    store = Store(folder / "run")
    finished_run.write(store, folder / "weights", PROMPTS[:3], ["sctd", "<i>sds</i>"])
    finished_run.add_snapshots(store)
    finished = RunResults.read(store)
    return write([finished], leaderboard([finished]), Store(folder / "report"), None).parent


def test_scores_over_cost_have_a_plot_for_each_known_cost_and_a_table(quality):
    (section,) = (s for s in parsed(quality / "index.html").iter(f"{XHTML}section") if s.get("class") == "quality")
    images = [image.get("src") for image in section.iter(f"{XHTML}img")]
    assert images == ["plots/over-iterations.svg", "plots/over-seconds.svg"], "no samples are known"
    assert len(list(section.iter(f"{XHTML}input"))) == len(images)
    for image in images:
        drawn = text_of(ElementTree.parse(quality / image).getroot())
        for word in ("CLIP (embedded)", "ImageReward (embedded)", "sctd", "<i>sds</i>"):
            assert word in drawn
    rows = [[text_of(cell) for cell in row][:4] for row in section.iter(f"{XHTML}tr")][1:]
    assert rows == [["sctd", "0.25", "3", "2"], ["sctd", "1", "3", "8"]] + [
        ["<i>sds</i>", share, "2", iteration] for share, iteration in (("0.25", "2"), ("1", "8"))
    ]
    assert "<i>sds</i>: 1 of 3 assets lack scores at some share and are left out." in text_of(section)
    table = list(csv.DictReader((quality / "curves.csv").read_text().splitlines()))
    assert [row["status"] for row in table].count("missing") == 1


def test_runs_without_shares_have_no_scores_over_cost(report):
    assert "quality" not in {section.get("class") for section in parsed(report / "index.html").iter(f"{XHTML}section")}
    assert not (report / "curves.csv").exists()


def test_pages_are_below_the_size_limit(report):
    assert len(pages(report)) == 2 + 40 + 198  # leaderboard and recipes, prompts, assets
    assert max(page.stat().st_size for page in pages(report)) < MOST_BYTES


def test_every_page_is_valid_html(report):
    for page in pages(report):
        html5lib.HTMLParser(strict=True).parse(page.read_text(encoding="utf-8"))
        ids = [node.get("id") for node in parsed(page).iter() if node.get("id")]
        assert len(ids) == len(set(ids)), page


def test_every_link_targets_a_file_of_the_report(report):
    found = 0
    for page in pages(report):
        for node in parsed(page).iter():
            for attribute in ("src", "href", "poster"):
                if (target := node.get(attribute)) is None:
                    continue
                found += 1
                assert "://" not in target, (page, target)
                path = (page.parent / unquote(target.partition("#")[0])).resolve()
                assert path.is_file(), (page, target)
                assert path.is_relative_to(report.resolve()), (page, target)
    assert found > 1000
    for file in [*report.glob("*.css"), *report.glob("*.js"), *report.rglob("*.svg")]:
        assert not re.search(r"url\(\s*['\"]?http|@import|(href|src)=['\"]http", file.read_text(encoding="utf-8")), file


def test_content_security_policy_allows_local_files_only(report):
    for page in pages(report):
        policies = [n for n in parsed(page).iter(f"{XHTML}meta") if n.get("http-equiv") == "Content-Security-Policy"]
        assert len(policies) == 1, page
        policy = policies[0].get("content")
        assert policy.startswith("default-src 'none'; "), page
        assert "http" not in policy, page
        assert "'unsafe-inline'" not in policy.partition("script-src")[2].partition(";")[0], page


def test_hostile_prompt_is_escaped(report):
    page = parsed(report / "prompts" / "001.html")
    assert text_of(page.find(f".//{XHTML}h1")) == HOSTILE
    scripts = {node.get("src") for file in pages(report) for node in parsed(file).iter(f"{XHTML}script")}
    assert None not in scripts
    for file in pages(report):
        nodes = list(parsed(file).iter())
        assert not [n for n in nodes if any(str(name).startswith("on") for name in n.attrib)], file
        assert not [n for n in nodes if n.get("src") == "x"], file


def test_hostile_method_name_is_escaped_in_plots(report):
    for path in (report / "plots" / "001.svg", report / "plots" / "costs.svg"):
        tree = ElementTree.parse(path)
        assert "<i>cds</i>" in {"".join(node.itertext()).strip() for node in tree.iter()}


def test_numbers_equal_leaderboard_csv(report, run):
    finished = RunResults.read(run)
    with open(report / "leaderboard.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    table = parsed(report / "index.html").find(f".//{XHTML}table[@id='leaderboard']")
    heads = [node.get("data-column") for node in table.iter(f"{XHTML}th") if node.get("data-column")]
    assert {"clip@embedded", "ir@embedded", "fd@embedded", "time_min"} <= set(heads)
    lines = [list(row) for row in table.find(f"{XHTML}tbody")]
    assert len(lines) == len(rows) == len(finished.methods)
    for line, row in zip(lines, rows, strict=True):
        shown = dict(zip(heads, line, strict=True))
        assert text_of(shown["method"]) == row["method"]
        for name in heads[2:]:
            value, text = shown[name].get("data-value"), text_of(shown[name])
            assert value == "" if row[name] == "" else float(value) == float(row[name]), name
            assert text == "–" if row[name] == "" else text, name
            if row.get(f"{name}_se"):
                assert f"± {float(row[f'{name}_se']):.2g}" in text
        assert text_of(shown["prompts"]) == {"sds": "39 of 40", "ism": "40"}.get(row["method"], "40")


def test_best_methods_are_marked_and_others_tested_against_them(report):
    table = parsed(report / "index.html").find(f".//{XHTML}table[@id='leaderboard']")
    heads = [node.get("data-column") for node in table.iter(f"{XHTML}th") if node.get("data-column")]
    cells = [list(row)[heads.index("clip@embedded")] for row in table.find(f"{XHTML}tbody")]
    assert ["first" in c.get("class") for c in cells] == [True, False, False, False, False]
    assert ["second" in c.get("class") for c in cells] == [False, True, False, False, False]
    assert "the best" not in text_of(cells[0])
    assert all("differs from the best, p < 0.001" in text_of(cell) for cell in cells[1:])


def test_failures_are_listed_with_their_reasons(report):
    page = parsed(report / "index.html")
    assert "Not finished: 2" in text_of(page)
    rows = [[text_of(cell) for cell in row] for row in page.iter(f"{XHTML}tr")]
    assert ["a thing of number 3", "sds", "generate", "the memory <b>ran</b> out"] in rows
    assert ["a thing of number 4", "ism", "", "unfinished"] in rows
    assert "the memory <b>ran</b> out" in text_of(parsed(report / "prompts" / "004.html"))


def test_prompt_page_has_all_methods_and_their_worst_views(report):
    page = parsed(report / "prompts" / "002.html")
    videos = [node for node in page.iter(f"{XHTML}video") if "turntable" in (node.get("class") or "")]
    assert len(videos) == 5
    worst = [node.get("data-degrees") for node in page.iter(f"{XHTML}video") if node.get("data-degrees")]
    assert worst == ["180"] * 5
    curves = ElementTree.parse(report / "plots" / "002.svg")
    assert {"CLIP", "ImageReward", *METHODS, "180°"} <= {"".join(n.itertext()).strip() for n in curves.iter()}


def test_training_curves_are_drawn_from_progress_records(run, tmp_path):
    copied = Store(tmp_path / "with-events")
    finished_run.write(copied, tmp_path / "weights", PROMPTS[:3], METHODS[:2])
    common = {"kind": "progress", "stage": "generate"}
    records = [
        json.dumps(common | {"job_id": job, "iteration": i, "seconds": i * 2, "gaussians": 1e3 * i} | loss)
        for i in (1, 2, 3)
        for job, loss in (("0000cafe", {"loss": 10.0**-i}), ("0100cafe", {}))
    ]
    copied.write(copied.root / "events" / "a-0000.jsonl", "\n".join([*records, '{"kind": "prog']).encode())
    finished = RunResults.read(copied)
    index = write([finished], leaderboard([finished]), Store(tmp_path / "out"), None)
    words = [words_of(index.parent / "plots" / f"00{number}-made.svg") for number in (1, 2)]
    assert {"loss", "Gaussians", "seconds", "iteration", "sctd"} <= words[0]
    assert words[0] - words[1] >= {"loss", "0.1", "0.01", "0.001"}  # labels of the logarithmic axis
    assert {"Gaussians", "seconds", "iteration", "sctd"} <= words[1]
    assert not (index.parent / "plots" / "003-made.svg").exists()


def words_of(plot: Path) -> set[str]:
    return {"".join(node.itertext()).strip() for node in ElementTree.parse(plot).iter()}


def test_training_curves_of_a_real_run(tiny_weights, tmp_path):
    options = ["--prompt", "a red cube", "--objective", "sctd,sds", "--weights", tiny_weights, "--executor", "inline"]
    quick = ["--set", "iterations=6", *BALL, "--views", "4", "--out", tmp_path / "run"]
    found = CliRunner().invoke(cli.app, ["bench", *map(str, [*options, *quick])])
    assert found.exit_code == 0, found.output
    progress = facts.progress([RunResults.read(Store(tmp_path / "run"))])
    assert len(progress) == 2
    for job_id, records in progress.items():
        generation = json.loads((tmp_path / "run" / "items" / job_id / "generation.json").read_text())
        steps = [record for record in records if record["kind"] == "progress"]
        assert [record["iteration"] for record in steps] == [1, 2, 3, 4, 5, 6]
        assert steps[-1]["loss"] == pytest.approx(generation["mean_loss"])  # both average all 6 iterations
        assert steps[-1]["gaussians"] == generation["num_gaussians"]
        assert generation["init_seconds"] < steps[0]["seconds"] < steps[-1]["seconds"] <= generation["seconds"]
    assert {"loss", "Gaussians", "seconds", "sctd", "sds"} <= words_of(tmp_path / "run/report/plots/001-made.svg")
    sources = [node.get("src") for node in parsed(tmp_path / "run/report/prompts/001.html").iter(f"{XHTML}img")]
    assert "../plots/001-made.svg" in sources


def test_stale_files_are_removed_and_foreign_files_stay(tmp_path):
    store = Store(tmp_path / "run")
    finished_run.write(store, tmp_path / "weights", PROMPTS[:3], METHODS[:1])
    finished, out = RunResults.read(store), Store(tmp_path / "out")
    write([finished], leaderboard([finished]), out, VIEWER)
    (out.root / "mine.txt").write_text("mine")
    finished.records.popitem()
    write([finished], leaderboard([finished]), out, None)
    assert not (out.root / "prompts" / "003.html").exists()
    assert not (out.root / "view").exists()
    assert (out.root / "mine.txt").read_text() == "mine"
    assert viewer.MISSING in text_of(parsed(out.root / "prompts" / "001.html"))


def test_report_of_several_runs(tmp_path, monkeypatch):
    run = Store(tmp_path / "one")
    finished_run.write(run, tmp_path / "weights", PROMPTS[:2], METHODS[:2])
    other = Store(tmp_path / "other")
    finished_run.write(other, tmp_path / "weights", PROMPTS[:2], METHODS[:1])
    monkeypatch.setattr(viewer, "fetch", lambda: VIEWER)
    found = CliRunner().invoke(cli.app, ["report", str(run.root), str(other.root), "--out", str(tmp_path / "both")])
    assert found.exit_code == 0, found.output
    page = parsed(tmp_path / "both" / "prompts" / "001.html")
    titles = [text_of(node) for node in page.iter(f"{XHTML}h3")]
    assert titles == ["one: sctd", "one: sds", "other: sctd"]
    assert (tmp_path / "both" / "run-2.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{run}", "{run}"], "--out is missing; pass a folder for the report of several runs."),
        (["{run}", "--out", "{run}/run.json"], "run.json is a file; set --out to a folder."),
        (["{run}/items"], "items contains no run (no run.json); pass the run folder of a bench run."),
    ],
)
def test_invalid_arguments_are_errors(run, arguments, message):
    found = CliRunner().invoke(cli.app, ["report", *(a.format(run=run.root) for a in arguments)])
    assert found.exit_code == error_handling.INVALID_INPUT
    assert message in found.stderr


def test_job_id_with_a_path_is_refused(tmp_path):
    store = Store(tmp_path / "run")
    finished_run.write(store, tmp_path / "weights", PROMPTS[:1], METHODS[:1])
    finished = RunResults.read(store)
    table = leaderboard([finished])
    finished.records["../../outside"] = Unfinished(**runs.job("../../outside", PROMPTS[0], METHODS[0]).identity)
    with pytest.raises(ValueError, match=r"a job with id '\.\./\.\./outside'; expected letters and digits"):
        write([finished], table, Store(tmp_path / "out"), None)
