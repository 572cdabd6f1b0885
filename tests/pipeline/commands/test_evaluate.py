"""pipeline.commands.evaluate with --assets: other people's assets on the leaderboard of a run folder."""

import json
import shutil

import pandas as pd
import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.nightly.candidate import nightly_run
from pipeline.store import manifest
from pipeline.store.results import RunResults
from pipeline.store.run_folder import Store
from pipeline.work import flow
from sctd.formats import gltf, ply
from tests.support.processes import PROMPTS, SMALL
from tests.support.splats import some_splats

CUBE, BALL = "a red cube", "a blue ball"
QUAD = "v -1 -1 0 1 0 0\nv 1 -1 0 1 0 0\nv 1 1 0 1 0 0\nv -1 1 0 1 0 0\nf 1 2 3 4\n"


def invoke(*arguments):
    return CliRunner().invoke(app, [*map(str, arguments), "--executor", "inline"])


def succeeds(*arguments, code=0):
    result = invoke(*arguments)
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def run(undisturbed, tmp_path):
    return shutil.copytree(undisturbed, tmp_path / "run")


@pytest.fixture
def splats(run, tmp_path):
    """The run's own assets as a folder of another method."""
    folder = tmp_path / "splats"
    folder.mkdir()
    for job in manifest.read(Store(run)).jobs:
        gaussians = ply.from_ply((run / "items" / job.job_id / "asset.ply").read_bytes())
        (folder / f"{job.prompt_id}.ply").write_bytes(ply.to_ply(gaussians))
    return folder


@pytest.fixture
def meshes(tmp_path):
    pytest.importorskip("embreex", reason="the extra mesh renders meshes")
    folder = tmp_path / "meshes"
    folder.mkdir()
    (folder / "a-red-cube.obj").write_text(QUAD)
    return folder


@pytest.fixture
def suite(tmp_path):
    (tmp_path / "suite.txt").write_text(f"{CUBE}\n{BALL}\n")
    return tmp_path / "suite.txt"


def table(run, name="leaderboard.csv"):
    return pd.read_csv(run / name, encoding="utf-8-sig")


def test_one_command_puts_three_methods_on_a_leaderboard(run, splats, meshes):
    options = ["--assets", splats, "--method", "splats", "--assets", meshes, "--method", "meshes", "--fit", "keep"]
    result = succeeds("evaluate", "--out", run, *options, "--up", "z", "--up", "y")
    rows = table(run).set_index("method")
    assert list(rows.index) == ["sctd", "splats", "meshes"]
    assert list(rows["source"]) == ["run", "imported", "imported"]
    assert list(rows["n_prompts"]) == [2, 2, 1]
    for cost in ("time_min", "peak_gib", "gpu"):
        assert list(rows[cost].isna()) == [False, True, True]
    assert list(rows["n_gauss"].isna()) == [False, False, True]
    scores = [column for column in rows if column.startswith(("clip@", "ir@", "fd@"))]
    pd.testing.assert_series_equal(rows.loc["sctd", scores], rows.loc["splats", scores], check_names=False)
    assert "| splats (imported) |" in result.stdout
    differences = table(run, "differences.csv").set_index(["method", "metric"])
    assert set(differences.loc["splats", "difference"]) == {0}
    assert differences.loc[("meshes", "clip@tiny"), "n_prompts"] == 1
    report = (run / "report.md").read_text()
    assert "| splats (imported) |" in report
    objects = table(run, "per_object.csv").set_index(["method", "prompt"])
    assert objects.loc[("meshes", CUBE), "asset"].endswith("/mesh.npz")
    pages = (run / "report" / "recipes.html").read_text()
    assert "Imported: meshes" in pages
    assert "a-red-cube.obj" in pages
    assert "splats (imported)" in (run / "report" / "index.html").read_text()
    assert (run / "imported-splats.png").exists()


def test_the_same_command_has_nothing_to_do(run, splats):
    command = "evaluate", run, "--assets", splats, "--method", "theirs"
    succeeds(*command)
    again = succeeds(*command)
    assert "to import" not in again.stderr
    assert "to score" not in again.stderr
    assert "Scored" not in again.stderr


