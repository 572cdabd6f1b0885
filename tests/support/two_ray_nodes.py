"""Script of tests/cluster/ray/test_two_nodes.py: a node is lost while it works, and another joins."""

import json
import os
import signal
import sys
import warnings
from contextlib import suppress
from pathlib import Path

warnings.simplefilter("ignore")

from tests.support import fake_workers  # noqa: E402

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from cluster.ray.executor import RayExecutor  # noqa: E402
from cluster.ray.session import disconnect  # noqa: E402
from cluster.scheduling.scheduler import Limits  # noqa: E402

ITEMS = ["held_once-a", "ok-b"]  # the first stops at its third step until its node is lost


def main(folder: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1)]
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    ray.cloudpickle.register_pickle_by_value(fake_workers)
    events, workers = [], []

    def watch(event):
        events.append([event.kind, event.stage, event.item, event.note])
        if event.kind == "ready" and event.stage == "generate":
            workers.append(event.pid)
        if event.kind == "progress" and event.item == ITEMS[0] and event.progress.done == 3 and len(nodes) == 1:
            cluster.remove_node(nodes[0], allow_graceful=False)
            nodes.append(cluster.add_node(num_cpus=1))

    run = RayExecutor(limits=Limits(backoff_seconds=0.1)).run(fake_workers.stages(folder, generators=1), ITEMS, watch)
    outcomes = [[outcome.item, outcome.result, outcome.deaths] for outcome in run]
    with suppress(ProcessLookupError):
        os.kill(workers[0], signal.SIGKILL)
    (folder / "facts.json").write_text(json.dumps({"outcomes": outcomes, "events": events}))
    disconnect()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
