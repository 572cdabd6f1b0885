"""The nodes of a Ray cluster: which are leaving, how much room they have, how large their GPUs are."""

import subprocess
import time
from typing import Any

from cluster.scheduling.executor import Stage

POLL_SECONDS = 2.0  # between two questions whether this node is leaving: notices come at least 30 s before
GPU_GIB = "gpu_gib"  # a node's custom resource, which says how large each of its GPUs is
ANSWER_SECONDS = 30.0
NODE_ID = "ray.io/node-id"  # a label that Ray gives every node


class Leaving:
    """Whether the node of this process will be taken away. Called as often as one likes, it asks now and then."""

    def __init__(self, node: str):
        self.node, self.asked_at, self.answer = node, float("-inf"), False

    def __call__(self) -> bool:
        if not self.answer and time.monotonic() - self.asked_at >= POLL_SECONDS:
            self.asked_at = time.monotonic()
            self.answer = self.node in draining()
        return self.answer


def draining() -> set[str]:
    """The nodes that will be taken away, by a notice of their cloud or of the autoscaler. Nobody, if Ray is silent."""
    # Ray has no public name for it; its own libraries (Train, Serve, Data) ask here.
    from ray._private.state import state

    try:
        return set(state.get_draining_nodes())
    except Exception:  # whatever it is: a node that is lost without a notice is dealt with, too
        return set()


class Nodes:
    """What the driver knows of them."""

    def __init__(self, ray: Any):
        self.ray = ray
        self._gpu_gib: dict[str, float | None] = {}  # None: nobody knows

    def alive(self) -> list[dict[str, Any]]:
        """Those that will stay, as Ray describes them."""
        leaving = draining()
        return [node for node in self.ray.nodes() if node["Alive"] and node["NodeID"] not in leaving]

    def room(self, stage: Stage) -> int:
        """How many workers of a stage the cluster could hold if it held nothing else."""
        return sum(_room(node["Resources"], stage) for node in self.alive() if self._fits(node, stage))

    def can_hold(self, stage: Stage) -> bool:
        """Whether some node is large enough for one worker."""
        return self.room(stage) > 0

    def is_fit(self, node_id: str, stage: Stage) -> bool:
        """Whether a node's GPUs are large enough for a stage."""
        return all(self._fits(node, stage) for node in self.alive() if node["NodeID"] == node_id)

    def selector(self, stage: Stage) -> dict[str, str]:
        """A label selector that keeps a stage's workers from nodes with too small GPUs."""
        unfit = [node["NodeID"] for node in self.alive() if not self._fits(node, stage)]
        return {NODE_ID: f"!in({', '.join(unfit)})"} if unfit else {}

    def largest_gpu_gib(self) -> float:
        """Memory of the largest GPU whose size is known; 0 where none is."""
        return max((size for node in self.alive() if (size := self._size(node)) is not None), default=0.0)

    def _fits(self, node: dict[str, Any], stage: Stage) -> bool:
        """A GPU of unknown size is tried: if it is too small, that is said by an out-of-memory error."""
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
            self._gpu_gib[node["NodeID"]] = self._asked(node["NodeID"])
        return self._gpu_gib[node["NodeID"]]

    def _asked(self, node_id: str) -> float | None:
        question = self.ray.remote(smallest_gpu_gib).options(num_cpus=0, label_selector={NODE_ID: node_id})
        try:
            return self.ray.get(question.remote(), timeout=ANSWER_SECONDS)
        except self.ray.exceptions.RayError:
            return None


def smallest_gpu_gib() -> float | None:
    """Memory of the smallest NVIDIA GPU of this machine, rounded to GiB; None where there is none to ask."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
        return float(min(round(int(line) / 1024) for line in done.stdout.split()))
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _room(resources: dict[str, float], stage: Stage) -> int:
    """How many workers fit on a node: no one's share of a GPU is spread over two."""
    rooms = []
    if stage.cpus:
        rooms.append(int(resources.get("CPU", 0.0) / stage.cpus + 1e-6))
    if stage.gpus:
        count = int(resources.get("GPU", 0.0))
        rooms.append(count * int(1 / stage.gpus + 1e-6) if stage.gpus <= 1 else int(count / stage.gpus))
    return min(rooms, default=1)
