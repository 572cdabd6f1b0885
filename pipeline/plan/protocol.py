"""The evaluation protocol: the views from which an asset is scored, the ring of cameras of the paper."""

from dataclasses import dataclass
from typing import Any

PAPER_VIEWS = 120


@dataclass(frozen=True)
class Protocol:
    """`num_views` evenly spaced around the object at elevation 0, starting at the front."""

    num_views: int = PAPER_VIEWS

    @property
    def name(self) -> str:
        """`paper120` is the protocol of the paper. Scores with other numbers of views are not comparable with it."""
        return f"paper{self.num_views}"

    def cameras(self, size: int) -> Any:
        """The cameras, for square images of `size` pixels."""
        from sctd.scene.cameras import orbit

        return orbit(self.num_views, elevation_degrees=0.0, radius=3.5, fov_y_radians=0.55, size=size)
