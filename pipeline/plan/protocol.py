"""From where an asset is judged: the ring of the paper, with its number of views."""

from dataclasses import dataclass
from typing import Any

PAPER_VIEWS = 120


@dataclass(frozen=True)
class Protocol:
    """`num_views` evenly round the object at elevation 0, the first from the front."""

    num_views: int = PAPER_VIEWS

    @property
    def name(self) -> str:
        """`paper120` is that of the paper; another number of views gives numbers that do not compare with it."""
        return f"paper{self.num_views}"

    def cameras(self, size: int) -> Any:
        """The cameras, for pictures of `size` pixels."""
        from sctd.scene.cameras import orbit

        return orbit(self.num_views, elevation_degrees=0.0, radius=3.5, fov_y_radians=0.55, size=size)
