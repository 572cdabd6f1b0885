"""Loss of a node in the middle of an item while another joins: no item is lost or fails."""

import json

import pytest

from tests.support import own_process
from tests.support.fake_workers import STEPS, logged


@pytest.fixture(scope="module")
def lost(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lost")
    own_process.run("tests.support.two_ray_nodes", folder)
    return json.loads((folder / "facts.json").read_text()), folder


def test_the_item_of_a_lost_node_resumes_on_the_node_that_joined(lost):
    facts, folder = lost
    first, second = [int(start) for _, item, start, _ in logged(folder, "begin") if item == "held_once-a"]
    assert first == 0 < second < STEPS
    assert sorted(facts["outcomes"]) == [
        ["held_once-a", "score of asset of held_once-a", 0],
        ["ok-b", "score of asset of ok-b", 0],
    ]


def test_the_failure_is_reported_as_the_loss_of_a_node(lost):
    facts, _ = lost
    (note,) = [note for kind, stage, _, note in facts["events"] if (kind, stage) == ("retried", "generate")]
    assert note.startswith("its node was ")
