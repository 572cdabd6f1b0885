"""CLIP score: 100 cos(image, text), the similarity of a view and its prompt in CLIP's embedding space.

No clamp and no factor 2.5 (Hessel et al. 2021 have both), the prompt verbatim, float32, and the checkpoint's own
preprocessing on PIL images: its bicubic resizing of float tensors does not clip to [0, 1]. At the edge of a black disc
on white, that moves pixels by up to 14/255 in renders of 512 pixels, and by 34/255 in those of 64. R-precision is the
share of views whose nearest prompt is the right one. Both metrics use the same features.

OpenAI trained its models with QuickGELU, x σ(1.702 x). The tensors do not record this: under plain GELU the models load
without a warning and score up to 0.35 points off, as much as methods differ. So OpenAI's weights are detected
(`is_openai_checkpoint`) and refused under plain GELU.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import open_clip
import torch
from jaxtyping import Float, Float32
from open_clip.model import build_model_from_openai_state_dict
from open_clip.pretrained import get_pretrained_cfg
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transform import PreprocessCfg, image_transform_v2
from open_clip.transformer import QuickGELU
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor, nn

from evaluation.checkpoints import digest, read_tensors
from evaluation.errors import EvaluationError
from evaluation.views import Views, in_batches, parallel_map

Encoder = Callable[[Tensor], Tensor]


class ClipScorer:
    """A CLIP model in float32 that computes unit vectors of views and texts."""

    def __init__(self, name: str, model: nn.Module, transform: Callable, tokenizer: Callable) -> None:
        self.name, self.model, self.transform, self.tokenizer = name, model, transform, tokenizer
        self.encode_image: Encoder = model.encode_image  # type: ignore[assignment]
        self.encode_text: Encoder = model.encode_text  # type: ignore[assignment]
        self.device = next(model.parameters()).device
        self.kept_views: tuple[Views, np.ndarray] | None = None
        self.kept_texts: dict[str, np.ndarray] = {}

    @staticmethod
    def load(where: Path | str, device: torch.device | str = "cpu", name: str = "embedded") -> ClipScorer:
        """Load a folder in open_clip's `local-dir:` layout, an OpenAI checkpoint file, or a published `model/tag`.

        The architecture of a file (`ViT-L-14.pt`, or its tensors as .safetensors) follows from its tensors. A tag is
        for example ViT-L-14-quickgelu/openai. `name` is used in metric ids. Raises EvaluationError if there is no
        complete model at `where`, or if OpenAI's weights would run under plain GELU. No weight is left random.
        """
        path = Path(where)
        if path.is_file():
            model, transform, tokenizer = _from_openai(path)
        else:
            identifier, tag = _identify(where)
            try:
                model, transform = open_clip.create_model_from_pretrained(identifier, tag, precision="fp32")
                tokenizer = open_clip.get_tokenizer(identifier)
            except (RuntimeError, ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
                first = (str(error).splitlines() or [""])[0]
                raise EvaluationError(f"{where} does not load as an open_clip model: {first}") from error
            if is_openai_checkpoint(model.state_dict()) and not _runs_quick_gelu(model):
                raise EvaluationError(
                    f"{where} holds OpenAI weights, trained with QuickGELU, under a configuration with plain GELU, "
                    'which gives wrong scores: set "quick_gelu": true in the model_cfg of its open_clip_config.json'
                )
        return ClipScorer(name, model.to(device).eval().requires_grad_(False), transform, tokenizer)

    @property
    def weights(self) -> str:
        """SHA-256 over all tensors in float32, by name: the same for one model in any storage format."""
        return digest(self.model.state_dict())

    def keep(self, *, views: Views | None = None, texts: Sequence[str] = ()) -> None:
        """Compute features that several metrics need only once: of an array that does not change, and of all prompts.

        They replace those of the last call.
        """
        if views is not None:
            self.kept_views = views, self.image_features(views)
        if texts:
            self.kept_texts = dict(zip(texts, self.text_features(list(texts)), strict=True))

    @torch.no_grad()
    def image_features(self, views: Views, batch_size: int = 30) -> Float32[np.ndarray, "views dim"]:
        """Unit vectors of the views, in batches of a fixed size for reproducibility."""
        if self.kept_views is not None and views is self.kept_views[0]:
            return self.kept_views[1]

        def encoded(batch: Views) -> np.ndarray:
            images = parallel_map(lambda view: self.transform(Image.fromarray(view)), batch)
            return self._unit(self.encode_image(torch.stack(images).to(self.device)))

        return in_batches(encoded, views, batch_size)

    @torch.no_grad()
    def text_features(self, texts: list[str]) -> Float32[np.ndarray, "texts dim"]:
        """Unit vectors of the prompts. Warns if a prompt exceeds the model's context length and is truncated."""
        if texts and self.kept_texts.keys() >= set(texts):
            return np.stack([self.kept_texts[text] for text in texts])
        tokens = self.tokenizer(texts)
        length = tokens.shape[1]
        changed = (self.tokenizer(texts, context_length=length + 1)[:, :length] != tokens).any(dim=1)
        for text, cut in zip(texts, changed.tolist(), strict=True):
            if cut:
                warnings.warn(
                    f"the CLIP score reads {length} tokens, and this prompt is longer: {text!r}", stacklevel=2
                )
        return self._unit(self.encode_text(tokens.to(self.device)))

    def score(self, views: Views, text: str) -> Float32[np.ndarray, " views"]:
        """100 cos of every view with the text (`clip@<name>`, higher is better)."""
        return clip_score(self.image_features(views), self.text_features([text])[0])

    @staticmethod
    def _unit(features: Float[Tensor, "batch dim"]) -> Float32[np.ndarray, "batch dim"]:
        return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()


