"""Runs and recurring runs of the pipeline, through the API of Kubeflow Pipelines. A name is a job, or a schedule."""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import kfp_server_api as api
import urllib3
import yaml

from cluster.kubeflow.pipeline import compiled
from cluster.kubernetes.job import Job
from cluster.kubernetes.launcher import Change, Handle, LaunchError, State, Status, another, missing
from cluster.kubernetes.manifests import ManifestError

EXPERIMENT = "segmentdreamer"
TOKEN = "KFP_TOKEN"  # the environment variable
TIMEOUT_SECONDS, PAGE = 30, 100
STATES: dict[str, State] = {
    "RUNNING": "running",
    "CANCELING": "running",
    "SUCCEEDED": "succeeded",
    "PENDING": "waiting",
}
ENDS = "SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"
MACROS = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *"}  # fmt: skip


class KubeflowRuns:
    """A `Launcher`, and the clock of Kubeflow. With many users `namespace` is the profile's.

    A run that is made with `again` begins RayJobs of its name anew if they have failed.
    """

    def __init__(self, endpoint: str, namespace: str | None = None, *, again: bool = False):
        self.endpoint, self.namespace, self.again = endpoint.rstrip("/"), namespace, again
        configuration = api.Configuration(host=self.endpoint)
        configuration.retries = False
        if token := os.environ.get(TOKEN):
            configuration.api_key = {"authorization": token}
            configuration.api_key_prefix = {"authorization": "Bearer"}
        client = api.ApiClient(configuration)
        self.experiments, self.runs = api.ExperimentServiceApi(client), api.RunServiceApi(client)
        self.recurring = api.RecurringRunServiceApi(client)

    # ---- runs -----------------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> Handle:
        with self._asking():
            there = self._find(job.name)
            if there is None:
                again = {"again": True} if self.again else {}
                body = api.V2beta1Run(
                    experiment_id=self._experiment(),
                    display_name=job.name,
                    pipeline_spec=_spec(compiled(job)),
                    runtime_config=api.V2beta1RuntimeConfig(parameters={"job": job.text} | again),
                )
                self.runs.run_service_create_run(run=body, _request_timeout=TIMEOUT_SECONDS)
                return Handle(job.name, is_new=True)
        if (there.runtime_config.parameters or {}).get("job") != job.text:
            raise another(job.name)
        return Handle(job.name, is_new=False)

    def status(self, name: str) -> Status:
        run = self._get(name)
        return Status(STATES.get(run.state, "failed"), (run.error.message or "") if run.error else "")

    def logs(self, name: str) -> str:
        """Where they are: Kubeflow keeps the steps' logs, and KubeRay that of the bench."""
        return f"{self.endpoint}/#/runs/details/{self._get(name).run_id}; the bench: job logs kuberay {name}\n"

    def cancel(self, name: str) -> None:
        """Its pods are told to stop, and the one that waits for a RayJob cancels it."""
        run = self._get(name)
        with self._asking():
            if run.state not in ENDS:
                self.runs.run_service_terminate_run(run.run_id, _request_timeout=TIMEOUT_SECONDS)
            self.runs.run_service_delete_run(run.run_id, _request_timeout=TIMEOUT_SECONDS)

    # ---- the clock ------------------------------------------------------------------------------------------------

    def schedule(self, job: Job, cron: str) -> Change:
        """Have it run by the clock: one at a time, no missed tick made up for, nothing cached. Raises LaunchError."""
        package = compiled(job, each_run=True)
        asked = "\n".join((cron, job.text, package))
        described = f"{EXPERIMENT} {hashlib.sha256(asked.encode()).hexdigest()[:16]}"
        with self._asking():
            there = self._schedules(job.name)
            if [found.description for found in there] == [described]:
                return "unchanged"
            self._forget(there)  # Kubeflow cannot change a recurring run
            body = api.V2beta1RecurringRun(
                experiment_id=self._experiment(),
                display_name=job.name,
                description=described,
                mode=api.RecurringRunMode.ENABLE,
                max_concurrency=1,
                no_catchup=True,
                pipeline_spec=_spec(package),
                runtime_config=api.V2beta1RuntimeConfig(parameters={"job": job.text}),
                trigger=api.V2beta1Trigger(cron_schedule=api.V2beta1CronSchedule(cron=cron)),
            )
            self.recurring.recurring_run_service_create_recurring_run(
                recurring_run=body, _request_timeout=TIMEOUT_SECONDS
            )
        return "replaced" if there else "created"

    def unschedule(self, name: str) -> Change:
        """Runs that it has begun go on. Raises LaunchError."""
        with self._asking():
            there = self._schedules(name)
            self._forget(there)
        return "deleted" if there else "unchanged"

    def _forget(self, there: list[Any]) -> None:
        for found in there:
            self.recurring.recurring_run_service_delete_recurring_run(
                found.recurring_run_id, _request_timeout=TIMEOUT_SECONDS
            )

    # ---- what is there --------------------------------------------------------------------------------------------

    def _get(self, name: str) -> Any:
        with self._asking():
            there = self._find(name)
        if there is None:
            raise missing(name)
        return there

    def _find(self, name: str) -> Any:
        """The newest run of this name."""
        listed = self.runs.run_service_list_runs(sort_by="created_at desc", **self._named(name)).runs
        return next((run for run in listed or [] if run.display_name == name), None)

    def _schedules(self, name: str) -> list[Any]:
        listed = self.recurring.recurring_run_service_list_recurring_runs(**self._named(name)).recurring_runs
        return [found for found in listed or [] if found.display_name == name]

    def _named(self, name: str) -> dict[str, Any]:
        predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
        where = {
            "filter": json.dumps({"predicates": [predicate]}),
            "page_size": PAGE,
            "_request_timeout": TIMEOUT_SECONDS,
        }
        return where | ({"namespace": self.namespace} if self.namespace else {})

    def _experiment(self) -> str:
        listed = self.experiments.experiment_service_list_experiments(**self._named(EXPERIMENT)).experiments
        for found in listed or []:
            if found.display_name == EXPERIMENT:
                return found.experiment_id
        body = api.V2beta1Experiment(display_name=EXPERIMENT, namespace=self.namespace)
        made = self.experiments.experiment_service_create_experiment(experiment=body, _request_timeout=TIMEOUT_SECONDS)
        return made.experiment_id

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """What the API answers in bad cases becomes a `LaunchError`."""
        try:
            yield
        except api.ApiException as error:
            reason = f"{error.status} {error.reason}: {' '.join(str(error.body or '').split())[:300]}"
            raise LaunchError(
                f"Kubeflow at {self.endpoint} refused ({reason}); see that {TOKEN} is a token of it, and --namespace "
                "your profile where there are many."
            ) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise LaunchError(
                f"No API of Kubeflow Pipelines answers at {self.endpoint} ({type(error).__name__}); run kubectl "
                "port-forward --namespace kubeflow service/ml-pipeline 8888, or give --endpoint."
            ) from error


def six_fields(schedule: str, time_zone: str | None) -> str:
    """Kubeflow's cron begins with seconds. Raises ManifestError."""
    if time_zone:
        raise ManifestError(
            f"--time-zone is {time_zone}; all schedules of a Kubeflow have its server's zone (CRON_SCHEDULE_TIMEZONE): "
            "leave it out."
        )
    fields = MACROS.get(schedule, schedule)
    if len(fields.split()) != 5:
        raise ManifestError(f"--schedule is {schedule!r}; give five fields of cron, as in '0 2 * * *', or @daily.")
    return f"0 {fields}"


def _spec(package: str) -> dict[str, Any]:
    """Both documents, as the API takes them."""
    graph, platform = yaml.safe_load_all(package)
    return {"pipeline_spec": graph, "platform_spec": platform}
