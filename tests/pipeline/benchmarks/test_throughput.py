"""The comparison of two builds, on trees whose "command line" writes what a run would leave."""

import json

import pytest

from pipeline.benchmarks import throughput

APP = """
import json, pathlib, sys, time
def main():
    arguments = sys.argv[1:]
    options = dict(zip(arguments, arguments[1:]))
    with open(r"{log}", "a") as log:
        print("{name}", *arguments, file=log)
    out = pathlib.Path(options["--out"])
    if arguments[0] == "benchmark":
        out.write_text(json.dumps({{"fast": {{"iteration_ms": {ms}, "peak_gib": 7.0}}, "gradient_error": 0.005}}))
        return
    for number in range({assets}):
        item = out / "items" / str(number)
        item.mkdir(parents=True)
        facts = {{"peak_bytes": 2**31, "assets_per_gpu": {at_once}}}
        (item / "generation.json").write_text(json.dumps(facts))
"""


@pytest.fixture
def tree(tmp_path):
    def make(name, **facts):
        folder = tmp_path / name / "pipeline" / "cli"
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
        (folder.parent / "__init__.py").touch()
        values = {"assets": 4, "ms": 70.0, "at_once": 1} | facts
        (folder / "app.py").write_text(APP.format(name=name, log=tmp_path / "log", **values))
        return tmp_path / name

    return make


def measured(tmp_path, monkeypatch, base, new, *arguments):
    monkeypatch.setattr(throughput, "__file__", str(new / "pipeline" / "benchmarks" / "throughput.py"))
    throughput.main([str(tmp_path / "out"), "--base", str(base), *arguments])
    return json.loads((tmp_path / "out" / "throughput.json").read_text())


def test_both_builds_run_their_own_tree_first_to_fill_their_caches(tree, tmp_path, monkeypatch, capsys):
    found = measured(tmp_path, monkeypatch, tree("old"), tree("young", at_once=4), "--rows", "readme")
    calls = [line.split(" --out ")[0] for line in (tmp_path / "log").read_text().splitlines()]
    assert calls == [
        "old bench --limit 1 --set iterations=20",
        "old bench",
        "young bench --limit 1 --set iterations=20",
        "young bench",
    ]
    assert (found["base"]["readme-gib"], found["new"]["readme-gib"]) == (2.0, 8.0)
    ratio = found["new"]["readme"] / found["base"]["readme"]
    assert f"| {ratio:.2f} | ≥ 1.6 |" in capsys.readouterr().out
    measured(tmp_path, monkeypatch, tmp_path / "old", tmp_path / "young", "--rows", "readme")
    assert len((tmp_path / "log").read_text().splitlines()) == 4, "what was measured is not measured again"


def test_a_target_for_a_ratio_and_one_for_a_value(tree, tmp_path, monkeypatch, capsys):
    builds = tree("old"), tree("young", ms=63.0)
    measured(tmp_path, monkeypatch, *builds, "--rows", "iteration", "--weights", str(tmp_path))
    rows = {line.split("|")[1].strip(): line for line in capsys.readouterr().out.splitlines()}
    assert rows["one iteration alone, CFG"].endswith("| 70 ms | 63 ms | 0.90 | ≤ 0.93 | met |")
    assert rows["gradient error, CFG"].endswith("| 0.5 % | 0.5 % | 1.00 | ≤ 0.46 % | missed |")
    assert rows["peak GPU memory alone, CFG"].endswith("| 7 GiB | 7 GiB | 1.00 | ≤ 1 | met |")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rows", "readme,paprika"], "unknown row 'paprika'"),
        (["--rows", "paper"], "rows of the paper recipe need --weights"),
    ],
)
def test_bad_arguments_end_before_work_begins(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        throughput.main([str(tmp_path / "out"), "--base", str(tmp_path), *arguments])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_run_without_all_assets_counts_for_nothing(tree, tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match="3 of 4 assets were generated"):
        measured(tmp_path, monkeypatch, tree("old", assets=3), tree("young"), "--rows", "readme")
    assert not (tmp_path / "out" / "throughput.json").exists()
