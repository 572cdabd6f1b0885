"""Reads `.npz` files without running code in them."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Collection

import numpy as np


class ArraysError(ValueError):
    """The bytes are not an `.npz` file of plain arrays."""


def from_npz(content: bytes, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` file by name: all, or those of `names` that it has. Raises ArraysError, in one line."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files if names is None or name in names}
    except zipfile.BadZipFile as error:
        raise ArraysError("its archive is damaged") from error
    except (OSError, EOFError, KeyError, MemoryError, RuntimeError, TypeError, ValueError, zlib.error) as error:
        raise ArraysError("it is no .npz file of plain arrays, or damaged") from error
    except AttributeError as error:  # a single array, which has no names
        raise ArraysError("it is a single array, not an .npz file") from error
    if not all(isinstance(array, np.ndarray) for array in arrays.values()):  # other files in the archive
        raise ArraysError("it is an archive of other files than arrays")
    return arrays
