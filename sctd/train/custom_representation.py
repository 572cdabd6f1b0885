"""A class of somebody's own as a representation: named tensors, and a function that renders them."""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import safetensors.torch
import torch
from jaxtyping import Float
from torch import Tensor

from sctd.recipe import custom_representation
from sctd.recipe.custom_file import CustomFileError, reference
from sctd.recipe.recipe import Recipe
from sctd.render.contract import Rendering
from sctd.scene.cameras import Cameras
from sctd.scene.gaussians import Gaussians
from sctd.train import regularize
from sctd.train.representation import Change, Observed
from sctd.types import Images


@dataclass(frozen=True)
class Tensors:
    """An asset of a custom representation."""

    named: dict[str, Tensor]

    def tensors(self) -> dict[str, Tensor]:
        """The optimized tensors by name."""
        return self.named

    def map(self, function: Callable[[Tensor], Tensor]) -> "Tensors":
        """Apply one function to every tensor."""
        return Tensors({name: function(tensor) for name, tensor in self.named.items()})

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> "Tensors":
        """The asset with other tensors of these names."""
        return Tensors({**self.named, **tensors})


@dataclass(frozen=True)
class TensorScene:
    """An asset of a custom representation in training, with Adam's moments."""

    asset: Tensors
    first_moment: Tensors
    second_moment: Tensors

    def stepped(self, asset: Tensors, first_moment: Tensors, second_moment: Tensors) -> "TensorScene":
        """The scene after a step of the optimizer."""
        return replace(self, asset=asset, first_moment=first_moment, second_moment=second_moment)


