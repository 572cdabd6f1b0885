"""Manifests against KubeRay's schemas and CEL rules, and the controllers' rules that are in no schema."""

import copy

import kubernetes_validate
import pytest

from cluster.kubernetes import job as jobs
from cluster.kubernetes import manifests as m
from cluster.kubernetes.manifests import ManifestError, refusing
from tests.support import crd_schemas

JOB = jobs.job(
    name="night", image="images.example/sd:1", ray_version="2.60.0", command=("bench",), gpus=8, gpu_type="H100",
    gpu_memory=40, storage="runs", weights="published", secrets=(jobs.secret("hub=HF_TOKEN"),), queue="gpus",
)  # fmt: skip
UNQUEUED = JOB.model_copy(update={"queue": None})


def tree() -> dict:
    return copy.deepcopy(jobs.ray_job(JOB).tree())


@pytest.mark.parametrize(
    "manifest",
    [
        jobs.ray_job(JOB),
        jobs.ray_job(UNQUEUED.model_copy(update={"weights": "models", "storage": "nfs://files/runs", "gpus": 0})),
        jobs.ray_cluster(JOB),
        jobs.ray_cron_job(UNQUEUED, "0 2 * * *", "Europe/Berlin"),
    ],
    ids=lambda manifest: manifest.kind,
)
def test_kuberays_schemas_take_what_we_print(manifest):
    assert crd_schemas.problems(manifest.tree()) == []


def test_kubernetes_schemas_take_what_the_clock_needs():
    for manifest in jobs.cron_job(JOB, "0 2 * * *", "Europe/Berlin", ["--gpus", "8"]):
        kubernetes_validate.validate(manifest.tree(), "1.31", strict=True)
    broken = jobs.cron_job(JOB, "@daily", None, [])[-1].tree()
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
def test_the_validator_sees_what_an_api_server_would_refuse(mutate, problem):
    manifest = tree()
    mutate(manifest["spec"])
    assert [found for found in crd_schemas.problems(manifest) if problem in found]


# ---- rules of the controllers -------------------------------------------------------------------------------------

SPEC = jobs.ray_job(UNQUEUED).spec
CLUSTER, GROUP = SPEC.ray_cluster_spec, SPEC.ray_cluster_spec.worker_group_specs[0]
RULE = m.DeletionStrategy(
    deletion_rules=(m.DeletionRule(policy="DeleteSelf", condition=m.Condition(job_status="FAILED")),)
)
POD = GROUP.template
RESTARTED = POD.model_copy(update={"spec": POD.spec.model_copy(update={"restart_policy": "Always"})})


def with_(model, **changes):
    """A model of the same fields but these, and the ManifestError that building it raises."""
    with refusing():
        return type(model)(**{key: getattr(model, key) for key in type(model).model_fields} | changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cluster_selector": {"ray.io/cluster": "a"}}, "give exactly one"),
        ({"ray_cluster_spec": None}, "give exactly one"),
        ({"ray_cluster_spec": None, "cluster_selector": {"ray.io/cluster": "a"}}, "clusterSelector none"),
        ({"backoff_limit": -1}, "backoffLimit is -1"),
        ({"submission_mode": "InteractiveMode"}, "InteractiveMode"),
        ({"suspend": True, "shutdown_after_job_finishes": False, "ttl_seconds_after_finished": None}, "suspend takes"),
        ({"submission_mode": "SidecarMode", "submitter_pod_template": POD}, "SidecarMode has no submitter"),
        ({"submission_mode": "SidecarMode", "submitter_config": m.SubmitterConfig(backoff_limit=1)}, "no submitter"),
        ({"active_deadline_seconds": 0}, "A deadline is 0 s"),
        ({"deletion_strategy": RULE}, "deletionRules say what is deleted"),
        ({"shutdown_after_job_finishes": False}, "The TTL is 3600 s"),
        ({"ttl_seconds_after_finished": -1}, "The TTL is -1 s"),
    ],
)
def test_what_kuberay_would_refuse_in_a_job(change, message):
    with pytest.raises(ManifestError) as error:
        with_(SPEC, **change)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_head_that_restarts_goes_with_neither_the_sidecar_nor_the_autoscaler():
    cluster = with_(CLUSTER, head_group_spec=with_(CLUSTER.head_group_spec, template=RESTARTED))
    with pytest.raises(ManifestError, match="restartPolicy is Always; SidecarMode expects Never"):
        with_(SPEC, submission_mode="SidecarMode", ray_cluster_spec=cluster)
    with pytest.raises(ManifestError, match="restartPolicy is Always; the autoscaler v2 expects Never"):
        with_(cluster, enable_in_tree_autoscaling=True, autoscaler_options=m.AutoscalerOptions(version="v2"))


def test_what_kuberay_would_refuse_in_a_cluster():
    with pytest.raises(ManifestError, match="without autoscaling KubeRay expects both"):
        with_(CLUSTER, worker_group_specs=(with_(GROUP, max_replicas=None),))
    with pytest.raises(ManifestError, match="8 replicas between 9 and 8"):
        with_(GROUP, min_replicas=9)
    with pytest.raises(ManifestError, match="is suspended and the autoscaler on"):
        with_(CLUSTER, enable_in_tree_autoscaling=True, worker_group_specs=(with_(GROUP, suspend=True),))
    auth = m.AuthOptions(enable_k8s_token_auth=True)
    with pytest.raises(ManifestError, match="Kubernetes' own tokens"):
        with_(SPEC, ray_cluster_spec=with_(CLUSTER, auth_options=auth))


def test_what_kueue_would_refuse():
    queued = jobs.ray_job(JOB)
    scaled = with_(CLUSTER, enable_in_tree_autoscaling=True)
    elastic = with_(queued.metadata, annotations={m.ELASTIC_ANNOTATION: "true"})
    with pytest.raises(ManifestError, match="Kueue queues a RayJob with a cluster of its own"):
        with_(queued, spec=with_(SPEC, shutdown_after_job_finishes=False, ttl_seconds_after_finished=None))
    with pytest.raises(ManifestError, match="There are 18 worker groups and Kueue takes 17"):
        with_(queued, spec=with_(SPEC, ray_cluster_spec=with_(CLUSTER, worker_group_specs=(GROUP,) * 18)))
    with pytest.raises(ManifestError, match="Kueue admits no autoscaling cluster"):
        with_(queued, spec=with_(SPEC, ray_cluster_spec=scaled))
    with_(queued, metadata=elastic, spec=with_(SPEC, ray_cluster_spec=scaled))


def test_an_unknown_field_is_told_by_its_name():
    with pytest.raises(ManifestError, match="backoffLimits is 3"):
        with_(SPEC, backoffLimits=3)
