"""Checkpoints: the complete state of a run between two iterations, and its serialization.

On the CPU a resumed run is bit-identical to an uninterrupted one: the state holds the asset, Adam's moments, what else
its representation keeps, ε* and the state of the random generator. The bytes are plain tensors and numbers, loaded
with `weights_only=True`, so that a checkpoint cannot run code.
"""

import io
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sctd.errors import SctdError, one_line, shortened
from sctd.train.draws import generator_of
from sctd.types import ObjectiveState

FORMAT = 1
STORED = {"scene": "population"}  # names in the bytes, which are older than other representations


Restored = Callable[[Mapping[str, Any], torch.device], Any]
"""`Representation.restored`."""


class CheckpointError(SctdError):
    """The bytes are not a checkpoint, or belong to another run."""


class Identity(NamedTuple):
    """The run that a state belongs to."""

    recipe: str  # digest
    prompt: str
    seed: int


@dataclass(frozen=True)
class State:
    """The state after `iteration` iterations.

    `updates` counts optimizer steps, `skipped` the iterations that were undone because of NaN or infinity. `noise` is
    ε* for `views` latents, `random` the state of the run's generator. `loss` is that of the last iteration:
    ½ |gradient on z_0|², mean over the views, plus the regularizers. `objective` is what the objective keeps,
    `scene` the asset and what its representation keeps (`sctd.train.representation.Scene`).
    """

    iteration: int
    updates: int
    skipped: int
    skipped_in_a_row: int
    loss: float
    scene: Any
    noise: Float[Tensor, "views channels height width"]
    random: UInt8[Tensor, " bytes"]
    objective: ObjectiveState = field(default_factory=dict, kw_only=True)


def to_bytes(state: State, identity: Identity) -> bytes:
    """Serialize a checkpoint."""
    tree = {STORED.get(field.name, field.name): _tree(getattr(state, field.name)) for field in fields(State)}
    if not tree["objective"]:
        del tree["objective"]  # checkpoints of objectives that keep nothing are those of earlier versions
    return _saved({"format": FORMAT, "identity": identity._asdict(), "state": tree})


def from_bytes(content: bytes, identity: Identity, device: torch.device, restored: Restored) -> State:
    """Load a checkpoint onto `device`; `restored` makes the scene. Raises CheckpointError for damage or another run."""
    tree, found = _loaded(content)
    if tree["format"] != FORMAT:
        found_format = shortened(one_line(repr(tree["format"])), 40)
        raise CheckpointError(f"the checkpoint has format {found_format}, expected {FORMAT}; delete it to start over")
    for name in Identity._fields:
        stored, expected = getattr(found, name), getattr(identity, name)
        if stored != expected:
            stored, expected = (
                str(value)[:12] if name == "recipe" and str(value).isalnum() else shortened(repr(value))
                for value in (stored, expected)
            )
            raise CheckpointError(
                f"the checkpoint has {name} {stored}, this run has {name} {expected}; delete it or resume that run"
            )
    try:
        return _state(tree["state"], device, restored)
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _not_one(content, error) from error


def reseeded(content: bytes, seed: int) -> bytes:
    """The same state with the random generator of a run of `seed`. Raises CheckpointError if it is damaged."""
    tree, _ = _loaded(content)
    tree["identity"]["seed"] = seed
    if not isinstance(tree["state"], dict):
        raise _not_one(content, TypeError())
    tree["state"] |= {"random": generator_of(seed).get_state(), "skipped_in_a_row": 0}
    return _saved(tree)


def _loaded(content: bytes) -> tuple[dict[str, Any], Identity]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols of damaged files
            tree = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        tree["format"], tree["state"]  # raise KeyError if one is missing
        return tree, Identity(**tree["identity"])
    except Exception as error:  # torch.load raises any error of its unpickler or zip reader
        raise _not_one(content, error) from error


def _not_one(content: bytes, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{len(content)} bytes are not a checkpoint ({type(error).__name__}); delete them to start over"
    )


def _saved(tree: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.save(tree, file)
    return file.getvalue()


def _tree(value: Any) -> Any:
    if hasattr(value, "tensors"):
        value = value.tensors()
    if is_dataclass(value):
        return {field.name: _tree(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {name: _tree(each) for name, each in value.items()}
    return value.detach().cpu() if isinstance(value, Tensor) else value


def tensors_of(state: ObjectiveState, name: str = "the objective's ") -> dict[str, Tensor]:
    """The tensors of an objective's state, by names such as `the objective's moments.first`."""
    found: dict[str, Tensor] = {}
    for key, each in state.items():
        found |= {f"{name}{key}": each} if isinstance(each, Tensor) else tensors_of(each, f"{name}{key}.")
    return found


def moved(state: ObjectiveState, device: torch.device) -> ObjectiveState:
    """An objective's state on a device."""
    return {key: each.to(device) if isinstance(each, Tensor) else moved(each, device) for key, each in state.items()}


def _state(tree: dict[str, Any], device: torch.device, restored: Restored) -> State:
    scene = restored(tree[STORED["scene"]], device)
    rest = {name: tree[name] for name in ("iteration", "updates", "skipped", "skipped_in_a_row", "loss", "random")}
    numbers = [rest[name] for name in ("iteration", "updates", "skipped", "skipped_in_a_row")]
    if not all(type(number) is int and number >= 0 for number in numbers) or type(rest["loss"]) not in (int, float):
        raise ValueError("a number has another type")
    if rest["random"].dtype != torch.uint8 or tree["noise"].ndim != 4:
        raise ValueError("a tensor has another shape or type")
    objective = moved(tree.get("objective", {}), device)
    return State(scene=scene, noise=tree["noise"].to(device), objective=objective, **rest)