@dataclass(frozen=True)
class CustomRepresentation:
    """`Representation` of a class in a file: the asset is `Tensors`, the scene a `TensorScene`.

    What the class returns is checked. Raises CustomFileError.
    """

    recipe: Recipe
    file = "tensors.safetensors"

    @cached_property
    def own(self) -> Any:
        """The instance of the class."""
        return custom_representation.load(reference(self.recipe.representation.function)).made()

    @property
    def what(self) -> str:
        named = reference(self.recipe.representation.function)
        return f"{named.name} of {named.path}"

    def to_bytes(self, scene: TensorScene) -> bytes:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in scene.asset.named.items()}
        return safetensors.torch.save(tensors, {"representation": reference(self.recipe.representation.function).name})

    def shown(self, scene: TensorScene) -> Callable[[Cameras], Images]:
        device = next(iter(scene.asset.named.values())).device

        @torch.no_grad()
        def on_white(cameras: Cameras) -> Images:
            white = torch.ones(cameras.num, 3, device=device)
            return self.render(scene.asset, cameras.to(device), white).rgb.clamp(0, 1)

        return on_white

    def counts(self, scene: TensorScene) -> dict[str, int]:
        return {"numbers": sum(tensor.numel() for tensor in scene.asset.named.values())}

    def gaussians(self, scene: TensorScene) -> None:
        return None

    def problem(self, initial: Gaussians) -> str | None:
        return None

    def start(self, initial: Gaussians, generator: torch.Generator) -> TensorScene:
        start = self._named(self._call("start", initial.to("cpu"), generator), "start")
        for name, tensor in start.items():
            if not bool(tensor.isfinite().all()):
                raise CustomFileError(f"start of {self.what} returned {name} with values that are not finite")
        asset = Tensors(start).map(lambda tensor: tensor.detach().to(initial.means.device))
        zeros = asset.map(torch.zeros_like)
        return TensorScene(asset, zeros, zeros)

    def restored(self, tree: Mapping[str, Any], device: torch.device) -> TensorScene:
        parts = {}
        for name in ("asset", "first_moment", "second_moment"):
            tensors = tree[name]
            if tensors.keys() != self.own.rates.keys():
                raise ValueError("it has other tensors")
            parts[name] = Tensors(tensors).map(lambda tensor: tensor.to(device))
        return TensorScene(**parts)

    def drawn(self, leaves: Tensors, scene: TensorScene, iteration: int, generator: torch.Generator) -> Tensors:
        return leaves

    def render(self, drawn: Tensors, cameras: Cameras, background: Float[Tensor, "views 3"]) -> Rendering:
        found = self._call("render", dict(drawn.named), cameras, background)
        shape = cameras.num, cameras.height, cameras.width
        expected = {"rgb": (shape[0], 3, *shape[1:]), "alpha": shape, "depth": shape}
        for name, size in expected.items():
            part = getattr(found, name, None)
            if not isinstance(part, Tensor) or tuple(part.shape) != size:
                what = tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__
                raise CustomFileError(
                    f"render of {self.what} returned {name} as {what}; expected a Rendering with a tensor of {size}"
                )
        is_trained = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in drawn.named.values())
        if is_trained and not found.rgb.requires_grad:
            raise CustomFileError(f"render of {self.what} returned rgb without a gradient; expected one in the tensors")
        return found

    def penalty(self, leaves: Tensors, rendering: Rendering, cameras: Cameras, progress: float) -> Float[Tensor, ""]:
        total = regularize.penalty(self.recipe.regularizers, None, rendering, cameras)
        if hasattr(self.own, "penalty"):
            added = self._call("penalty", dict(leaves.named), rendering, progress)
            if not isinstance(added, Tensor) or added.ndim:
                what = f"shape {tuple(added.shape)}" if isinstance(added, Tensor) else type(added).__name__
                raise CustomFileError(f"penalty of {self.what} returned {what}; expected a tensor with one number")
            total = total + added
        return total

    def rates(self, asset: Tensors, position: float) -> dict[str, Tensor | float]:
        ends = {name: rate if isinstance(rate, tuple | list) else (rate, rate) for name, rate in self.own.rates.items()}
        return {name: first + (last - first) * position for name, (first, last) in ends.items()}

    def bounded(self, asset: Tensors) -> Tensors:
        if not hasattr(self.own, "bounded"):
            return asset
        moved = self._named(self._call("bounded", dict(asset.named)), "bounded")
        for name, tensor in moved.items():
            if tensor.shape != asset.named[name].shape:
                found, expected = tuple(tensor.shape), tuple(asset.named[name].shape)
                raise CustomFileError(f"bounded of {self.what} returned {name} of shape {found}; expected {expected}")
        return asset.with_tensors(moved)

    def observed(self, scene: TensorScene, seen: Observed) -> TensorScene:
        return scene

    def changes(self, iteration: int) -> list[Change]:
        return []

    def equalized(self, scene: TensorScene, seen: Observed, iteration: int) -> TensorScene:
        return scene

    def _call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the class; an error in it becomes one that names its line."""
        try:
            return getattr(self.own, method)(*arguments)
        except (Exception, SystemExit) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise  # handled by fewer views at once
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__)[1:]]
            where = f", line {lines[0]}" if lines else ""
            text = " ".join(str(error).split())
            raise CustomFileError(f"{method} of {self.what}{where}: {type(error).__name__}: {text}") from error

    def _named(self, tensors: Any, method: str) -> dict[str, Tensor]:
        """Named floating-point tensors, one for each learning rate."""
        names = ", ".join(self.own.rates)
        if not isinstance(tensors, Mapping) or tensors.keys() != self.own.rates.keys():
            found = ", ".join(map(str, tensors)) if isinstance(tensors, Mapping) else type(tensors).__name__
            raise CustomFileError(f"{method} of {self.what} returned {found}; expected a dict of tensors named {names}")
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or not tensor.numel():
                is_tensor = isinstance(tensor, Tensor)
                kind = f"{tensor.dtype} of shape {tuple(tensor.shape)}" if is_tensor else type(tensor).__name__
                raise CustomFileError(
                    f"{method} of {self.what} returned {name} as {kind}; expected a floating-point tensor with numbers"
                )
        return dict(tensors)
