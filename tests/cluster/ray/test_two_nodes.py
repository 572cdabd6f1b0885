"""A node is lost in the middle of an item and another joins: nothing is lost, and nobody is charged with it."""

import json

import pytest

from tests.support import own_process
from tests.support.fake_workers import STEPS, logged


@pytest.fixture(scope="module")
def lost(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lost")
    own_process.run("tests.support.two_ray_nodes", folder)
    return json.loads((folder / "told.json").read_text()), folder


def test_the_item_of_a_lost_node_goes_on_from_its_checkpoint_on_the_node_that_joined(lost):
    told, folder = lost
    first, second = [int(start) for _, item, start, _ in logged(folder, "begin") if item == "held_once-a"]
    assert first == 0 < second < STEPS
    assert sorted(told["outcomes"]) == [
        ["held_once-a", "score of asset of held_once-a", 0],
        ["ok-b", "score of asset of ok-b", 0],
    ]


def test_the_loss_is_told_as_one_of_a_node(lost):
    told, _ = lost
    (note,) = [note for kind, stage, _, note in told["told"] if (kind, stage) == ("retried", "generate")]
    assert note.startswith("its node was ")