def test_an_interrupted_command_is_resumed(run, splats, tmp_path, monkeypatch):
    command = ["--assets", splats, "--method", "theirs", "--log", "lines"]
    other = shutil.copytree(run, tmp_path / "other")
    whole = flow.evaluate

    def interrupted(results, scorers, digest, assets, *rest):
        whole(results, scorers, digest, assets[:1], *rest)
        raise KeyboardInterrupt

    monkeypatch.setattr(flow, "evaluate", interrupted)
    succeeds("evaluate", run, *command, code=130)
    monkeypatch.undo()
    resumed = succeeds("evaluate", run, *command)
    assert "to import" not in resumed.stderr
    assert "1 of 4 assets to score" in resumed.stderr
    succeeds("evaluate", other, *command)
    changing = ["date_utc", "run_id", "t_eval_s", "env_sha"]
    for name in ("leaderboard.csv", "per_object.csv"):
        first, second = (table(folder, name) for folder in (run, other))
        columns = [column for column in first if column not in changing]
        pd.testing.assert_frame_equal(first[columns], second[columns])
    for job in manifest.read(Store(run)).jobs:
        for name in ("asset.ply", "contact.png", "turntable.mp4", "generation.json"):
            path = f"items/{job.job_id}/{name}"
            assert (run / path).read_bytes() == (other / path).read_bytes()


def test_only_what_has_changed_is_imported_again(run, splats):
    command = "evaluate", run, "--assets", splats, "--method", "theirs"
    succeeds(*command)
    before = {job.prompt: job.job_id for job in manifest.read(Store(run)).jobs if job.method == "theirs"}
    (splats / "a-blue-ball.ply").write_bytes(ply.to_ply(some_splats()))
    result = succeeds(*command)
    assert "1 of 2 assets to import" in result.stderr
    after = {job.prompt: job.job_id for job in manifest.read(Store(run)).jobs if job.method == "theirs"}
    assert (after[CUBE] == before[CUBE], after[BALL] == before[BALL]) == (True, False)
    assert len(table(run)) == 2


def test_a_file_that_cannot_be_read_is_a_failed_row(run, splats):
    (splats / "a-red-cube.ply").write_bytes(b"ply\nnot really")
    result = succeeds("evaluate", run, "--assets", splats, "--method", "theirs", code=3)
    assert "failed: a red cube (theirs): " in result.stderr
    rows = table(run, "per_object.csv").set_index(["method", "prompt"])
    assert rows.loc[("theirs", CUBE), ["status", "error_kind"]].tolist() == ["failed", "input"]
    assert rows.loc[("theirs", BALL), "status"] == "done"
    assert table(run).set_index("method").loc["theirs", "n_failed"] == 1
    shown = CliRunner().invoke(app, ["status", str(run)])
    assert "a red cube (theirs): failed" in shown.stdout


def test_bench_resumes_beside_imported_methods(run, splats, tiny_weights):
    succeeds("evaluate", run, "--assets", splats, "--method", "theirs")
    bench = ["bench", *PROMPTS, *SMALL, "--weights", tiny_weights, "--out", run]
    assert "nothing to do" in succeeds(*bench).stderr
    (record,) = (run / "items").glob(f"{manifest.read(Store(run)).jobs[0].job_id}/record.json")
    record.unlink()
    succeeds(*bench)
    assert list(table(run)["method"]) == ["sctd", "theirs"]
    changed = invoke(*bench, "--set", "guidance.scale=3")
    assert "was generated with other settings: guidance.scale 7.5, now 3" in changed.stderr
    more = succeeds(*bench, "--prompt", "a green ball")
    assert f"2 imported assets have no such scores yet: segmentdreamer evaluate {run}" in more.stderr
    succeeds("evaluate", run)
    assert list(table(run).set_index("method")["n_prompts"]) == [3, 2]


def test_scoring_with_other_views_scores_imported_assets_too(run, splats):
    succeeds("evaluate", run, "--assets", splats, "--method", "theirs", "--fit", "keep")
    succeeds("evaluate", run, "--views", "2")
    rows = table(run).set_index("method")
    assert rows.loc["theirs", "n_views"] == 2
    assert rows.loc["theirs", "clip@tiny"] == rows.loc["sctd", "clip@tiny"]


