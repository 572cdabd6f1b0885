"""The training loop of the bundled models: fp32 masters, cosine schedule, EMA, resumable parts.

A training is planned in seconds, because GPU time is paid in seconds. The first part times its steps and derives their
number, which is stored in the state file and in the model card. Later parts resume from that state.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

STARTED = time.monotonic()


@dataclass(frozen=True)
class TrainingPlan:
    """How long to train, and the file of the training state.

    `seconds` is the whole training; this process saves and stops after `part_seconds` of run time.
    """

    seconds: float
    state: Path
    steps: int | None = None
    part_seconds: float = math.inf


def log(*words: object) -> None:
    """Print one line with the run time of the process in seconds."""
    print(f"[{time.monotonic() - STARTED:6.1f}]", *words, flush=True)


def parameters_of(*modules: nn.Module) -> list[nn.Parameter]:
    return [p for module in modules for p in module.parameters() if p.requires_grad]


class Masters:
    """fp32 copies of bf16 parameters, so that small updates survive rounding. fp32 parameters are used directly."""

    def __init__(self, parameters: Sequence[nn.Parameter]):
        self.parameters: list[Tensor] = list(parameters)
        self.half = [p for p in self.parameters if p.dtype != torch.float32]
        self.copies = [p.detach().float().clone() for p in self.half]
        by_half = {id(p): copy for p, copy in zip(self.half, self.copies, strict=True)}
        self.values: list[Tensor] = [by_half.get(id(p), p) for p in self.parameters]

    def take_gradients(self) -> None:
        for p, copy in zip(self.half, self.copies, strict=True):
            copy.grad = None if p.grad is None else p.grad.float()
            p.grad = None

    @torch.no_grad()
    def copy_to_parameters(self, values: Sequence[Tensor] | None = None) -> None:
        """Copy the masters (or `values`) into the parameters."""
        if values is None:
            if self.half:
                torch._foreach_copy_(self.half, self.copies)
        else:
            torch._foreach_copy_(self.parameters, list(values))


def fit(
    name: str,
    parameters: Sequence[nn.Parameter],
    step: Callable[[int], tuple[Tensor, dict[str, Tensor]]],
    plan: TrainingPlan,
    *,
    lr: float,
    warmup: int = 200,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.01,
    ema_decay: float = 0.999,
    clip_norm: float = 1.0,
    log_every: int = 250,
) -> dict[str, float]:
    """Minimise `step(n) -> (loss, values to log)`; the parameters then hold the EMA.

    Returns `{"steps": done, "planned": total, "finished": 0 or 1, "seconds": spent}`. If the state file exists,
    training resumes from it. It is written at the end of a part.
    """
    masters = Masters(parameters)
    device = masters.values[0].device
    fused = device.type == "cuda"
    optimizer = torch.optim.AdamW(masters.values, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)
    ema = [v.detach().clone() for v in masters.values]
    done, planned, spent = 0, plan.steps, 0.0
    if plan.state.exists():
        state = torch.load(plan.state, map_location=device, weights_only=True)
        done, planned, spent = state["done"], state["planned"], state["spent"]
        with torch.no_grad():
            torch._foreach_copy_(masters.values, state["values"])
            torch._foreach_copy_(ema, state["ema"])
        masters.copy_to_parameters()
        optimizer.load_state_dict(state["optimizer"])
        log(name, f"resumes at step {done} of {planned}")
    started = clock = time.monotonic()
    averages: dict[str, Tensor] = {}
    while planned is None or done < planned:
        if done % 10 == 0 and time.monotonic() - STARTED > plan.part_seconds:
            break
        # The number of steps is unknown for the first few dozen steps, which are within the warm-up anyway.
        fraction = done / planned if planned else 0.0
        rate = lr * min(1.0, (done + 1) / warmup) * (0.5 + 0.5 * math.cos(math.pi * min(fraction, 1.0)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, numbers = step(done)
        loss.backward()
        masters.take_gradients()
        torch.nn.utils.clip_grad_norm_(masters.values, clip_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        masters.copy_to_parameters()
        with torch.no_grad():
            torch._foreach_lerp_(ema, masters.values, 1 - min(ema_decay, (1 + done) / (10 + done)))
            for key, value in {"loss": loss, **numbers}.items():
                averages[key] = value.detach() if key not in averages else averages[key].lerp(value.detach(), 0.02)
        done += 1
        if planned is None and done == 20:
            _synchronize(device)
            clock = time.monotonic()
        if planned is None and done == 60:
            _synchronize(device)
            per_step = (time.monotonic() - clock) / 40
            planned = done + max(1, int((plan.seconds - (time.monotonic() - started)) / per_step))
            log(name, f"{1000 * per_step:.1f} ms per step: {planned} steps")
        if done in (1, 60) or done % log_every == 0:
            log(name, done, {key: round(value.item(), 5) for key, value in averages.items()})
    spent += time.monotonic() - started
    finished = planned is not None and done >= planned
    if not all(v.isfinite().all() for v in ema):
        raise FloatingPointError(f"{name}: a parameter is not finite after {done} steps; nothing was saved")
    plan.state.parent.mkdir(parents=True, exist_ok=True)
    torch.save(
        {
            "done": done,
            "planned": planned,
            "spent": spent,
            "values": [v.detach() for v in masters.values],
            "ema": ema,
            "optimizer": optimizer.state_dict(),
        },
        plan.state,
    )
    masters.copy_to_parameters(ema)
    log(name, "finished" if finished else "stopped", f"at step {done} of {planned} after {spent:.0f} s")
    return {"steps": done, "planned": planned or done, "finished": float(finished), "seconds": round(spent, 1)}


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
