"""PickScore, HPS v2.1 and the LAION aesthetic score, which predict from CLIP features what people prefer.

PickScore (Kirstain et al. 2023, arXiv:2305.01569) and HPS v2.1 (Wu et al. 2023, arXiv:2306.09341) are CLIP ViT-H/14
trained on choices between images for one prompt. The aesthetic predictor of LAION (C. Schuhmann, version 2) is an
affine map of the image vector of OpenAI's CLIP ViT-L/14; it does not depend on the prompt. All three see the same bytes
as the other scorers, resized by PIL. HPS' own code resizes float tensors instead, with or without antialiasing
depending on the version of torchvision; at 224 pixels both are equal.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from jaxtyping import Float, Int
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from torch import Tensor, nn
from transformers import CLIPModel, CLIPTokenizer

from evaluation.checkpoints import read_tensors
from evaluation.clip_score import ClipScorer, is_openai_checkpoint
from evaluation.errors import EvaluationError
from evaluation.metrics import CLIPScore, Models, ViewMetric
from evaluation.pretrained import FAILURES, first_line, load, model_type
from evaluation.views import Views

HPS_FILE, HPS_MODEL = "HPS_v2.1_compressed.pt", "ViT-H-14"
AESTHETIC_FILE = "sac+logos+ava1-l14-linearMSE.pth"
CONFIG = "open_clip_config.json"
MLP = ("layers.0", "layers.2", "layers.4", "layers.6", "layers.7")
"""The five linear layers of LAION's predictor. There is no nonlinearity between them; 1, 3 and 5 were dropout."""


class PickScore(CLIPScore):
    """exp(logit scale) · cos(view, prompt) by PickScore, averaged over views, then over objects; about 20 for images.

    Args:
        scorer: the model, from `load_pickscore`.
        scale: exp(logit scale) of the checkpoint.
        kwargs: passed to `torchmetrics.Metric`.
    """

    def __init__(self, scorer: ClipScorer, scale: float = 100.0, **kwargs: Any) -> None:
        super().__init__(scorer, **kwargs)
        self.scale = scale

    @classmethod
    def of(cls, models: Models) -> PickScore:
        scorer = load_pickscore(models.part("pickscore"), models.device)
        return cls(scorer, float(scorer.model.get_parameter("model.logit_scale").exp()))

    def scores(self, views: Views, prompt: str) -> Float[np.ndarray, " views"]:
        return self.scale / 100 * super().scores(views, prompt)

    def scores_of_prompts(self, view: Views, prompts: Sequence[str]) -> Float[np.ndarray, " prompts"]:
        return self.scale / 100 * super().scores_of_prompts(view, prompts)


class HPSScore(CLIPScore):
    """100 cos(view, prompt) by HPS v2.1, averaged over views, then over objects; about 28 for images of good models."""

    @classmethod
    def of(cls, models: Models) -> HPSScore:
        return cls(load_hps(models.part("hps"), models.device))


