"""The RayJob and RayCluster manifests of a job."""

from cluster.jobs.description import ClusterJob, in_bucket
from cluster.jobs.errors import ManifestError
from cluster.kubernetes import models as m
from cluster.kubernetes.pod_template import pod_template

SPEC_ANNOTATION = "segmentdreamer/spec"  # the digest of the job


def ray_job(job: ClusterJob) -> m.RayJob:
    """A RayJob, whose cluster is created for its command and deleted with it. Raises ManifestError."""
    return m.RayJob(metadata=metadata(job), spec=ray_job_spec(job))


def ray_cluster(job: ClusterJob) -> m.RayCluster:
    """A long-lived RayCluster, for `submit ray`. Raises ManifestError."""
    return m.RayCluster(metadata=metadata(job), spec=_cluster(job, job.dashboard_host))


def metadata(job: ClusterJob) -> m.Metadata:
    """Name, namespace, queue label and digest of a job."""
    return m.Metadata(
        name=job.name,
        namespace=job.namespace,
        labels={m.QUEUE_LABEL: job.queue} if job.queue else None,
        annotations={SPEC_ANNOTATION: job.digest},
    )


def ray_job_spec(job: ClusterJob) -> m.RayJobSpec:
    """The spec of a job's RayJob. Raises ManifestError."""
    check_storage(job)
    return m.RayJobSpec(
        entrypoint=job.entrypoint,
        backoff_limit=job.retries,
        active_deadline_seconds=round(job.deadline_hours * 3600),
        pre_running_deadline_seconds=round(job.start_minutes * 60),
        ttl_seconds_after_finished=round(job.keep_minutes * 60),
        # The operator and the submitter reach the dashboard over the pod network, where a token protects it.
        ray_cluster_spec=_cluster(job, "0.0.0.0"),
    )


def check_storage(job: ClusterJob) -> None:
    """Raise ManifestError if the results of a job would be lost with its pods."""
    if not job.volume and not in_bucket(job.results):
        raise ManifestError(
            "The command has no persistent storage, and files in a pod are lost when it ends; set `storage` to a "
            "PersistentVolumeClaim that many nodes can write (ReadWriteMany), nfs://SERVER/PATH or, if the command can "
            "write to a bucket, s3://BUCKET/PATH."
        )


def _cluster(job: ClusterJob, dashboard_host: str) -> m.RayClusterSpec:
    group = m.WorkerGroup(
        group_name="gpu" if job.gpus else "cpu",
        replicas=(replicas := job.gpus // job.gpus_per_worker if job.gpus else 1),
        min_replicas=replicas,
        max_replicas=replicas,
        ray_start_params={},
        template=pod_template(
            job, "ray-worker", {"cpu": str(job.cpus), "memory": f"{job.memory}Gi"}, job.gpus_per_worker
        ),
    )
    head = m.HeadGroup(
        # The head runs the command and no worker, so its resources do not grow with the cluster.
        ray_start_params={"dashboard-host": dashboard_host, "num-cpus": "0"},
        template=pod_template(job, "ray-head", {"cpu": "2", "memory": "8Gi"}, 0),
    )
    return m.RayClusterSpec(ray_version=job.ray_version, head_group_spec=head, worker_group_specs=(group,))
