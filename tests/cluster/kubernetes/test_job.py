"""From what is asked for to manifests: words that two shells leave alone, secrets, what each option becomes."""

import json
import subprocess
from subprocess import list2cmdline

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.kubernetes import job as jobs
from cluster.kubernetes.manifests import ManifestError, RayJob, as_yaml

BASE = {"name": "night", "image": "images.example/sd:1", "ray_version": "2.60.0", "storage": "runs"}
HOSTILE = ["bench", "--prompt", "a \"red\" $(touch x) `touch y` ${HOME} 'cube'; touch z & | > w \\ %41 \n ü ~ * ! #"]


def made(**options) -> RayJob:
    return jobs.ray_job(jobs.job(**BASE | {"command": ("bench",)} | options))


def container(manifest: RayJob, group: int = 0):
    return manifest.spec.ray_cluster_spec.worker_group_specs[group].template.spec.containers[0]


def through_two_shells(entrypoint: str, folder) -> list[str]:
    """What a program gets: KubeRay's bash splits the words, Ray's client joins them again, Ray's supervisor runs sh."""
    program = folder / jobs.PROGRAM
    program.write_text("#!/usr/bin/env python3\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    program.chmod(0o755)
    environment = {"PATH": f"{folder}:/usr/bin:/bin:/usr/local/bin"}
    first = ["bash", "-ce", "--", f"printf '%s\\0' {entrypoint}"]
    split = subprocess.run(first, capture_output=True, check=True, cwd=folder, env=environment).stdout.decode()
    second = subprocess.run(
        list2cmdline(split.split("\0")[:-1]), shell=True, capture_output=True, check=True, cwd=folder, env=environment
    )
    return json.loads(second.stdout)


def test_no_shell_on_the_way_reads_a_prompt(tmp_path):
    job = jobs.job(**BASE | {"storage": None}, command=tuple(HOSTILE))
    verb, *words = through_two_shells(job.entrypoint, tmp_path)
    assert (verb, jobs.decoded(words)) == ("encoded", HOSTILE)
    assert [path.name for path in tmp_path.iterdir()] == [jobs.PROGRAM]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1)))
@settings(max_examples=200, deadline=None)
def test_encoded_words_are_plain_and_come_back(words):
    plain = jobs.encoded(words)
    assert jobs.decoded(plain) == words
    assert not set("".join(plain)) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._/=:,+@%~")


def test_a_job_is_retried_has_limits_and_a_token():
    spec = made(deadline_hours=2, start_minutes=10, keep_minutes=5).spec
    assert (spec.submission_mode, spec.backoff_limit, spec.shutdown_after_job_finishes) == ("K8sJobMode", 2, True)
    limits = spec.active_deadline_seconds, spec.pre_running_deadline_seconds, spec.ttl_seconds_after_finished
    assert limits == (7200, 600, 300)
    assert spec.ray_cluster_spec.auth_options.mode == "token"
    assert spec.ray_cluster_spec.head_group_spec.service_type == "ClusterIP"


def test_a_cluster_of_ones_own_shows_its_dashboard_to_nobody_unless_told():
    job = jobs.job(**BASE)
    assert jobs.ray_cluster(job).spec.head_group_spec.ray_start_params["dashboard-host"] == "127.0.0.1"
    told = job.model_copy(update={"dashboard_host": "0.0.0.0"})
    assert jobs.ray_cluster(told).spec.head_group_spec.ray_start_params["dashboard-host"] == "0.0.0.0"


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
def test_one_pod_of_a_volume_loads_the_weights_and_the_others_wait(weights, volume, user, is_read_only):
    pod = made(weights=weights).spec.ray_cluster_spec.worker_group_specs[0].template.spec
    (loader,) = pod.init_containers
    assert loader.command[:2] == ("flock", "/weights/.loading")
    assert "weights fetch" in " ".join(loader.command)
    assert loader.security_context.run_as_user == user
    assert getattr(next(v for v in pod.volumes if v.name == "weights"), volume)
    (mount,) = [m for m in pod.containers[0].volume_mounts if m.name == "weights"]
    assert mount.read_only is is_read_only
    assert pod.containers[0].security_context.run_as_non_root


