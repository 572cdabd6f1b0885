"""Metrics as Prometheus reads them from the exporter of a real Ray, compared with the queries of the dashboard."""

import json
import math
import re
import time
import urllib.request
from collections.abc import Callable

import promql_parser
import pytest
import yaml

from cluster.ray import executor as ray_executor
from cluster.ray import metrics as ray_metrics
from cluster.ray.executor import RayExecutor
from cluster.ray.session import connect
from cluster.scheduling.scheduler import Limits
from cluster.scheduling.workers import Event, Progress, Workers
from tests.support.fake_workers import stages
from tests.support.paths import ROOT
from tests.support.worker_events import Instrument

DASHBOARD = ROOT / "cluster" / "deploy" / "grafana.json"
EXPORTED = {
    "ray_segmentdreamer_items_total",
    "ray_segmentdreamer_workers",
    "ray_segmentdreamer_number",
    *(f"ray_segmentdreamer_{kind}_seconds_{part}" for kind in ("step", "stage") for part in ("bucket", "count", "sum")),
}
TIMEOUT_SECONDS = 60
COUNTED = {"loss": 0.25, "gaussians": 1500.0}
NUMBERS = {f"ray_segmentdreamer_number name={name} stage=generate worker=7": n for name, n in COUNTED.items()}


