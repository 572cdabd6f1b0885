"""tests.parity: differences, tolerances, the table and the exit status, with results that no package computed."""

import ast
import math
import re
import sys

import numpy as np
import pytest

from tests.parity import catalogue, driver
from tests.parity.comparison import BEGIN, END, HEADER, Quantity, Row, difference, rows, table, written
from tests.parity.environments import SCRIPTS, Environment, Made, OriginalFailedError, make, reason
from tests.parity.inputs import STAMP
from tests.support.paths import DOCS, ROOT

RELATIVE = Quantity("fid", "FID", 1e-3, "rounding")
ABSOLUTE = Quantity("reward", "reward", 1e-3, "rounding", relative=False)


def row(size, quantity=RELATIVE):
    return Row("package 1.0", "torch 2.0", quantity, -2.0, 50.0, size, "yes")


def test_the_difference_is_the_largest_and_relative_to_our_largest_value():
    ours, theirs = np.array([1.0, -200.0, 3.0]), np.array([1.0, -200.0, 2.0])
    assert difference(ABSOLUTE, ours, theirs) == 1.0
    assert difference(RELATIVE, ours, theirs) == pytest.approx(1 / 200)
    assert difference(RELATIVE, np.float32(3), np.float64(3)) == 0


def test_unsigned_bytes_do_not_wrap():
    assert difference(ABSOLUTE, np.array([1], np.uint8), np.array([2], np.uint8)) == 1


def test_arrays_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"reward: ours has the shape \(4, 3\), theirs \(3, 4\)"):
        difference(ABSOLUTE, np.zeros((4, 3)), np.zeros((3, 4)))


@pytest.mark.parametrize(("size", "agrees"), [(0.0, True), (1e-3, True), (1.01e-3, False), (math.nan, False)])
def test_a_row_agrees_up_to_its_tolerance_and_never_with_nan(size, agrees):
    assert row(size).agrees is agrees


def test_only_the_first_row_of_an_original_has_its_versions_and_trial():
    original = catalogue.ORIGINALS[0].__class__("A_b", "with_a", catalogue.CURRENT, (RELATIVE, ABSOLUTE), ("torch",))
    found = rows(
        original, {"a-b": "1.5", "torch": "2"}, *[{"fid": np.array(2.0), "reward": np.ones(3)}] * 2, "no: pins"
    )
    assert [(each.original, each.beside, each.current) for each in found] == [
        ("A_b 1.5", "torch 2", "no: pins"),
        ("",) * 3,
    ]
    assert [(each.low, each.high, each.difference) for each in found] == [(2, 2, 0), (1, 1, 0)]


def test_the_table_has_a_line_per_row_and_the_size_of_each_difference():
    lines = table([row(2.5e-7), row(0.0, ABSOLUTE)]).splitlines()
    assert lines[0] == "| " + " | ".join(HEADER) + " |"
    assert lines[2] == "| package 1.0 | torch 2.0 | FID | -2 to 50 | 2.5e-7 of it | 1e-3 | yes |"
    assert lines[3] == "| package 1.0 | torch 2.0 | reward | -2 to 50 | 0 | 1e-3 | yes |"


def test_only_the_text_between_the_marks_is_replaced():
    page = f"# a\n{BEGIN}\nold\n{END}\nrest\n"
    assert written(page, "new") == f"# a\n{BEGIN}\nnew\n{END}\nrest\n"
    assert written(written(page, "new"), "old") == page
    for broken in ("# a\n", f"{BEGIN}\n", f"{END}\n{BEGIN}\n"):
        with pytest.raises(ValueError, match="put both marks where the table belongs"):
            written(broken, "new")


def failing(_folder, _chosen):
    raise OriginalFailedError("`No module named 'clip'`")


@pytest.mark.parametrize(("size", "status"), [(1e-9, 0), (1.0, 1), (math.nan, 1)])
def test_the_exit_status_says_whether_all_agree(tmp_path, capsys, size, status):
    page = tmp_path / "page.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    assert driver.main([], lambda *_: [row(0.0), row(size)], page) == status
    assert page.read_text().count("| package 1.0 |") == 2
    assert ("expected at most 1e-03 (rounding)" in capsys.readouterr().err) is bool(status)


def test_one_package_is_run_without_writing_the_table(tmp_path):
    chosen = []
    assert (
        driver.main(["--only", "clean-fid"], lambda _, found: chosen.extend(found) or [row(0.0)], tmp_path / "no") == 0
    )
    assert [each.package for each in chosen] == ["clean-fid"]


def test_an_original_that_does_not_run_is_status_2(tmp_path, capsys):
    assert driver.main([], failing, tmp_path / "no") == 2
    assert "an original does not run: `No module named 'clip'`" in capsys.readouterr().err


def test_reasons_name_the_conflict_or_the_last_line_without_paths():
    conflict = (
        "error: No solution\n cause: Because image-reward>=1.5 depends on timm==0.6.13 and\n timm==1.0.31, we can"
    )
    assert reason(conflict) == "pins `timm==0.6.13`"
    traceback = "Traceback:\n  File x\nImportError: cannot import name 'a' from 'b' (/tmp/env/b.py)\n\n"
    assert reason(traceback) == "`ImportError: cannot import name 'a' from 'b'`"
    assert reason("") == "`no output`"


