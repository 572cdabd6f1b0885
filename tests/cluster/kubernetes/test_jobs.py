"""The launcher of RayJobs with the real client, against a fake and an emulated API server."""

import pytest

from cluster.jobs.errors import LaunchError
from cluster.jobs.launcher import Handle, JobStatus, wait
from cluster.kubernetes import cronjob, rayjob
from cluster.kubernetes.jobs import KubeRayJobs
from tests.support import emulated_kubernetes, fake_kubernetes
from tests.support.cluster_jobs import job

JOB = job(image="x:1", ray_version="2.60.0", storage="runs")
PATH = "/apis/ray.io/v1/namespaces/team/rayjobs"


@pytest.fixture
def server(tmp_path, monkeypatch):
    with fake_kubernetes.serving(tmp_path) as (server, config):
        from kubernetes.config import kube_config

        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(config))
        monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
        yield server


def test_submitting_twice_attaches_to_one_job(server):
    assert KubeRayJobs().submit(JOB) == Handle("night", is_new=True)
    assert KubeRayJobs().submit(JOB) == Handle("night", is_new=False)
    assert server.objects == {f"{PATH}/night": rayjob.ray_job(JOB).tree()}
    with pytest.raises(LaunchError, match="A different job named night exists"):
        KubeRayJobs().submit(JOB.model_copy(update={"gpus": 2}))


@pytest.mark.parametrize(
    ("status", "found"),
    [
        (None, JobStatus("waiting")),
        ({"jobDeploymentStatus": "Initializing"}, JobStatus("waiting", "Initializing")),
        ({"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}, JobStatus("running", "Running RUNNING")),
        ({"jobDeploymentStatus": "Retrying", "jobStatus": "FAILED"}, JobStatus("waiting", "Retrying FAILED")),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}, JobStatus("succeeded", "Complete SUCCEEDED")),
        ({"jobDeploymentStatus": "Complete", "jobStatus": "STOPPED"}, JobStatus("failed", "Complete STOPPED")),
        ({"jobDeploymentStatus": "Failed", "message": "too late"}, JobStatus("failed", "Failed too late")),
    ],
)
def test_statuses_of_kuberay(server, status, found):
    server.objects[f"{PATH}/night"] = rayjob.ray_job(JOB).tree() | ({"status": status} if status else {})
    assert KubeRayJobs().status("night") == found


def test_wait_reports_changes_and_returns_at_the_end(server):
    launcher, reported = KubeRayJobs(), []
    launcher.submit(JOB)
    steps = iter(["Running", "Running", "Complete"])

    def sleep(_):
        server.objects[f"{PATH}/night"]["status"] = {"jobDeploymentStatus": next(steps)}

    assert wait(launcher, "night", reported.append, sleep=sleep) == JobStatus("succeeded", "Complete")
    assert [status.state for status in reported] == ["waiting", "running", "succeeded"]


def test_wait_tries_again_while_the_api_server_does_not_answer(server, monkeypatch):
    """Fault test 29, with the real client: the server restarts, and later it stays away."""
    jobs, pauses = KubeRayJobs(), []
    jobs.submit(JOB)
    answers = iter([503, 503, 429, None, "ended"])

    def sleep(seconds):
        pauses.append(seconds)
        server.refusal = next(answers)
        if server.refusal == "ended":
            server.refusal, server.objects[f"{PATH}/night"]["status"] = None, {"jobDeploymentStatus": "Complete"}

    assert wait(jobs, "night", lambda _: None, sleep=sleep) == JobStatus("succeeded", "Complete")
    assert pauses == [15, 1, 2, 4, 15]
    monkeypatch.setattr("cluster.jobs.launcher.AWAY_SECONDS", 0.0)
    server.shutdown()
    server.server_close()
    with pytest.raises(LaunchError) as error:
        wait(jobs, "night", lambda _: None)
    assert str(error.value) == (
        "The Kubernetes API server does not answer (MaxRetryError); check kubectl cluster-info. The job night may "
        "still run: run the same command again, which attaches to it, or resumes its run if the cluster has lost the "
        "job."
    )


