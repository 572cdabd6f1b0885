"""The models, tested against KubeRay's schemas and CEL rules and against the rules of its and Kueue's controllers."""

import copy

import kubernetes_validate
import pytest

from cluster.jobs import description as jobs
from cluster.jobs.errors import ManifestError, manifest_errors
from cluster.kubernetes import cronjob, rayjob
from cluster.kubernetes import models as m
from tests.support import crd_schemas

JOB = jobs.job(
    name="night", image="images.example/sd:1", ray_version="2.60.0", command=("bench",), gpus=8, gpu_type="H100",
    gpu_memory=40, storage="runs", weights="published", secrets=(jobs.secret("hub=HF_TOKEN"),), queue="gpus",
)  # fmt: skip
UNQUEUED = JOB.model_copy(update={"queue": None})


def tree() -> dict:
    return copy.deepcopy(rayjob.ray_job(JOB).tree())


@pytest.mark.parametrize(
    "manifest",
    [
        rayjob.ray_job(JOB),
        rayjob.ray_job(UNQUEUED.model_copy(update={"weights": "models", "storage": "nfs://files/runs", "gpus": 0})),
        rayjob.ray_cluster(JOB),
        cronjob.ray_cron_job(UNQUEUED, "0 2 * * *", "Europe/Berlin"),
    ],
    ids=lambda manifest: manifest.kind,
)
def test_kuberays_schemas_accept_our_manifests(manifest):
    assert crd_schemas.problems(manifest.tree()) == []


def test_kubernetes_schemas_accept_our_cron_job():
    for manifest in cronjob.cron_job(JOB, "0 2 * * *", "Europe/Berlin", ["--gpus", "8"]):
        kubernetes_validate.validate(manifest.tree(), "1.31", strict=True)
    broken = cronjob.cron_job(JOB, "@daily", None, [])[-1].tree()
    broken["spec"]["concurencyPolicy"] = broken["spec"].pop("concurrencyPolicy")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.31", strict=True)


def typo(spec):
    spec["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagePulPolicy"] = "Always"


def wrong_type(spec):
    spec["backoffLimit"] = "2"


def wrong_word(spec):
    spec["rayClusterSpec"]["authOptions"]["mode"] = "tokens"