@pytest.fixture
def made(tmp_path, monkeypatch):
    """An environment that is this interpreter, inputs that are only a stamp, and one script that counts its runs."""
    monkeypatch.setattr("tests.parity.environments.SCRIPTS", tmp_path)
    monkeypatch.setattr(Made, "versions", lambda _: {"numpy": "1"})
    (tmp_path / STAMP).write_text("inputs 1")
    count = "from pathlib import Path\nfile = Path(sys.argv[1], 'runs')\nfile.write_text(file.read_text() + '.')\n"
    (tmp_path / "runs").write_text("")
    (tmp_path / "count.py").write_text(f"import sys, numpy as np\n{count}np.savez(sys.argv[2], reward=[1.0, 2.0])")
    return Made(catalogue.CURRENT, sys.executable, tmp_path / "c.txt")


def test_a_script_that_fails_gives_its_last_line_as_the_reason(made, tmp_path):
    (tmp_path / "with_nothing.py").write_text("import no_such_package")
    for _ in range(2):  # a failure is not kept
        with pytest.raises(OriginalFailedError, match="ModuleNotFoundError: No module named 'no_such_package'"):
            made.scores("with_nothing", tmp_path, tmp_path / "out" / "a.npz")


def test_scores_are_used_again_unless_script_inputs_or_versions_changed(made, tmp_path, monkeypatch):
    def runs():
        assert made.scores("count", tmp_path, tmp_path / "out" / "a.npz")["reward"].tolist() == [1, 2]
        return len((tmp_path / "runs").read_text())

    assert (runs(), runs()) == (1, 1)
    (tmp_path / STAMP).write_text("inputs 2")
    assert (runs(), runs()) == (2, 2)
    with (tmp_path / "count.py").open("a") as script:
        script.write("\n")
    assert (runs(), runs()) == (3, 3)
    monkeypatch.setattr(Made, "versions", lambda _: {"numpy": "2"})
    assert (runs(), runs()) == (4, 4)


def test_an_environment_is_made_again_only_if_its_requirements_changed(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr("tests.parity.environments._uv", lambda *arguments: calls.append(arguments[:2]))
    for requirements in (("numpy",), ("numpy",), ("numpy", "scipy")):
        (tmp_path / "e").mkdir(exist_ok=True)
        make(Environment("e", requirements, newest="2023-08-01"), tmp_path)
    assert calls == [("venv", "--quiet"), ("pip", "install")] * 2


def test_current_libraries_are_held_at_the_versions_installed_here():
    held = catalogue.CURRENT.constraints()
    assert any(each.startswith("torch==") for each in held)
    assert not [each for each in held if each.startswith(("setuptools==", "segmentdreamer=="))]
    assert not [each for each in catalogue.TRANSFORMERS_4.constraints() if each.startswith("transformers==")]
    assert catalogue.OF_2023.constraints() == []


def test_originals_share_only_files_with_this_program():
    """They run in environments without it, and compute every array that they are compared on."""
    for original in catalogue.ORIGINALS:
        tree = ast.parse((SCRIPTS / f"{original.script}.py").read_text())
        imported = {
            name.split(".")[0]
            for node in ast.walk(tree)
            for name in (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "") or ""]
            )
        }
        assert not imported & {"tests", "evaluation", "sctd", "pipeline", "cluster"}
        words = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
        words |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
        assert {quantity.key for quantity in original.quantities} <= words


def committed():
    """The cells of the committed table, line by line."""
    text = (DOCS / "benchmark.md").read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.strip().splitlines()]


def test_the_committed_table_has_every_quantity_of_every_original_within_its_tolerance():
    header, _, *lines = committed()
    assert tuple(header) == HEADER
    expected = [(original, quantity) for original in catalogue.ORIGINALS for quantity in original.quantities]
    assert len(lines) == len(expected)
    for (original, quantity), (name, _, what, _, size, _, _) in zip(expected, lines, strict=True):
        first = quantity is original.quantities[0]
        assert re.fullmatch(rf"{original.package} [\d.]+" if first else "", name)
        assert what == quantity.what
        assert float(size.removesuffix(" of it")) <= quantity.tolerance


def test_the_committed_table_says_of_every_package_whether_it_lives_beside_current_libraries():
    said = {line[0].split(" ")[0]: [] for line in committed()[2:] if line[0]}
    for line in committed()[2:]:
        if line[0] and line[6]:
            said[line[0].split(" ")[0]].append(line[6])
    assert all(any(text.startswith(("yes", "no: ", "only with ")) for text in texts) for texts in said.values())


def test_make_runs_it():
    assert re.search(r"^parity:.*\n\t\$\(UV\) python -m tests\.parity$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert "make parity" in (ROOT / "CONTRIBUTING.md").read_text()