def scraped(ray) -> dict[str, float]:
    """Our samples, by name and our labels."""
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    with urllib.request.urlopen(url, timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    samples = {}
    for line in lines:
        if line.startswith("ray_segmentdreamer"):
            name, labels, value = re.fullmatch(r"(\w+)\{(.*)\} (\S+)", line).groups()
            ours = re.findall(r'\b(stage|status|kind|state|worker|name)="(\w*)"', labels)
            samples[" ".join([name, *(f"{key}={value}" for key, value in sorted(ours))])] = float(value)
    return samples


def scraped_until(ray, condition: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """The first samples that satisfy the condition, or the last before the timeout."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition(found := scraped(ray)) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


@pytest.fixture(scope="module")
def ray(ray_session):
    return connect(cpus=4)  # reconnects if a command in this process has ended the session


@pytest.fixture(scope="module")
def other_run():
    """The metrics of another run that continues after the measured one."""
    workers = Workers()
    workers.take(Event("progress", "generate", 7, "d", Progress(1, 9, numbers=COUNTED)))
    metrics = ray_metrics.Metrics(workers, ["generate"])
    metrics.export()
    return metrics


@pytest.fixture(scope="module")
def samples(ray, other_run, tmp_path_factory):
    folder, before = tmp_path_factory.mktemp("measured"), {}
    items = ["ok-a", "ok-b", "invalid-c", "oom_once-d"]
    done = "ray_segmentdreamer_items_total kind=none stage=evaluate status=done"
    try:
        before = scraped(ray)
    except OSError:
        pytest.fail("Ray's exporter does not answer")
    list(RayExecutor(limits=Limits(backoff_seconds=0.01)).run(stages(folder, generators=1), items))
    after = scraped_until(
        ray, lambda found: found.get(done, 0) - before.get(done, 0) == 3 and NUMBERS.keys() <= set(found)
    )
    return before, after


def grown(samples, key) -> float:
    before, after = samples
    return after.get(key, 0) - before.get(key, 0)


def test_the_exporter_exports_these_names(samples):
    assert {key.split()[0] for key in samples[1]} == EXPORTED


def test_items_are_counted_by_status(samples):
    name = "ray_segmentdreamer_items_total"
    assert grown(samples, f"{name} kind=none stage=evaluate status=done") == 3
    assert grown(samples, f"{name} kind=input stage=generate status=failed") == 1
    assert grown(samples, f"{name} kind=out_of_memory stage=generate status=retried") == 1


def test_seconds_of_steps_and_stages_are_measured(samples):
    assert grown(samples, "ray_segmentdreamer_stage_seconds_count stage=generate") == 3
    assert grown(samples, "ray_segmentdreamer_step_seconds_count stage=generate") == 3 * 5


def test_rays_sum_of_a_histogram_is_made_of_midpoints(ray):
    """So a mean of `_sum` / `_count` is wrong, and the dashboard shows quantiles: 5 is the middle of 0 and 10."""
    from ray.util.metrics import Histogram

    name = "ray_segmentdreamer_middle"
    Histogram(name.removeprefix("ray_"), "", boundaries=[10.0]).observe(1.0)
    found = scraped_until(ray, lambda found: f"{name}_sum" in found)
    assert (found[f"{name}_count"], found[f"{name}_sum"]) == (1.0, 5.0)


def test_after_a_run_all_worker_counts_are_zero(samples):
    states = {key: value for key, value in samples[1].items() if key.startswith("ray_segmentdreamer_workers")}
    assert len(states) >= len(ray_metrics.STATES)
    assert set(states.values()) == {0.0}


def test_numbers_of_an_item_are_exported_only_while_it_runs(ray, other_run, samples):
    assert {key: value for key, value in samples[1].items() if "_number" in key} == NUMBERS
    other_run.close()
    later = scraped_until(ray, lambda found: not NUMBERS.keys() & set(found))
    assert not [key for key in later if "_number" in key]


@pytest.mark.parametrize("kind", ["finished", "failed", "retried", "died", "stopped", "starting", "started"])
def test_numbers_are_cleared_at_the_end_of_an_item_but_not_at_checkpoints(kind, monkeypatch):
    instruments = ray_metrics._Instruments(*(Instrument() for _ in range(5)))
    monkeypatch.setattr(ray_metrics, "_instruments", lambda: instruments)
    workers, shown = Workers(), instruments.number.shown
    metrics = ray_metrics.Metrics(workers, ["generate"])
    for worker in (0, 1):
        for name in ("progress", "checkpoint"):
            workers.take(Event(name, "generate", worker, "d", Progress(1, 9, saved=1, numbers={"loss": 0.5 + worker})))
            metrics.export()
    assert shown == {("generate", "0", "loss"): 0.5, ("generate", "1", "loss"): 1.5}
    workers.take(Event(kind, "generate", 0, "d"))
    metrics.export()
    assert math.isnan(shown["generate", "0", "loss"])
    assert shown["generate", "1", "loss"] == 1.5


def test_gauges_are_set_again_while_nothing_happens(ray_session, tmp_path, monkeypatch):
    """Ray's exporter drops a gauge that has not been set for about half a minute."""
    instruments = ray_metrics._Instruments(*(Instrument() for _ in range(5)))
    monkeypatch.setattr(ray_metrics, "_instruments", lambda: instruments)
    monkeypatch.setattr(ray_executor, "CHECK_SECONDS", 0.0)
    exports, marks = [], {}
    monkeypatch.setattr(instruments.workers, "set", lambda value, labels: exports.append((*labels.values(), value)))

    def watch(event):
        if event.stage == "evaluate":
            marks[event.kind] = len(exports)

    list(RayExecutor().run(stages(tmp_path, generators=1, evaluation_pause=2.5), ["ok-a"], watch))
    silent = exports[marks["started"] : marks["progress"]]
    assert silent.count(("evaluate", "busy", 1)) >= 2
    assert exports[-6:] == [(stage, state, 0) for stage in ("generate", "evaluate") for state in ray_metrics.STATES]


def test_the_dashboard_queries_exactly_the_exported_metrics():
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    names = {name for query in queries for name in re.findall(r"ray_\w+", query)}
    counted = {name for name in EXPORTED if not name.endswith(("_count", "_sum"))}
    assert names == counted, "neither _sum nor _count: Ray makes _sum of the midpoints of buckets"
    labels = {label for query in queries for by in re.findall(r"by \(([^)]*)\)", query) for label in by.split(", ")}
    assert labels <= {"stage", "status", "kind", "state", "le"}
    (loss,) = [query for query in queries if "_number" in query]
    assert 'name="loss"' in loss


def test_alerts_ask_for_counters_that_are_exported():
    """Gauges of workers are set every few seconds; neither the middle of a bucket nor a fading number is asked for."""
    groups = yaml.safe_load((ROOT / "cluster" / "deploy" / "alerts.yaml").read_text(encoding="utf-8"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert [rule["alert"] for rule in rules] == [
        "SegmentDreamerStalled", "SegmentDreamerFailing", "SegmentDreamerNoProgress"
    ]  # fmt: skip
    for rule in rules:
        promql_parser.parse(rule["expr"])
        names = set(re.findall(r"ray_\w+", rule["expr"]))
        assert names <= {name for name in EXPORTED if not name.endswith(("_sum", "_bucket", "_number"))}
        shown = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        (first, *_) = re.findall(r"sum by \(([^)]*)\)", rule["expr"])
        assert shown <= set(first.split(", "))
        assert rule["labels"]["severity"] in ("warning", "critical")
