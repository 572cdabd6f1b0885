"""cluster.kubernetes.quota: what a job needs, which a queue would count, and who refuses it."""

from decimal import Decimal

from cluster.kubernetes import quota
from tests.support.cluster_jobs import job

BASE = {"image": "images.example/sd:1", "ray_version": "2.60.0", "storage": "runs"}


def test_the_pods_of_a_job_are_its_head_its_workers_and_the_submitter():
    head, worker, submitter = quota.pods(job(**BASE, gpus=16, gpus_per_worker=8, cpus=30, memory=200))
    assert (head.requests, head.most) == ({"cpu": 2, "memory": 8 * 2**30}, 1)
    assert worker.requests == {"cpu": 30, "memory": 200 * 2**30, "nvidia.com/gpu": 8}
    assert (worker.fewest, worker.most, worker.nodes) == (2, 2, "any node")
    assert submitter.requests == {"cpu": Decimal("0.5"), "memory": 2**30}


def test_the_autoscaler_and_a_larger_init_container_count():
    """Kubernetes counts the containers of a pod together, or its largest init container if that needs more."""
    elastic = job(("bench", "--workers", "4"), **BASE, gpus=2, max_workers=4)
    head, worker, _ = quota.pods(elastic)
    assert head.requests == {"cpu": Decimal("2.5"), "memory": 8 * 2**30 + 512 * 2**20}
    assert (worker.fewest, worker.most) == (2, 4)
    _, small, _ = quota.pods(job(**BASE, weights="models", cpus=1, memory=2))
    assert small.requests["memory"] == 4 * 2**30, "the loader of the weights"


def test_the_table_sums_by_kind_of_node():
    options = {"gpus": 4, "gpu_type": "H100", "spot": True, "queue": "gpus", "priority": "low", "max_workers": 6}
    text = quota.table(job(("bench", "--workers=6"), **BASE, **options))
    lines = [line.split() for line in text.splitlines()]
    assert ["head", "1", "2.5", "8.5", "GiB", "-", "any", "node"] in lines
    assert ["2", "3", "9.5", "GiB", "-", "any", "node"] in lines
    assert ["4", "to", "6", "48", "192", "GiB", "6", "spot,", "nvidia.com/gpu.product=H100"] in lines
    assert "refused by" not in text
    assert "  a WorkloadPriorityClass low\n" in text
    assert "  Kueue's feature gate ElasticJobsViaWorkloadSlices, or it counts the first workers only\n" in text


def test_what_pod_security_refuses_is_named():
    assert quota.refusals(job(**BASE)) == []
    (hostpath,) = quota.refusals(job(**BASE, weights="published"))
    assert hostpath.startswith("Pod Security, levels baseline and restricted: pods share the weights in a folder of")
    (nfs,) = quota.refusals(job(**BASE | {"storage": "nfs://files/runs"}))
    assert nfs == "Pod Security, level restricted: a pod mounts NFS itself; pass a PersistentVolumeClaim."


def test_what_a_cluster_must_have_is_named():
    assert quota.conditions(job(**BASE)) == []
    assert quota.conditions(job(**BASE, priority="high")) == ["a PriorityClass high"]
    queued = quota.conditions(job(**BASE, queue="q", managed_by="kueue.x-k8s.io/multikueue", secrets=("hub=HF_TOKEN",)))
    assert [text.split(" ")[0:2] for text in queued] == [["a", "LocalQueue"], ["MultiKueue,", "and"], ["the", "key"]]
