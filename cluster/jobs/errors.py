"""The errors of job descriptions, manifests and launchers. Messages name fields and arguments in backticks."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ModelWrapValidatorHandler, ValidationError, model_validator


class ManifestError(Exception):
    """A job description or manifest that a cluster would reject. The message names the rule and the fix."""


class LaunchError(RuntimeError):
    """A job could not be submitted or queried. The message names the reason and the fix."""


class UnreachableError(LaunchError):
    """The cluster does not answer at the moment; the same request may succeed later."""


def shortened(text: str, length: int = 160) -> str:
    """The text, truncated to `length` characters for a message."""
    return text if len(text) <= length else f"{text[: length - 1].rstrip()}…"


class CheckedModel(BaseModel):
    """A frozen model whose constructor raises only ManifestError, about the first value that is wrong."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _raise_manifest_error(cls, values: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler(values)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"]))
            key, found = shortened(" ".join(key.split())), shortened(repr(first["input"]))
            raise ManifestError(f"{key} is {found}: {first['msg']}; correct it.") from error
