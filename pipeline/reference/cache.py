"""The cache of a reference: shards of images and features, in folders named by the key of their settings.

<cache>/images/<key>/    made_of.json  000000.zip …   PNG files, only with --keep-images
<cache>/features/<key>/  made_of.json  000000.npz …   float32, one folder per network

The key is the SHA-256 of the canonical JSON of all settings that can change the content, so content of different
settings is never mixed. A file format is a pair of pure functions between bytes and arrays; `Store` does the writing.
"""

import io
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from evaluation.arrays import ArraysError, from_npz
from pipeline.digests import digest
from pipeline.store.run_folder import Store
from sctd.errors import one_line

PNG_EFFORT = 1  # zlib level: four times as fast as the default 6, files a tenth larger
DAMAGES = ValueError, OSError, EOFError, KeyError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error


class DamagedError(ValueError):
    """A file of the cache is damaged."""


@dataclass(frozen=True)
class Shards:
    """The files of one set of settings. `kind` is `images` or `features`."""

    cache: Store
    kind: str
    made_of: dict[str, Any]

    @property
    def key(self) -> str:
        return digest(self.made_of)

    @property
    def folder(self) -> Path:
        return self.cache.root / self.kind / self.key[:16]

    def file(self, start: int) -> Path:
        """The file of the shard whose first image has number `start`."""
        return self.folder / f"{start:06}.{'zip' if self.kind == 'images' else 'npz'}"

    def write(self, start: int, content: bytes) -> None:
        self.cache.write_json(self.folder / "made_of.json", self.made_of)
        self.cache.write(self.file(start), content)

    def features(self, start: int, count: int) -> np.ndarray:
        """The features of a shard of `count` images. Raises DamagedError."""
        path = self.file(start)
        try:
            arrays = from_npz(path.read_bytes())
        except (OSError, ArraysError) as error:
            raise DamagedError(f"{path} is damaged ({error})") from error
        features, key = arrays.get("features", np.empty(0)), str(arrays.get("key", "no key"))
        if features.ndim != 2 or features.dtype.kind != "f":
            raise DamagedError(f"{path} is damaged (it has no features)")
        if key != self.key or len(features) != count:
            found = f"{len(features)} features of {key[:16] if key.isalnum() else 'no key'}"
            found += f", expected {count} of {self.key[:16]}"
            raise DamagedError(f"{path} is damaged (it has {found})")
        return features

    def pngs(self, start: int, count: int) -> list[bytes]:
        """The PNG files of a shard of `count` images, in their order. Raises DamagedError."""
        path = self.file(start)
        try:
            with zipfile.ZipFile(path) as file:
                pngs = [file.read(name) for name in sorted(file.namelist())]
        except DAMAGES as error:
            raise DamagedError(f"{path} is damaged ({one_line(error)}); delete it to generate it again") from error
        if len(pngs) != count:
            found = f"it has {len(pngs)} images, expected {count}"
            raise DamagedError(f"{path} is damaged ({found}); delete it to generate it again")
        return pngs


def features_file(features: np.ndarray, key: str) -> bytes:
    """The `.npz` file of a shard's features. It is not compressed, which would not help. The format has a checksum."""
    buffer = io.BytesIO()
    np.savez(buffer, features=features, key=np.array(key))
    return buffer.getvalue()


def images_file(pngs: Sequence[bytes], names: Sequence[str]) -> bytes:
    """The `.zip` file of a shard's PNG files. Equal images give equal bytes. The format has a checksum."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, png in zip(names, pngs, strict=True):
            file.writestr(zipfile.ZipInfo(name), png)  # with the constant date 1980-01-01
    return buffer.getvalue()


def to_png(view: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(view).save(buffer, "PNG", compress_level=PNG_EFFORT)
    return buffer.getvalue()


def from_png(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))
