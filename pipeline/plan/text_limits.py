"""How many tokens the models read of a text, counted with their tokenizers. Does not import torch."""

import json
import math
from collections.abc import Sequence
from typing import Any

from tokenizers import BertWordPieceTokenizer, Tokenizer

from pipeline.errors import UserError, shortened
from pipeline.weights.models import Weights
from sctd.errors import one_line
from sctd.prior.tokenizer import PromptTokenizer, without_special_text

REWARD_TOKENS = 35  # of the published ImageReward, with the tokens of start and end


def token_counter(weights: Weights) -> tuple[Any, int]:
    """A function that counts the tokens of a text as the prior does, and the prior's limit."""
    folder = weights.part("prior") / "tokenizer"
    try:
        most = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))["model_max_length"]
        if type(most) not in (int, float) or not 1 <= most < math.inf:
            raise ValueError(f"model_max_length is {shortened(repr(most))}")
        most = int(most)
        if (folder / "tokenizer.json").is_file():
            tokenizer = without_special_text(Tokenizer.from_file(str(folder / "tokenizer.json")))
            return lambda text: len(tokenizer.encode(text).ids), most
        return PromptTokenizer.load(folder).count, most
    except Exception as error:  # `tokenizers` raises nothing more specific
        raise UserError(
            f"{folder} has no readable tokenizer ({one_line(error)}); expected the tokenizer of a Stable Diffusion "
            "folder."
        ) from error


def cut_by_reward(weights: Weights, texts: Sequence[str]) -> str | None:
    """A sentence about the prompts of which ImageReward reads only the beginning; None if it reads all of each.

    The published code cuts them without a message, and so does `evaluation.image_reward`.
    """
    folder = weights.part("reward")
    try:
        config = folder / "config.json"
        most = json.loads(config.read_text()).get("max_length", REWARD_TOKENS) if config.is_file() else REWARD_TOKENS
        tokenizer = BertWordPieceTokenizer(str(folder / "vocab.txt"))
        cut = [text for text in texts if len(tokenizer.encode(text).ids) > most]
    except Exception:  # `tokenizers` raises nothing more specific; the evaluator reports a broken model
        return None
    if not cut:
        return None
    return (
        f"ImageReward reads {most} tokens, so it scores {len(cut)} of {len(texts)} prompts by their beginning, the "
        f"first of them {shortened(cut[0])!r}."
    )
