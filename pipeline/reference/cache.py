"""What a reference is made from: pictures and features in shards, kept in folders named by the key of their making.

<cache>/images/<key>/    made_of.json  000000.zip …   PNG files, only where they are to be kept
<cache>/features/<key>/  made_of.json  000000.npz …   float32, one folder a network

The key is the SHA-256 of the canonical JSON of all that can change the content, so nothing of other settings is ever
found, let alone mixed in. A file is a pair of pure functions between bytes and arrays; `Store` writes.
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

from pipeline.digests import digest
from pipeline.store.run_folder import Store

PNG_EFFORT = 1  # of zlib: four times as fast as the usual 6, files a tenth larger
DAMAGES = ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error


class DamagedError(ValueError):
    """A file of the cache that is not what was written."""


@dataclass(frozen=True)
class Shards:
    """Files of one making. `kind` is `images` or `features`."""

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
        """Of the pictures from number `start` on."""
        return self.folder / f"{start:06}.{'zip' if self.kind == 'images' else 'npz'}"

    def write(self, start: int, content: bytes) -> None:
        self.cache.write_json(self.folder / "made_of.json", self.made_of)
        self.cache.write(self.file(start), content)

    def features(self, start: int, count: int) -> np.ndarray:
        """Those of so many pictures. Raises DamagedError."""
        path = self.file(start)
        try:
            with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
                features, key = file["features"], str(file["key"])
        except DAMAGES as error:
            raise DamagedError(f"{path} is damaged ({error})") from error
        if key != self.key or len(features) != count:
            found = f"{len(features)} features of {key[:16]}, not {count} of {self.key[:16]}"
            raise DamagedError(f"{path} is damaged (it holds {found})")
        return features

    def pngs(self, start: int, count: int) -> list[bytes]:
        """The PNG files of so many pictures, in their order. Raises DamagedError."""
        path = self.file(start)
        try:
            with zipfile.ZipFile(path) as file:
                pngs = [file.read(name) for name in sorted(file.namelist())]
        except DAMAGES as error:
            raise DamagedError(f"{path} is damaged ({error}); delete it, and it is made again") from error
        if len(pngs) != count:
            found = f"it holds {len(pngs)} pictures, not {count}"
            raise DamagedError(f"{path} is damaged ({found}); delete it, and it is made again")
        return pngs


def features_file(features: np.ndarray, key: str) -> bytes:
    """The `.npz` of a shard's features. Not compressed: floats do not shrink. The format has a checksum."""
    buffer = io.BytesIO()
    np.savez(buffer, features=features, key=np.array(key))
    return buffer.getvalue()


def pictures_file(pictures: Sequence[bytes], names: Sequence[str]) -> bytes:
    """The `.zip` of a shard's PNG files; equal pictures give equal bytes. The format has a checksum."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, png in zip(names, pictures, strict=True):
            file.writestr(zipfile.ZipInfo(name), png)  # which has no date but 1980
    return buffer.getvalue()


def to_png(view: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(view).save(buffer, "PNG", compress_level=PNG_EFFORT)
    return buffer.getvalue()


def from_png(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)))
