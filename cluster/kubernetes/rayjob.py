"""The RayJob and RayCluster manifests of a job."""

from cluster.jobs.description import ClusterJob, in_bucket
from cluster.jobs.errors import ManifestError
from cluster.kubernetes import models as m
from cluster.kubernetes.pod_template import UNPRIVILEGED, pod_template, resources, submitter

DASHBOARD_PORT, METRICS_PORT = 8265, 8080
SPEC_ANNOTATION = "segmentdreamer/spec"  # the digest of the job


def ray_job(job: ClusterJob) -> m.RayJob:
    """A RayJob, whose cluster is created for its command and deleted with it. Raises ManifestError."""
    return m.RayJob(metadata=metadata(job), spec=ray_job_spec(job))


def ray_cluster(job: ClusterJob) -> m.RayCluster:
    """A long-lived RayCluster, for `submit ray`. Raises ManifestError."""
    spec = _cluster(job, job.dashboard_host).model_copy(update={"managed_by": job.managed_by})
    return m.RayCluster(metadata=metadata(job), spec=spec)


def metadata(job: ClusterJob) -> m.Metadata:
    """Name, namespace, digest, and what Kueue reads of a job: queue, priority, and whether its size changes."""
    queue = {m.QUEUE_LABEL: job.queue} if job.queue else {}
    priority = {m.PRIORITY_LABEL: job.priority} if job.queue and job.priority else {}
    elastic = {m.ELASTIC_ANNOTATION: "true"} if job.queue and job.is_elastic else {}
    return m.Metadata(
        name=job.name,
        namespace=job.namespace,
        labels={**queue, **priority} or None,
        annotations={SPEC_ANNOTATION: job.digest, **elastic},
    )


def network_policy(name: str, namespace: str | None) -> m.NetworkPolicy:
    """What may reach the pods of a job: each other, KubeRay's operator and metrics. They may reach everything."""
    own = m.LabelSelector(match_labels={m.JOB_LABEL: name})
    everywhere = m.LabelSelector()
    operator = m.LabelSelector(match_labels={"app.kubernetes.io/name": "kuberay-operator"})
    prometheus = m.LabelSelector(match_labels={"app.kubernetes.io/name": "prometheus"})
    ingress = (
        m.Ingress(peers=(m.Peer(pod_selector=own),)),
        m.Ingress(
            peers=(m.Peer(namespace_selector=everywhere, pod_selector=operator),), ports=(m.Port(port=DASHBOARD_PORT),)
        ),
        m.Ingress(
            peers=(m.Peer(namespace_selector=everywhere, pod_selector=prometheus),), ports=(m.Port(port=METRICS_PORT),)
        ),
    )
    return m.NetworkPolicy(
        metadata=m.Metadata(name=name, namespace=namespace),
        spec=m.NetworkPolicySpec(pod_selector=own, ingress=ingress),
    )


def ray_job_spec(job: ClusterJob) -> m.RayJobSpec:
    """The spec of a job's RayJob. Raises ManifestError."""
    check_storage(job)
    return m.RayJobSpec(
        managed_by=job.managed_by,
        entrypoint=job.entrypoint,
        backoff_limit=job.retries,
        active_deadline_seconds=round(job.deadline_hours * 3600),
        pre_running_deadline_seconds=round(job.start_minutes * 60),
        ttl_seconds_after_finished=round(job.keep_minutes * 60),
        submitter_pod_template=submitter(job),
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
        replicas=job.workers,
        min_replicas=job.worker_range[0],
        max_replicas=job.worker_range[1],
        ray_start_params={},
        template=pod_template(
            job,
            "ray-worker",
            {"cpu": str(job.cpus), "memory": f"{job.memory}Gi"},
            job.gpus_per_worker,
            is_worker=True,
        ),
    )
    head = m.HeadGroup(
        # The head runs the command and no worker, so its resources do not grow with the cluster.
        ray_start_params={"dashboard-host": dashboard_host, "num-cpus": "0"},
        template=pod_template(job, "ray-head", {"cpu": "2", "memory": "8Gi"}, 0, is_worker=False),
    )
    autoscaler = m.AutoscalerOptions(
        resources=resources({"cpu": "500m", "memory": "512Mi"}), security_context=UNPRIVILEGED, idle_timeout_seconds=300
    )
    return m.RayClusterSpec(
        ray_version=job.ray_version,
        enable_in_tree_autoscaling=True if job.is_elastic else None,
        autoscaler_options=autoscaler if job.is_elastic else None,
        head_group_spec=head,
        worker_group_specs=(group,),
    )
