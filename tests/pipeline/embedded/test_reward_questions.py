"""Wrong captions are wrong for the reason that was asked for, and say nothing that training never holds true."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from evaluation.image_reward import ImageReward, load_tokenizer
from pipeline.embedded import data, train_reward, world
from pipeline.embedded.reward_questions import OVERHEAD, SHARES, Captions, other_relation

PHRASE = re.compile(r"(?:a (?:photo|dslr photo|3d render|picture|rendering) of )?(an? .*?)(?:, .*)?")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Only its tokenizer is asked here."""
    folder = tmp_path_factory.mktemp("reward")
    folder.joinpath("vocab.txt").write_text("\n".join(train_reward.vocabulary()) + "\n")
    tokenizer = load_tokenizer(folder / "vocab.txt")
    sizes = replace(train_reward.SIZES, vision_layers=1, text_layers=1, vocab_size=len(tokenizer))
    return ImageReward(sizes, tokenizer)


@pytest.fixture(scope="module")
def pictures():
    """Captions without pictures: nothing here looks at one."""
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


def said(text):
    """The key of what a caption says; decoding puts spaces around commas and lowers "3D"."""
    return world.parse(PHRASE.fullmatch(text.replace(" ,", ","))[1])


@pytest.mark.parametrize("reason", ["type", "colour", "view", "relation"])
def test_a_wrong_caption_is_wrong_for_its_reason(model, pictures, reason):
    torch.manual_seed(0)
    captions = Captions(model, pictures, 600)
    asked = captions.ask(captions.pools[reason], reason)
    assert asked.sure.sum() > 20
    picture = asked.picture[asked.sure].tolist()
    for i, right, wrong in zip(
        picture, words(model, asked.right[asked.sure]), words(model, asked.wrong[asked.sure]), strict=True
    ):
        assert said(right) == pictures.keys[i]
        if reason == "type":
            assert said(wrong)[0] != said(right)[0]
        elif reason == "colour":
            assert said(wrong)[0] == said(right)[0]
            assert said(wrong)[1] not in ("", said(right)[1])
        elif reason == "view":
            views = data.view_id(right), data.view_id(wrong)
            assert said(wrong) == said(right)
            assert 0 not in views
            assert views[0] != views[1]
            assert world.REGISTRY.get(said(right)[0], world.REGISTRY["ball"]).has_front or OVERHEAD in views
        else:
            a, b = said(right), said(wrong)
            assert a != b
            assert (a[1], a[5]) == (b[1], b[5])
            assert (b[2], b[6]) == ((a[2], a[6]) if b[0] != a[0] else (a[6], a[2]))


def test_a_batch_has_its_shares_and_knows_its_pictures(model, pictures):
    torch.manual_seed(1)
    captions = Captions(model, pictures, 600)
    asked = captions.draw(200)
    assert asked.right.shape == asked.wrong.shape == (200, 35)
    assert asked.sure.float().mean() > 0.6
    assert sum(SHARES.values()) == pytest.approx(1)
    relations = captions.has_swapped.any(1)[asked.picture].float().mean()
    assert relations >= SHARES["relation"]


def test_no_wrong_caption_speaks_of_a_held_out_pair():
    """Else the model would learn that held-out pairs are wrong, from their words alone."""
    rng = np.random.default_rng(2)
    seen = 0
    for _ in range(400):
        scene = world.random_scene(rng)
        for exchange in (True, False):
            other = other_relation(f"a photo of {scene.phrase}, toy, on a white background", scene.key, exchange)
            if scene.key[0] not in world.RELATIONS:
                assert other is None
            elif other is not None:
                key, seen = said(other), seen + 1
                assert not {(key[1], key[2]), (key[5], key[6])} & world.HELD_OUT
                assert key[5] in (world.BASES if key[0] == "on" else world.TOPS)
    assert seen > 50


def test_articles_follow_the_exchanged_colours():
    key = ("on", "cone", "red", "", "", "pyramid", "orange", "", "")
    assert not {("cone", "orange"), ("pyramid", "red")} & world.HELD_OUT
    other = other_relation("a red cone on top of an orange pyramid, toy", key, True)
    assert other == "an orange cone on top of a red pyramid, toy"


def test_a_relation_is_changed_where_both_can_be():
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