def wrong_quantity(spec):
    limits = spec["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]
    limits["memory"] = "32 Gi"


def no_head(spec):
    del spec["rayClusterSpec"]["headGroupSpec"]


def two_ways_to_delete(spec):
    rules = [{"policy": "DeleteSelf", "condition": {"jobStatus": "FAILED"}}]
    policy = {"policy": "DeleteCluster"}
    spec["deletionStrategy"] = {"onSuccess": policy, "onFailure": policy, "deletionRules": rules}


def another_manager(spec):
    spec["managedBy"] = "me"


@pytest.mark.parametrize(
    ("mutate", "problem"),
    [
        (typo, "imagePulPolicy"),
        (wrong_type, "is not of type 'integer'"),
        (wrong_word, "is not one of"),
        (wrong_quantity, "does not match"),
        (no_head, "'headGroupSpec' is a required property"),
        (two_ways_to_delete, "cannot be used together"),
        (another_manager, "managedBy field value must be"),
    ],
)
def test_the_schema_validator_finds_invalid_manifests(mutate, problem):
    manifest = tree()
    mutate(manifest["spec"])
    assert [found for found in crd_schemas.problems(manifest) if problem in found]


# ---- rules of the controllers -------------------------------------------------------------------------------------

SPEC = rayjob.ray_job(UNQUEUED).spec
CLUSTER, GROUP = SPEC.ray_cluster_spec, SPEC.ray_cluster_spec.worker_group_specs[0]
RULE = m.DeletionStrategy(
    deletion_rules=(m.DeletionRule(policy="DeleteSelf", condition=m.Condition(job_status="FAILED")),)
)
POD = GROUP.template
RESTARTED = POD.model_copy(update={"spec": POD.spec.model_copy(update={"restart_policy": "Always"})})


def with_(model, **changes):
    """A copy of a model with changed fields. Raises ManifestError."""
    with manifest_errors():
        return type(model)(**{key: getattr(model, key) for key in type(model).model_fields} | changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cluster_selector": {"ray.io/cluster": "a"}}, "set exactly one"),
        ({"ray_cluster_spec": None}, "set exactly one"),
        (
            {"ray_cluster_spec": None, "cluster_selector": {"ray.io/cluster": "a"}},
            "clusterSelector selects an existing one",
        ),
        ({"backoff_limit": -1}, "backoffLimit is -1"),
        ({"submission_mode": "InteractiveMode"}, "InteractiveMode"),
        (
            {"suspend": True, "shutdown_after_job_finishes": False, "ttl_seconds_after_finished": None},
            "suspend deletes",
        ),
        ({"submission_mode": "SidecarMode", "submitter_pod_template": POD}, "SidecarMode has no submitter"),
        ({"submission_mode": "SidecarMode", "submitter_config": m.SubmitterConfig(backoff_limit=1)}, "no submitter"),
        ({"active_deadline_seconds": 0}, "A deadline is 0 s"),
        ({"deletion_strategy": RULE}, "deletionRules replace"),
        ({"shutdown_after_job_finishes": False}, "The TTL is 3600 s"),
        ({"ttl_seconds_after_finished": -1}, "The TTL is -1 s"),
    ],
)
def test_ray_jobs_that_kuberay_rejects(change, message):
    with pytest.raises(ManifestError) as error:
        with_(SPEC, **change)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_restarting_head_conflicts_with_the_sidecar_and_the_autoscaler():
    cluster = with_(CLUSTER, head_group_spec=with_(CLUSTER.head_group_spec, template=RESTARTED))
    with pytest.raises(ManifestError, match="restartPolicy is Always; SidecarMode requires Never"):
        with_(SPEC, submission_mode="SidecarMode", ray_cluster_spec=cluster)
    with pytest.raises(ManifestError, match="restartPolicy is Always; autoscaler v2 requires Never"):
        with_(cluster, enable_in_tree_autoscaling=True, autoscaler_options=m.AutoscalerOptions(version="v2"))


def test_ray_clusters_that_kuberay_rejects():
    with pytest.raises(ManifestError, match="without autoscaling KubeRay requires both"):
        with_(CLUSTER, worker_group_specs=(with_(GROUP, max_replicas=None),))
    with pytest.raises(ManifestError, match="8 replicas, minReplicas 9 and maxReplicas 8"):
        with_(GROUP, min_replicas=9)
    with pytest.raises(ManifestError, match="is suspended and autoscaling is on"):
        with_(CLUSTER, enable_in_tree_autoscaling=True, worker_group_specs=(with_(GROUP, suspend=True),))
    auth = m.AuthOptions(enable_k8s_token_auth=True)
    with pytest.raises(ManifestError, match="cannot use Kubernetes tokens"):
        with_(SPEC, ray_cluster_spec=with_(CLUSTER, auth_options=auth))


def test_resources_that_kueue_rejects():
    queued = rayjob.ray_job(JOB)
    scaled = with_(CLUSTER, enable_in_tree_autoscaling=True)
    elastic = with_(queued.metadata, annotations={m.ELASTIC_ANNOTATION: "true"})
    with pytest.raises(ManifestError, match="Kueue queues only RayJobs that create"):
        with_(queued, spec=with_(SPEC, shutdown_after_job_finishes=False, ttl_seconds_after_finished=None))
    with pytest.raises(ManifestError, match="There are 18 worker groups and Kueue accepts 17"):
        with_(queued, spec=with_(SPEC, ray_cluster_spec=with_(CLUSTER, worker_group_specs=(GROUP,) * 18)))
    with pytest.raises(ManifestError, match="Kueue does not admit autoscaling clusters"):
        with_(queued, spec=with_(SPEC, ray_cluster_spec=scaled))
    with_(queued, metadata=elastic, spec=with_(SPEC, ray_cluster_spec=scaled))


def test_an_unknown_field_is_named():
    with pytest.raises(ManifestError, match="backoffLimits is 3"):
        with_(SPEC, backoffLimits=3)