def test_a_nightly_run_leaves_imports_out(run, splats):
    before = nightly_run(RunResults.read(Store(run)))
    succeeds("evaluate", run, "--assets", splats, "--method", "theirs")
    after = nightly_run(RunResults.read(Store(run)))
    assert (after.recipes, [found.values for found in after.objects]) == (
        before.recipes, [found.values for found in before.objects]
    )  # fmt: skip


def test_a_new_folder_has_only_imports(suite, tmp_path, tiny_weights):
    assets, out = tmp_path / "assets", tmp_path / "new"
    assets.mkdir()
    (assets / "a red cube.glb").write_bytes(gltf.to_glb(some_splats()))
    (assets / "left-over.glb").write_bytes(b"")
    options = ["--assets", assets, "--method", "theirs", "--prompts", suite, "--weights", tiny_weights]
    result = succeeds("evaluate", *options, "--views", 4, "--out", out, "--front", "auto")
    assert f"left-over.glb in {assets} match no prompt and are left out." in result.stderr
    assert "theirs has no file for 'a blue ball': compared over fewer prompts." in result.stderr
    (row,) = table(out).to_dict("records")
    assert (row["method"], row["n_prompts"], row["n_views"], row["source"]) == ("theirs", 1, 4, "imported")
    about = json.loads((out / "run.json").read_text())
    assert about["schema_version"] == 2
    assert about["imported"]["theirs"] == {
        "folder": str(assets), "front": "auto", "fit": "ball", "shading": "unlit"
    }  # fmt: skip
    more = succeeds("evaluate", *options[:2], "--method", "again", *options[4:], "--out", out)
    assert "1 of 2 assets to score" in more.stderr
    assert list(table(out)["method"]) == ["theirs", "again"]


def test_check_only_writes_the_contact_sheets(run, splats):
    result = succeeds("evaluate", run, "--assets", splats, "--method", "My method", "--check")
    assert f"To check the axes: {run}/imported-my-method.png" in result.stderr
    assert "to score" not in result.stderr
    assert list(table(run)["method"]) == ["sctd"]
    assert "2 of 4 assets to score" in succeeds("evaluate", run).stderr
    assert list(table(run)["method"]) == ["sctd", "My method"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--up", "z"], "--up requires --assets, the folder of the files to import"),
        (["--assets", "x", "--method", "sctd"], "run has a method 'sctd' whose assets it generated"),
        (["--assets", "x", "--method", "m"], "x is not a folder"),
        (["--out", "y"], "A run folder and --out were both passed"),
    ],
)
def test_errors_are_said_before_work_starts(run, arguments, message):
    before = (run / "run.json").read_bytes()
    result = succeeds("evaluate", run, *arguments, code=2)
    assert f"Error: {message}" in result.stderr
    assert (run / "run.json").read_bytes() == before


def test_without_a_run_and_assets_there_is_nothing_to_score():
    assert "Error: There is nothing to score; pass a run folder" in succeeds("evaluate", code=2).stderr


def test_bench_refuses_a_folder_of_other_imports(suite, tmp_path, tiny_weights):
    assets, out = tmp_path / "assets", tmp_path / "new"
    assets.mkdir()
    (assets / "a-red-cube.glb").write_bytes(gltf.to_glb(some_splats()))
    succeeds(
        *("evaluate", "--assets", assets, "--method", "sctd", "--prompts", suite, "--weights", tiny_weights),
        *("--views", 4, "--out", out, "--check"),
    )
    bench = ["bench", *SMALL, "--weights", tiny_weights, "--out", out]
    assert "has an imported method 'sctd'; import it under another name" in invoke(*bench, *PROMPTS).stderr
    others = invoke(*bench, "--objective", "sds", "--prompt", BALL)
    assert "has an imported asset for 'a red cube', which is no prompt of this run" in others.stderr


def test_methods_whose_names_differ_in_spaces_have_their_own_sheets(run, splats):
    each = [word for name in ("My method", "my-method") for word in ("--assets", splats, "--method", name)]
    result = succeeds("evaluate", run, *each, "--check")
    sheets = [line for line in result.stderr.splitlines() if "To check the axes" in line]
    assert len(set(sheets)) == 2
    assert len(list(run.glob("imported-my-method-*.png"))) == 2
