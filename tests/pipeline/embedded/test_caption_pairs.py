"""Wrong captions are wrong for the requested reason, and are right for some other scene in training."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluation.image_reward import ImageReward, load_tokenizer
from pipeline.embedded import data, train_reward, world
from pipeline.embedded.caption_pairs import OVERHEAD, SHARES, Captions, other_relation

PHRASE = re.compile(r"(?:a (?:photo|dslr photo|3d render|picture|rendering) of )?(an? .*?)(?:, .*)?")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Only its tokenizer is used."""
    folder = tmp_path_factory.mktemp("reward")
    folder.joinpath("vocab.txt").write_text("\n".join(train_reward.vocabulary()) + "\n")
    tokenizer = load_tokenizer(folder / "vocab.txt")
    sizes = replace(train_reward.SIZES, vision_layers=1, text_layers=1, vocab_size=len(tokenizer))
    return ImageReward(sizes, tokenizer)


@pytest.fixture(scope="module")
def dataset():
    """Captions with blank images, which these tests do not use."""
    scenes = data.describe(150, 4, 7, workers=1)
    keys = [key for key in scenes.keys for _ in range(4)]
    return data.Data(
        images=torch.zeros(600, 3, 1, 1, dtype=torch.uint8),
        captions=list(zip(scenes.captions[::2], scenes.captions[1::2], strict=True)),
        keys=keys,
        key_ids=torch.tensor([list(dict.fromkeys(keys)).index(key) for key in keys]),
        view_ids=torch.tensor([data.view_id(caption) for caption in scenes.captions]).view(-1, 2),
        scene_index=scenes.scene_index,
        azimuth=scenes.azimuth,
        elevation=scenes.elevation,
    )


def words(model, ids):
    return [model.tokenizer.decode(row[row > 0], skip_special_tokens=True) for row in ids]


def key_of(text):
    """The key of a caption; decoding puts spaces around commas and lowers "3D"."""
    return world.parse(PHRASE.fullmatch(text.replace(" ,", ","))[1])


@pytest.mark.parametrize("reason", ["type", "colour", "view", "relation"])
def test_a_wrong_caption_is_wrong_for_its_reason(model, dataset, reason):
    torch.manual_seed(0)
    captions = Captions(model, dataset, 600)
    pairs = captions.pairs_for(captions.pools[reason], reason)
    assert pairs.sure.sum() > 20
    image = pairs.image[pairs.sure].tolist()
    for i, right, wrong in zip(
        image, words(model, pairs.right[pairs.sure]), words(model, pairs.wrong[pairs.sure]), strict=True
    ):
        assert key_of(right) == dataset.keys[i]
        if reason == "type":
            assert key_of(wrong)[0] != key_of(right)[0]
        elif reason == "colour":
            assert key_of(wrong)[0] == key_of(right)[0]
            assert key_of(wrong)[1] not in ("", key_of(right)[1])
        elif reason == "view":
            views = data.view_id(right), data.view_id(wrong)
            assert key_of(wrong) == key_of(right)
            assert 0 not in views
            assert views[0] != views[1]
            assert world.REGISTRY.get(key_of(right)[0], world.REGISTRY["ball"]).has_front or OVERHEAD in views
        else:
            a, b = key_of(right), key_of(wrong)
            assert a != b
            assert (a[1], a[5]) == (b[1], b[5])
            assert (b[2], b[6]) == ((a[2], a[6]) if b[0] != a[0] else (a[6], a[2]))


def test_a_batch_has_the_share_of_each_reason(model, dataset):
    torch.manual_seed(1)
    captions = Captions(model, dataset, 600)
    pairs = captions.draw(200)
    assert pairs.right.shape == pairs.wrong.shape == (200, 35)
    assert pairs.sure.float().mean() > 0.6
    assert sum(SHARES.values()) == pytest.approx(1)
    relations = captions.has_swapped.any(1)[pairs.image].float().mean()
    assert relations >= SHARES["relation"]


def test_no_wrong_caption_mentions_a_held_out_pair():
    """Otherwise the model would learn from the text alone that held-out pairs are wrong."""
    rng = np.random.default_rng(2)
    count = 0
    for _ in range(400):
        scene = world.random_scene(rng)
        for exchange in (True, False):
            other = other_relation(f"a photo of {scene.phrase}, toy, on a white background", scene.key, exchange)
            if scene.key[0] not in world.RELATIONS:
                assert other is None
            elif other is not None:
                key, count = key_of(other), count + 1
                assert not {(key[1], key[2]), (key[5], key[6])} & world.HELD_OUT
                assert key[5] in (world.BASES if key[0] == "on" else world.TOPS)
    assert count > 50


def test_articles_follow_the_exchanged_colours():
    key = ("on", "cone", "red", "", "", "pyramid", "orange", "", "")
    assert not {("cone", "orange"), ("pyramid", "red")} & world.HELD_OUT
    other = other_relation("a red cone on top of an orange pyramid, toy", key, True)
    assert other == "an orange cone on top of a red pyramid, toy"


def test_relations_are_exchanged_if_both_are_possible():
    key = ("on", "cone", "green", "", "", "cylinder", "blue", "", "")
    assert other_relation("a green cone on a blue cylinder", key, False) == "a green cone next to a blue cylinder"
    key = ("next to", *key[1:])
    assert other_relation("a green cone next to a blue cylinder", key, False) == "a green cone on a blue cylinder"


def test_every_word_of_the_world_is_one_piece(model):
    rng = np.random.default_rng(3)
    for _ in range(200):
        phrase = world.random_scene(rng).phrase
        tokens = model.tokenizer.tokenize(phrase)
        assert "[UNK]" not in tokens
        assert not any(token.startswith("##") for token in tokens)
    assert "[UNK]" not in model.tokenizer.tokenize("A zebra made of glass, reading Kant!")
