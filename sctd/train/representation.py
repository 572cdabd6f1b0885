"""The seam between the trainer and a 3D representation: what `optimize` asks of it. No representation is named here.

All methods are pure: they return new values and change nothing. Random numbers come from the generator that is given,
on the CPU, in a fixed order, so that a seed gives the same run on every device.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from sctd.recipe.recipe import Recipe
from sctd.render.contract import Rendering
from sctd.scene.cameras import Cameras
from sctd.scene.gaussians import Gaussians
from sctd.types import Images


@runtime_checkable
class Asset(Protocol):
    """An immutable value whose optimized tensors have names: Gaussians, or the weights of a network."""

    def tensors(self) -> dict[str, Tensor]:
        """The optimized tensors by name."""
        ...

    def map(self, function: Callable[[Tensor], Tensor]) -> Any:
        """The asset with a function applied to every optimized tensor."""
        ...

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Any:
        """The asset with other tensors of these names."""
        ...


@runtime_checkable
class Scene(Protocol):
    """An asset in training, a frozen dataclass: with Adam's moments and what else the representation keeps.

    Checkpoints hold its fields: tensors, and dataclasses or mappings of tensors.
    """

    @property
    def asset(self) -> Any: ...
    @property
    def first_moment(self) -> Any: ...
    @property
    def second_moment(self) -> Any: ...

    def stepped(self, asset: Any, first_moment: Any, second_moment: Any) -> Any:
        """The scene after a step of the optimizer."""
        ...


class Observed(NamedTuple):
    """What an iteration saw, for the statistics of a representation: per view, on the device."""

    gradient_pixels: Float[Tensor, "views num 2"] | None
    radii: Tensor | None
    rendered: Images | None
    """The rendered images if the recipe equalizes brightness."""


Change = Callable[[Any, torch.Generator], Any]
"""From a scene to a scene with other numbers of parameters, or with some of them reset."""


@runtime_checkable
class Representation(Protocol):
    """A 3D representation under a recipe, from which it is made."""

    @property
    def recipe(self) -> Recipe: ...
    @property
    def file(self) -> str:
        """The name of the file of a finished asset."""
        ...

    def to_bytes(self, scene: Any) -> bytes:
        """The content of that file."""
        ...

    def shown(self, scene: Any) -> Callable[[Cameras], Images]:
        """A function that renders the finished asset on white, as the metrics see it."""
        ...

    def gaussians(self, scene: Any) -> Gaussians | None:
        """The asset as Gaussians, on the CPU, as the live view shows it; None if it has nothing to show."""
        ...

    def counts(self, scene: Any) -> Mapping[str, int]:
        """The size of the asset by what it is counted in, for the progress: 3,072 Gaussians."""
        ...

    def problem(self, initial: Gaussians) -> str | None:
        """Why a run cannot start from these Gaussians, or None."""
        ...

    def start(self, initial: Gaussians, generator: torch.Generator) -> Any:
        """The scene before the first iteration, on the device of the initial Gaussians."""
        ...

    def restored(self, tree: Mapping[str, Any], device: torch.device) -> Any:
        """The scene of a checkpoint. Raises KeyError, TypeError or ValueError for a tree of something else."""
        ...

    def drawn(self, leaves: Any, scene: Any, iteration: int, generator: torch.Generator) -> Any:
        """What `render` gets in an iteration: the differentiable asset with the random draws of all views."""
        ...

    def render(self, drawn: Any, cameras: Cameras, background: Float[Tensor, "views 3"]) -> Rendering: ...

    def penalty(self, leaves: Any, rendering: Rendering, cameras: Cameras, progress: float) -> Float[Tensor, ""]:
        """The regularizers of the recipe for some views, differentiable."""
        ...

    def rates(self, asset: Any, position: float) -> Mapping[str, Tensor | float]:
        """The learning rate of each tensor; `position` as in `adam.position`."""
        ...

    def bounded(self, asset: Any) -> Any:
        """The asset after a step, moved back into the bounds of the recipe."""
        ...

    def observed(self, scene: Any, seen: Observed) -> Any:
        """The scene with the statistics of an iteration."""
        ...

    def changes(self, iteration: int) -> list[Change]:
        """What follows this iteration, once all of its numbers are known to be finite."""
        ...

    def equalized(self, scene: Any, seen: Observed, iteration: int) -> Any:
        """The scene after the limit of brightness, if the recipe has one."""
        ...
