"""Data from a seed: the same for any number of processes, with captions that match the images."""

import numpy as np
import torch

from pipeline.embedded import data, world


def test_the_same_seed_gives_the_same_scenes_for_any_number_of_processes():
    one, two = (data.describe(300, 2, seed=5, workers=workers) for workers in (1, 2))
    assert one.captions == two.captions
    assert one.keys == two.keys
    np.testing.assert_array_equal(one.rows, two.rows)
    np.testing.assert_array_equal(one.cameras, two.cameras)


def test_images_captions_and_keys_are_in_the_same_order():
    made = data.generate(6, 3, seed=1, workers=1)
    assert made.images.shape == (18, 3, 64, 64)
    assert made.images.dtype == torch.uint8
    assert len(made.captions) == len(made.keys) == len(made.view_ids) == 18
    assert torch.equal(made.key_ids.view(6, 3), made.key_ids.view(6, 3)[:, :1].expand(6, 3))
    for i, pair in enumerate(made.captions):
        for j, caption in enumerate(pair):
            expected = world.view_word(made.azimuth[i], made.elevation[i])
            assert int(made.view_ids[i, j]) == data.view_id(caption)
            if data.view_id(caption):
                assert data.VIEW_WORDS[data.view_id(caption) - 1] == expected


def test_held_out_data_has_held_out_pairs_only():
    made = data.describe(40, 1, seed=2, workers=1, heldout=True)
    assert all(world.held_out(key[0], key[1]) for key in made.keys if key[1])