def test_a_command_writes_to_the_storage_unless_it_says_where():
    def words(**options):
        return jobs.job(**BASE | options).words

    assert words(command=("bench",)) == ["bench", "--out", "/storage/night"]
    assert words(command=("bench", "--out", "/storage/x")) == ["bench", "--out", "/storage/x"]
    assert words(command=("bench", "--out=/storage/x")) == ["bench", "--out=/storage/x"]
    assert words(command=("reference",), weights="published") == ["reference", "--out", "/storage"]
    assert words(command=("reference",), weights="models") == ["reference"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"storage": "s3://bucket/runs/"}, ["bench", "--out", "s3://bucket/runs/night"]),
        ({"storage": None, "command": ("bench", "--out=gs://bucket/x")}, ["bench", "--out=gs://bucket/x"]),
        ({"storage": None, "command": ("evaluate", "s3://bucket/x")}, ["evaluate", "s3://bucket/x"]),
    ],
)
def test_a_bucket_is_storage_without_a_volume(options, words):
    """Where the storage is a bucket each job, and so each tick of a clock, has a folder of its own there."""
    job = jobs.job(**BASE | {"command": ("bench",), "weights": "published"} | options)
    assert job.words == words
    text = as_yaml(jobs.ray_job(job))
    assert "/storage" not in text
    assert "mountPath: /weights" in text


def test_secrets_are_named_and_never_told():
    job = {"secrets": (jobs.secret("hub=HF_TOKEN"),), "weights": "published"}
    (variable,) = [v for v in container(made(**job)).env if v.name == "HF_TOKEN"]
    assert variable.value is None
    assert variable.value_from.secret_key_ref.name == "hub"
    for literal in ("HF_TOKEN=hf_secretsecret", "hub", "hub=", "hub=a-b", "=HF_TOKEN"):
        with pytest.raises(ManifestError) as error:
            jobs.secret(literal)
        assert "hf_secret" not in str(error.value)


def test_a_ticks_job_is_named_by_the_tick_and_waits_for_its_end():
    job = jobs.job(**BASE, command=("bench", "--prompt", "a $(JOB_NAME) for $5"))
    *rights, cron = jobs.cron_job(job, "0 2 * * *", "Europe/Berlin", ["--image", "x"])
    (launcher,) = cron.spec.job_template.spec.template.spec.containers
    assert cron.spec.concurrency_policy == "Forbid"
    assert cron.spec.starting_deadline_seconds == 3600
    assert launcher.command == ("segmentdreamer", "submit", "kuberay", "--wait", "--name", "$(JOB_NAME)")
    assert launcher.args == ("--image", "x", "--", "bench", "--prompt", "a $$(JOB_NAME) for $$5")
    assert [right.kind for right in rights] == ["ServiceAccount", "Role", "RoleBinding"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gpus": 3, "gpus_per_worker": 2}, "--gpus is 3 and --gpus-per-worker 2; give a multiple"),
        ({"cpus": 0}, "--cpus is 0 and --memory 32"),
        ({"gpus": 0, "gpu_memory": 24}, "--gpus is 0, and --gpu-type or --gpu-memory was given"),
        ({"deadline_hours": 0}, "--deadline-hours 0"),
        (
            {"storage": "ftp://files/runs"},
            "--storage is 'ftp://files/runs'; give the name of a PersistentVolumeClaim, nfs://SERVER/PATH or s3://",
        ),
        (
            {"weights": "s3://bucket/w"},
            "--weights is 's3://bucket/w'; give the name of a PersistentVolumeClaim, nfs://SERVER/PATH: files",
        ),
        ({"storage": None}, "There is no --storage"),
        ({"storage": None, "command": ("bench", "--out", "/storage/x")}, "There is no --storage"),
        ({"storage": None, "command": ("reference", "--out", "s3://bucket/x")}, "There is no --storage"),
        ({"storage": "s3://bucket/runs", "command": ("reference",)}, "There is no --storage"),
        ({"storage": "s3://bucket/runs", "command": ("bench", "--out", "/x")}, "There is no --storage"),
        ({"command": ("bench", "")}, "The command holds an empty word"),
        ({"name": "n" * 48}, "a RayJob needs 1 to 47 of a-z"),
        ({"name": "1st"}, "--name is '1st'"),
        ({"ray_version": "2.51.0"}, "--ray-version is '2.51.0'; tokens need Ray 2.52 or later."),
        ({"gpus": "many"}, "gpus is 'many'"),
    ],
)
def test_what_cannot_be_asked_for(options, message):
    with pytest.raises(ManifestError) as error:
        made(**options)
    assert message in str(error.value)


def test_a_schedule_has_five_fields_and_room_for_the_ticks_name():
    job = jobs.job(**BASE, command=("bench",))
    with pytest.raises(ManifestError, match="--schedule is 'at two'"):
        jobs.cron_job(job, "at two", None, [])
    with pytest.raises(ManifestError, match="a CronJob needs 1 to 38"):
        jobs.cron_job(job.model_copy(update={"name": "n" * 39}), "@daily", None, [])
    with pytest.raises(ManifestError, match="a RayCronJob needs 1 to 36"):
        jobs.ray_cron_job(job.model_copy(update={"name": "n" * 37}), "@daily", None)
    with pytest.raises(ManifestError, match="carry no label of Kueue"):
        jobs.ray_cron_job(job.model_copy(update={"queue": "q"}), "@daily", None)
