"""Files of the cache: they are read back exactly, and damaged files are errors."""

from contextlib import suppress

import numpy as np
import pytest

from pipeline.reference.cache import DamagedError, Shards, features_file, from_png, images_file, to_png
from pipeline.store.run_folder import Store

FEATURES = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
VIEWS = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)


@pytest.fixture
def features(tmp_path) -> Shards:
    shards = Shards(Store(tmp_path), "features", {"steps": 25})
    shards.write(0, features_file(FEATURES, shards.key))
    return shards


@pytest.fixture
def images(tmp_path) -> Shards:
    shards = Shards(Store(tmp_path), "images", {"steps": 25})
    shards.write(0, images_file([to_png(view) for view in VIEWS], ["0", "1", "2"]))
    return shards


def test_features_are_read_back_exactly(features):
    np.testing.assert_array_equal(features.features(0, 3), FEATURES)
    assert features.file(0).read_bytes() == features_file(FEATURES, features.key)


def test_images_are_read_back_exactly(images):
    np.testing.assert_array_equal([from_png(png) for png in images.pngs(0, 3)], VIEWS)
    assert images.file(0).read_bytes() == images_file([to_png(view) for view in VIEWS], ["0", "1", "2"])


def test_a_folder_is_named_by_the_key_of_its_settings_and_stores_them(features, tmp_path):
    other = Shards(Store(tmp_path), "features", {"steps": 26})
    assert other.folder != features.folder
    assert features.folder.name == features.key[:16]
    assert Store(tmp_path).read_json(features.folder / "made_of.json") == {"steps": 25}


@pytest.mark.parametrize("place", range(0, 380, 20))
def test_a_changed_byte_is_an_error_or_does_not_change_the_features(place, features):
    """A zip archive has names and sizes twice, and dates that are not read."""
    content = bytearray(features.file(0).read_bytes())
    content[place] ^= 0xFF
    features.file(0).write_bytes(content)
    with suppress(DamagedError):
        np.testing.assert_array_equal(features.features(0, 3), FEATURES)


def test_features_of_other_settings_are_an_error(features, tmp_path):
    other = Shards(Store(tmp_path), "features", {"steps": 26})
    other.write(0, features.file(0).read_bytes())
    with pytest.raises(DamagedError, match=r"it has 3 features of \w{16}, expected 3 of \w{16}"):
        other.features(0, 3)
    with pytest.raises(DamagedError, match="it has 3 features of"):
        features.features(0, 4)


def test_missing_and_truncated_images_are_errors(images):
    with pytest.raises(DamagedError, match="it has 3 images, expected 4"):
        images.pngs(0, 4)
    images.file(0).write_bytes(images.file(0).read_bytes()[:-30])
    with pytest.raises(DamagedError, match=r"is damaged .*; delete it to generate it again$"):
        images.pngs(0, 3)


@pytest.mark.parametrize("features", [np.zeros(()), np.zeros(3), np.array(["a", "b"])])
def test_arrays_of_another_shape_or_type_are_no_features(tmp_path, features):
    shards = Shards(Store(tmp_path), "features", {"a": 1})
    shards.write(0, features_file(features, shards.key))
    with pytest.raises(DamagedError, match=r"is damaged \(it has no features\)"):
        shards.features(0, 2)
