"""`ExecutionOptions`: what a user chooses that does not affect the results of a run; and the executor of its work."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cluster.ray.address import address_of, endpoint
from cluster.scheduling.executor import BootError, Executor, InlineExecutor
from cluster.scheduling.stalls import StallTimeout
from pipeline.errors import UserError, nearest
from pipeline.events import tracking
from pipeline.events.progress import check_log
from pipeline.option import option
from pipeline.plan import score_at
from pipeline.store import manifest
from pipeline.work.placement import check_placement

EXECUTORS = "ray", "inline"
AUTO, MOST_PER_GPU = "auto", 32
SNAPSHOT_SECONDS = 3.0
MOST_WORKERS, MOST_WORKERS_PER_CORE = 1024, 8
MOST_CHECKPOINT_SECONDS = MOST_STALL_SECONDS = 86_400


@dataclass(frozen=True)
class ExecutionOptions:
    """How a run is executed and reported."""

    workers: int | None = option(
        None,
        metavar="N",
        help="Number of assets to generate in parallel.",
        show_default="one per GPU; without GPUs, one per CPU core",
    )
    assets_per_gpu: str = option(
        AUTO,
        metavar="N|auto",
        help="Number of assets to generate at once on each GPU. auto: as many as make it faster on this machine "
        "through NVIDIA MPS; 1 without MPS and on a Ray cluster.",
    )
    executor: str = option(
        "ray",
        metavar="NAME",
        complete=f"{__name__}:EXECUTORS",
        help="Executor: ray, or inline (run jobs sequentially in this process).",
    )
    eval_placement: str = option(
        "auto",
        metavar="PLACEMENT",
        complete="pipeline.work.placement:PLACEMENTS",
        help="Where to score assets: shared (0.2 of the GPU of a generation worker), dedicated (a GPU without "
        "generation workers; if there is only one GPU, after generation), cpu, or auto (currently shared).",
    )
    stall_seconds: float = option(
        StallTimeout().stall_seconds,
        metavar="SECONDS",
        help="Seconds without a heartbeat after which a worker is considered stalled; longer if its iterations are "
        "slow.",
    )
    checkpoint_seconds: float = option(
        20.0,
        metavar="SECONDS",
        help="Time between checkpoints of an asset, in seconds; 0 saves after every iteration.",
    )
    score_at: str | None = option(
        None,
        metavar="SHARES",
        help="Also score each asset after these shares of its iterations, for curves of score against cost: "
        "0.25,0.5,1.",
        show_default="the finished asset only",
    )
    log: str = option(
        "auto",
        metavar="FORMAT",
        complete="pipeline.events.progress:LOGS",
        help="Progress output: table, lines, json or auto. json is one event per line; auto is a table on a terminal, "
        "lines otherwise.",
    )
    track: str | None = option(
        None, metavar="NAME", help="Also log settings, losses and scores to an experiment tracker: mlflow or wandb."
    )
    report: bool = option(True, "--report/--no-report", help="Write the report pages to report/.")
    live: int | None = option(
        None,
        metavar="PORT",
        help="Show assets in the browser during generation, on this port of the loopback interface; 0 picks a free "
        "port. Requires pip install 'segmentdreamer[live]'.",
        show_default="off",
    )

    @property
    def shares(self) -> tuple[float, ...]:
        """Shares of the iterations after which each asset is scored; none without `score_at`. Raises UserError."""
        return () if self.score_at is None else score_at.parse(self.score_at)

    @property
    def snapshot_seconds(self) -> float:
        """Time between a worker's snapshots of its asset."""
        return math.inf if self.live is None else SNAPSHOT_SECONDS

    @property
    def cluster(self) -> str | None:
        """The address of the Ray cluster that does the work; None if this machine does."""
        return None if self.executor == "inline" else address_of()

    @property
    def cpus(self) -> int:
        """The least number of CPUs that Ray should count on this machine: one for each worker that was asked for."""
        if self.workers is not None or self.assets_per_gpu == AUTO:
            return self.workers or 0
        return int(self.assets_per_gpu) * len(manifest.gpus())

    @property
    def waits_for(self) -> str:
        """What a run waits for before its first worker starts."""
        if self.executor == "inline":
            return ""
        return f"the Ray cluster at {self.cluster}" if self.cluster else "Ray to start on this machine"

    def check(self) -> None:
        """Raise UserError for unknown names and values out of range."""
        check_log(self.log)
        check_placement(self.eval_placement)
        tracking.check(self.track)
        if not 1 <= self.stall_seconds <= MOST_STALL_SECONDS:
            raise UserError(f"--stall-seconds is {self.stall_seconds:g}; expected 1 to {MOST_STALL_SECONDS}.")
        self._check_workers()
        self._check_assets_per_gpu()
        if not 0 <= self.checkpoint_seconds <= MOST_CHECKPOINT_SECONDS:
            raise UserError(
                f"--checkpoint-seconds is {self.checkpoint_seconds:g}; expected 0 to {MOST_CHECKPOINT_SECONDS}."
            )
        _ = self.shares  # raises UserError

    def _check_workers(self) -> None:
        if self.executor not in EXECUTORS:
            hint = nearest(self.executor, EXECUTORS)
            raise UserError(
                f"Unknown value {self.executor!r} for --executor; choose from {', '.join(EXECUTORS)}{hint}."
            )
        cores, is_inline, address = manifest.cores(), self.executor == "inline", self.cluster
        if address:
            endpoint(address)  # raises ClusterError
        most = 1 if is_inline else MOST_WORKERS if address else MOST_WORKERS_PER_CORE * cores
        if self.workers is not None and not 1 <= self.workers <= most:
            limit = "1 (inline runs in one process)" if is_inline else f"1 to {most} ({cores} cores here)"
            raise UserError(f"--workers is {self.workers}; expected {limit}, or omit it.")

    def _check_assets_per_gpu(self) -> None:
        if self.assets_per_gpu == AUTO:
            return
        number = self.assets_per_gpu
        if not (number.isdecimal() and number.isascii() and 1 <= int(number) <= MOST_PER_GPU):
            raise UserError(f"--assets-per-gpu is {number!r}; expected 1 to {MOST_PER_GPU}, or auto.")
        if self.workers is not None:
            raise UserError("--assets-per-gpu and --workers both set the number of workers; omit one.")
        if self.executor == "inline" and int(number) > 1:
            raise UserError(f"--assets-per-gpu is {number}, but --executor inline runs one job at a time; omit one.")


@contextmanager
def executing(execution: ExecutionOptions) -> Iterator[Executor]:
    """The executor of these options, shut down at the end."""
    if execution.executor == "inline":
        yield InlineExecutor()
        return
    from cluster.ray.executor import RayExecutor
    from cluster.ray.session import disconnect

    try:
        timeout = StallTimeout(stall_seconds=execution.stall_seconds)
        yield RayExecutor(cpus=execution.cpus, stall_timeout=timeout)
    except BootError as error:
        error.add_note(error.failure.details)  # the worker's traceback, for --debug
        raise
    finally:
        disconnect()
