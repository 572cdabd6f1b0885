"""A run folder and job ids of the first release (commit fba357d): the present program resumes and reads them.

`frozen/fba357d` holds three finished items and one with a checkpoint at about half of its iterations. The command used
recipe keys that have other names today (`sctd/recipe/names.py`). `frozen/a8157279ff80ee79.ply` is the fourth asset as
the first release finished it.
"""

import csv
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from pipeline.cli.app import app
from pipeline.plan.jobs import Job
from pipeline.prompts.prompt import Prompt
from pipeline.weights import models
from sctd.formats import ply
from sctd.recipe.methods import METHODS, for_objective
from sctd.recipe.presets import embedded
from tests.support.paths import ROOT

FROZEN = ROOT / "tests" / "pipeline" / "frozen"
UNFINISHED = "a8157279ff80ee79"
FORMER = ["--sweep", "seed_shape.count=100,150", "--set", "seed_shape.kind=ball", "--set", "give_up_after=10"]
PRESENT = [
    *("--sweep", "initialization.count=100,150", "--set", "initialization.kind=ball"),
    *("--set", "max_skipped_iterations=10"),
]
REST = ["--prompt", "a red cube", "--prompt", "a blue ball", "--set", "iterations=40", "--views", "4", "--seed", "3"]
IDS = {
    "sctd": "978022edfed7a40e",
    "sctd-official": "9c9208b01132da92",
    "sds": "79f3b602de4540bb",
    "ism": "3643a5fb5524d962",
    "cds": "43073583bed70cd6",
    "gcs": "5609fa2363b50487",
    "sds-authors": "52be4a8cb831f8f4",
    "ism-authors": "008344cb68751ed7",
    "cds-authors": "8976c6e7d81e565d",
    "gcs-authors": "897dc73de78f65b9",
}
"""Of "a red mushroom" by the recipe `embedded` on the bundled models, seed 0."""


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def bench(folder: Path, *settings: str) -> str:
    return invoke("bench", *REST, *settings, "--executor", "inline", "--no-report", "--out", str(folder))


def digests(folder: Path) -> dict[str, str]:
    return {p.parent.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.glob("items/*/asset.ply")}


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


@pytest.fixture(scope="module")
def finished(bundled_weights, tmp_path_factory) -> Path:
    """The frozen folder, finished by the command that began it."""
    folder = tmp_path_factory.mktemp("first") / "run"
    shutil.copytree(FROZEN / "fba357d", folder)
    bench(folder, *FORMER)
    return folder


@pytest.mark.parametrize(("objective", "job_id"), IDS.items())
def test_job_ids_of_every_method_are_those_of_the_first_release(bundled_weights, objective, job_id):
    weights = models.resolve("embedded").generation_digest(with_shape=True)
    prompt = Prompt("a-red-mushroom", "a red mushroom", "a red mushroom")
    assert Job(prompt, for_objective(embedded(), objective), 0, weights, objective).id == job_id


def test_every_method_has_a_pinned_job_id():
    assert set(IDS) <= set(METHODS)


def test_a_run_of_the_first_release_is_resumed(finished):
    """Finished items keep their bytes; the fourth resumes from its checkpoint."""
    kept, now = digests(FROZEN / "fba357d"), digests(finished)
    assert {job: now[job] for job in kept} == kept
    assert now.keys() - kept.keys() == {UNFINISHED}
    assert json.loads((finished / "items" / UNFINISHED / "generation.json").read_text())["resumed_from"] > 0


def test_the_resumed_asset_is_what_the_first_release_made(finished):
    """Equal bytes on the processor that froze it; another one rounds differently, seen in the fourth digit."""
    asset, expected = (finished / "items" / UNFINISHED / "asset.ply"), FROZEN / f"{UNFINISHED}.ply"
    if asset.read_bytes() != expected.read_bytes():
        found, first = (ply.from_ply(path.read_bytes()) for path in (asset, expected))
        np.testing.assert_allclose(found.means, first.means, atol=2e-3)
        np.testing.assert_allclose(found.logit_opacities, first.logit_opacities, atol=2e-2)


def test_its_leaderboard_has_the_methods_under_their_first_names(finished):
    methods = [row["method"] for row in rows(finished / "leaderboard.csv")]
    assert sorted(methods) == ["sctd count=100", "sctd count=150"]
    assert "seed_shape.count" in (finished / "grid.csv").read_text(encoding="utf-8").splitlines()[0]


def test_present_names_of_keys_mean_the_same_run(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    before = digests(folder)
    bench(folder, *PRESENT)
    assert digests(folder) == before
    manifest = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert all("seed_shape" in recipe for recipe in manifest["recipes"].values())


def test_it_is_evaluated_again_reported_and_compared(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "run")
    invoke("evaluate", str(folder), "--views", "6", "--executor", "inline")
    invoke("report", str(folder))
    invoke("status", str(folder))
    invoke("leaderboard", str(folder), "--out", str(tmp_path / "tables"))
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["views"] == 6
    pages = (folder / "report" / "recipes.html").read_text(encoding="utf-8")
    assert "initialization.count" in pages
    assert "seed_shape" not in pages.replace("seed_shape.count=100,150", "").replace("seed_shape.kind=ball", "")
    compared = {(row["method"], row["minus"]) for row in rows(folder / "differences.csv")}
    assert compared == {("sctd count=150", "sctd count=100")}
