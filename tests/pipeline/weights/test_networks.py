"""The table of distances: every network loads from its part, and its name is in the name of its reference."""

import pytest

from pipeline.weights import models
from pipeline.weights.networks import DISTANCES, REQUIRED
from tests.support import tiny_models


def test_the_table_has_the_layout_of_a_weights_folder():
    assert {name: (distance.part, distance.reference) for name, distance in DISTANCES.items()} == {
        "fd": ("scorer", "reference.npz"),
        "fid": ("inception", "reference-inception.npz"),
        "fid_tf": ("inception", "reference-inception_tf.npz"),
        "fd_dinov2": ("dinov2", "reference-dinov2.npz"),
    }
    assert (DISTANCES[REQUIRED].features, DISTANCES[REQUIRED].key_column) == ("features", "ref_key"), (
        "unchanged column names"
    )
    columns = [column for d in DISTANCES.values() for column in (d.metric, d.kernel) if column]
    assert len(set(columns)) == len(columns), "no two networks share a column"


@pytest.mark.parametrize("metric", [name for name in DISTANCES if name != REQUIRED])
def test_a_reference_is_named_after_its_network(metric, published_networks):
    """`reference-<name>.npz`, where the name includes Inception's resizing, so each network has one file."""
    distance = DISTANCES[metric]
    network = distance.load(models.Weights("tiny", published_networks), "cpu")
    assert distance.reference == f"reference-{network.name}.npz"


def test_the_scorers_network_is_named_after_the_weights(tiny_weights):
    assert DISTANCES["fd"].load(models.resolve(str(tiny_weights)), "cpu").name == "tiny"


@pytest.fixture(scope="module")
def published_networks(tmp_path_factory):
    """A folder with inception/ and dinov2/ only."""
    folder = tmp_path_factory.mktemp("networks")
    tiny_models.write_inception(folder / "inception")
    tiny_models.write_dinov2(folder / "dinov2")
    return folder
