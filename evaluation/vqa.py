"""VQAScore (Lin et al. 2024, arXiv:2404.01291): the probability that a vision-language model sees the prompt in a view.

P("yes") as the first token of the answer to `QUESTION`, from any model that transformers loads as image-text-to-text.
Answers differ in spelling ("Yes", "yes", with or without a space): their probabilities add up. It is not divided by
P("yes") + P("no"), as in the paper. A model is large, so `NUM_VIEWS` evenly spaced views stand for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from evaluation.errors import EvaluationError
from evaluation.metrics import Models, ViewMetric
from evaluation.pretrained import FAILURES, first_line, load, model_type, quiet
from evaluation.views import Views

QUESTION = 'Does this figure show "{}"? Please answer yes or no.'
ANSWERS = "yes", "Yes", " yes", " Yes"
NUM_VIEWS = 12


class VQAScore(ViewMetric):
    """P("yes") of `QUESTION`, averaged over `num_views` evenly spaced views, then over objects.

    Args:
        judge: a vision-language model.
        num_views: the number of views that are scored: all of them if there are fewer.
        kwargs: passed to `torchmetrics.Metric`.
    """

    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(self, judge: VisionLanguageModel, num_views: int = NUM_VIEWS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._ask, self.num_views = judge.probability_of_yes, num_views

    @classmethod
    def of(cls, models: Models) -> VQAScore:
        return cls(VisionLanguageModel.load(models.part("vlm"), models.device))

    def scores(self, views: Views, prompt: str) -> Float[np.ndarray, " scored"]:
        return np.array([self._ask(view, QUESTION.format(prompt)) for view in spaced(views, self.num_views)])


class VisionLanguageModel:
    """A model that answers a question about an image, in the precision of its checkpoint."""

    def __init__(self, model: Any, processor: Any, device: torch.device | str) -> None:
        self.model, self.processor, self.device = model.to(device).eval().requires_grad_(False), processor, device
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.yes = self._tokens(ANSWERS)

    @staticmethod
    def load(folder: Path | str, device: torch.device | str = "cpu") -> VisionLanguageModel:
        """Load a folder of transformers: config.json, .safetensors, and the files of its processor.

        No code in the folder is run. Raises EvaluationError if a file is missing or damaged, if transformers does not
        know the model, or if its tokenizer has no single token for "yes".
        """
        folder, name = Path(folder), "a vision-language model"
        model_type(folder, name)
        model = load(AutoModelForImageTextToText, folder, name, dtype="auto", trust_remote_code=False)
        try:
            with quiet():
                processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        except FAILURES as error:
            raise EvaluationError(f"{folder} has no processor that loads: {first_line(error)}") from error
        return VisionLanguageModel(model, processor, device)

    @torch.no_grad()
    def probability_of_yes(self, view: UInt8[np.ndarray, "height width 3"], question: str) -> float:
        """P("yes") as the first token of the answer about one view, [height, width, 3]."""
        inputs = self.processor(images=[Image.fromarray(view)], text=[self._prompt(question)], return_tensors="pt")
        answer = self.model.generate(
            **inputs.to(self.device, self.model.dtype),
            max_new_tokens=1, do_sample=False, num_beams=1, output_logits=True, return_dict_in_generate=True,
        )  # fmt: skip
        return float(answer.logits[0][0].float().softmax(-1)[self.yes].sum())

    def _prompt(self, question: str) -> str:
        """The question in the model's chat template, or after its image token, or alone, if it has neither."""
        if getattr(self.processor, "chat_template", None):
            content = [{"type": "image"}, {"type": "text", "text": question}]
            return self.processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
            )
        token = getattr(self.processor, "image_token", None)  # text if the caller must add it
        return f"{token}\n{question}" if isinstance(token, str) else question

    def _tokens(self, answers: tuple[str, ...]) -> list[int]:
        """The tokens that are one of these answers as a whole."""
        found = {}
        for answer in answers:
            ids = self.tokenizer.encode(answer, add_special_tokens=False)
            if len(ids) == 1 and ids[0] != self.tokenizer.unk_token_id:
                found[ids[0]] = answer
        if not found:
            raise EvaluationError(
                'the tokenizer of the vision-language model has no single token for "yes", so its probability is not '
                "one number: use another model in vlm/"
            )
        return list(found)


def spaced(views: Views, count: int) -> UInt8[np.ndarray, "chosen height width 3"]:
    """`count` evenly spaced views, from the first; all of them if there are fewer."""
    count = min(count, len(views))
    return views[np.arange(count) * len(views) // count]
