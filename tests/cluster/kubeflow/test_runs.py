"""Runs and schedules through Kubeflow's own client, against a small server: one name, one run, one schedule."""

import pytest

from cluster.kubeflow import runs as kubeflow_runs
from cluster.kubeflow.runs import KubeflowRuns, six_fields
from cluster.kubernetes import job as jobs
from cluster.kubernetes.launcher import Handle, LaunchError, Status, begin_anew
from cluster.kubernetes.manifests import ManifestError
from tests.support import fake_kubeflow

JOB = jobs.job(
    name="night", command=("bench", "--prompt", "{{$.x}} a"), image="x:1", ray_version="2.60.0", storage="runs"
)


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv(kubeflow_runs.TOKEN, raising=False)
    with fake_kubeflow.serving() as server:
        yield server


def only(found: dict) -> dict:
    (item,) = found.values()
    return item


def test_the_same_name_twice_is_one_run(server):
    assert KubeflowRuns(server.url).submit(JOB) == Handle("night", is_new=True)
    before = list(server.changes)
    assert KubeflowRuns(server.url).submit(JOB) == Handle("night", is_new=False)
    assert server.changes == before == [("POST", "experiments"), ("POST", "runs")]
    run = only(server.objects["runs"])
    assert run["runtime_config"]["parameters"] == {"job": JOB.text}
    assert set(run["pipeline_spec"]) == {"pipeline_spec", "platform_spec"}
    with pytest.raises(LaunchError, match="A job night is there and asks for something else"):
        KubeflowRuns(server.url).submit(JOB.model_copy(update={"gpus": 2}))
    assert server.changes == before


@pytest.mark.parametrize(
    ("state", "found"),
    [
        ("PENDING", Status("waiting")),
        ("RUNNING", Status("running")),
        ("CANCELING", Status("running")),
        ("SUCCEEDED", Status("succeeded")),
        ("FAILED", Status("failed", "bench failed")),
        ("CANCELED", Status("failed")),
    ],
)
def test_what_kubeflow_says_of_a_run(server, state, found):
    launcher = KubeflowRuns(server.url)
    launcher.submit(JOB)
    run = only(server.objects["runs"])
    run |= {"state": state} | ({"error": {"code": 2, "message": found.message}} if found.message else {})
    assert launcher.status("night") == found
    assert launcher.logs("night").endswith("the bench: job logs kuberay night\n")


def test_a_run_that_failed_is_begun_anew_under_its_name_and_any_other_is_attached_to(server):
    launcher = KubeflowRuns(server.url, again=True)
    assert begin_anew(launcher, JOB) == Handle("night", is_new=True)
    first = only(server.objects["runs"])
    for state in ("PENDING", "RUNNING", "SUCCEEDED"):
        first["state"] = state
        assert begin_anew(launcher, JOB) == Handle("night", is_new=False)
    assert only(server.objects["runs"]) is first
    first["state"] = "FAILED"
    with pytest.raises(LaunchError, match="A job night is there and asks for something else"):
        begin_anew(launcher, JOB.model_copy(update={"gpus": 2}))
    before = len(server.changes)
    assert begin_anew(launcher, JOB) == Handle("night", is_new=True)
    assert server.changes[before:] == [("DELETE", f"runs/{first['run_id']}"), ("POST", "runs")]
    second = only(server.objects["runs"])
    assert second["runtime_config"]["parameters"] == {"job": JOB.text, "again": True}
    assert second["state"] == "PENDING"


def test_cancel_stops_a_run_and_frees_its_name(server):
    launcher = KubeflowRuns(server.url)
    launcher.submit(JOB)
    name = only(server.objects["runs"])["run_id"]
    launcher.cancel("night")
    assert server.changes[-2:] == [("POST", f"runs/{name}:terminate"), ("DELETE", f"runs/{name}")]
    for ask in (launcher.status, launcher.cancel, launcher.logs):
        with pytest.raises(LaunchError, match="There is no job night"):
            ask("night")


def test_a_schedule_is_one_at_a_time_uncached_and_makes_up_for_nothing(server):
    assert KubeflowRuns(server.url).schedule(JOB, "0 0 2 * * *") == "created"
    made = only(server.objects["recurringruns"])
    assert (made["max_concurrency"], made["no_catchup"], made["mode"]) == (1, True, "ENABLE")
    assert made["trigger"] == {"cron_schedule": {"cron": "0 0 2 * * *"}}
    tasks = made["pipeline_spec"]["pipeline_spec"]["root"]["dag"]["tasks"]
    assert [task["cachingOptions"].get("enableCache", False) for task in tasks.values()] == [False] * 5
    assert "{{$.pipeline_job_uuid}}" in str(tasks["bench"])


def test_the_same_schedule_twice_changes_nothing_and_another_replaces_it(server):
    clock = KubeflowRuns(server.url)
    clock.schedule(JOB, "0 0 2 * * *")
    first = only(server.objects["recurringruns"])
    before = list(server.changes)
    assert clock.schedule(JOB, "0 0 2 * * *") == "unchanged"
    assert server.changes == before
    assert clock.schedule(JOB, "0 0 3 * * *") == "replaced"
    assert clock.schedule(JOB.model_copy(update={"gpus": 2}), "0 0 3 * * *") == "replaced"
    assert only(server.objects["recurringruns"])["recurring_run_id"] != first["recurring_run_id"]
    assert clock.unschedule("night") == "deleted"
    assert clock.unschedule("night") == "unchanged"
    assert server.objects["recurringruns"] == {}


def test_a_token_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("KFP_TOKEN", "canary")
    KubeflowRuns(server.url).submit(JOB)
    assert set(server.tokens) == {"Bearer canary"}
    assert "canary" not in str(server.objects)


def test_what_cannot_be_asked(server):
    server.refusal = 401
    with pytest.raises(LaunchError, match=r"Kubeflow at http://127.* refused \(401 .*; see that KFP_TOKEN is a token"):
        KubeflowRuns(server.url).submit(JOB)
    with pytest.raises(LaunchError, match=r"No API of Kubeflow Pipelines answers at http://127\.0\.0\.1:9 \("):
        KubeflowRuns("http://127.0.0.1:9").submit(JOB)


def test_kubeflows_cron_begins_with_seconds():
    assert six_fields("0 2 * * *", None) == "0 0 2 * * *"
    assert six_fields("@daily", None) == "0 0 0 * * *"
    with pytest.raises(ManifestError, match="--schedule is 'at two'"):
        six_fields("at two", None)
    with pytest.raises(ManifestError, match="--time-zone is Europe/Berlin"):
        six_fields("0 2 * * *", "Europe/Berlin")
