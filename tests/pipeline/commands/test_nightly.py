"""`segmentdreamer nightly`: exit statuses, output files, and detection of planted regressions."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from typer.testing import CliRunner

from evaluation.clip_score import ClipScorer
from pipeline.cli.app import app
from pipeline.commands import bench as commands
from pipeline.commands import nightly as commands_nightly
from pipeline.embedded import frozen
from pipeline.nightly import baseline, candidate, gates
from pipeline.nightly import verdict as nightly
from pipeline.store.records import Unfinished
from pipeline.store.results import RunResults
from pipeline.store.run_folder import Store
from sctd.diffusion import guidance
from tests.support import runs
from tests.support.paths import DOCS

PROMPTS = "a red cube\na blue ball\na green cube\n"
SMALL = ["--views", "4", "--executor", "inline", "--set", "iterations=3", "--set", "initialization.kind=ball"]
BALL = [*SMALL, "--set", "initialization.count=150"]
QUALITY = "[clip]\ndelta = 0.3\n[ir]\ndelta = 0.05\n[fd]\ndelta = 2.0\nstandard_errors = 2\n[kid_cl]\ndelta = 1.0\n"
LOSS = "[loss]\ndelta = 5.0\nstandard_errors = 2\n"


def invoke(*arguments: object):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def quick(monkeypatch):
    """Skip the metric check, which has its own tests."""
    monkeypatch.setattr(frozen, "check", list)


@pytest.fixture(scope="module")
def tiny(tiny_weights, tmp_path_factory):
    """Options of a run of three prompts with tiny models, and its accepted baseline."""
    root = tmp_path_factory.mktemp("nightly")
    (root / "three.txt").write_text(PROMPTS)
    (root / "gates.toml").write_text(QUALITY)
    options = ["--suite", root / "three.txt", "--weights", tiny_weights, *BALL]
    assert invoke("bench", *options, "--out", root / "release").exit_code == 0
    accepted = invoke("nightly", "accept", root / "release", "--baseline", root / "pinned", "--reason", "release 1")
    assert accepted.exit_code == 0, accepted.output
    assert accepted.stdout == f"Baseline 1 in {root / 'pinned'}: release, 3 assets\n"
    return [*options, "--gates", root / "gates.toml", "--baseline", root / "pinned"], root


@pytest.mark.usefixtures("quick")
def test_same_code_passes_and_writes_verdict_trend_and_history(tiny):
    options, root = tiny
    result = invoke("nightly", *options, "--out", root / "tonight")
    assert result.exit_code == 0, result.output
    assert "PASS: no gate is worse by more than δ" in result.stdout
    document = json.loads((root / "tonight" / "verdict.json").read_text())
    assert {gate["metric"]: gate["difference"] for gate in document["gates"]} == dict.fromkeys(
        ["clip", "ir", "fd", "kid_cl"], 0.0
    )
    assert document["baseline"]["accepted"]["reason"] == "release 1"
    assert (root / "tonight" / "verdict.md").read_text().startswith("# PASS: ")
    assert ElementTree.parse(root / "tonight" / "junit.xml").getroot().get("failures") == "0"
    assert (root / "tonight" / "trend.png").read_bytes().startswith(b"\x89PNG")
    page = (root / "tonight" / "report" / "index.html").read_text()
    assert '<b class="pass">PASS</b> no gate is worse by more than δ' in page
    assert all(f"<td>{metric} {arrow}</td>" in page for metric, arrow in [("clip", "↑"), ("fd", "↓")])
    assert 'src="plots/trend-1.png"' in page
    assert (root / "tonight" / "report" / "plots" / "trend-1.png").is_file()
    invoke("nightly", *options, "--out", root / "tonight")
    lines = [json.loads(line) for line in (root / "pinned" / "nights.jsonl").read_text().splitlines()]
    assert [line["run"] for line in lines] == ["tonight", "tonight"]
    assert [line["baseline"] for line in lines] == [1, 1]


@pytest.mark.usefixtures("quick")
def test_another_protocol_fails_with_status_5_and_its_reason(tiny):
    options, root = tiny
    result = invoke("nightly", *options, "--views", "3", "--out", root / "views")
    assert result.exit_code == 5
    assert "FAIL: the runs are not comparable: protocol is paper3, in the baseline paper4" in result.stdout
    (suite,) = ElementTree.parse(root / "views" / "junit.xml").getroot()
    assert suite.get("failures") == "1"


@pytest.mark.usefixtures("quick")
def test_additional_failed_job_is_a_regression(tiny, monkeypatch):
    options, root = tiny
    result_of = candidate._result

    def lost(finished, record):
        if record.prompt != "a blue ball":
            return result_of(finished, record)
        return nightly.JobResult(record.method, record.prompt, record.seed, None, "NaN in the loss")

    monkeypatch.setattr(candidate, "_result", lost)
    result = invoke("nightly", *options, "--out", root / "failing")
    assert result.exit_code == 5
    assert "the generation changed: 1 jobs failed, 0 in the baseline; 'a blue ball': NaN in the loss" in result.stdout


def test_changed_preprocessing_is_a_change_of_the_metric(tiny, bundled_weights, monkeypatch):
    options, root = tiny
    plain = ClipScorer.image_features
    monkeypatch.setattr(ClipScorer, "image_features", lambda self, views: plain(self, views - (views > 0)))
    result = invoke("nightly", *options, "--out", root / "preprocessing")
    assert result.exit_code == 5
    assert "FAIL: the metric changed: clip a red mushroom of the frozen renders is 67." in result.stdout
    lines = baseline.history(root / "pinned", 1)
    assert "preprocessing" in [line["run"] for line in lines]
    assert "preprocessing" not in [line["run"] for line in commands_nightly._past(root / "pinned", 1, "tomorrow")]


@pytest.fixture(scope="module")
def bundled(bundled_weights, tmp_path_factory):
    """Options of a run of three prompts with the bundled models for a few iterations, and its baseline."""
    root = tmp_path_factory.mktemp("bundled")
    options = ["--suite", "embedded40", "--limit", 3, *SMALL, "--views", 8]
    options += ["--set", "iterations=6", "--set", "initialization.count=800"]
    (root / "gates.toml").write_text(QUALITY + LOSS)
    assert invoke("bench", *options, "--out", root / "release").exit_code == 0
    accepted = invoke("nightly", "accept", root / "release", "--baseline", root / "pinned", "--reason", "first")
    assert accepted.exit_code == 0, accepted.output
    return [*options, "--gates", root / "gates.toml", "--baseline", root / "pinned"], root


@pytest.mark.parametrize(
    ("factor", "found"),
    [
        (-1.0, r"FAIL: the generation changed: clip \(sctd\).* worse"),  # a wrong sign
        (0.8, r"FAIL: the generation changed: .*loss \(sctd\) different"),
    ],
)
@pytest.mark.usefixtures("quick")
def test_wrong_sign_and_weaker_guidance_are_detected(bundled, monkeypatch, factor, found):
    """The metrics are unchanged, so the generation has changed. A fifth less guidance changes only the loss."""
    options, root = bundled
    plain = guidance.cfg
    monkeypatch.setattr(guidance, "cfg", lambda denoise, scale, null: plain(denoise, factor * scale, null))
    result = invoke("nightly", *options, "--out", root / f"times{factor}")
    assert result.exit_code == 5, result.stdout
    assert re.search(found, result.stdout), result.stdout


# ---- errors -------------------------------------------------------------------------------------------------------


def refused(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line.removeprefix("Error: ")


def test_invalid_input_is_a_one_line_error_before_any_work(tiny, tmp_path, monkeypatch):
    options, root = tiny
    monkeypatch.setattr(commands, "executing", lambda *_: pytest.fail("an executor was started"))
    assert refused("nightly", "--weights", options[3]) == (
        "--baseline is missing; pass the folder of the baselines: --baseline baselines."
    )
    assert refused("nightly", *options, "--baseline", tmp_path).startswith(
        f"{tmp_path} contains no baseline; set a new baseline "
    )
    assert refused("nightly", *options, "--gates", tmp_path / "no.toml").startswith(
        f"{tmp_path}/no.toml is not a valid gates file "
    )
    accept = ["nightly", "accept", root / "release"]
    assert refused(*accept, "--baseline", tmp_path, "--reason", " ") == (
        "--reason is empty; say why later runs are compared with this one."
    )
    assert refused(*accept, "--reason", "x").startswith("--baseline is missing;")
    monkeypatch.setattr(commands_nightly.manifest, "commit", lambda: "decade")
    store = Store(tmp_path / "older")
    runs.manifest(store, [runs.job("a")])
    assert refused("nightly", *options, "--out", store.root) == (
        f"{store.root} was generated by commit c0ffee, and this is decade; choose another --out, or omit it to "
        "use a new folder."
    )
    assert list(tmp_path.glob("0*")) == []


def unfinished(run: RunResults) -> dict[str, Unfinished]:
    return {job.job_id: Unfinished(**job.identity) for job in run.manifest.jobs}


def test_unfinished_run_is_not_pinned(tiny, monkeypatch):
    _, root = tiny
    read = RunResults.read
    monkeypatch.setattr(RunResults, "read", lambda store: replace(run := read(store), records=unfinished(run)))
    line = refused("nightly", "accept", root / "release", "--baseline", root / "other", "--reason", "x")
    assert line == (f"{root}/release is not finished: 3 of its 3 assets are not scored; run its command again first.")


def test_default_folder_is_named_after_day_and_commit(monkeypatch):
    monkeypatch.setattr(commands_nightly.manifest, "commit", lambda: "0123456789abcdef+")
    assert commands_nightly._default_folder().name.endswith("-01234567+")
    monkeypatch.setattr(commands_nightly.manifest, "commit", lambda: None)
    assert len(commands_nightly._default_folder().name) == len("nightly-2026-01-02")


def test_documentation_shows_the_bundled_gates():
    assert gates.BUNDLED.read_text() in (DOCS / "nightly.md").read_text()
