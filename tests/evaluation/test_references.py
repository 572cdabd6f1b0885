"""evaluation.references: round trip, keys, and references that must not be compared."""

import dataclasses
import io

import numpy as np
import pytest

from evaluation import EvaluationError
from evaluation.fid import Moments, frechet_distance
from evaluation.references import Reference, from_bytes, require_one_reference, to_bytes

MADE_OF = {"network": "embedded", "weights": "ab" * 32, "prompts": ["a red cube"], "steps": 25, "guidance": 7.5}


@pytest.fixture
def reference():
    features = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    return Reference(Moments.of(features), features[:20], MADE_OF)


def test_reference_round_trip(reference):
    data = to_bytes(reference)
    other = from_bytes(data)
    assert to_bytes(other) == data
    assert other.key == reference.key
    assert other.made_of == MADE_OF
    assert np.array_equal(other.features, reference.features)
    assert abs(frechet_distance(other.moments, reference.moments)) < 1e-9
    bare = from_bytes(to_bytes(dataclasses.replace(reference, features=None)))
    assert bare.features is None
    assert bare.key == reference.key


def test_the_key_depends_on_the_provenance_but_not_on_its_order(reference):
    shuffled = dict(sorted(MADE_OF.items(), reverse=True))
    assert dataclasses.replace(reference, made_of=shuffled).key == reference.key
    for change in ({"steps": 50}, {"weights": "cd" * 32}, {"seed": 0}):
        assert dataclasses.replace(reference, made_of=MADE_OF | change).key != reference.key


def test_distances_from_different_references_are_refused(reference):
    other = dataclasses.replace(reference, made_of=MADE_OF | {"steps": 50})
    assert require_one_reference([reference.key, reference.key]) == reference.key
    with pytest.raises(EvaluationError, match=f"from 2 different references .*{other.key[:12]}.*with one reference"):
        require_one_reference([reference.key, other.key])


def test_features_of_another_network_are_refused(reference):
    reference.require_network("embedded", "ab" * 32)
    with pytest.raises(EvaluationError, match=r"holds features of embedded \(abababababab\), .* with embedded \(efef"):
        reference.require_network("embedded", "ef" * 32)
    with pytest.raises(EvaluationError, match="rebuild the reference set"):
        reference.require_network("inception", "ab" * 32)
    reference.require_network("copied", "ab" * 32, is_label=True)
    with pytest.raises(EvaluationError, match=r"with copied \(efef"):
        reference.require_network("copied", "ef" * 32, is_label=True)


@pytest.mark.parametrize("name", ["outer", "made_of", "features", "count"])
def test_a_modified_file_is_refused(reference, name):
    with np.load(io.BytesIO(to_bytes(reference))) as file:
        arrays = {key: file[key] for key in file.files}
    arrays[name] = np.array('{"network":"inception"}') if name == "made_of" else arrays[name] + 1
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with pytest.raises(EvaluationError, match="changed after it was written"):
        from_bytes(buffer.getvalue())


@pytest.mark.parametrize("data", [b"", b"not a zip at all", b"\x93NUMPY"])
def test_a_file_of_another_kind_is_refused(data):
    with pytest.raises(EvaluationError, match="not a reference file"):
        from_bytes(data)


def test_a_truncated_file_is_refused(reference):
    data = to_bytes(reference)
    with pytest.raises(EvaluationError, match="not a reference file"):
        from_bytes(data[: len(data) // 2])


@pytest.mark.parametrize(
    "changes",
    [
        {"count": np.array(0)},
        {"count": np.array([1, 2])},
        {"total": np.array("x")},
        {"outer": np.zeros((2, 2))},
        {"outer": np.full((3, 3), np.nan)},
        {"features": np.zeros(3)},
        {"made_of": np.array("[]")},
        {"made_of": np.array("[" * 100_000)},
    ],
)
def test_a_reference_with_impossible_arrays_is_refused_although_it_is_signed(changes):
    rng = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    with np.load(io.BytesIO(to_bytes(Reference(Moments.of(rng), rng, {"network": "n"})))) as file:
        arrays = {key: file[key] for key in file.files} | changes
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with pytest.raises(
        EvaluationError, match=r"^not a reference file \(\.npz written by this program\): (an array|made_of)"
    ):
        from_bytes(buffer.getvalue())
