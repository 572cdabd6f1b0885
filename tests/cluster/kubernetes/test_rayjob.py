"""RayJob and RayCluster manifests: what each option of a job becomes, and which options are refused."""

import pytest

from cluster.jobs.errors import ManifestError
from cluster.kubernetes import rayjob
from cluster.kubernetes.models import RayJob, as_yaml
from tests.support.cluster_jobs import job

BASE = {"name": "night", "image": "images.example/sd:1", "ray_version": "2.60.0", "storage": "runs"}


def made(**options) -> RayJob:
    return rayjob.ray_job(job(**BASE | options))


def container(manifest: RayJob, group: int = 0):
    return manifest.spec.ray_cluster_spec.worker_group_specs[group].template.spec.containers[0]


def test_a_ray_job_has_retries_limits_and_a_token():
    spec = made(deadline_hours=2, start_minutes=10, keep_minutes=5).spec
    assert (spec.submission_mode, spec.backoff_limit, spec.shutdown_after_job_finishes) == ("K8sJobMode", 2, True)
    limits = spec.active_deadline_seconds, spec.pre_running_deadline_seconds, spec.ttl_seconds_after_finished
    assert limits == (7200, 600, 300)
    assert spec.ray_cluster_spec.auth_options.mode == "token"
    assert spec.ray_cluster_spec.head_group_spec.service_type == "ClusterIP"


def test_the_dashboard_of_a_ray_cluster_listens_on_loopback_by_default():
    shared = job(**BASE, command=())
    assert rayjob.ray_cluster(shared).spec.head_group_spec.ray_start_params["dashboard-host"] == "127.0.0.1"
    public = shared.model_copy(update={"dashboard_host": "0.0.0.0"})
    assert rayjob.ray_cluster(public).spec.head_group_spec.ray_start_params["dashboard-host"] == "0.0.0.0"


def test_gpus_are_spread_over_pods_on_nodes_that_have_them():
    manifest = made(gpus=16, gpus_per_worker=8, gpu_type="NVIDIA-H100-80GB-HBM3", gpu_memory=80)
    (group,) = manifest.spec.ray_cluster_spec.worker_group_specs
    pod = group.template.spec
    assert (group.replicas, pod.containers[0].resources.limits["nvidia.com/gpu"]) == (2, "8")
    assert pod.node_selector == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    (expression,) = pod.affinity.node_affinity.required_during_scheduling_ignored_during_execution.node_selector_terms[
        0
    ].match_expressions
    assert 40_960 < int(expression.values[0]) < 81_559, "an H100 of 80 GB has 81,559 MiB"
    assert made(gpus=1, gpu_type="cloud/accelerator=l4").spec.ray_cluster_spec.worker_group_specs[
        0
    ].template.spec.node_selector == {"cloud/accelerator": "l4"}
    assert "nvidia.com/gpu" not in as_yaml(made(gpus=0))


@pytest.mark.parametrize(
    ("weights", "volume", "user", "is_read_only"),
    [("published", "host_path", 0, True), ("models", "persistent_volume_claim", 1000, False)],
)
def test_one_pod_per_volume_fetches_the_weights(weights, volume, user, is_read_only):
    pod = made(weights=weights).spec.ray_cluster_spec.worker_group_specs[0].template.spec
    (loader,) = pod.init_containers
    assert loader.command[:2] == ("flock", "/weights/.loading")
    assert "weights fetch" in " ".join(loader.command)
    assert loader.security_context.run_as_user == user
    assert getattr(next(v for v in pod.volumes if v.name == "weights"), volume)
    (mount,) = [m for m in pod.containers[0].volume_mounts if m.name == "weights"]
    assert mount.read_only is is_read_only
    assert pod.containers[0].security_context.run_as_non_root


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"storage": "s3://bucket/runs/"}, ["bench", "--out", "s3://bucket/runs/night"]),
        ({"storage": None, "command": ("bench", "--out=gs://bucket/x")}, ["bench", "--out=gs://bucket/x"]),
        ({"storage": None, "command": ("evaluate", "s3://bucket/x")}, ["evaluate", "s3://bucket/x"]),
    ],
)
def test_a_bucket_is_storage_without_a_volume(options, words):
    """Each job, and so each tick of a schedule, has its own folder in the bucket."""
    found = job(**BASE | {"weights": "published"} | options)
    assert found.words == words
    text = as_yaml(rayjob.ray_job(found))
    assert "/storage" not in text
    assert "mountPath: /weights" in text


