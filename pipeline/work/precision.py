"""The precision of the prior's networks in a run on a CPU: bfloat16 if the processor computes in it, else float32.

Assets in bfloat16 differ from assets in float32, so the dtype is part of the recipe and of the job ids. It is chosen
once, before a run's jobs are compared with its folder. Workers only read the recipe.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from pipeline.errors import UserError
from pipeline.plan.run import Run
from pipeline.store import manifest
from pipeline.store.run_folder import Store
from pipeline.weights.machine import bfloat16_instructions
from pipeline.work import devices
from pipeline.work.execution import ExecutionOptions
from sctd.recipe.names import leaves
from sctd.recipe.recipe import value_of, with_overrides

KEY = "compute.dtype"
FLOAT32, BFLOAT16 = "float32", "bfloat16"
VARIABLE = "SEGMENTDREAMER_CPU_DTYPE"
AUTO = "auto"
OPENVINO = "openvino"


class Choice(NamedTuple):
    """A run with its precision, and a message about it if there was a choice."""

    run: Run
    note: str | None = None


class Preference(NamedTuple):
    """The precision of new runs, and why."""

    dtype: str
    reason: str = ""


def chosen(run: Run, store_of: Callable[[Run], Store], execution: ExecutionOptions) -> Choice:
    """A run whose options set no dtype, in the precision of its folder, else in that of this machine.

    Only recipes in float32 change. `store_of` is the folder of a run. Without --out it depends on the precision, so an
    earlier run may be in either of two folders. Raises UserError.
    """
    runs = {FLOAT32: run, BFLOAT16: in_bfloat16(run)}
    if runs[BFLOAT16] is run:
        return Choice(run)
    dtype, reason = preference(execution)
    for each in (dtype, _other(dtype)):
        store = store_of(runs[each])
        if before := manifest.find(store):
            found = recorded(before.recipes)
            return Choice(runs[found], _note_of_folder(store, found) if BFLOAT16 in (found, dtype) else None)
    if dtype == FLOAT32:
        return Choice(run)
    return Choice(runs[BFLOAT16], f"{_sentence(BFLOAT16)}, because {reason}; --set {KEY}={FLOAT32} for {FLOAT32}.")


def like(run: Run, recipes: Mapping[str, Any]) -> Choice:
    """A run whose options set no dtype, in the precision of a baseline's stored recipes, whatever the machine."""
    if recorded(recipes) == FLOAT32 or (same := in_bfloat16(run)) is run:
        return Choice(run)
    return Choice(same, f"{_sentence(BFLOAT16)}, as in the baseline; --set {KEY}={FLOAT32} for {FLOAT32}.")


def preference(execution: ExecutionOptions, environment: Mapping[str, str] = os.environ) -> Preference:
    """The precision of new runs that are executed in this way. Does not import torch. Raises UserError."""
    wanted = environment.get(VARIABLE) or AUTO
    if wanted not in (AUTO, FLOAT32, BFLOAT16):
        raise UserError(f"{VARIABLE} is {wanted!r}; expected {AUTO}, {FLOAT32} or {BFLOAT16}.")
    if wanted == FLOAT32 or execution.cluster:  # the processors of a cluster are not known here
        return Preference(FLOAT32)
    reason = f"{VARIABLE} is {BFLOAT16}"
    if wanted == AUTO:
        if (instructions := bfloat16_instructions()) is None:
            return Preference(FLOAT32)
        reason = f"this processor has {instructions}"
    return Preference(FLOAT32) if devices.will_use_gpu() else Preference(BFLOAT16, reason)


def check_engine(run: Run, execution: ExecutionOptions) -> None:
    """Raise UserError if this machine's CPU lacks what `compute.cpu_engine` needs."""
    wanted = {recipe.compute.dtype for recipe in run.recipes if recipe.compute.cpu_engine == OPENVINO}
    if not wanted or execution.cluster or devices.will_use_gpu():
        return
    if importlib.util.find_spec(OPENVINO) is None:
        raise UserError(
            "compute.cpu_engine is openvino, which is not installed; pip install 'segmentdreamer[cpu]', or set torch."
        )
    if unsupported := wanted - {FLOAT32, BFLOAT16}:
        raise UserError(
            f"compute.cpu_engine is openvino, which computes in float32 or bfloat16, not {min(unsupported)}; set "
            "compute.dtype or compute.cpu_engine."
        )


def in_bfloat16(run: Run) -> Run:
    """The run with bfloat16 in its float32 recipes; the same object if it has none."""
    if all(value_of(recipe, KEY) != FLOAT32 for recipe in run.recipes):
        return run
    methods = [
        replace(method, recipe=with_overrides(method.recipe, {KEY: BFLOAT16}))
        if value_of(method.recipe, KEY) == FLOAT32
        else method
        for method in run.methods
    ]
    return replace(run, methods=methods)


def recorded(recipes: Mapping[str, Any]) -> str:
    """BFLOAT16 if all stored recipes have it, else FLOAT32."""
    found = {dict(leaves(recipe)).get(KEY) for recipe in recipes.values() if isinstance(recipe, Mapping)}
    return BFLOAT16 if found == {BFLOAT16} else FLOAT32


def _note_of_folder(store: Store, dtype: str) -> str:
    other = _other(dtype)
    return f"{_sentence(dtype)}, as in the earlier run {store.root}; --set {KEY}={other} and another --out for {other}."


def _sentence(dtype: str) -> str:
    is_slow = dtype == BFLOAT16 and bfloat16_instructions() is None and not devices.will_use_gpu()
    return f"The prior's networks run in {dtype}{' (slow on this processor)' * is_slow}"


def _other(dtype: str) -> str:
    return FLOAT32 if dtype == BFLOAT16 else BFLOAT16