def test_logs_are_those_of_the_submitter_and_cancel_frees_the_name(server):
    launcher = KubeRayJobs()
    launcher.submit(JOB)
    assert launcher.logs("night") == ""
    server.pods["night"] = "4 of 4 assets\n"
    assert launcher.logs("night") == "4 of 4 assets\n"
    launcher.cancel("night")
    assert server.objects == {}
    for request in (launcher.status, launcher.cancel):
        with pytest.raises(LaunchError, match="There is no job night"):
            request("night")


def test_forget_failed_deletes_only_this_job_and_only_if_it_failed(server):
    launcher, failed = KubeRayJobs(), {"jobDeploymentStatus": "Failed"}
    launcher.forget_failed(JOB)  # no such job
    launcher.submit(JOB)
    for status in ({"jobDeploymentStatus": "Running"}, {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}):
        server.objects[f"{PATH}/night"]["status"] = status
        launcher.forget_failed(JOB)
    server.objects[f"{PATH}/night"]["status"] = failed
    launcher.forget_failed(JOB.model_copy(update={"gpus": 2}))
    assert ("DELETE", f"{PATH}/night") not in server.requests
    server.keeps_deleted, waits = True, []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            del server.objects[f"{PATH}/night"]

    launcher.forget_failed(JOB, sleep)
    assert waits == [1, 1, 1]
    assert launcher.submit(JOB) == Handle("night", is_new=True)
    assert "status" not in server.objects[f"{PATH}/night"]
    server.objects[f"{PATH}/night"]["status"] = failed
    with pytest.raises(
        LaunchError, match="The failed job night still exists 60 s after its deletion; run the same command"
    ):
        launcher.forget_failed(JOB, lambda _: None)


def test_a_job_in_another_namespace(server):
    KubeRayJobs("others").submit(JOB)
    assert list(server.objects) == ["/apis/ray.io/v1/namespaces/others/rayjobs/night"]


def test_refused_and_unanswered_requests_are_reported(server, tmp_path, monkeypatch):
    server.refusal = 403
    with pytest.raises(
        LaunchError,
        match=r"Kubernetes refused the request \(403 .*; check that KubeRay is installed .* namespace team\.",
    ):
        KubeRayJobs().submit(JOB)
    from kubernetes.config import kube_config

    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    with pytest.raises(LaunchError, match="No cluster is configured"):
        KubeRayJobs().status("night")


def test_the_same_schedule_twice_changes_nothing_and_another_replaces_it(tmp_path, monkeypatch):
    from kubernetes.config import kube_config

    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    def of(cron: str):
        return cronjob.cron_job(JOB, cron, None, [], ["--image", "x:1"])

    def stored(kind: str, name: str):
        group = {"cronjobs": "/apis/batch/v1", "serviceaccounts": "/api/v1"}.get(
            kind, "/apis/rbac.authorization.k8s.io/v1"
        )
        return cluster.call("GET", f"{group}/namespaces/team/{kind}/{name}")

    with emulated_kubernetes.running(tmp_path) as (cluster, config):
        monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(config))
        launcher = KubeRayJobs()
        assert launcher.schedule(of("0 2 * * *")) == "created"
        assert stored("cronjobs", "night")["spec"]["concurrencyPolicy"] == "Forbid"
        assert stored("roles", "night-launcher")["rules"][0]["resources"] == ["rayjobs"]
        before = cluster.changes
        assert launcher.schedule(of("0 2 * * *")) == "unchanged"
        assert cluster.changes == before
        assert len(before) == 4
        assert launcher.schedule(of("0 3 * * *")) == "replaced"
        assert stored("cronjobs", "night")["spec"]["schedule"] == "0 3 * * *"
        assert launcher.unschedule("night") == "deleted"
        assert launcher.unschedule("night") == "unchanged"
        names = {"cronjobs": "night"} | dict.fromkeys(("roles", "rolebindings", "serviceaccounts"), "night-launcher")
        assert [stored(kind, name) for kind, name in names.items()] == [None] * 4
