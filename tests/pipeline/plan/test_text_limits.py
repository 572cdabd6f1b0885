"""The token limits of the models, and what is said of prompts beyond them."""

import json

import pytest

from evaluation.image_reward import load_tokenizer
from pipeline.plan.text_limits import cut_by_reward
from pipeline.weights.models import Weights, resolve

TEXTS = [
    "a red mushroom",
    "Schloss Neuschwanstein, an intricate castle: naïve façade, 3D-printed, \u9ebb\u5a46\u8c46\u8150!",
    "x" * 150,
]


def weights_of(folder, vocab, **config):
    (folder / "reward").mkdir()
    (folder / "reward" / "vocab.txt").write_text(vocab, encoding="utf-8")
    if config:
        (folder / "reward" / "config.json").write_text(json.dumps(config))
    return Weights("test", folder)


@pytest.fixture(scope="module")
def vocab():
    return (resolve("embedded").part("reward") / "vocab.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_are_counted_as_the_scorer_does(tmp_path, vocab, text):
    weights = weights_of(tmp_path, vocab, max_length=1)
    tokenizer = load_tokenizer(tmp_path / "reward" / "vocab.txt")
    length = len(tokenizer([text]).input_ids[0])
    for most, is_cut in ((length, False), (length - 1, True)):
        (tmp_path / "reward" / "config.json").write_text(json.dumps({"max_length": most}))
        assert (cut_by_reward(weights, [text]) is not None) == is_cut


def test_the_published_model_reads_35_tokens_with_start_and_end(tmp_path, vocab):
    weights = weights_of(tmp_path, vocab)
    assert cut_by_reward(weights, ["red " * 33]) is None
    assert cut_by_reward(weights, ["a red cube", "red " * 34, "blue " * 40]) == (
        "ImageReward reads 35 tokens, so it scores 2 of 3 prompts by their beginning, the first of them "
        "'red red red red red red red red red red…'."
    )


def test_a_broken_reward_model_is_left_to_the_evaluator(tmp_path):
    assert cut_by_reward(Weights("test", tmp_path), TEXTS) is None
