"""What a RayJob asks of a cluster: pods and resources by the nodes they need, and who refuses it. Asks no cluster."""

from decimal import Decimal
from typing import NamedTuple

from cluster.jobs.description import MULTIKUEUE, NFS, PUBLISHED, ClusterJob
from cluster.kubernetes import models as m
from cluster.kubernetes.pod_template import GPU
from cluster.kubernetes.rayjob import ray_job

_UNITS = {"m": Decimal("0.001"), "Mi": Decimal(2**20), "Gi": Decimal(2**30)}
_ANY = "any node"


class Pods(NamedTuple):
    """Equal pods of a job."""

    role: str
    fewest: int
    most: int
    requests: dict[str, Decimal]  # of one pod: cores, bytes, GPUs
    nodes: str


def pods(job: ClusterJob) -> list[Pods]:
    """The pods that a queue counts: the head, the workers, and the submitter. Raises ManifestError."""
    spec = ray_job(job).spec
    cluster = spec.ray_cluster_spec
    (group,) = cluster.worker_group_specs
    head, workers = _requests(cluster.head_group_spec.template.spec), _requests(group.template.spec)
    if cluster.autoscaler_options:
        for name, amount in cluster.autoscaler_options.resources.requests.items():
            head[name] += _number(amount)
    spots = ("spot",) if job.spot else ()
    labels = [f"{key}={value}" for key, value in (group.template.spec.node_selector or {}).items()]
    memory = [f"GPUs of at least {job.gpu_memory} GB"] if job.gpu_memory else []
    return [
        Pods("head", 1, 1, head, _ANY),
        Pods("worker", *job.worker_range, workers, ", ".join([*spots, *labels, *memory]) or _ANY),
        Pods("submitter", 1, 1, _requests(spec.submitter_pod_template.spec), _ANY),
    ]


def _requests(pod: m.PodSpec) -> dict[str, Decimal]:
    """What the scheduler and a queue count for a pod: its containers together, or its largest init container."""
    found: dict[str, Decimal] = {}
    for container in pod.containers:
        for name, amount in container.resources.requests.items():
            found[name] = found.get(name, Decimal(0)) + _number(amount)
    for container in pod.init_containers or ():
        for name, amount in container.resources.requests.items():
            found[name] = max(found.get(name, Decimal(0)), _number(amount))
    return found


def _number(amount: str) -> Decimal:
    unit = next((unit for unit in _UNITS if amount.endswith(unit)), "")
    return Decimal(amount.removesuffix(unit)) * _UNITS.get(unit, Decimal(1))


def refusals(job: ClusterJob) -> list[str]:
    """Who would refuse the job, and why, as far as the job itself says."""
    found = []
    if job.weights == PUBLISHED:
        found.append(
            "Pod Security, levels baseline and restricted: pods share the weights in a folder of their node (hostPath) "
            "that root fills; pass --weights CLAIM."
        )
    if NFS in ((job.volume or "") + job.weights):
        found.append("Pod Security, level restricted: a pod mounts NFS itself; pass a PersistentVolumeClaim.")
    return found


def conditions(job: ClusterJob) -> list[str]:
    """What the cluster must have for the job to start."""
    found = []
    if job.queue:
        found.append(f"a LocalQueue {job.queue} of Kueue in the namespace, whose ClusterQueue covers these resources")
    if job.priority:
        found.append(f"a {'WorkloadPriorityClass' if job.queue else 'PriorityClass'} {job.priority}")
    if job.queue and job.is_elastic:
        found.append("Kueue's feature gate ElasticJobsViaWorkloadSlices, or it counts the first workers only")
    if job.managed_by == MULTIKUEUE:
        found.append("MultiKueue, and the storage, the secrets and the image in each of its clusters")
    if job.spot:
        found.append("spot nodes with the label of Google, Amazon, Azure or Karpenter; no other has one of them")
    found += [f"the key {secret.key} of a Secret {secret.name}" for secret in job.secrets]
    return found


def table(job: ClusterJob) -> str:
    """The pods, the quota by kind of node, refusals and conditions as text. Raises ManifestError."""
    all_pods = pods(job)
    lines = [f"{'pods':12}{'number':>9}{'cores':>9}{'memory':>10}{'GPUs':>6}  nodes"]
    lines += [_row(each.role, each.fewest, each.most, each.requests, each.nodes) for each in all_pods]
    lines.append("quota needed, with the most workers:")
    for nodes in dict.fromkeys(each.nodes for each in all_pods):
        those = [each for each in all_pods if each.nodes == nodes]
        total: dict[str, Decimal] = {}
        for each in those:
            for name, amount in each.requests.items():
                total[name] = total.get(name, Decimal(0)) + each.most * amount
        lines.append(_row("", sum(e.fewest for e in those), sum(e.most for e in those), total, nodes))
    for title, found in (("refused by", refusals(job)), ("needs", conditions(job))):
        lines += [f"{title}:", *(f"  {each}" for each in found)] if found else []
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _row(role: str, fewest: int, most: int, requests: dict[str, Decimal], nodes: str) -> str:
    number = f"{most}" if fewest == most else f"{fewest} to {most}"
    cores, gib = f"{requests['cpu'].normalize():f}", f"{(requests['memory'] / 2**30).normalize():f} GiB"
    gpus = f"{requests[GPU].normalize():f}" if GPU in requests else "-"
    return f"{role:12}{number:>9}{cores:>9}{gib:>10}{gpus:>6}  {nodes}"
