"""A CLIP byte-pair tokenizer for the synthetic world. It tokenises any text; the world's words are single tokens."""

import json
import multiprocessing
import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.embedded import world

MAX_LENGTH = 32
_NEGATIVE = "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, low-resolution, oversaturation"
# CLIP's splitting of text into words, contractions, single digits and runs of punctuation.
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def corpus(captions: int = 6000, seed: int = 5) -> list[str]:
    """Captions of random scenes, every (type, colour) phrase, and the usual negative prompt."""
    rng = np.random.default_rng(seed)
    texts = [world.phrase(kind, colour) for kind, colour in world.classes()] + [_NEGATIVE] * 3
    for _ in range(captions):
        scene, camera = world.random_scene(rng), world.random_cameras(rng, 1)
        angles = camera.azimuth_degrees[0], camera.elevation_degrees[0]
        texts.append(world.caption(rng, scene.phrase, *angles, camera.background_kind[0]))
    return texts


def build(folder: Path) -> None:
    """Train the merges on `corpus()` and write a folder that `CLIPTokenizer` and open_clip's `HFTokenizer` read."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=None))
    bpe.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        initial_alphabet=alphabet,
        end_of_word_suffix="</w>",
        show_progress=False,
        min_frequency=2,
        special_tokens=[],
    )
    bpe.train_from_iterator(corpus(), trainer)
    merges: Any = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    pieces = alphabet + [letter + "</w>" for letter in alphabet] + [left + right for left, right in merges]
    # The end token is last: CLIP's text tower pools at the largest id.
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*pieces, "<|startoftext|>", "<|endoftext|>"]))}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_LENGTH)
    tokenizer.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n")


def encode(folder: Path, texts: list[str]) -> np.ndarray:
    """int16 [len(texts), MAX_LENGTH] token ids, padded with the end token and truncated."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(folder)
    padded = tokenizer(texts, padding="max_length", truncation=True, max_length=MAX_LENGTH, return_tensors="np")
    return padded.input_ids.astype(np.int16)


def encode_many(folder: Path, texts: list[str], workers: int) -> np.ndarray:
    """`encode` in several processes, for millions of captions. It forks, so call it before the process uses CUDA."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    chunks = [texts[start : start + 10_000] for start in range(0, len(texts), 10_000)]
    if workers == 1:
        return np.concatenate([encode(folder, chunk) for chunk in chunks])
    with multiprocessing.get_context("fork").Pool(workers) as pool:
        return np.concatenate(pool.map(partial(encode, folder), chunks, chunksize=1))
