"""RayJobs through the real client, against a small API server: one name, one job."""

import pytest

from cluster.kubernetes import job as jobs
from cluster.kubernetes import jobs as kube_jobs
from cluster.kubernetes.jobs import KubeRayJobs
from cluster.kubernetes.launcher import Handle, LaunchError, Status, begin_anew, wait
from tests.support import emulated_kubernetes, fake_kubernetes

JOB = jobs.job(name="night", command=("bench",), image="x:1", ray_version="2.60.0", storage="runs")
PATH = "/apis/ray.io/v1/namespaces/team/rayjobs"


@pytest.fixture
def server(tmp_path, monkeypatch):
    with fake_kubernetes.serving(tmp_path) as (server, config):
        from kubernetes.config import kube_config

        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(config))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        yield server


def test_the_same_name_twice_is_one_job(server):
    assert KubeRayJobs().submit(JOB) == Handle("night", is_new=True)
    assert KubeRayJobs().submit(JOB) == Handle("night", is_new=False)
    assert server.objects == {f"{PATH}/night": jobs.ray_job(JOB).tree()}
    with pytest.raises(LaunchError, match="A job night is there and asks for something else"):
        KubeRayJobs().submit(JOB.model_copy(update={"gpus": 2}))


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (None, Status("waiting")),
        ({"jobDeploymentStatus": "Initializing"}, Status("waiting", "Initializing")),
        ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, Status("running", "Running RUNNING")),
        ({"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED"}, Status("waiting", "Retrying FAILED")),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, Status("succeeded", "Complete SUCCEEDED")),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, Status("failed", "Complete STOPPED")),
        ({"jobDeploymentStatus": "Failed", "message": "too late"}, Status("failed", "Failed too late")),
    ],
)
def test_what_kuberay_says_of_a_job(server, status, found):
    server.objects[f"{PATH}/night"] = jobs.ray_job(JOB).tree() | ({"status": status} if status else {})
    assert KubeRayJobs().status("night") == found


def test_waiting_tells_what_changes_and_ends_with_the_job(server):
    launcher, told = KubeRayJobs(), []
    launcher.submit(JOB)
    steps = iter(["Running", "Running", "Complete"])

    def sleep(_):
        server.objects[f"{PATH}/night"]["status"] = {"jobDeploymentStatus": next(steps)}

    assert wait(launcher, "night", told.append, sleep=sleep) == Status("succeeded", "Complete")
    assert [status.state for status in told] == ["waiting", "running", "succeeded"]


def test_logs_are_those_of_the_submitter_and_cancel_frees_the_name(server):
    launcher = KubeRayJobs()
    launcher.submit(JOB)
    assert launcher.logs("night") == ""
    server.pods["night"] = "4 of 4 assets\n"
    assert launcher.logs("night") == "4 of 4 assets\n"
    launcher.cancel("night")
    assert server.objects == {}
    for ask in (launcher.status, launcher.cancel):
        with pytest.raises(LaunchError, match="There is no job night"):
            ask("night")


def test_a_job_that_failed_is_begun_anew_when_it_is_gone_and_any_other_is_attached_to(server):
    launcher = KubeRayJobs()
    assert begin_anew(launcher, JOB) == Handle("night", is_new=True)
    for status in ({"jobDeploymentStatus": "Running"}, {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}):
        server.objects[f"{PATH}/night"]["status"] = status
        assert begin_anew(launcher, JOB) == Handle("night", is_new=False)
    failed = {"jobDeploymentStatus": "Failed"}
    server.objects[f"{PATH}/night"]["status"] = failed
    with pytest.raises(LaunchError, match="A job night is there and asks for something else"):
        begin_anew(launcher, JOB.model_copy(update={"gpus": 2}))

    server.stays, waits = True, []  # KubeRay's finalizer holds it until the operator has cleaned up

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            del server.objects[f"{PATH}/night"]

    assert begin_anew(launcher, JOB, sleep) == Handle("night", is_new=True)
    assert waits == [1, 1, 1]
    assert "status" not in server.objects[f"{PATH}/night"]
    server.objects[f"{PATH}/night"]["status"] = failed
    with pytest.raises(LaunchError, match="The failed job night is still going after 60 s; start the same command"):
        begin_anew(launcher, JOB, lambda _: None)


def test_only_this_job_is_forgotten_and_only_if_it_has_failed(server):
    launcher, failed = KubeRayJobs(), {"jobDeploymentStatus": "Failed"}
    launcher.forget_failed(JOB)  # there is none
    launcher.submit(JOB)
    for status in ({"jobDeploymentStatus": "Running"}, {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}):
        server.objects[f"{PATH}/night"]["status"] = status
        launcher.forget_failed(JOB)
    server.objects[f"{PATH}/night"]["status"] = failed
    launcher.forget_failed(JOB.model_copy(update={"gpus": 2}))
    assert ("DELETE", f"{PATH}/night") not in server.requests
    server.stays, waits = True, []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            del server.objects[f"{PATH}/night"]

    launcher.forget_failed(JOB, sleep)
    assert waits == [1, 1, 1]
    launcher.submit(JOB)
    server.objects[f"{PATH}/night"]["status"] = failed
    with pytest.raises(LaunchError, match="The failed job night is still going after 60 s; start the same command"):
        launcher.forget_failed(JOB, lambda _: None)


def test_another_namespace(server):
    KubeRayJobs("others").submit(JOB)
    assert list(server.objects) == ["/apis/ray.io/v1/namespaces/others/rayjobs/night"]


def test_what_cannot_be_asked(server, tmp_path, monkeypatch):
    server.refusal = 403
    with pytest.raises(LaunchError, match=r"Kubernetes refused \(403 .*; see that KubeRay is installed .* in team\."):
        KubeRayJobs().submit(JOB)
    from kubernetes.config import kube_config

    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(LaunchError, match="No cluster is configured"):
        kube_jobs.KubeRayJobs()


def test_the_same_schedule_twice_changes_nothing_and_another_replaces_it(tmp_path, monkeypatch):
    from kubernetes.config import kube_config

    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    def of(cron: str):
        return jobs.cron_job(JOB, cron, None, ["--image", "x:1"])

    def there(kind: str, name: str):
        group = {"cronjobs": "/apis/batch/v1", "serviceaccounts": "/api/v1"}.get(
            kind, "/apis/rbac.authorization.k8s.io/v1"
        )
        return cluster.call("GET", f"{group}/namespaces/team/{kind}/{name}")

    with emulated_kubernetes.running(tmp_path) as (cluster, config):
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(config))
        clock = KubeRayJobs()
        assert clock.schedule(of("0 2 * * *")) == "created"
        assert there("cronjobs", "night")["spec"]["concurrencyPolicy"] == "Forbid"
        assert there("roles", "night-launcher")["rules"][0]["resources"] == ["rayjobs"]
        before = cluster.changes
        assert clock.schedule(of("0 2 * * *")) == "unchanged"
        assert cluster.changes == before
        assert len(before) == 4
        assert clock.schedule(of("0 3 * * *")) == "replaced"
        assert there("cronjobs", "night")["spec"]["schedule"] == "0 3 * * *"
        assert clock.unschedule("night") == "deleted"
        assert clock.unschedule("night") == "unchanged"
        names = {"cronjobs": "night"} | dict.fromkeys(("roles", "rolebindings", "serviceaccounts"), "night-launcher")
        assert [there(kind, name) for kind, name in names.items()] == [None] * 4
