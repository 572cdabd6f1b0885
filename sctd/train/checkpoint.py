"""The state of a run between two iterations, and its bytes: enough to go on as if nothing had happened.

On the CPU a resumed run equals an undisturbed one in every bit: the state holds the random generator's own state, ε*,
Adam's moments and the densification statistics beside the Gaussians. The bytes are plain tensors and numbers, read
back with `weights_only=True`, so that a checkpoint cannot run code.
"""

import io
import pickle
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sctd.scene.gaussians import Gaussians
from sctd.scene.population import Population
from sctd.train.draws import generator_of

FORMAT = 1


class CheckpointError(ValueError):
    """Bytes that are no checkpoint, or that of another run."""


class Identity(NamedTuple):
    """Which run a state belongs to."""

    recipe: str  # digest
    prompt: str
    seed: int


@dataclass(frozen=True)
class State:
    """After `iteration` iterations. `updates` counts Adam's steps, `skipped` the iterations lost to NaN or infinity.

    `noise` is ε*, of `views` latents; `random` the state of the run's generator; `loss` that of the last iteration.
    """

    iteration: int
    updates: int
    skipped: int
    skipped_in_a_row: int
    loss: float
    population: Population
    noise: Float[Tensor, "views channels height width"]
    random: UInt8[Tensor, " bytes"]


def to_bytes(state: State, identity: Identity) -> bytes:
    """A checkpoint."""
    content = {"format": FORMAT, "identity": identity._asdict(), "state": _tree(state)}
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def from_bytes(content: bytes, identity: Identity, device: torch.device) -> State:
    """The state in a checkpoint, on `device`. CheckpointError if it is damaged or of another run than `identity`."""
    try:
        tree = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        version, found = tree["format"], Identity(**tree["identity"])
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{len(content)} bytes are no checkpoint ({type(error).__name__}); delete them to start anew"
        ) from error
    if version != FORMAT:
        raise CheckpointError(f"the checkpoint has format {version}, expected {FORMAT}; delete it to start anew")
    for name in Identity._fields:
        there, here = getattr(found, name), getattr(identity, name)
        if there != here:
            there, here = (value[:12] if name == "recipe" else repr(value) for value in (there, here))
            raise CheckpointError(
                f"the checkpoint is of {name} {there}, this run is of {name} {here}; delete it or run that"
            )
    return _state(tree["state"], device)


def reseeded(content: bytes, seed: int) -> bytes:
    """The same state, but what is drawn from here on is drawn as a run of `seed` would. CheckpointError if damaged."""
    try:
        tree = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        tree["identity"]["seed"] = seed
        tree["state"] |= {"random": generator_of(seed).get_state(), "skipped_in_a_row": 0}
    except (RuntimeError, pickle.UnpicklingError, EOFError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{len(content)} bytes are no checkpoint ({type(error).__name__})") from error
    file = io.BytesIO()
    torch.save(tree, file)
    return file.getvalue()


def _tree(value: Any) -> Any:
    if is_dataclass(value):
        return {field.name: _tree(getattr(value, field.name)) for field in fields(value)}
    return value.detach().cpu() if isinstance(value, Tensor) else value


def _state(tree: dict[str, Any], device: torch.device) -> State:
    population: dict[str, Any] = {
        name: Gaussians(**value).to(device) if isinstance(value, dict) else value.to(device)
        for name, value in tree["population"].items()
    }
    rest = {field.name: tree[field.name] for field in fields(State) if field.name not in ("population", "noise")}
    return State(population=Population(**population), noise=tree["noise"].to(device), **rest)
