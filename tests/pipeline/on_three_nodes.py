"""Run by tests/pipeline/test_three_nodes.py: a Ray cluster of a head and two nodes, which ends with its input.

Each line that it reads takes a node away, and another joins.
"""

import sys
import warnings
from os import environ

warnings.simplefilter("ignore")
environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

from ray.cluster_utils import Cluster  # noqa: E402

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
print(cluster.address, flush=True)
for _ in sys.stdin:
    cluster.remove_node(nodes.pop(0), allow_graceful=False)
    nodes.append(cluster.add_node(num_cpus=1))
cluster.shutdown()
