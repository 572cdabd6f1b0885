"""Loads a model of transformers from a local folder, strictly and without running code of the folder."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging

from evaluation.errors import EvaluationError

FAILURES = (RuntimeError, ValueError, OSError, ImportError, KeyError, TypeError, AttributeError)


def model_type(folder: Path, name: str) -> str | None:
    """The `model_type` of its config.json. Raises EvaluationError if there is no such file or it is damaged."""
    file = folder / "config.json"
    if not file.is_file():
        raise EvaluationError(f"no config.json in {folder}: expected {name} as a transformers folder")
    try:
        return json.loads(file.read_text()).get("model_type")
    except (ValueError, AttributeError, RecursionError) as error:
        raise EvaluationError(f"{file} is not a model configuration: fetch it again") from error


def load(auto: Any, folder: Path, name: str, *, unused: Collection[str] = (), **options: Any) -> Any:
    """`auto.from_pretrained(folder)` from safetensors. Raises EvaluationError if a tensor would be random or ignored.

    `auto` is a class of transformers; `name` is the model's name in errors; tensors in `unused` may be missing.
    """
    try:
        with quiet():
            model, found = auto.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported below, by name
                **options,
            )  # fmt: skip
    except FAILURES as error:
        raise EvaluationError(f"{folder} does not load as {name}: {first_line(error)}") from error
    mismatched = {tensor for tensor, *_ in found["mismatched_keys"]}
    if odd := sorted({*found["missing_keys"], *found["unexpected_keys"], *mismatched} - {*unused}):
        raise EvaluationError(
            f"{folder} does not match its config.json: {len(odd)} tensors are missing, unknown or of another size, "
            f"first {odd[0]}"
        )
    return model


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bar and its report on weights, which `load` turns into an error."""
    verbosity, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()


def first_line(error: BaseException) -> str:
    """The first line of an error's text."""
    return (str(error).splitlines() or [""])[0]
