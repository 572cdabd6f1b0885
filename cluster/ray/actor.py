"""The Ray actor of one worker, and its replies to the driver.

Actors reply through streaming generators: each `yield` is a heartbeat, the last one the result or the failure.
Ray itself restarts and retries nothing (`max_restarts=0, max_task_retries=0`): if it retried a generator that resumed
from a checkpoint, it would drop the first yields by index. The scheduler retries instead; state is kept in files.
"""

import os
import signal
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from types import FrameType, MappingProxyType
from typing import Any

from cluster.ray.nodes import DrainCheck
from cluster.scheduling.executor import PREEMPTED, Stage, Success, Worker, attempt
from cluster.scheduling.failures import Failure
from cluster.scheduling.workers import Progress

# Actors run side by side on all cores, one thread each; an OpenMP pool per actor would oversubscribe them.
ONE_THREAD = MappingProxyType(
    {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "MKL_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "NUMBA_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
)


@dataclass(frozen=True)
class Placed:
    """The actor's process has started on a node; its worker is being built."""

    pid: int
    node: str
    gpu: str


@dataclass(frozen=True)
class Built:
    """The worker has been built."""


class WorkerActor:
    """Builds the worker once in its own process, then processes items one at a time.

    At SIGTERM, Ray's own handler ends the process between any two lines, and often reports that it may have run out of
    memory. Here the worker leaves as from a node that is drained: after a checkpoint, or when it gets its next item.
    """

    def boot(self, make_worker: Callable[[], Worker]) -> Generator[Placed | Built | Failure, None, None]:
        import ray

        self.is_terminated, self.is_draining = False, DrainCheck(ray.get_runtime_context().get_node_id())
        signal.signal(signal.SIGTERM, self._terminate)  # Ray runs these methods in the main thread
        yield Placed(os.getpid(), self.is_draining.node, ",".join(str(gpu) for gpu in ray.get_gpu_ids()))
        try:
            self.worker = make_worker()
        except Exception as error:
            yield Failure.of(error)
        else:
            yield PREEMPTED if self._must_leave() else Built()

    def work(self, payload: Any) -> Generator[Progress | Success | Failure, None, None]:
        yield (yield from attempt(self.worker, payload, self._must_leave))

    def _must_leave(self) -> bool:
        return self.is_terminated or self.is_draining()

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        self.is_terminated = True


def create_actor(ray: Any, stage: Stage, environment: Mapping[str, str], label_selector: Mapping[str, str]) -> Any:
    """A new `WorkerActor` with the stage's resources, which Ray places on a node that the selector allows."""
    variables = dict(environment)
    if not stage.gpus:
        variables["CUDA_VISIBLE_DEVICES"] = ""
    options = ray.remote(WorkerActor).options(
        num_cpus=stage.cpus,
        num_gpus=stage.gpus,
        max_restarts=0,
        max_task_retries=0,
        runtime_env={"env_vars": variables},
        label_selector=dict(label_selector),
    )
    return options.remote()


def loss_of(ray: Any, error: BaseException, reason: str) -> Failure:
    """The failure of a lost actor: of its process alone, or of its node, which is not the item's fault."""
    errors = ray.exceptions
    if getattr(error, "preempted", False):
        return Failure("preempted", f"its node was preempted ({reason})")
    if "SIGTERM" in str(error):  # Ray's text about the end of the process or of its node
        return Failure("preempted", f"its process or node was terminated ({reason})")
    if isinstance(error, errors.ActorUnavailableError | errors.NodeDiedError) or "node has died" in str(error):
        return Failure("node_lost", f"its node was lost ({reason})")
    if isinstance(error, errors.OutOfMemoryError) or "memory pressure" in str(error):
        return Failure("died", f"its process was killed because the node ran out of memory ({reason})")
    return Failure("died", f"its process died ({reason})")
