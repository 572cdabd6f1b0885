"""Script of tests/cluster/ray/test_head.py: a run whose calls are lost."""

import json
import os
import sys
import warnings
from pathlib import Path

warnings.simplefilter("ignore")

from tests.support import fake_workers  # noqa: E402

os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
import ray  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402

from cluster.ray.executor import RayExecutor  # noqa: E402
from cluster.ray.session import disconnect  # noqa: E402
from cluster.scheduling.scheduler import Limits  # noqa: E402

ITEMS = [f"step-{number}" for number in range(8)]


def main(folder: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    ray.cloudpickle.register_pickle_by_value(fake_workers)
    left = [item for item in ITEMS if not (folder / f"{item}.outcome").exists()]
    executor = RayExecutor(limits=Limits(backoff_seconds=0.1))
    for outcome in executor.run(fake_workers.stages(folder, 1, 0.05), left):
        (folder / f"{outcome.item}.outcome").write_text(json.dumps([outcome.result, outcome.deaths]))
    disconnect()
    cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
