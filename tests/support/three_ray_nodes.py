"""A Ray cluster of a head and two nodes for tests/pipeline/faults/test_three_nodes.py. It ends at the end of its input.

Each input line is the id of a worker process: its node is removed, and a new node joins.
"""

import sys
import warnings
from os import environ
from pathlib import Path

warnings.simplefilter("ignore")
environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")

from ray.cluster_utils import Cluster  # noqa: E402

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
print(cluster.address, flush=True)
for line in sys.stdin:
    raylet = int(Path(f"/proc/{line.strip()}/stat").read_text().rpartition(")")[2].split()[1])  # the parent
    (node,) = [node for node in nodes if node.all_processes["raylet"][0].process.pid == raylet]
    nodes.remove(node)
    cluster.remove_node(node, allow_graceful=False)
    nodes.append(cluster.add_node(num_cpus=1))
cluster.shutdown()
