"""The launcher of pipeline runs and recurring runs, through the Kubeflow Pipelines API; a job's name names its run."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import kfp_server_api as api
import urllib3
import yaml

from cluster.jobs.description import ClusterJob
from cluster.jobs.errors import LaunchError, ManifestError, UnreachableError
from cluster.jobs.launcher import Handle, JobState, JobStatus, ScheduleChange, name_taken, no_such_job
from cluster.kubeflow.pipeline import compiled

EXPERIMENT = "segmentdreamer"
TOKEN = "KFP_TOKEN"  # an environment variable
TIMEOUT_SECONDS, PAGE = 30, 100
STATES: dict[str, JobState] = {
    "RUNNING": "running",
    "CANCELING": "running",
    "SUCCEEDED": "succeeded",
    "PENDING": "waiting",
}
END_STATES = "SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"
MACROS = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *"}  # fmt: skip


class KubeflowRuns:
    """A `Launcher`, and Kubeflow's schedules. `pipeline_of(job, each_run=…)` is the pipeline that it submits.

    In a multi-user Kubeflow, `namespace` is that of the profile.
    """

    def __init__(self, endpoint: str, pipeline_of: Callable[..., Any], namespace: str | None = None):
        self.endpoint, self.pipeline_of, self.namespace = endpoint.rstrip("/"), pipeline_of, namespace
        self.forgets_failed = False  # whether the runs that it submits first delete their failed RayJobs
        configuration = api.Configuration(host=self.endpoint)
        configuration.retries = False
        if token := os.environ.get(TOKEN):
            configuration.api_key = {"authorization": token}
            configuration.api_key_prefix = {"authorization": "Bearer"}
        client = api.ApiClient(configuration)
        self.experiments, self.runs = api.ExperimentServiceApi(client), api.RunServiceApi(client)
        self.recurring = api.RecurringRunServiceApi(client)

    # ---- runs -----------------------------------------------------------------------------------------------------

    def submit(self, job: ClusterJob) -> Handle:
        pipeline = self.pipeline_of(job)
        with self._launch_errors():
            existing = self._find(job.name)
            if existing is None:
                again = {"again": True} if self.forgets_failed else {}
                body = api.V2beta1Run(
                    experiment_id=self._experiment(),
                    display_name=job.name,
                    pipeline_spec=_spec(compiled(pipeline)),
                    runtime_config=api.V2beta1RuntimeConfig(parameters={"job": job.text} | again),
                )
                self.runs.run_service_create_run(run=body, _request_timeout=TIMEOUT_SECONDS)
                return Handle(job.name, is_new=True)
        if not _is_run_of(existing, job):
            raise name_taken(job.name)
        return Handle(job.name, is_new=False)

    def forget_failed(self, job: ClusterJob) -> None:
        self.forgets_failed = True
        with self._launch_errors():
            run = self._find(job.name)
        if run and _is_run_of(run, job) and _status_of(run).state == "failed":
            self.cancel(job.name)

    def status(self, name: str) -> JobStatus:
        return _status_of(self._get(name))

    def logs(self, name: str) -> str:
        """The place of the logs: Kubeflow keeps those of the steps, KubeRay that of the bench."""
        return f"{self.endpoint}/#/runs/details/{self._get(name).run_id}; the bench: job logs kuberay {name}\n"

    def cancel(self, name: str) -> None:
        """Terminate and delete a run. A step that waits for a RayJob cancels it."""
        run = self._get(name)
        with self._launch_errors():
            if run.state not in END_STATES:
                self.runs.run_service_terminate_run(run.run_id, _request_timeout=TIMEOUT_SECONDS)
            self.runs.run_service_delete_run(run.run_id, _request_timeout=TIMEOUT_SECONDS)

    # ---- schedules ------------------------------------------------------------------------------------------------

    def schedule(self, job: ClusterJob, schedule: str, time_zone: str | None = None) -> ScheduleChange:
        """Create or replace a recurring run: one at a time, no catch-up or cache. Raises LaunchError, ManifestError."""
        cron = six_fields(schedule, time_zone)
        package = compiled(self.pipeline_of(job, each_run=True))
        request = "\n".join((cron, job.text, package))
        description = f"{EXPERIMENT} {hashlib.sha256(request.encode()).hexdigest()[:16]}"
        with self._launch_errors():
            existing = self._schedules(job.name)
            if [found.description for found in existing] == [description]:
                return "unchanged"
            self._delete(existing)  # Kubeflow cannot change a recurring run
            body = api.V2beta1RecurringRun(
                experiment_id=self._experiment(),
                display_name=job.name,
                description=description,
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
        return "replaced" if existing else "created"

    def unschedule(self, name: str) -> ScheduleChange:
        """Delete a recurring run. Runs that it has started continue. Raises LaunchError."""
        with self._launch_errors():
            existing = self._schedules(name)
            self._delete(existing)
        return "deleted" if existing else "unchanged"

    def _delete(self, recurring_runs: list[Any]) -> None:
        for found in recurring_runs:
            self.recurring.recurring_run_service_delete_recurring_run(
                found.recurring_run_id, _request_timeout=TIMEOUT_SECONDS
            )

    # ---- requests -------------------------------------------------------------------------------------------------

    def _get(self, name: str) -> Any:
        with self._launch_errors():
            existing = self._find(name)
        if existing is None:
            raise no_such_job(name)
        return existing

    def _find(self, name: str) -> Any:
        """The newest run of this name."""
        listed = self.runs.run_service_list_runs(sort_by="created_at desc", **self._query(name)).runs
        return next((run for run in listed or [] if run.display_name == name), None)

    def _schedules(self, name: str) -> list[Any]:
        listed = self.recurring.recurring_run_service_list_recurring_runs(**self._query(name)).recurring_runs
        return [found for found in listed or [] if found.display_name == name]

    def _query(self, name: str) -> dict[str, Any]:
        predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
        where = {
            "filter": json.dumps({"predicates": [predicate]}),
            "page_size": PAGE,
            "_request_timeout": TIMEOUT_SECONDS,
        }
        return where | ({"namespace": self.namespace} if self.namespace else {})

    def _experiment(self) -> str:
        listed = self.experiments.experiment_service_list_experiments(**self._query(EXPERIMENT)).experiments
        for found in listed or []:
            if found.display_name == EXPERIMENT:
                return found.experiment_id
        body = api.V2beta1Experiment(display_name=EXPERIMENT, namespace=self.namespace)
        created = self.experiments.experiment_service_create_experiment(
            experiment=body, _request_timeout=TIMEOUT_SECONDS
        )
        return created.experiment_id

    @contextmanager
    def _launch_errors(self) -> Iterator[None]:
        """Turn errors of the API and its connection into a `LaunchError`."""
        try:
            yield
        except api.ApiException as error:
            reason = f"{error.status} {error.reason}: {' '.join(str(error.body or '').split())[:300]}"
            raise LaunchError(
                f"Kubeflow at {self.endpoint} refused the request ({reason}); check that KFP_TOKEN is a valid token "
                "and, with several profiles, that `namespace` is yours."
            ) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise UnreachableError(
                f"No Kubeflow Pipelines API answers at {self.endpoint} ({type(error).__name__}); run kubectl "
                "port-forward --namespace kubeflow service/ml-pipeline 8888, or pass `endpoint`."
            ) from error


def six_fields(schedule: str, time_zone: str | None) -> str:
    """A cron schedule in Kubeflow's form, which begins with seconds. Raises ManifestError."""
    if time_zone:
        raise ManifestError(
            f"`time_zone` is {time_zone}; all recurring runs use the time zone of the Kubeflow Pipelines server "
            "(CRON_SCHEDULE_TIMEZONE): omit it."
        )
    fields = MACROS.get(schedule, schedule)
    if len(fields.split()) != 5:
        raise ManifestError(
            f"`schedule` is {schedule!r}; expected five cron fields, for example '0 2 * * *', or @daily."
        )
    return f"0 {fields}"


def _status_of(run: Any) -> JobStatus:
    return JobStatus(STATES.get(run.state, "failed"), (run.error.message or "") if run.error else "")


def _is_run_of(run: Any, job: ClusterJob) -> bool:
    return (run.runtime_config.parameters or {}).get("job") == job.text


def _spec(package: str) -> dict[str, Any]:
    """Both documents, as the API accepts them."""
    graph, platform = yaml.safe_load_all(package)
    return {"pipeline_spec": graph, "platform_spec": platform}
