"""The errors of job descriptions, manifests and launchers."""

from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import ValidationError


class ManifestError(ValueError):
    """A job description or manifest that a cluster would reject. The message names the rule and the fix."""


class LaunchError(RuntimeError):
    """A job could not be submitted or queried. The message names the reason and the fix."""


@contextmanager
def manifest_errors() -> Iterator[None]:
    """Turn pydantic's ValidationError into a ManifestError about the first broken rule."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        broken = first.get("ctx", {}).get("error")
        if isinstance(broken, ManifestError):
            raise broken from None
        key = ".".join(map(str, first["loc"]))
        raise ManifestError(f"{key} is {first['input']!r}: {first['msg']}; correct it.") from error
