"""Nodes with declared GPUs of two sizes; one node joins and one is drained."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from cluster.ray import nodes
from cluster.scheduling.executor import Stage
from tests.support import own_process
from tests.support.fake_workers import LONG, logged


def test_a_node_holds_no_more_workers_of_a_stage_than_share_its_gpus():
    node = {"Alive": True, "NodeID": "a", "Resources": {"CPU": 64.0, "GPU": 2.0}}
    found = nodes.Nodes(SimpleNamespace(nodes=lambda: [node]))
    shared = Stage("generate", object, gpus=0.1, per_gpu=8)  # the rest of each GPU is the evaluator's
    assert found.capacity(shared) == 16
    assert found.capacity(replace(shared, per_gpu=None)) == 20
    assert found.capacity(replace(shared, cpus=8)) == 8


@pytest.mark.parametrize(
    ("ends_at", "leaves"),
    [(0.0, True), (1010.0, True), (1100.0, False), (None, False)],
    ids=["now", "soon", "later", "never"],
)
def test_workers_leave_a_draining_node_shortly_before_its_end(monkeypatch, ends_at, leaves):
    monkeypatch.setattr(nodes, "draining", lambda: {} if ends_at is None else {"a": ends_at, "b": 0.0})
    monkeypatch.setattr(nodes.time, "time", lambda: 1000.0)
    assert nodes.DrainCheck("a")() == leaves


@pytest.fixture(scope="module")
def facts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpus")
    own_process.run("tests.support.gpu_ray_nodes", folder)
    return json.loads((folder / "facts.json").read_text()) | {"folder": folder}


def test_stages_that_need_the_only_gpu_alternate_and_lose_nothing(facts):
    assert sorted(facts["turns"]) == [[f"ok-{number}", f"score of asset of ok-{number}", 0] for number in range(7)]
    stopped = [stage for kind, stage, *_, error in facts["turns_events"] if (kind, error) == ("stopped", "preempted")]
    assert stopped[:2] == ["generate", "evaluate"], "the generator pauses after four, and resumes after the evaluator"


def test_no_worker_runs_on_a_gpu_that_is_too_small(facts):
    nodes = {node for kind, *_, node, _ in facts["turns_events"] if kind == "ready"}
    assert nodes == {facts["large"]}


def test_a_requirement_above_every_gpu_is_reported(facts):
    assert facts["too_large"] == (
        "No GPU is large enough for a generate worker: each needs one of 80 GiB (compute.min_gpu_gib), and the "
        "largest of the cluster has 24 GiB; add a node with a larger GPU, or request less."
    )


def test_a_node_that_joins_gets_a_worker(facts):
    placed = [(worker, node) for kind, _, worker, _, node, _ in facts["elastic_events"] if kind == "ready"]
    assert placed[:2] == [(0, facts["large"]), (1, facts["joined"][0])]


def test_an_item_of_a_draining_node_resumes_elsewhere_from_its_checkpoint(facts):
    assert sorted(facts["elastic"]) == [["long-a", "asset of long-a", 0], ["long-b", "asset of long-b", 0]]
    (checkpoint,) = [item for kind, _, _, item, *_ in facts["elastic_events"] if kind == "checkpoint"]
    (retried,) = [(item, error) for kind, _, _, item, _, error in facts["elastic_events"] if kind == "retried"]
    assert retried == (checkpoint, "preempted")
    first, second = [int(start) for _, item, start, _ in logged(facts["folder"], "begin") if item == checkpoint]
    assert first == 0 < second < LONG
    last_ready = [node for kind, *_, node, _ in facts["elastic_events"] if kind == "ready"][2:]
    assert facts["large"] not in last_ready
