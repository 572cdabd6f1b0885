"""What an item's folder has to look at: Gaussians, a mesh, or ready-made views, each rendered by `views`."""

import io
import zipfile
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from typing import Protocol as Interface

import numpy as np

from pipeline.assets import images
from pipeline.errors import UserError
from pipeline.plan.protocol import Protocol
from pipeline.store import files
from pipeline.store.run_folder import ASSET, MESH, NERF, VIEWS

if TYPE_CHECKING:
    from sctd.formats.mesh_data import Mesh
    from sctd.render.nerf import Lit
    from sctd.scene.cameras import Cameras
    from sctd.scene.gaussians import Gaussians
    from sctd.train.representation import Representation

Shading = Literal["unlit", "lit"]
_DATE = 1980, 1, 1, 0, 0, 0  # so that equal views have equal bytes


class Viewed(Interface):
    """An object that the evaluator can look at."""

    def views(self, cameras: "Cameras", device: Any, shading: Shading = "unlit") -> np.ndarray:
        """Views on white, uint8 [views, height, width, 3]."""


@dataclass(frozen=True)
class Splats:
    """Gaussians in our axes."""

    gaussians: "Gaussians"
    file = ASSET

    def views(self, cameras: "Cameras", device: Any, shading: Shading = "unlit") -> np.ndarray:
        return images.on_white(self.gaussians.to(device), cameras)

    @cached_property
    def points(self) -> np.ndarray:
        """Points of the object, [points, 3], between which it is visible."""
        from sctd.scene.enclosing import visible_points

        return visible_points(self.gaussians)

    def transformed(self, rotation: Any, scale: float, shift: np.ndarray) -> "Splats":
        """The object after x -> scale R x + shift."""
        import torch

        from sctd.formats.axes import transformed

        return Splats(transformed(self.gaussians, rotation, scale, torch.from_numpy(shift)))

    def to_bytes(self) -> bytes:
        from sctd.formats import ply

        return ply.to_ply(self.gaussians)


@dataclass(frozen=True)
class RadianceField:
    """A NeRF in our axes."""

    lit: "Lit"
    file = NERF

    def views(self, cameras: "Cameras", device: Any, shading: Shading = "unlit") -> np.ndarray:
        from sctd.render.nerf import render_on_white

        return images.rendered(partial(render_on_white, self.lit.to(device)), cameras)

    def to_bytes(self) -> bytes:
        from sctd.render import nerf_file

        return nerf_file.to_bytes(self.lit)


@dataclass(frozen=True)
class Surface:
    """A triangle mesh in our axes."""

    mesh: "Mesh"
    file = MESH

    def views(self, cameras: "Cameras", device: Any, shading: Shading = "unlit") -> np.ndarray:
        from sctd.render.meshes import render_mesh

        return render_mesh(self.mesh, cameras, shading)

    @property
    def points(self) -> np.ndarray:
        """Points of the object, [points, 3], between which it is visible."""
        return self.mesh.vertices

    def transformed(self, rotation: Any, scale: float, shift: np.ndarray) -> "Surface":
        """The object after x -> scale R x + shift."""
        return Surface(self.mesh.transformed(rotation.numpy(), scale, shift))

    def to_bytes(self) -> bytes:
        return self.mesh.to_bytes()


@dataclass(frozen=True)
class StoredViews:
    """Ready-made views, evenly spaced around the object from the front, uint8 [views, height, width, 3]."""

    images: np.ndarray
    file = VIEWS

    def views(self, cameras: "Cameras", device: Any, shading: Shading = "unlit") -> np.ndarray:
        """Those of the cameras, if these are a part of them. Raises UserError."""
        found, wanted = len(self.images), cameras.num
        if found % wanted:
            raise UserError(
                f"It has {found} ready-made views, which do not include the {wanted} that are scored; render "
                f"{wanted} evenly spaced ones, or pass a --views that divides {found}."
            )
        return self.images[:: found // wanted]

    def from_front(self, azimuth_degrees: float) -> "StoredViews":
        """The views in another order, so that the one nearest to this azimuth is the first."""
        first = round(azimuth_degrees / 360 * len(self.images)) % len(self.images)
        return replace(self, images=np.roll(self.images, -first, axis=0))

    def to_bytes(self) -> bytes:
        target = io.BytesIO()
        array = io.BytesIO()
        np.save(array, self.images, allow_pickle=False)
        with zipfile.ZipFile(target, "w") as archive:
            archive.writestr(zipfile.ZipInfo("views.npy", _DATE), array.getvalue(), zipfile.ZIP_DEFLATED)
        return target.getvalue()


def files_of(kind: "Representation", scene: Any, image_size: int) -> dict[str, bytes]:
    """The files of a generated asset by name: first the one that is scored, which can be read without custom code."""
    own = {kind.file: kind.to_bytes(scene)}
    if kind.file in (ASSET, NERF):
        return own
    views = images.rendered(kind.shown(scene), Protocol().cameras(image_size))
    return {VIEWS: StoredViews(views).to_bytes(), **own}


def of_item(folder: Path) -> Viewed:
    """The object in an item's folder. Raises OSError, or FormatError or ArraysError for a damaged file."""
    if (folder / MESH).exists():
        from sctd.formats.mesh_data import Mesh

        return Surface(Mesh.from_bytes(files.read(folder / MESH)))
    if (folder / VIEWS).exists():
        return of_bytes(files.read(folder / VIEWS), VIEWS)
    name = NERF if (folder / NERF).exists() else ASSET
    return of_bytes(files.read(folder / name), name)


def of_bytes(content: bytes, name: str) -> Viewed:
    """The generated asset in the bytes of a file of this name. Raises FormatError or ArraysError."""
    if name.endswith(Path(VIEWS).suffix):
        from evaluation.arrays import from_npz

        return StoredViews(from_npz(content)["views"])
    if name.endswith(Path(NERF).suffix):
        from sctd.render import nerf_file

        return RadianceField(nerf_file.from_bytes(content))
    from sctd.formats import ply

    return Splats(ply.from_ply(content))
