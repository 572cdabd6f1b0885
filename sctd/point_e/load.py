"""Point-E models on disk: our folder (config.json + model.safetensors), or OpenAI's .pt files, both read strictly."""

import json
from pathlib import Path

import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor

from sctd.point_e.model import (
    BASE_40M_TEXTVEC,
    UPSAMPLE_40M,
    PointDiffusionTransformer,
    PointEConfig,
    PointEError,
    PointUpsampler,
)

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def build(config: PointEConfig) -> PointDiffusionTransformer | PointUpsampler:
    """The model of this configuration with fresh weights; its output is zero until it is trained."""
    return PointUpsampler(config) if config.kind == "upsampler" else PointDiffusionTransformer(config)


def load(path: Path | str, device: torch.device | str = "cpu") -> PointDiffusionTransformer | PointUpsampler:
    """The model in this folder, or in OpenAI's `base_40m_textvec.pt` or `upsample_40m.pt`; float32, for inference.

    A .pt file carries no configuration: it is told by its tensors. PointEError if the files are not a Point-E model.
    """
    path = Path(path)
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
        model = build(config)
    _compare(state, model.state_dict(), path)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()}, strict=True, assign=True)
    return model.to(device).eval().requires_grad_(False)


def packed(model: PointDiffusionTransformer | PointUpsampler, dtype: torch.dtype = torch.float16) -> dict[str, bytes]:
    """The files of the model's folder by name; write each into the folder as it is."""
    state = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    config = json.dumps(model.config.model_dump(), indent=2) + "\n"
    return {CONFIG: config.encode(), WEIGHTS: safetensors.torch.save(state, {"format": "pt"})}


def _file(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise PointEError(
            f"cannot read {folder / name} ({error.strerror}); a Point-E folder holds {CONFIG} and {WEIGHTS}: "
            "check the path or copy the folder again"
        ) from error


def _read_config(folder: Path) -> PointEConfig:
    content = _file(folder, CONFIG)
    try:
        return PointEConfig.model_validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise PointEError(
            f"{folder / CONFIG}: {where}: {first['msg']}; expected a Point-E configuration: mend that key"
        ) from error


def _read_weights(folder: Path) -> dict[str, Tensor]:
    content = _file(folder, WEIGHTS)
    try:
        return safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise PointEError(f"{folder / WEIGHTS} is not a safetensors file ({error}): copy it again") from error


def _read_pt(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises whatever its unpickler or zip reader does
        raise PointEError(f"{path} is not a file of tensors ({type(error).__name__}): download it again") from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise PointEError(f"{path} holds no table of tensors; expected OpenAI's base_40m_textvec.pt or upsample_40m.pt")
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
            f"{path}: {len(problems)} of {len(expected)} tensors do not fit the configuration, first: "
            f"{'; '.join(problems[:3])}. Use the weights and the config.json of one model"
        )
