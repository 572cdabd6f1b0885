"""Errors about missing resources: Ray itself would wait silently for nodes that do not exist or are not free."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from cluster.ray.address import ClusterError
from cluster.ray.nodes import Nodes
from cluster.scheduling.executor import Stage
from cluster.scheduling.workers import Workers


class ResourceCheck:
    """Stops a run if all workers of a stage wait for resources.

    Resources that no node has are reported after `infeasible_seconds`, those that are not free after `boot_seconds`.
    """

    def __init__(self, ray: Any, nodes: Nodes, infeasible_seconds: float, boot_seconds: float):
        self.ray, self.nodes = ray, nodes
        self.infeasible_seconds, self.boot_seconds = infeasible_seconds, boot_seconds
        self.waiting_since: dict[str, float] = {}  # by stage, while all its workers are starting

    def check(self, stages: Sequence[Stage], workers: Workers) -> None:
        """Raise ClusterError if a stage has waited too long."""
        now = workers.clock()
        for stage in stages:
            states = {view.state for view in workers.views.values() if view.stage == stage.name}
            if states == {"starting"}:
                self._check_wait(stage, now - self.waiting_since.setdefault(stage.name, now))
            elif states:
                self.waiting_since.pop(stage.name, None)

    def _check_wait(self, stage: Stage, waited: float) -> None:
        if waited > self.infeasible_seconds and not self.nodes.can_hold(stage):
            if stage.gpus and self.nodes.can_hold(replace(stage, min_gpu_gib=0.0)):
                raise ClusterError(
                    f"No GPU is large enough for a {stage.name} worker: each needs one of {stage.min_gpu_gib:g} GiB "
                    f"(compute.min_gpu_gib), and the largest of the cluster has {self.nodes.largest_gpu_gib():g} GiB; "
                    "add a node with a larger GPU, or request less."
                )
            total = self.ray.cluster_resources()
            raise ClusterError(
                f"No node can fit a {stage.name} worker: each needs {stage.cpus:g} CPU and {stage.gpus:g} GPU, and "
                f"the whole cluster has {total.get('CPU', 0):g} CPU and {total.get('GPU', 0):g} GPU; add such a node, "
                "or request less."
            )
        if waited > self.boot_seconds:
            free = self.ray.available_resources()
            raise ClusterError(
                f"No {stage.name} worker was ready after {self.boot_seconds:.0f} s: each needs "
                f"{stage.cpus:g} CPU and {stage.gpus:g} GPU, of which the cluster has "
                f"{free.get('CPU', 0):g} and {free.get('GPU', 0):g} free; request fewer --workers."
            )