class AestheticScore(ViewMetric):
    """LAION's aesthetic predictor, version 2: 1 (ugly) to 10 (beautiful), averaged over views, then over objects.

    Args:
        scorer: OpenAI's CLIP ViT-L/14. `scorer.keep` shares features with other metrics of the same scorer.
        weight, bias: the predictor, from `load_aesthetic`.
        kwargs: passed to `torchmetrics.Metric`.

    Raises:
        EvaluationError: if the predictor reads vectors of another width.
    """

    plot_lower_bound = 1.0
    plot_upper_bound = 10.0

    def __init__(self, scorer: ClipScorer, weight: Float[np.ndarray, " dim"], bias: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        width = len(scorer.text_features(["a photo"])[0])
        if len(weight) != width:
            raise EvaluationError(
                f"the aesthetic predictor reads {len(weight)} numbers per view, but the scorer computes {width}: use "
                "OpenAI's CLIP ViT-L/14 as the scorer, or remove aesthetic/ from the weights"
            )
        if not is_openai_checkpoint(scorer.model.state_dict()):
            warnings.warn(
                "the aesthetic predictor was trained on OpenAI's CLIP ViT-L/14, and the scorer is not recognized as it",
                stacklevel=2,
            )
        self.scorer, self.weight, self.bias = scorer, weight, bias

    @classmethod
    def of(cls, models: Models) -> AestheticScore:
        return cls(models.clip, *load_aesthetic(models.part("aesthetic")))

    def scores(self, views: Views, prompt: str) -> Float[np.ndarray, " views"]:
        return self.scorer.image_features(views) @ self.weight + self.bias


class TransformersClip(nn.Module):
    """A CLIP model of transformers with the methods of open_clip's."""

    def __init__(self, model: CLIPModel) -> None:
        super().__init__()
        self.model = model

    def encode_image(self, pixels: Float[Tensor, "batch 3 size size"]) -> Float[Tensor, "batch dim"]:
        return self.model.visual_projection(self.model.vision_model(pixels).pooler_output)

    def encode_text(self, tokens: Int[Tensor, "batch tokens"]) -> Float[Tensor, "batch dim"]:
        return self.model.text_projection(self.model.text_model(tokens).pooler_output)


def load_pickscore(folder: Path | str, device: torch.device | str = "cpu") -> ClipScorer:
    """PickScore from a transformers folder: config.json, model.safetensors and the tokenizer's files, in float32.

    Raises EvaluationError if a file is missing or damaged, or if the tensors do not match.
    """
    folder = Path(folder)
    if (kind := model_type(folder, "PickScore")) != "clip":
        raise EvaluationError(f"{folder} holds a {kind} model; expected clip, as PickScore is published")
    read_tensors(folder / "model.safetensors")  # its errors are clearer than transformers'
    model = load(CLIPModel, folder, "PickScore", dtype=torch.float32)
    try:
        words = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except FAILURES as error:
        raise EvaluationError(f"{folder} has no tokenizer that loads: {first_line(error)}") from error
    length, size = model.config.text_config.max_position_embeddings, model.config.vision_config.image_size
    if len(words) > model.config.text_config.vocab_size:
        raise EvaluationError(
            f"the tokenizer in {folder} has {len(words)} tokens, but the model {model.config.text_config.vocab_size}: "
            "fetch both again"
        )

    def tokens(texts: list[str], context_length: int = length) -> Tensor:
        # What follows the end token does not change the vector of a text.
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return words(texts, max_length=context_length, **options).input_ids

    return _scorer("pickscore", TransformersClip(model), size, tokens, device)


def load_hps(folder: Path | str, device: torch.device | str = "cpu") -> ClipScorer:
    """HPS v2.1 from its published checkpoint, in float32, or from a folder in open_clip's local-dir layout.

    The architecture of the checkpoint is ViT-H-14, or that of an open_clip_config.json beside it. Raises
    EvaluationError if a file is missing or damaged, or if the tensors do not match.
    """
    folder = Path(folder)
    file, config = folder / HPS_FILE, folder / CONFIG
    if not file.is_file():
        if not config.is_file():
            raise EvaluationError(f"no {HPS_FILE} in {folder}: expected the checkpoint of HPS v2.1")
        return ClipScorer.load(folder, device, "hps")
    tensors = read_tensors(file, under="state_dict")
    sizes = _sizes(config) if config.is_file() else open_clip.get_model_config(HPS_MODEL)
    try:
        model = CLIP(**{key: value for key, value in sizes.items() if key != "hf_hub_id"})
        model.load_state_dict(tensors)
    except FAILURES as error:
        raise EvaluationError(f"{file} does not match {HPS_MODEL}: {first_line(error)}") from error
    tokenizer = SimpleTokenizer(context_length=model.context_length)
    if tokenizer.vocab_size != model.vocab_size:
        raise EvaluationError(
            f"{file} has {model.vocab_size} tokens, but CLIP's tokenizer has {tokenizer.vocab_size}: expected the "
            "published HPS v2.1"
        )
    return _scorer("hps", model, model.visual.image_size, tokenizer, device)


def load_aesthetic(folder: Path | str) -> tuple[Float[np.ndarray, " dim"], float]:
    """LAION's aesthetic predictor as one affine map: its weight and bias, in float64.

    From the only .pth, .pt or .safetensors file in `folder`: five linear layers (version 2) or one (version 1). Raises
    EvaluationError for another number of files or other tensors.
    """
    folder = Path(folder)
    files = sorted(file for file in folder.glob("*") if file.suffix in (".pth", ".pt", ".safetensors"))
    if len(files) != 1:
        raise EvaluationError(
            f"{folder} has {len(files)} checkpoints: expected one, the aesthetic predictor, such as {AESTHETIC_FILE}"
        )
    (file,) = files
    tensors = {name: tensor.double() for name, tensor in read_tensors(file).items()}
    layers = [""] if tensors.keys() == {"weight", "bias"} else [f"{name}." for name in MLP]
    if tensors.keys() != {f"{layer}{part}" for layer in layers for part in ("weight", "bias")}:
        raise EvaluationError(
            f"{file} has {len(tensors)} tensors, first {min(tensors)}: expected LAION's predictor without "
            f"nonlinearities, {MLP[0]} to {MLP[-1]}, or weight and bias"
        )
    try:
        return _affine(tensors, layers)
    except (RuntimeError, ValueError) as error:
        raise EvaluationError(f"the layers in {file} do not follow one another: {first_line(error)}") from error


def _affine(tensors: Mapping[str, Tensor], layers: Sequence[str]) -> tuple[np.ndarray, float]:
    """The composition of linear layers that ends in one number."""
    weight, bias = torch.ones(1, 1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    for layer in reversed(layers):
        bias = bias + weight @ tensors[f"{layer}bias"]
        weight = weight @ tensors[f"{layer}weight"]
    return weight.squeeze(0).numpy(), float(bias)


def _sizes(file: Path) -> dict:
    try:
        return dict(json.loads(file.read_text())["model_cfg"])
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise EvaluationError(f"{file} is not a configuration of open_clip: expected a model_cfg") from error


def _scorer(
    name: str, model: nn.Module, size: int | tuple[int, int], tokenizer: Callable, device: torch.device | str
) -> ClipScorer:
    """With CLIP's preprocessing: PIL's bicubic, centre crop, OpenAI's mean and standard deviation."""
    transform = image_transform_v2(PreprocessCfg(size=size), is_train=False)
    return ClipScorer(name, model.to(device).float().eval().requires_grad_(False), transform, tokenizer)
