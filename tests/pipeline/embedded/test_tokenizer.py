"""The bundled tokenizer: CLIP's class, any text, the world's words as single tokens."""

import json

import numpy as np
import torch

from pipeline.embedded import tokenizer, weights_folder
from pipeline.prompts import suite

FOLDER = weights_folder() / "prior" / "tokenizer"


def test_every_caption_fits_and_any_text_tokenises():
    ids = tokenizer.encode(FOLDER, [*tokenizer.corpus(500, seed=3), "Ein grüner Würfel, 3 × 日本!", ""])
    end = len(json.loads((FOLDER / "vocab.json").read_text())) - 1
    assert ids.shape[1] == tokenizer.MAX_LENGTH
    assert (ids[:, 0] == end - 1).all()
    assert (ids[:, -1] == end).all(), "every text ends within the length"
    assert (ids.argmax(1) == (ids == end).argmax(1)).all(), "the first largest id is the end token"


def test_the_worlds_words_are_single_tokens():
    words = {word for prompt in suite("embedded40") for word in prompt.text.split()}
    ids = tokenizer.encode(FOLDER, sorted(words))
    whole = (ids[:, 2] == ids.max()).mean()
    assert whole > 0.9


def test_encode_many_equals_encode():
    texts = tokenizer.corpus(200, seed=4)
    np.testing.assert_array_equal(tokenizer.encode_many(FOLDER, texts, 1), tokenizer.encode(FOLDER, texts))


def test_scorer_and_prior_have_the_same_tokenizer():
    import open_clip

    tokenize = open_clip.get_tokenizer(f"local-dir:{weights_folder() / 'scorer'}")
    texts = [prompt.text for prompt in suite("embedded40")]
    assert torch.equal(tokenize(texts), torch.from_numpy(tokenizer.encode(FOLDER, texts).astype(np.int64)))
