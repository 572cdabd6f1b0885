"""The prior's tokenizer, in which the padding token is no text. Does not import torch.

The folders of Stable Diffusion 2 pad with "!" (id 0) and list it among the special tokens. transformers finds special
tokens anywhere in a text, so "a cat!" would become "a cat" and padding, while the model was trained on the token "!" at
the end of a word (id 256), as the scorers see it. Here only the tokens that mark start and end are special.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer


@dataclass(frozen=True)
class PromptTokenizer:
    """A CLIP tokenizer: `max_length` tokens including start and end, and the id that pads."""

    tokenizer: Tokenizer
    max_length: int
    pad_id: int

    @classmethod
    def load(cls, folder: Path) -> "PromptTokenizer":
        """Read a folder with tokenizer.json, or vocab.json and merges.txt. Raises OSError or ValueError."""
        from transformers import CLIPTokenizer

        loaded = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        tokenizer = without_special_text(loaded.backend_tokenizer)
        return cls(tokenizer, int(loaded.model_max_length), int(loaded.pad_token_id))

    def count(self, text: str) -> int:
        """Tokens of a text, including start and end, before truncation."""
        return len(self.tokenizer.encode(text).ids)

    def encode(self, texts: Sequence[str], length: int) -> list[list[int]]:
        """Token ids of texts, padded to `length`, or truncated before the end token."""
        rows = (encoding.ids for encoding in self.tokenizer.encode_batch(list(texts)))
        return [
            [*row, *[self.pad_id] * (length - len(row))] if len(row) <= length else [*row[: length - 1], row[-1]]
            for row in rows
        ]


def without_special_text(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer without padding and truncation, whose only special tokens are those that it adds to every text."""
    state = json.loads(tokenizer.to_str())
    added = json.dumps(state["post_processor"])
    special = [token for token in state["added_tokens"] if json.dumps(token["content"]) in added]
    return Tokenizer.from_str(json.dumps(state | {"added_tokens": special, "truncation": None, "padding": None}))
