"""Files of the cache: what is written is read, what was changed is named."""

from contextlib import suppress

import numpy as np
import pytest

from pipeline.reference.cache import DamagedError, Shards, features_file, from_png, pictures_file, to_png
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
    shards.write(0, pictures_file([to_png(view) for view in VIEWS], ["0", "1", "2"]))
    return shards


def test_features_come_back_to_the_bit(features):
    np.testing.assert_array_equal(features.features(0, 3), FEATURES)
    assert features.file(0).read_bytes() == features_file(FEATURES, features.key)


def test_pictures_come_back_to_the_bit(images):
    np.testing.assert_array_equal([from_png(png) for png in images.pngs(0, 3)], VIEWS)
    assert images.file(0).read_bytes() == pictures_file([to_png(view) for view in VIEWS], ["0", "1", "2"])


def test_a_folder_is_named_by_all_that_made_it_and_says_so(features, tmp_path):
    other = Shards(Store(tmp_path), "features", {"steps": 26})
    assert other.folder != features.folder
    assert features.folder.name == features.key[:16]
    assert Store(tmp_path).read_json(features.folder / "made_of.json") == {"steps": 25}


@pytest.mark.parametrize("place", range(0, 380, 20))
def test_no_changed_byte_of_features_goes_unnoticed_or_it_changes_nothing(place, features):
    """A zip archive holds names and sizes twice, and dates that nobody reads."""
    content = bytearray(features.file(0).read_bytes())
    content[place] ^= 0xFF
    features.file(0).write_bytes(content)
    with suppress(DamagedError):
        np.testing.assert_array_equal(features.features(0, 3), FEATURES)


def test_what_belongs_elsewhere_is_refused(features, tmp_path):
    other = Shards(Store(tmp_path), "features", {"steps": 26})
    other.write(0, features.file(0).read_bytes())
    with pytest.raises(DamagedError, match=r"it holds 3 features of \w{16}, not 3 of \w{16}"):
        other.features(0, 3)
    with pytest.raises(DamagedError, match="it holds 3 features of"):
        features.features(0, 4)


def test_cut_off_pictures_are_named(images):
    with pytest.raises(DamagedError, match="it holds 3 pictures, not 4"):
        images.pngs(0, 4)
    images.file(0).write_bytes(images.file(0).read_bytes()[:-30])
    with pytest.raises(DamagedError, match=r"is damaged .*; delete it, and it is made again$"):
        images.pngs(0, 3)