def is_openai_checkpoint(state: Mapping[str, Tensor]) -> bool:
    """Whether these weights come from an OpenAI checkpoint, in any storage type.

    OpenAI published its CLIP models with linear weights in float16 and everything else in float32. So the linear
    weights are exact in float16 and the embeddings are not. No other training, and no model stored in one type,
    has this property.
    """
    linear = [state[n] for n in state if n.endswith("resblocks.0.mlp.c_fc.weight")]
    embedding = next((state[n] for n in state if n.endswith("token_embedding.weight")), None)
    return bool(linear) and embedding is not None and all(map(_is_half, linear)) and not _is_half(embedding)


def _is_half(tensor: Tensor) -> bool:
    return torch.equal(tensor.half().float(), tensor.float())


def _runs_quick_gelu(model: nn.Module) -> bool:
    return any(isinstance(module, QuickGELU) for module in model.modules())


def _identify(where: Path | str) -> tuple[str, str | None]:
    """open_clip's model name and tag for `where`. Raises EvaluationError if it is incomplete or unknown."""
    folder = Path(where)
    if folder.is_dir():
        for file in ("open_clip_config.json", "open_clip_model.safetensors"):
            if not (folder / file).is_file():
                raise EvaluationError(f"no {file} in {folder}: expected a folder in open_clip's local-dir layout")
        return f"local-dir:{folder}", None
    identifier, _, tag = str(where).partition("/")
    if (identifier, tag) not in open_clip.list_pretrained():
        raise EvaluationError(
            f"no CLIP model at {where}: expected a folder with open_clip_config.json, an OpenAI checkpoint file, or a "
            "published model/tag such as ViT-L-14-quickgelu/openai"
        )
    configured = bool(open_clip.get_model_config(identifier).get("quick_gelu", False))
    trained = bool(get_pretrained_cfg(identifier, tag).get("quick_gelu", False))
    if configured != trained:
        right = f"{identifier}-quickgelu" if trained else identifier.removesuffix("-quickgelu")
        raise EvaluationError(
            f"{where} runs weights trained with {'QuickGELU' if trained else 'plain GELU'} under the other activation, "
            f"which gives wrong scores: use {right}/{tag}"
        )
    return identifier, tag


def _from_openai(file: Path) -> tuple[nn.Module, Callable, Callable]:
    """Build the model of an OpenAI checkpoint: sizes as OpenAI's loader reads them (heads are 64 wide), QuickGELU."""
    state = {name: tensor for name, tensor in read_tensors(file).items() if not name.endswith(".attn_mask")}
    if not {"visual.conv1.weight", "text_projection", "token_embedding.weight"} <= state.keys():
        raise EvaluationError(
            f"{file} is not an OpenAI CLIP model: expected visual.conv1.weight and text_projection, found "
            f"{len(state)} tensors, first {min(state)}"
        )
    if not is_openai_checkpoint(state):
        raise EvaluationError(
            f"{file} does not record whether it uses GELU or QuickGELU, and its weights are not OpenAI's: put it into "
            "a folder as open_clip_model.safetensors with an open_clip_config.json"
        )
    try:
        model = build_model_from_openai_state_dict(state).float()
    except (RuntimeError, KeyError, AssertionError, ZeroDivisionError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise EvaluationError(f"{file} is not a complete OpenAI CLIP model: {first}") from error
    tokenizer = SimpleTokenizer(context_length=model.context_length)
    if model.vocab_size != tokenizer.vocab_size:
        raise EvaluationError(
            f"{file} has {model.vocab_size} tokens, but OpenAI's tokenizer has {tokenizer.vocab_size}: put it into a "
            "folder with its tokenizer in open_clip's local-dir layout"
        )
    transform = image_transform_v2(PreprocessCfg(size=model.visual.image_size), is_train=False)
    return model, transform, tokenizer


def clip_score(
    image_features: Float32[np.ndarray, "views dim"], text_feature: Float32[np.ndarray, " dim"]
) -> Float32[np.ndarray, " views"]:
    """100 times the cosine similarity of unit vectors."""
    return 100 * image_features @ text_feature


def is_nearest(
    image_features: Float[np.ndarray, "views dim"], text_features: Float[np.ndarray, "texts dim"], right: int
) -> Float[np.ndarray, " views"]:
    """1 for every view whose nearest text is number `right`, else 0; a tie counts as 0.

    The mean over views is R-precision (Jain et al. 2022). The lengths of the image vectors do not matter.
    """
    similarity = image_features @ text_features.T
    rivals = np.delete(similarity, right, axis=1)
    return (similarity[:, right] > rivals.max(axis=1, initial=-np.inf)).astype(float)
