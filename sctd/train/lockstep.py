"""Several distillations on one GPU in lockstep: one batch of all of them through the encoder and the U-Net.

A network takes less time for each sample of a larger batch. Each distillation runs in its own thread, on its own
member of a `Lockstep`, which has the interface of a prior. A call waits until every member has called; then those of
one kind are computed together. All else, also the random numbers, belongs to the distillation alone, so that its asset
depends on its companions only through the rounding of sums, which have another order in a larger batch.

Calls of the U-Net come first and those of the encoder last. So members that are behind catch up, all members encode
together, and there is never more than one batch between the two passes of the encoder.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sctd.prior.denoise_calls import DenoiseCall, Residuals
from sctd.prior.stable_diffusion import StableDiffusionPrior
from sctd.types import Images, Latents, Text

DENOISE, BACKWARD, ENCODE = "a denoise", "b backward", "c encode"  # computed in this order


@dataclass(eq=False)
class _Call:
    """A call that waits, or its result. Calls of the same kind can be computed together."""

    kind: tuple[Any, ...]
    arguments: Any
    result: Any = None
    error: BaseException | None = None
    is_done: bool = False


class Lockstep:
    """Computes the calls of all members of a prior together."""

    def __init__(self, prior: StableDiffusionPrior) -> None:
        self.prior = prior
        self.one_at_a_time = threading.RLock()
        """Held by calls that are not batched. Nothing else may use the device while CUDA graphs are captured."""
        self._turn = threading.Condition()
        self._members: set[Member] = set()
        self._waiting: list[_Call] = []

    @contextmanager
    def member(self) -> Iterator["Member"]:
        """The prior of a distillation in this thread. The other members wait for its calls until the context ends."""
        member = Member(self)
        with self._turn:
            self._members.add(member)
        try:
            yield member
        finally:
            with self._turn:
                self._members.remove(member)
                self._compute_if_complete()

    def ask(self, kind: tuple[Any, ...], arguments: Any) -> Any:
        """The result of a member's call."""
        call = _Call(kind, arguments)
        with self._turn:
            self._waiting.append(call)
            self._compute_if_complete()
            self._turn.wait_for(lambda: call.is_done)
        if call.error is not None:
            raise call.error
        return call.result

    def _compute_if_complete(self) -> None:
        """If all members wait, compute the calls that come first."""
        while self._waiting and len(self._waiting) >= len(self._members):
            kind = min(call.kind for call in self._waiting)
            together = [call for call in self._waiting if call.kind == kind]
            self._waiting = [call for call in self._waiting if call.kind != kind]
            with self.one_at_a_time:
                self._compute(together)
            self._turn.notify_all()

    def _compute(self, together: Sequence[_Call]) -> None:
        """The results of these calls. If they fail together, each is computed alone and only its own error counts."""
        try:
            compute: Callable[..., Sequence[Any]] = COMPUTATIONS[together[0].kind[0]]
            results = compute(self.prior, [call.arguments for call in together])
            for call, result in zip(together, results, strict=True):
                call.result = result
        except BaseException as error:
            if len(together) > 1 and together[0].kind[0] != BACKWARD:  # whose graph is used up
                for call in together:
                    self._compute([call])
                return
            for call in together:
                call.error = error
        for call in together:
            call.is_done = True


class Member:
    """The prior of one distillation in a `Lockstep`."""

    def __init__(self, lockstep: Lockstep) -> None:
        self._lockstep, self._prior = lockstep, lockstep.prior

    def __getattr__(self, name: str) -> Any:
        return getattr(self._prior, name)

    def embed(self, texts: list[str]) -> Text:
        with self._lockstep.one_at_a_time:
            return self._prior.embed(texts)

    def decode(self, z_0: Latents) -> Images:
        with self._lockstep.one_at_a_time:
            return self._prior.decode(z_0)

    def encode(self, images: Images, noise: Latents | None = None) -> Latents:
        with self._lockstep.one_at_a_time:
            return self._prior.encode(images, noise)

    def denoise(self, z_t: Latents, t: int, text: Text | None, residuals: Residuals = ()) -> Latents:
        return self._lockstep.ask((DENOISE, len(residuals)), DenoiseCall(z_t, t, text, residuals))

    def encode_with_vjp(self, images: Images, noise: Latents | None) -> tuple[Latents, Callable[[Latents], Images]]:
        """As `sctd.train.gradient.encode_with_vjp`."""
        encoded: _Encoded = self._lockstep.ask((ENCODE, noise is None), (images, noise))

        def vjp(gradient: Latents) -> Images:
            return self._lockstep.ask((BACKWARD, id(encoded.batch)), (encoded, gradient))

        return encoded.batch.z_0[encoded.rows].detach(), vjp


@dataclass(frozen=True, eq=False)
class _Batch:
    """The images and latents of all members between the two passes of the encoder."""

    images: Images
    z_0: Latents


@dataclass(frozen=True, eq=False)
class _Encoded:
    """One member's part of a batch."""

    batch: _Batch
    rows: slice


def _denoise(prior: StableDiffusionPrior, calls: Sequence[DenoiseCall]) -> list[Tensor]:
    return prior.denoise_each(calls)


@torch.enable_grad()
def _encode(prior: StableDiffusionPrior, calls: Sequence[tuple[Tensor, Tensor | None]]) -> list[_Encoded]:
    images = torch.cat([images for images, _ in calls]).requires_grad_()
    noise = [noise for _, noise in calls if noise is not None]
    batch = _Batch(images, prior.encode(images, torch.cat(noise) if noise else None).float())
    ends = torch.tensor([len(images) for images, _ in calls]).cumsum(0).tolist()
    return [_Encoded(batch, slice(end - len(images), end)) for end, (images, _) in zip(ends, calls, strict=True)]


def _backward(_: StableDiffusionPrior, calls: Sequence[tuple[_Encoded, Tensor]]) -> list[Tensor]:
    """The gradients on the images. A member of the batch that has left meanwhile has the gradient 0."""
    batch = calls[0][0].batch
    gradient = torch.zeros_like(batch.z_0)
    for encoded, part in calls:
        gradient[encoded.rows] = part
    (on_images,) = torch.autograd.grad(batch.z_0, batch.images, gradient)
    return [on_images[encoded.rows] for encoded, _ in calls]


COMPUTATIONS: dict[str, Callable[..., Sequence[Any]]] = {DENOISE: _denoise, BACKWARD: _backward, ENCODE: _encode}
