"""The models, tested against KubeRay's and Kubernetes' schemas and CEL rules."""

import copy

import kubernetes_validate
import pytest

from cluster.jobs.errors import ManifestError
from cluster.kubernetes import cronjob, rayjob
from cluster.kubernetes import models as m
from tests.support import crd_schemas
from tests.support.cluster_jobs import job

JOB = job(
    image="images.example/sd:1", ray_version="2.60.0", gpus=8, gpu_type="H100",
    gpu_memory=40, storage="runs", weights="published", secrets=("hub=HF_TOKEN",), queue="gpus",
)  # fmt: skip
ELASTIC = job(
    ("bench", "--workers", "8"), image="images.example/sd:1", ray_version="2.60.0", gpus=4, min_workers=0,
    max_workers=8, storage="runs", queue="gpus", priority="high", managed_by="kueue.x-k8s.io/multikueue", spot=True,
    gpu_memory=40,
    node_selectors=("zone=a",), tolerations=("dedicated=gpus:NoExecute", "spare"),
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
        rayjob.ray_job(ELASTIC),
        rayjob.ray_cluster(ELASTIC),
        cronjob.ray_cron_job(UNQUEUED, "0 2 * * *", "Europe/Berlin"),
    ],
    ids=lambda manifest: manifest.kind,
)
def test_kuberays_schemas_accept_our_manifests(manifest):
    assert crd_schemas.problems(manifest.tree()) == []


def test_kubernetes_schemas_accept_our_cron_job():
    for manifest in cronjob.cron_job(JOB, "0 2 * * *", "Europe/Berlin", ["submit"], ["--gpus", "8"]):
        kubernetes_validate.validate(manifest.tree(), "1.31", strict=True)
    broken = cronjob.cron_job(JOB, "@daily", None, [], [])[-1].tree()
    broken["spec"]["concurencyPolicy"] = broken["spec"].pop("concurrencyPolicy")
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, "1.31", strict=True)


def test_kubernetes_schema_accepts_our_network_policy():
    kubernetes_validate.validate(rayjob.network_policy("night", "team").tree(), "1.31", strict=True)


def test_pods_without_a_shared_folder_follow_the_restricted_profile():
    """The rules of Pod Security's level `restricted`, as Kubernetes lists them, for every container of the manifest."""
    allowed = {
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    }
    for made in (JOB.model_copy(update={"weights": "models"}), ELASTIC):
        spec = rayjob.ray_job(made).tree()["spec"]
        cluster = spec["rayClusterSpec"]
        groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
        pods = [group["template"]["spec"] for group in groups] + [spec["submitterPodTemplate"]["spec"]]
        contexts = [c["securityContext"] for pod in pods for c in pod["containers"] + pod.get("initContainers", [])]
        if options := cluster.get("autoscalerOptions"):
            contexts.append(options["securityContext"])
        assert len(contexts) >= 4
        for context in contexts:
            assert context["runAsNonRoot"]
            assert context["runAsUser"] != 0
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert {kind for pod in pods for volume in pod.get("volumes", []) for kind in volume} - {"name"} <= allowed
        assert all(
            c["resources"]["requests"] for pod in pods for c in pod["containers"] + pod.get("initContainers", [])
        )


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


def test_a_deadline_rounds_to_at_least_one_second():
    with pytest.raises(ManifestError, match=r"A deadline is 0 s; expected more than 0\."):
        rayjob.ray_job(JOB.model_copy(update={"start_minutes": 0.001}))


def test_an_unknown_field_is_named():
    with pytest.raises(ManifestError, match="backoffLimits is 3"):
        m.RayJobSpec(**dict(rayjob.ray_job(JOB).spec), backoffLimits=3)
