"""CLIP score: 100 cos(image, text), the similarity of a view and its prompt in one embedding space.

No clamp and no factor 2.5 (Hessel et al. 2021 have both), the prompt verbatim, float32, and the checkpoint's own
preprocessing on PIL images: bicubic resizing of tensors moves pixels by up to 1/255. R-precision asks instead whether
the right prompt is the nearest of all; both come from the same features.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import open_clip
import torch
from jaxtyping import Float, Float32
from PIL import Image
from torch import Tensor, nn

from evaluation import EvaluationError
from evaluation.views import Views

Encoder = Callable[[Tensor], Tensor]


class ClipScorer:
    """A CLIP model in float32: unit vectors of views and texts."""

    def __init__(self, name: str, model: nn.Module, transform: Callable, tokenizer: Callable) -> None:
        self.name, self.model, self.transform, self.tokenizer = name, model, transform, tokenizer
        self.encode_image: Encoder = model.encode_image  # type: ignore[assignment]
        self.encode_text: Encoder = model.encode_text  # type: ignore[assignment]
        self.device = next(model.parameters()).device

    @staticmethod
    def load(where: Path | str, device: torch.device | str = "cpu", name: str = "embedded") -> ClipScorer:
        """Read a folder in open_clip's `local-dir:` layout, or a published `model/tag` (ViT-L-14-quickgelu/openai).

        `name` goes into the metrics' ids. Raises EvaluationError where there is no complete model at `where`; weights
        are never left random.
        """
        folder = Path(where)
        if folder.is_dir():
            for file in ("open_clip_config.json", "open_clip_model.safetensors"):
                if not (folder / file).is_file():
                    raise EvaluationError(f"no {file} in {folder}: expected a folder in open_clip's local-dir layout")
            identifier, tag = f"local-dir:{folder}", None
        else:
            identifier, _, tag = str(where).partition("/")
            if (identifier, tag) not in open_clip.list_pretrained():
                raise EvaluationError(
                    f"no CLIP model at {where}: expected a folder with open_clip_config.json, or a published "
                    "model/tag such as ViT-L-14-quickgelu/openai"
                )
        try:
            model, transform = open_clip.create_model_from_pretrained(identifier, tag, precision="fp32", device=device)
            tokenizer = open_clip.get_tokenizer(identifier)
        except (RuntimeError, ValueError, OSError) as error:
            raise EvaluationError(f"{where} does not load as an open_clip model: {error}") from error
        return ClipScorer(name, model.eval().requires_grad_(False), transform, tokenizer)

    @property
    def weights(self) -> str:
        """SHA-256 over every tensor in float32, by name: the same for the same model, however it was stored."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()

    @torch.no_grad()
    def image_features(self, views: Views, batch_size: int = 30) -> Float32[np.ndarray, "views dim"]:
        """Unit vectors of the views, in batches of one fixed size so that they are repeatable."""
        features = []
        for chunk in np.split(views, range(batch_size, len(views), batch_size)):
            pixels = torch.stack([self.transform(Image.fromarray(view)) for view in chunk]).to(self.device)
            features.append(self._unit(self.encode_image(pixels)))
        return np.concatenate(features)

    @torch.no_grad()
    def text_features(self, texts: list[str]) -> Float32[np.ndarray, "texts dim"]:
        """Unit vectors of the prompts."""
        return self._unit(self.encode_text(self.tokenizer(texts).to(self.device)))

    def score(self, views: Views, text: str) -> Float32[np.ndarray, " views"]:
        """100 cos of every view with the text: `clip@<name>`, higher is better."""
        return clip_score(self.image_features(views), self.text_features([text])[0])

    @staticmethod
    def _unit(features: Float[Tensor, "batch dim"]) -> Float32[np.ndarray, "batch dim"]:
        return torch.nn.functional.normalize(features.float(), dim=-1).cpu().numpy()


def clip_score(
    image_features: Float32[np.ndarray, "views dim"], text_feature: Float32[np.ndarray, " dim"]
) -> Float32[np.ndarray, " views"]:
    """100 cos, between unit vectors."""
    return 100 * image_features @ text_feature


def is_nearest(
    image_features: Float[np.ndarray, "views dim"], text_features: Float[np.ndarray, "texts dim"], right: int
) -> Float[np.ndarray, " views"]:
    """1 for every view whose nearest of all the texts is number `right`, else 0; a tie is not right.

    The mean over views is R-precision (Jain et al. 2022). The images' lengths do not matter.
    """
    similarity = image_features @ text_features.T
    rivals = np.delete(similarity, right, axis=1)
    return (similarity[:, right] > rivals.max(axis=1, initial=-np.inf)).astype(float)
