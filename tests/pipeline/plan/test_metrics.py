"""The table of metrics, and the page that adds one to it."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pkgutil import resolve_name

import pytest

from evaluation.metrics import ViewMetric
from pipeline.nightly import gates
from pipeline.plan.metrics import COMPARED, GATED, METRICS, PER_VIEW, UNNAMED, measured
from pipeline.plan.protocol import Protocol
from pipeline.plan.run import evaluation_digest
from pipeline.weights import models
from pipeline.weights.networks import DISTANCES
from tests.support.paths import DOCS, ROOT

SMALL = "--set iterations=2 --set initialization.kind=ball --set initialization.count=40 --views 3 --executor inline"


@pytest.mark.parametrize("metric", PER_VIEW, ids=lambda metric: metric.id)
def test_a_class_computes_each_metric_of_views(metric):
    kind = resolve_name(metric.scorer)
    assert issubclass(kind, ViewMetric)
    assert kind.higher_is_better == (metric.better == "higher")


def test_metrics_of_the_first_release_are_those_that_digests_do_not_name():
    assert tuple(metric.id for metric in PER_VIEW if metric.id in UNNAMED) == ("clip", "ir", "clip_rprec")


def test_every_distance_has_a_row():
    columns = {name for distance in DISTANCES.values() for name in (distance.metric, distance.kernel) if name}
    assert all(GATED[name].better == "lower" for name in columns)


def test_compared_metrics_have_derived_rows():
    for metric in COMPARED:
        for derived in (metric.lowest_tenth, metric.penalised):
            assert METRICS[derived.id] == derived
            assert (derived.unit, derived.better, derived.scorer) == (metric.unit, metric.better, "")
    assert METRICS["clip_p10"].definition == "10 % quantile of clip over the views of an object, average over prompts"


def test_bundled_gates_are_of_gated_metrics():
    assert set(tomllib.loads(gates.BUNDLED.read_text())) - {"confidence"} <= set(GATED)


def test_the_benchmark_page_names_every_metric_of_images():
    text = (DOCS / "benchmark.md").read_text()
    rows = [name for name, metric in METRICS.items() if metric.gated and "percent" not in metric.unit]
    assert [name for name in rows if f"`{name}@" not in text and f"`{name}`" not in text] == []


def python_blocks(page):
    return [re.sub(r"^   ", "", block, flags=re.M) for block in re.findall(r"   ```python\n(.*?)   ```\n", page, re.S)]


def test_the_page_on_custom_metrics_adds_one_to_every_output(tiny_weights, tmp_path):
    """Its class, row and test, in a copy of the packages: the metric is in every file that a run writes."""
    for package in ("pipeline", "evaluation", "sctd", "cluster"):
        shutil.copytree(ROOT / package, tmp_path / package)  # with compiled code, which saves a minute
    code, row, test = python_blocks((DOCS / "howto" / "metric.md").read_text(encoding="utf-8"))
    (tmp_path / "evaluation" / "colourfulness.py").write_text(code, encoding="utf-8")
    (tmp_path / "test_colourfulness.py").write_text(test, encoding="utf-8")
    table = tmp_path / "pipeline" / "plan" / "metrics.py"
    before, marker, after = table.read_text(encoding="utf-8").partition('    Metric(\n        "fd",')
    table.write_text(before + row + marker + after, encoding="utf-8")

    def run(*words):
        environment = os.environ | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run([sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    no_plugins = ["-p", "no:cacheprovider", "-p", "no:kmock"]
    run("-m", "pytest", "-q", *no_plugins, "--rootdir", str(tmp_path), "test_colourfulness.py")
    main = "from pipeline.cli.app import main; main()"
    prompts = ["--prompt", "a red cube", "--prompt", "a blue ball", "--objective", "sctd,sds"]
    shown = run("-c", main, "bench", *prompts, "--weights", str(tiny_weights), *SMALL.split(), "--out", "run")
    name, folder = "colourfulness@tiny", tmp_path / "run"
    assert f"{name} ↑" in shown
    for file in ("leaderboard.csv", "per_object.csv", "grid.csv"):
        assert all(line[name] for line in csv.DictReader((folder / file).read_text().splitlines())), file
    assert name in [line["metric"] for line in csv.DictReader((folder / "differences.csv").read_text().splitlines())]
    assert json.loads((folder / "columns.json").read_text())["colourfulness_p10@tiny"]["unit"] == "grey levels"
    assert "colourfulness" in json.loads((folder / "blank.json").read_text())["scores"]["a red cube"]
    assert name in (folder / "report" / "index.html").read_text()
    assert "colourfulness" in (folder / "report" / "plots" / "001.svg").read_text()
    (tmp_path / "gates.toml").write_text("[colourfulness]\ndelta = 1\n[colourfulness_p10]\ndelta = 1\n")
    reading = (
        "from pipeline.nightly import gates; from pathlib import Path; print(*gates.read(Path('gates.toml')).gates)"
    )
    assert run("-c", reading).split() == ["colourfulness", "colourfulness_p10"]


def test_an_added_metric_changes_the_digest_of_an_evaluation_but_no_folder_name(tiny_weights, monkeypatch):
    weights = models.resolve(str(tiny_weights))
    before = [evaluation_digest(weights, Protocol(3), ["a"], required_only=only) for only in (False, True)]
    table = (*measured(weights), replace(METRICS["ir"], id="colourfulness"))
    monkeypatch.setattr("pipeline.plan.run.measured", lambda _: table)
    after = [evaluation_digest(weights, Protocol(3), ["a"], required_only=only) for only in (False, True)]
    assert after[0] != before[0], "assets are scored again"
    assert after[1] == before[1], "a run finds its assets"
