"""Script of tests/cluster/ray/test_gpu_nodes.py: nodes with declared GPUs that do not exist."""

import json
import os
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

warnings.simplefilter("ignore")

from tests.support import fake_workers  # noqa: E402

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from ray.core.generated import autoscaler_pb2  # noqa: E402

from cluster.ray.address import ClusterError  # noqa: E402
from cluster.ray.executor import RayExecutor  # noqa: E402
from cluster.ray.session import disconnect  # noqa: E402
from cluster.scheduling.scheduler import HANDOFF, Limits  # noqa: E402

ITEMS = [f"ok-{number}" for number in range(HANDOFF + 3)]


def run(executor, stages, items, watch):
    return [[outcome.item, outcome.result, outcome.deaths] for outcome in executor.run(stages, items, watch)]


def drain(node: str) -> None:
    """Announce the removal of a node in ten seconds, as a cloud does."""
    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    ray._private.worker.global_worker.gcs_client.drain_node(node, reason, "spot", int(time.time() + 10) * 1000)


def main(folder: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=4, num_gpus=1, resources={"gpu_gib": 8})
    large = cluster.add_node(num_cpus=4, num_gpus=1, resources={"gpu_gib": 24})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    ray.cloudpickle.register_pickle_by_value(fake_workers)
    executor = RayExecutor(limits=Limits(backoff_seconds=0.5), infeasible_seconds=1, placement_seconds=1)
    generate, evaluate = fake_workers.stages(folder, generators=1)
    events, facts = [], {"large": large.node_id}

    def watch(event):
        events.append([event.kind, event.stage, event.worker, event.item, event.node, event.error_kind])

    # Both stages need all of the only GPU that is large enough, so they must alternate.
    whole = {"gpus": 1, "min_gpu_gib": 16}
    facts["turns"] = run(executor, [replace(generate, **whole), replace(evaluate, **whole)], ITEMS, watch)
    facts["turns_events"], events = events, []

    try:
        run(executor, [replace(generate, gpus=1, min_gpu_gib=80)], ["ok-x"], watch)
    except ClusterError as error:
        facts["too_large"] = str(error)

    events, joined = [], []

    def watch_and_join(event):
        watch(event)
        if event.kind == "progress" and event.progress.done == 3 and not joined:
            joined.append(cluster.add_node(num_cpus=4, num_gpus=1, resources={"gpu_gib": 24}).node_id)
        if event.kind == "started" and event.worker == 1:
            drain(large.node_id)
        if event.kind == "retried":
            (folder / "released").touch()

    elastic = replace(generate, **whole, elastic=True)
    facts["elastic"] = run(executor, [elastic], ["long-a", "long-b"], watch_and_join)
    facts |= {"elastic_events": events, "joined": joined}
    (folder / "facts.json").write_text(json.dumps(facts))
    disconnect()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
