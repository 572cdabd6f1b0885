"""The launcher of Kubeflow runs and schedules with the real client, against a fake server."""

import pytest

from cluster.jobs.errors import LaunchError, ManifestError
from cluster.jobs.launcher import Handle, JobStatus
from cluster.kubeflow import runs as kubeflow_runs
from cluster.kubeflow.runs import KubeflowRuns, six_fields
from pipeline.launch.kubeflow import pipeline_of
from tests.support import fake_kubeflow
from tests.support.cluster_jobs import job

JOB = job(command=("bench", "--prompt", "{{$.x}} a"), image="x:1", ray_version="2.60.0", storage="runs")


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv(kubeflow_runs.TOKEN, raising=False)
    with fake_kubeflow.serving() as server:
        yield server


def only(found: dict) -> dict:
    (item,) = found.values()
    return item


def test_submitting_twice_attaches_to_one_run(server):
    assert KubeflowRuns(server.url, pipeline_of).submit(JOB) == Handle("night", is_new=True)
    before = list(server.changes)
    assert KubeflowRuns(server.url, pipeline_of).submit(JOB) == Handle("night", is_new=False)
    assert server.changes == before == [("POST", "experiments"), ("POST", "runs")]
    run = only(server.objects["runs"])
    assert run["runtime_config"]["parameters"] == {"job": JOB.text}
    assert set(run["pipeline_spec"]) == {"pipeline_spec", "platform_spec"}
    with pytest.raises(LaunchError, match="A different job named night exists"):
        KubeflowRuns(server.url, pipeline_of).submit(JOB.model_copy(update={"gpus": 2}))
    assert server.changes == before


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ("PENDING", JobStatus("waiting")),
        ("RUNNING", JobStatus("running")),
        ("CANCELING", JobStatus("running")),
        ("SUCCEEDED", JobStatus("succeeded")),
        ("FAILED", JobStatus("failed", "bench failed")),
        ("CANCELED", JobStatus("failed")),
    ],
)
def test_statuses_of_kubeflow(server, state, found):
    launcher = KubeflowRuns(server.url, pipeline_of)
    launcher.submit(JOB)
    run = only(server.objects["runs"])
    run |= {"state": state} | ({"error": {"code": 2, "message": found.message}} if found.message else {})
    assert launcher.status("night") == found
    assert launcher.logs("night").endswith("the bench: job logs kuberay night\n")


def resubmitted(launcher: KubeflowRuns, job) -> Handle:
    launcher.forget_failed(job)
    return launcher.submit(job)


def test_resubmit_replaces_a_failed_run_and_attaches_to_any_other(server):
    launcher = KubeflowRuns(server.url, pipeline_of)
    assert resubmitted(launcher, JOB) == Handle("night", is_new=True)
    first = only(server.objects["runs"])
    for state in ("PENDING", "RUNNING", "SUCCEEDED"):
        first["state"] = state
        assert resubmitted(launcher, JOB) == Handle("night", is_new=False)
    assert only(server.objects["runs"]) is first
    first["state"] = "FAILED"
    with pytest.raises(LaunchError, match="A different job named night exists"):
        resubmitted(launcher, JOB.model_copy(update={"gpus": 2}))
    before = len(server.changes)
    assert resubmitted(launcher, JOB) == Handle("night", is_new=True)
    assert server.changes[before:] == [("DELETE", f"runs/{first['run_id']}"), ("POST", "runs")]
    second = only(server.objects["runs"])
    assert second["runtime_config"]["parameters"] == {"job": JOB.text, "again": True}
    assert second["state"] == "PENDING"


def test_cancel_stops_a_run_and_frees_its_name(server):
    launcher = KubeflowRuns(server.url, pipeline_of)
    launcher.submit(JOB)
    name = only(server.objects["runs"])["run_id"]
    launcher.cancel("night")
    assert server.changes[-2:] == [("POST", f"runs/{name}:terminate"), ("DELETE", f"runs/{name}")]
    for request in (launcher.status, launcher.cancel, launcher.logs):
        with pytest.raises(LaunchError, match="There is no job night"):
            request("night")


def test_a_schedule_runs_one_at_a_time_without_cache_or_catch_up(server):
    assert KubeflowRuns(server.url, pipeline_of).schedule(JOB, "0 2 * * *") == "created"
    created = only(server.objects["recurringruns"])
    assert (created["max_concurrency"], created["no_catchup"], created["mode"]) == (1, True, "ENABLE")
    assert created["trigger"] == {"cron_schedule": {"cron": "0 0 2 * * *"}}
    tasks = created["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]
    assert [task["cachingOptions"].get("enableCache", False) for task in tasks.values()] == [False] * 5
    assert "{{$.pipeline_job_uuid}}" in str(tasks["bench"])


def test_the_same_schedule_twice_changes_nothing_and_another_replaces_it(server):
    launcher = KubeflowRuns(server.url, pipeline_of)
    launcher.schedule(JOB, "0 2 * * *")
    first = only(server.objects["recurringruns"])
    before = list(server.changes)
    assert launcher.schedule(JOB, "0 2 * * *") == "unchanged"
    assert server.changes == before
    assert launcher.schedule(JOB, "0 3 * * *") == "replaced"
    assert launcher.schedule(JOB.model_copy(update={"gpus": 2}), "0 3 * * *") == "replaced"
    assert only(server.objects["recurringruns"])["recurring_run_id"] != first["recurring_run_id"]
    assert launcher.unschedule("night") == "deleted"
    assert launcher.unschedule("night") == "unchanged"
    assert server.objects["recurringruns"] == {}


def test_a_token_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("KFP_TOKEN", "canary")
    KubeflowRuns(server.url, pipeline_of).submit(JOB)
    assert set(server.tokens) == {"Bearer canary"}
    assert "canary" not in str(server.objects)


def test_refused_and_unanswered_requests_are_reported(server):
    server.refusal = 401
    with pytest.raises(
        LaunchError,
        match=r"Kubeflow at http://127.* refused the request \(401 .*; check that KFP_TOKEN is a valid token",
    ):
        KubeflowRuns(server.url, pipeline_of).submit(JOB)
    with pytest.raises(LaunchError, match=r"No Kubeflow Pipelines API answers at http://127\.0\.0\.1:9 \("):
        KubeflowRuns("http://127.0.0.1:9", pipeline_of).submit(JOB)


def test_kubeflows_cron_begins_with_seconds():
    assert six_fields("0 2 * * *", None) == "0 0 2 * * *"
    assert six_fields("@daily", None) == "0 0 0 * * *"
    with pytest.raises(ManifestError, match="`schedule` is 'at two'"):
        six_fields("at two", None)
    with pytest.raises(ManifestError, match="`time_zone` is Europe/Berlin"):
        six_fields("0 2 * * *", "Europe/Berlin")