def test_secrets_are_referenced_by_name_only():
    (variable,) = [
        v for v in container(made(secrets=("hub=HF_TOKEN",), weights="published")).env if v.name == "HF_TOKEN"
    ]
    assert variable.value is None
    assert variable.value_from.secret_key_ref.name == "hub"
    for literal in ("HF_TOKEN=hf_secretsecret", "hub", "hub=", "hub=a-b", "=HF_TOKEN"):
        with pytest.raises(ManifestError) as error:
            made(secrets=(literal,))
        assert "hf_secret" not in str(error.value)


def test_a_queue_orders_by_its_own_priority_and_pods_by_theirs():
    queued = made(queue="gpus", priority="high")
    assert queued.metadata.labels == {"kueue.x-k8s.io/queue-name": "gpus", "kueue.x-k8s.io/priority-class": "high"}
    assert "priorityClassName" not in as_yaml(queued)
    plain = made(priority="high").spec
    assert made(priority="high").metadata.labels is None
    cluster = plain.ray_cluster_spec
    templates = cluster.head_group_spec.template, cluster.worker_group_specs[0].template, plain.submitter_pod_template
    assert [template.spec.priority_class_name for template in templates] == ["high"] * 3


def test_workers_run_on_spot_nodes_of_any_provider_and_the_head_does_not():
    """Terms of a node affinity are alternatives, their expressions belong together."""
    cluster = made(spot=True, gpu_memory=40).spec.ray_cluster_spec
    pod = cluster.worker_group_specs[0].template.spec
    terms = pod.affinity.node_affinity.required_during_scheduling_ignored_during_execution.node_selector_terms
    assert [tuple(e.key for e in term.match_expressions) for term in terms] == [
        ("nvidia.com/gpu.memory", label)
        for label in (
            "cloud.google.com/gke-spot",
            "kubernetes.azure.com/scalesetpriority",
            "eks.amazonaws.com/capacityType",
            "karpenter.sh/capacity-type",
        )
    ]
    assert {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority"} < {t.key for t in pod.tolerations}
    head = cluster.head_group_spec.template.spec
    assert (head.affinity, head.tolerations) == (None, None)


def test_taints_are_tolerated_by_all_pods_and_labels_asked_of_workers():
    spec = made(tolerations=("a=b:NoExecute", "c:NoSchedule", "d"), node_selectors=("zone=x",), gpus=0).spec
    cluster = spec.ray_cluster_spec
    worker, head = cluster.worker_group_specs[0].template.spec, cluster.head_group_spec.template.spec
    found = [(t.key, t.operator, t.value, t.effect) for t in head.tolerations]
    assert found == [("a", "Equal", "b", "NoExecute"), ("c", "Exists", None, "NoSchedule"), ("d", "Exists", None, None)]
    assert worker.tolerations == head.tolerations == spec.submitter_pod_template.spec.tolerations
    assert (worker.node_selector, head.node_selector) == ({"zone": "x"}, None)


def test_rays_autoscaler_changes_the_number_of_workers():
    elastic = made(command=("bench", "--workers", "8"), gpus=4, min_workers=0, max_workers=8, queue="gpus")
    cluster = elastic.spec.ray_cluster_spec
    (group,) = cluster.worker_group_specs
    assert (group.min_replicas, group.replicas, group.max_replicas) == (0, 4, 8)
    assert cluster.enable_in_tree_autoscaling
    assert elastic.metadata.annotations["kueue.x-k8s.io/elastic-job"] == "true"
    head = cluster.head_group_spec.template.spec
    assert head.automount_service_account_token is None, "the autoscaler asks Kubernetes for pods"
    fixed = made(gpus=4)
    (group,) = fixed.spec.ray_cluster_spec.worker_group_specs
    assert (group.min_replicas, group.replicas, group.max_replicas) == (4, 4, 4)
    assert fixed.spec.ray_cluster_spec.enable_in_tree_autoscaling is None
    assert fixed.spec.ray_cluster_spec.head_group_spec.template.spec.automount_service_account_token is False
    assert "kueue.x-k8s.io/elastic-job" not in fixed.metadata.annotations


def test_multikueue_manages_the_job_and_not_its_cluster():
    manifest = made(queue="gpus", managed_by="kueue.x-k8s.io/multikueue")
    assert manifest.spec.managed_by == "kueue.x-k8s.io/multikueue"
    assert manifest.spec.ray_cluster_spec.managed_by is None
    shared = job(**BASE, command=(), queue="gpus", managed_by="kueue.x-k8s.io/multikueue")
    assert rayjob.ray_cluster(shared).spec.managed_by == "kueue.x-k8s.io/multikueue"


def test_a_network_policy_lets_in_the_jobs_pods_the_operator_and_metrics():
    policy = rayjob.network_policy("night", None).tree()["spec"]
    labels = made().spec.ray_cluster_spec.head_group_spec.template.metadata.labels
    assert policy["podSelector"] == {"matchLabels": labels}
    own, operator, prometheus = policy["ingress"]
    assert own == {"from": [{"podSelector": {"matchLabels": labels}}]}
    assert [port["port"] for rule in (operator, prometheus) for port in rule["ports"]] == [8265, 8080]
    assert policy["policyTypes"] == ["Ingress"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"node_selectors": ("zone",)}, "`node_selector` is 'zone'; expected LABEL=VALUE."),
        ({"tolerations": ("a=b:Never",)}, "`toleration` is 'a=b:Never'; expected KEY, KEY=VALUE or KEY=VALUE:NoSched"),
        ({"priority": "High!"}, "`priority` is 'High!'; expected the name of a priority class."),
        ({"managed_by": "me"}, "`managed_by` is 'me'; expected kueue.x-k8s.io/multikueue or ray.io/kuberay-operator."),
        (
            {"managed_by": "kueue.x-k8s.io/multikueue"},
            "`managed_by` names MultiKueue, which starts jobs of a queue; set",
        ),
        ({"max_workers": 0}, "`min_workers` is 1 and `max_workers` 0; the job starts with 1 worker pods"),
        ({"min_workers": 0}, "pass --workers N after the command, too"),
        ({"gpus": 3, "gpus_per_worker": 2}, "`gpus` is 3 and `gpus_per_worker` is 2; `gpus` must be a multiple"),
        ({"cpus": 0}, "`cpus` is 0 and `memory` is 32"),
        ({"gpus": 0, "gpu_memory": 24}, "`gpus` is 0, but `gpu_type` or `gpu_memory` is set"),
        ({"deadline_hours": 0}, "`deadline_hours` 0"),
        (
            {"storage": "ftp://files/runs"},
            "`storage` is 'ftp://files/runs'; expected the name of a PersistentVolumeClaim, nfs://SERVER/PATH or s3://",
        ),
        (
            {"weights": "s3://bucket/w"},
            "`weights` is 's3://bucket/w'; expected the name of a PersistentVolumeClaim, nfs://SERVER/PATH: weights",
        ),
        ({"storage": None}, "The command has no persistent storage"),
        (
            {"storage": None, "command": ("evaluate", "/x", "--weights", "s3://bucket/w")},
            "The command has no persistent storage",
        ),
        ({"storage": None, "command": ("bench", "--out", "/storage/x")}, "The command has no persistent storage"),
        (
            {"storage": None, "command": ("reference", "--out", "s3://bucket/x")},
            "The command has no persistent storage",
        ),
        ({"storage": "s3://bucket/runs", "command": ("reference",)}, "The command has no persistent storage"),
        ({"storage": "s3://bucket/runs", "command": ("bench", "--out", "/x")}, "The command has no persistent storage"),
        ({"command": ("bench", "--prompt", "")}, "The command contains an empty argument"),
        ({"name": "n" * 48}, "the name of a RayJob has 1 to 47 characters of a-z"),
        ({"name": "1st"}, "`name` is '1st'"),
        ({"ray_version": "2.51.0"}, "`ray_version` is '2.51.0'; token authentication requires Ray 2.52 or later."),
        ({"gpus": "many"}, "gpus is 'many'"),
    ],
)
def test_invalid_options_are_refused(options, message):
    with pytest.raises(ManifestError) as error:
        made(**options)
    assert message in str(error.value)
