"""examples/distill.py, and the notebook docs/distill.ipynb that docs/notebook.py makes of it."""

import ast
import importlib.util
import subprocess
import sys
from importlib import import_module

import nbformat
import pytest
from PIL import Image

from sctd import from_ply
from tests.support.paths import DOCS

spec = importlib.util.spec_from_file_location("notebook", DOCS / "notebook.py")
notebook = importlib.util.module_from_spec(spec)
spec.loader.exec_module(notebook)

MAX_BYTES = 300 * 1024


@pytest.fixture
def written():
    return nbformat.read(notebook.NOTEBOOK, as_version=4)


def outputs(of):
    return [output for cell in of.cells for output in cell.get("outputs", ())]


def test_the_script_writes_an_asset_and_prints_its_scores(tmp_path):
    command = [sys.executable, notebook.SCRIPT, "a blue penguin", "--iterations", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "3/3" in done.stderr
    scores = {name: float(score) for name, score in map(str.split, done.stdout.splitlines())}
    assert list(scores) == ["CLIPScore", "ImageRewardScore"]
    assert 40 < scores["CLIPScore"] < 80
    assert from_ply((tmp_path / "asset.ply").read_bytes()).num == 3072
    with Image.open(tmp_path / "asset.png") as image:
        assert image.size == (8 * 96, 96)


@pytest.mark.parametrize("package", ["sctd", "evaluation"])
def test_the_script_uses_public_names_only(package):
    tree = ast.parse(notebook.SCRIPT.read_text(encoding="utf-8"))
    parents = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)]
    used = {node.attr for node in parents if node.value.id == package}
    assert len(used) >= 4
    assert used <= set(import_module(package).__all__)


def test_the_notebook_has_the_cells_of_the_script(written):
    assert [cell.source for cell in written.cells] == [cell.source for cell in notebook.cells().cells], (
        "run: make notebook"
    )
    assert "argparse" not in nbformat.writes(written)


def test_the_notebook_is_small_and_shows_two_images_and_the_scores(written):
    assert notebook.NOTEBOOK.stat().st_size < MAX_BYTES
    assert sum("image/png" in output.get("data", {}) for output in outputs(written)) == 2
    printed = "".join(output.get("text", "") for output in outputs(written))
    assert "300/300" in printed
    assert "CLIPScore" in printed
    assert "/home" not in printed
    assert "Warning" not in printed


def test_the_notebook_runs(tmp_path):
    short = notebook.cells()
    for cell in short.cells:
        cell.source = cell.source.replace('"a red mushroom", 300', '"a red mushroom", 3')
    notebook.execute(short, tmp_path)
    printed = "".join(output.get("text", "") for output in outputs(short))
    assert "3/3" in printed
    assert "ImageRewardScore" in printed
    assert (tmp_path / "asset.ply").is_file()
