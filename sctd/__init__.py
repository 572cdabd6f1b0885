"""Text-to-3D by Segmented Consistency Trajectory Distillation (SegmentDreamer): from equations to Gaussians.

The names in `__all__` are enough to distil an asset (`examples/distill.py`). Each is imported when it is first used:
recipes do not load torch. The rest is in the rooms of the package (docs/architecture.md).

Examples:
    >>> import sctd, torch
    >>> recipe = sctd.with_overrides(sctd.embedded(), {"initialization.kind": "ball", "initialization.count": 500})
    >>> recipe = sctd.for_objective(recipe, "ism")
    >>> gaussians = sctd.initial_gaussians(recipe.initialization, "a mushroom", torch.Generator().manual_seed(0))
    >>> cameras = sctd.orbit(4, elevation_degrees=15.0, radius=3.5, fov_y_radians=0.55, size=64)
    >>> sctd.render_on_white(gaussians, cameras).shape
    torch.Size([4, 3, 64, 64])
    >>> sctd.from_ply(sctd.to_ply(gaussians)).num
    500
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
