"""Loading and saving Point-E models: a folder (config.json + model.safetensors), or OpenAI's .pt files."""

import difflib
import json
import pickle
import warnings
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.torch
import torch
from jaxtyping import Float32
from torch import Tensor

from sctd.damage import damage_of
from sctd.errors import one_line, shortened
from sctd.point_e.model import (
    BASE_40M_TEXTVEC,
    UPSAMPLE_40M,
    PointDiffusionTransformer,
    PointEConfig,
    PointEError,
    PointUpsampler,
)

CONFIG, WEIGHTS = "config.json", "model.safetensors"
BASE_PT, UPSAMPLER_PT = "base_40m_textvec.pt", "upsample_40m.pt"
UPSAMPLER = "upsampler"  # subfolder of the base model's folder with its upsampler in our format


def load(path: Path | str, device: torch.device | str = "cpu") -> PointDiffusionTransformer:
    """Load the text-to-point-cloud model of this folder or of OpenAI's `base_40m_textvec.pt`; float32, for inference.

    The folder has config.json and model.safetensors, or OpenAI's file. A .pt file has no configuration; it is inferred
    from the tensors. Raises PointEError, naming the file, if it is not such a model.
    """
    model = _load(_chosen(Path(path), BASE_PT), device)
    if not isinstance(model, PointDiffusionTransformer):
        raise PointEError(f"{path} is a Point-E upsampler; expected a base model such as base_40m_textvec.pt")
    return model


def load_upsampler(path: Path | str, device: torch.device | str = "cpu") -> PointUpsampler:
    """As `load`, for the upsampler in this folder or OpenAI's `upsample_40m.pt`."""
    model = _load(_chosen(Path(path), UPSAMPLER_PT), device)
    if not isinstance(model, PointUpsampler):
        raise PointEError(f"{path} is a Point-E base model; expected an upsampler such as upsample_40m.pt")
    return model


class PointE(NamedTuple):
    """From texts to point clouds: the CLIP model of Point-E's training, Point-E, and its upsampler if there is one."""

    embed: Callable[[list[str]], Float32[np.ndarray, "texts clip_width"]]
    model: PointDiffusionTransformer
    upsampler: PointUpsampler | None = None

    @classmethod
    def load(
        cls,
        folder: Path | str,
        embed: Callable[[list[str]], Float32[np.ndarray, "texts clip_width"]],
        device: torch.device | str = "cpu",
    ) -> "PointE":
        """Both models of a folder; the upsampler is `upsample_40m.pt`, or our format in upsampler/."""
        places = Path(folder) / UPSAMPLER_PT, Path(folder) / UPSAMPLER
        found = next((place for place in places if place.exists()), None)
        return cls(embed, load(folder, device), None if found is None else load_upsampler(found, device))


def _chosen(path: Path, published: str) -> Path:
    """OpenAI's file if the folder has it and no config.json, else the path itself."""
    return path / published if (path / published).is_file() and not (path / CONFIG).exists() else path


def _load(path: Path, device: torch.device | str) -> PointDiffusionTransformer | PointUpsampler:
    if path.suffix == ".pt":
        if not path.is_file():
            raise PointEError(
                f"no file {path}; expected OpenAI's base_40m_textvec.pt or upsample_40m.pt: check the path"
            )
        state = _read_pt(path)
        config = UPSAMPLE_40M if "cond_point_proj.weight" in state else BASE_40M_TEXTVEC
    else:
        config, state = _read_config(path), _read_weights(path)
    with torch.device("meta"):
        model = PointUpsampler(config) if config.kind == "upsampler" else PointDiffusionTransformer(config)
    _compare(state, model.state_dict(), path)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True, assign=True)
    return model.to(device).eval().requires_grad_(False)


def to_files(model: PointDiffusionTransformer | PointUpsampler, dtype: torch.dtype = torch.float16) -> dict[str, bytes]:
    """The files of the model's folder, by name, with weights stored in `dtype`."""
    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    config = json.dumps(asdict(model.config), indent=2) + "\n"
    return {CONFIG: config.encode(), WEIGHTS: safetensors.torch.save(state, {"format": "pt"})}


def _file(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise PointEError(
            f"cannot read {folder / name} ({error.strerror}); expected {CONFIG} and {WEIGHTS} in a Point-E folder: "
            "check the path or copy the folder again"
        ) from error


def _read_config(folder: Path) -> PointEConfig:
    content, where = _file(folder, CONFIG), str(folder / CONFIG)
    try:
        tree = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise PointEError(f"{where} is not JSON ({one_line(error)}): copy it again") from error
    return _parsed(PointEConfig(), tree, where)


def _parsed(default: Any, tree: Any, where: str) -> Any:
    """`tree` as a value of the type of `default`. Missing keys keep defaults; unknown keys or other types raise."""
    if is_dataclass(default) and not isinstance(default, type) and isinstance(tree, dict):
        known = {field.name: getattr(default, field.name) for field in fields(default)}
        for name in tree:
            if name not in known:
                nearest = difflib.get_close_matches(name, known, n=1) or [", ".join(known)]
                raise PointEError(
                    f"{where} has the unknown key {shortened(name)!r}; expected {nearest[0]}: correct the key"
                )
        return replace(
            default, **{name: _parsed(known[name], value, f"{where}: {name}") for name, value in tree.items()}
        )
    if isinstance(default, tuple) and isinstance(tree, list):
        return tuple(_parsed(0.0, value, where) for value in tree)
    if isinstance(default, float) and type(tree) in (int, float):
        return float(tree)
    if type(tree) is not type(default) or is_dataclass(default):
        kind = "object" if is_dataclass(default) else type(default).__name__
        found = shortened(repr(tree))
        raise PointEError(f"{where} is {found}; expected a value of type {kind}: correct the key")
    return tree


def _read_weights(folder: Path) -> dict[str, Tensor]:
    content = _file(folder, WEIGHTS)
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        reason = damage_of(folder / WEIGHTS) or one_line(error)
        raise PointEError(f"{folder / WEIGHTS} cannot be read ({reason}): copy it again") from error


def _read_pt(path: Path) -> dict[str, Tensor]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols of damaged files
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise PointEError(
            f"{path} contains more than tensors, which could run code, or is not a torch.save file: "
            "download it again from OpenAI"
        ) from error
    except Exception as error:  # torch.load raises any error of its unpickler or zip reader
        raise PointEError(f"{path} is not a file of tensors ({type(error).__name__}): download it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise PointEError(f"{path} is no dict of tensors; expected OpenAI's base_40m_textvec.pt or upsample_40m.pt")
    return state


def _compare(found: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is unknown" for name in found if name not in expected]
    problems += [
        f"{name} is {list(found[name].shape)} instead of {list(expected[name].shape)}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    if problems:
        raise PointEError(
            f"{path}: {len(problems)} of {len(expected)} tensors do not fit the configuration: "
            f"{'; '.join(problems[:3])}. Use weights and config.json of the same model"
        )
