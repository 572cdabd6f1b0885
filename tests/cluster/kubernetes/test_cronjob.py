"""Manifests of scheduled jobs."""

import pytest

from cluster.jobs.errors import ManifestError
from cluster.kubernetes import cronjob
from tests.support.cluster_jobs import job

BASE = {"name": "night", "image": "images.example/sd:1", "ray_version": "2.60.0", "storage": "runs"}


def test_each_ticks_job_has_the_name_of_the_tick():
    command = "bench", "--prompt", "a $(JOB_NAME) for $5"
    arguments = ["--image", "x", "--", *command]
    *rights, cron = cronjob.cron_job(
        job(**BASE, command=command), "0 2 * * *", "Europe/Berlin", ["launch", cronjob.JOB_NAME], arguments
    )
    (launcher,) = cron.spec.job_template.spec.template.spec.containers
    assert cron.spec.concurrency_policy == "Forbid"
    assert cron.spec.starting_deadline_seconds == 3600
    assert launcher.command == ("launch", "$(JOB_NAME)")
    assert launcher.args == ("--image", "x", "--", "bench", "--prompt", "a $$(JOB_NAME) for $$5")
    assert [right.kind for right in rights] == ["ServiceAccount", "Role", "RoleBinding"]


def test_a_schedule_has_five_fields_and_a_name_short_enough_for_its_ticks():
    night = job(**BASE)
    with pytest.raises(ManifestError, match="`schedule` is 'at two'"):
        cronjob.cron_job(night, "at two", None, [], [])
    with pytest.raises(ManifestError, match="the name of a CronJob has 1 to 38"):
        cronjob.cron_job(night.model_copy(update={"name": "n" * 39}), "@daily", None, [], [])
    with pytest.raises(ManifestError, match="the name of a RayCronJob has 1 to 36"):
        cronjob.ray_cron_job(night.model_copy(update={"name": "n" * 37}), "@daily", None)
    with pytest.raises(ManifestError, match=r"requires Ray 2\.52"):
        cronjob.cron_job(night.model_copy(update={"ray_version": "2.51.0"}), "@daily", None, [], [])
    with pytest.raises(ManifestError, match="get no Kueue label"):
        cronjob.ray_cron_job(night.model_copy(update={"queue": "q"}), "@daily", None)
