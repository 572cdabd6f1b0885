"""The nodes of a Ray cluster: which are draining, how many workers they can hold, and how large their GPUs are."""

import math
import subprocess
import time
from typing import Any

from cluster.scheduling.executor import LEAVE_SECONDS, Stage

POLL_SECONDS = 2.0  # between two checks whether this node is draining
GPU_GIB = "gpu_gib"  # a custom resource of a node: the memory of each of its GPUs
QUERY_SECONDS = 30.0
NODE_ID = "ray.io/node-id"  # a label that Ray gives every node


class DrainCheck:
    """Whether the node of this process ends within `LEAVE_SECONDS`. Queries Ray at most every `POLL_SECONDS`.

    Ray does not enforce the deadline of a draining node; the cloud does. Work until shortly before it is not wasted.
    """

    def __init__(self, node: str):
        self.node, self.checked_at, self.answer = node, float("-inf"), False

    def __call__(self) -> bool:
        if not self.answer and time.monotonic() - self.checked_at >= POLL_SECONDS:
            self.checked_at = time.monotonic()
            self.answer = draining().get(self.node, math.inf) - time.time() <= LEAVE_SECONDS
        return self.answer


def draining() -> dict[str, float]:
    """The nodes that their cloud or the autoscaler has announced to remove, with the time of the removal.

    0 is as soon as possible. Empty if Ray does not answer.
    """
    # Ray has no public API for this; its own libraries (Train, Serve, Data) use this one.
    from ray._private.state import state

    try:
        return {node: milliseconds / 1000 for node, milliseconds in state.get_draining_nodes().items()}
    except Exception:  # any error: the loss of a node without notice is handled as well
        return {}


class Nodes:
    """The driver's view of the nodes."""

    def __init__(self, ray: Any):
        self.ray = ray
        self._gpu_gib: dict[str, float | None] = {}  # None: unknown

    def alive(self) -> list[dict[str, Any]]:
        """The nodes that are alive and not draining, as Ray describes them."""
        leaving = draining()
        return [node for node in self.ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]

    def capacity(self, stage: Stage) -> int:
        """How many workers of a stage the cluster could hold if it held nothing else."""
        return sum(_capacity(node["Resources"], stage) for node in self.alive() if self._fits(node, stage))

    def can_hold(self, stage: Stage) -> bool:
        """Whether some node is large enough for one worker."""
        return self.capacity(stage) > 0

    def is_fit(self, node_id: str, stage: Stage) -> bool:
        """Whether a node's GPUs are large enough for a stage."""
        return all(self._fits(node, stage) for node in self.alive() if node["NodeID"] == node_id)

    def selector(self, stage: Stage) -> dict[str, str]:
        """A label selector that excludes nodes whose GPUs are too small for a stage."""
        unfit = [node["NodeID"] for node in self.alive() if not self._fits(node, stage)]
        return {NODE_ID: f"!in({', '.join(unfit)})"} if unfit else {}

    def largest_gpu_gib(self) -> float:
        """Memory of the largest GPU of known size; 0 if there is none."""
        return max((size for node in self.alive() if (size := self._size(node)) is not None), default=0.0)

    def _fits(self, node: dict[str, Any], stage: Stage) -> bool:
        """A GPU of unknown size is used; if it is too small, the worker fails with an out-of-memory error."""
        if not stage.min_gpu_gib or not stage.gpus or not node["Resources"].get("GPU"):
            return True
        size = self._size(node)
        return size is None or size >= stage.min_gpu_gib

    def _size(self, node: dict[str, Any]) -> float | None:
        if not node["Resources"].get("GPU"):
            return None
        if GPU_GIB in node["Resources"]:
            return float(node["Resources"][GPU_GIB])
        if node["NodeID"] not in self._gpu_gib:
            self._gpu_gib[node["NodeID"]] = self._query(node["NodeID"])
        return self._gpu_gib[node["NodeID"]]

    def _query(self, node_id: str) -> float | None:
        query = self.ray.remote(smallest_gpu_gib).options(num_cpus=0, label_selector={NODE_ID: node_id})
        try:
            return self.ray.get(query.remote(), timeout=QUERY_SECONDS)
        except self.ray.exceptions.RayError:
            return None


def smallest_gpu_gib() -> float | None:
    """Memory of the smallest NVIDIA GPU of this machine, rounded to GiB; None if nvidia-smi reports none."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return float(min(round(int(line) / 1024) for line in done.stdout.split()))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _capacity(resources: dict[str, float], stage: Stage) -> int:
    """How many workers fit on a node. A worker's share of a GPU is never split over two GPUs."""
    counts = []
    if stage.cpus:
        counts.append(int(resources.get("CPU", 0.0) / stage.cpus + 1e-6))
    if stage.gpus:
        gpus = int(resources.get("GPU", 0.0))
        on_gpu = stage.per_gpu or int(1 / stage.gpus + 1e-6)
        counts.append(gpus * on_gpu if stage.gpus <= 1 else int(gpus / stage.gpus))
    return min(counts, default=1)
