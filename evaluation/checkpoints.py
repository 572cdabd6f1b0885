"""Read the tensors of a published checkpoint by name, without running any code in the file.

Three formats: safetensors; a torch file of tensors (`torch.load(weights_only=True)`); and the TorchScript archives in
which CLIP (by OpenAI) and Inception were published. Of an archive only the pickle of attributes is read. Its unpickler
accepts tensors and treats every module as a plain container of attributes, so no function is compiled or called.
"""

from __future__ import annotations

import hashlib
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from evaluation.errors import EvaluationError

DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
DAMAGED = (
    *(OSError, EOFError, RuntimeError, ValueError, TypeError, LookupError, AttributeError),
    *(AssertionError, ArithmeticError, MemoryError),
)


class CodeInFileError(EvaluationError):
    """The file contains more than tensors, and opening it would run code."""


def read_tensors(file: Path, *, under: str | None = None) -> dict[str, Tensor]:
    """All tensors of a checkpoint on the CPU, in the order of the file; those below the key `under`, if there is one.

    Raises EvaluationError, in one sentence, if the file is missing, damaged or of another kind, or would run code.
    """
    if not file.is_file():
        raise EvaluationError(f"no checkpoint at {file}: expected a .safetensors, .pt or .pth file")
    try:
        state = _open(file)
    except CodeInFileError:
        raise
    except (SafetensorError, zipfile.BadZipFile, pickle.UnpicklingError, struct.error, *DAMAGED) as error:
        raise EvaluationError(
            f"{file} is truncated, damaged or not a checkpoint ({file.stat().st_size} bytes): fetch it again"
        ) from error
    if under is not None and isinstance(state, Mapping):
        state = state.get(under, state)
    if not isinstance(state, Mapping) or not state or not all(isinstance(t, Tensor) for t in state.values()):
        raise EvaluationError(f"{file} is not a checkpoint: expected tensors by name, found {_kind(state)}")
    return dict(state)


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over all tensors in float32, by name: the same for one model in any storage format."""
    content = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        content.update(name.encode() + tensor.float().cpu().numpy().tobytes())
    return content.hexdigest()


def _open(file: Path) -> Any:
    if file.suffix == ".safetensors":
        return load_file(file)
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return _read_archive(archive)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about an old pickle protocol; real errors are reported below
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if "GLOBAL " in str(error):
            raise _code(file.name) from error
        raise


def _kind(state: Any) -> str:
    if not isinstance(state, Mapping):
        return type(state).__name__
    odd = next(((name, value) for name, value in state.items() if not isinstance(value, Tensor)), None)
    return "nothing" if odd is None else f"{type(odd[1]).__name__} under {odd[0]!r}"


def _code(name: str) -> CodeInFileError:
    return CodeInFileError(
        f"{name} holds more than tensors and would run code when opened, so it was not opened: fetch the published "
        "file, or ask its author for the state_dict() as .safetensors"
    )


def _read_archive(archive: zipfile.ZipFile) -> dict[str, Tensor]:
    root = next(name for name in archive.namelist() if name.endswith("/constants.pkl")).removesuffix("/constants.pkl")
    with archive.open(f"{root}/data.pkl") as file:
        top = _Attributes(file, archive, root).load()
    tensors: dict[str, Tensor] = {}
    _collect(top, "", tensors)
    return tensors


def _collect(module: Any, prefix: str, tensors: dict[str, Tensor]) -> None:
    for name, value in vars(module).items():
        if isinstance(value, Tensor):
            tensors[prefix + name] = value
        elif isinstance(value, _Module):
            _collect(value, f"{prefix}{name}.", tensors)


class _Module:
    """Stands in for any class of the archive: keeps its attributes, without its functions."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


class _Attributes(pickle.Unpickler):
    """Unpickler for the `data.pkl` of an archive. Refuses everything but tensors, modules, lists and ordered dicts."""

    def __init__(self, file: BinaryIO | Any, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(file)
        self.archive, self.root = archive, root

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "__torch__":
            return _Module
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle" and name.startswith("build_") and name.endswith("list"):
            return list
        if module == "torch" and name in DTYPES:
            return DTYPES[name]
        raise _code(Path(self.archive.filename or "the archive").name)

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, _, _ = pid
        data = bytearray(self.archive.read(f"{self.root}/data/{key}"))
        return torch.frombuffer(data, dtype=dtype) if data else torch.empty(0, dtype=dtype)


def _rebuild(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset).clone()
