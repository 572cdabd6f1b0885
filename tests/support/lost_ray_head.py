"""A Ray cluster of one node for tests/pipeline/faults/test_lost_head.py. It prints its address and ends with its input.

An input line kills the process of the head that the driver, the workers and the nodes are connected to; the answer is
`lost`.
"""

import sys
import warnings
from os import environ

warnings.simplefilter("ignore")
environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

from ray.cluster_utils import Cluster  # noqa: E402

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
print(cluster.address, flush=True)
if sys.stdin.readline():
    (gcs_server,) = cluster.head_node.all_processes["gcs_server"]
    gcs_server.process.kill()
    gcs_server.process.wait()
    print("lost", flush=True)
    sys.stdin.read()
for processes in cluster.head_node.all_processes.values():
    for process in processes:
        process.process.kill()
