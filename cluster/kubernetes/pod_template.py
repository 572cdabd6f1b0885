"""The pods of a Ray cluster: resources, volumes, node selection, and the init container that fetches the weights."""

from cluster.jobs.description import EMBEDDED, NFS, PUBLISHED, STORAGE, TAINT, WEIGHTS, ClusterJob
from cluster.kubernetes import models as m

USER = 1000  # as in deploy/Dockerfile.gpu
GPU, GPU_PRODUCT, GPU_MEMORY = "nvidia.com/gpu", "nvidia.com/gpu.product", "nvidia.com/gpu.memory"
SUBMITTER = {"cpu": "500m", "memory": "1Gi"}
UNPRIVILEGED = m.SecurityContext(run_as_user=USER, run_as_non_root=True)
# A folder that Kubernetes creates on a node belongs to root, so its loader runs as root, without any capability.
_LOADER = m.SecurityContext(run_as_user=0)


# A term for each provider: Google, Azure, Amazon's groups, Karpenter. A node needs to match one.
_SPOT = (
    ("cloud.google.com/gke-spot", "true"),
    ("kubernetes.azure.com/scalesetpriority", "spot"),
    ("eks.amazonaws.com/capacityType", "SPOT"),
    ("karpenter.sh/capacity-type", "spot"),
)
_SPOT_TAINTS = _SPOT[:2]  # labels that are also taints


def pod_template(job: ClusterJob, name: str, amounts: dict[str, str], gpus: int, *, is_worker: bool) -> m.PodTemplate:
    """A pod whose container `name` has the resources `amounts` and `gpus` GPUs."""
    on_gpu = bool(job.gpus and gpus)
    volumes, mounts = [m.Volume(name="shm", empty_dir=m.EmptyDir(medium="Memory", size_limit="2Gi"))], []
    mounts.append(m.VolumeMount(name="shm", mount_path="/dev/shm"))
    if job.volume:
        volumes.append(_volume("storage", job.volume))
        mounts.append(m.VolumeMount(name="storage", mount_path=STORAGE))
    if job.weights != EMBEDDED:
        volumes.append(_weights_volume(job))
        mounts.append(m.VolumeMount(name="weights", mount_path=WEIGHTS, read_only=not job.claims_weights))
    container = m.Container(
        name=name,
        image=job.image,
        env=_environment(job) or None,
        resources=resources(amounts | ({GPU: str(gpus)} if on_gpu else {})),
        security_context=UNPRIVILEGED,
        volume_mounts=tuple(mounts),
    )
    pod = m.PodSpec(
        containers=(container,),
        init_containers=(_loader(job),) if job.weights != EMBEDDED else None,
        volumes=tuple(volumes),
        node_selector=(_node_selector(job, on_gpu=on_gpu) or None) if is_worker else None,
        affinity=_affinity(job, on_gpu=on_gpu) if is_worker else None,
        tolerations=_tolerations(job, on_gpu=on_gpu, is_worker=is_worker) or None,
        restart_policy="Never",
        security_context=m.PodSecurity(fs_group=USER),
        priority_class_name=pod_priority(job),
        # The autoscaler, a container of the head, asks Kubernetes for pods.
        automount_service_account_token=None if job.is_elastic and not is_worker else False,
    )
    return m.PodTemplate(metadata=m.Metadata(labels={m.JOB_LABEL: job.name}), spec=pod)


def submitter(job: ClusterJob) -> m.PodTemplate:
    """The pod that hands the command to the cluster. KubeRay adds its command; its own template is not restricted."""
    container = m.Container(
        name="ray-job-submitter",
        image=job.image,
        resources=resources(SUBMITTER),
        security_context=UNPRIVILEGED,
    )
    pod = m.PodSpec(
        containers=(container,),
        tolerations=_tolerations(job, on_gpu=False, is_worker=False) or None,
        restart_policy="Never",
        priority_class_name=pod_priority(job),
        automount_service_account_token=False,
    )
    return m.PodTemplate(metadata=m.Metadata(labels={m.JOB_LABEL: job.name}), spec=pod)


def pod_priority(job: ClusterJob) -> str | None:
    """The PriorityClass of the pods; a queue orders jobs by a class of Kueue's instead."""
    return None if job.queue else job.priority


def resources(amounts: dict[str, str]) -> m.Resources:
    """Requests equal to limits: Ray's scheduler uses the limits, and such a pod is evicted last."""
    return m.Resources(limits=amounts, requests=amounts)


def _loader(job: ClusterJob) -> m.Container:
    """The init container that fetches the weights. One of the pods that share a volume fetches, the others wait.

    A node's cache also gets the program's shared files of the storage.
    """
    fetch = job.program.fetch
    mounts = [m.VolumeMount(name="weights", mount_path=WEIGHTS)]
    if job.volume and not job.claims_weights:
        copy = f"find {STORAGE} -maxdepth 1 -name '{job.program.shared_files}' -exec cp -u -t {WEIGHTS} {{}} +"
        fetch = ("sh", "-c", f"{' '.join(fetch)} && {copy}")
        mounts.append(m.VolumeMount(name="storage", mount_path=STORAGE, read_only=True))
    return m.Container(
        name="weights",
        image=job.image,
        command=("flock", f"{WEIGHTS}/.loading", *fetch),
        env=(*_environment(job), m.EnvVar(name="HF_HOME", value=f"{WEIGHTS}/.hub")),
        resources=resources({"cpu": "1", "memory": "4Gi"}),
        security_context=UNPRIVILEGED if job.claims_weights else _LOADER,
        volume_mounts=tuple(mounts),
    )


def _environment(job: ClusterJob) -> tuple[m.EnvVar, ...]:
    weights = () if job.weights == EMBEDDED else (m.EnvVar(name=job.program.weights_variable, value=WEIGHTS),)
    return weights + tuple(
        m.EnvVar(name=s.key, value_from=m.ValueFrom(secret_key_ref=m.SecretKey(name=s.name, key=s.key)))
        for s in job.secrets
    )


def _volume(name: str, where: str) -> m.Volume:
    if where.startswith(NFS):
        server, _, path = where.removeprefix(NFS).partition("/")
        return m.Volume(name=name, nfs=m.Nfs(server=server, path=f"/{path}"))
    return m.Volume(name=name, persistent_volume_claim=m.Claim(claim_name=where))


def _weights_volume(job: ClusterJob) -> m.Volume:
    if job.weights == PUBLISHED:
        return m.Volume(name="weights", host_path=m.HostPath(path=job.program.weights_cache))
    return _volume("weights", job.weights)


def _node_selector(job: ClusterJob, *, on_gpu: bool) -> dict[str, str]:
    found = {}
    if job.gpu_type and on_gpu:
        label, equals, value = job.gpu_type.rpartition("=")
        found[label if equals else GPU_PRODUCT] = value
    for text in job.node_selectors:
        label, _, value = text.partition("=")
        found[label] = value
    return found


def _affinity(job: ClusterJob, *, on_gpu: bool) -> m.Affinity | None:
    """Enough GPU memory, and a spot node of any provider: a node must match one term, with all of its expressions."""
    common: tuple[m.Expression, ...] = ()
    if job.gpu_memory is not None and on_gpu:
        # The label counts MiB, an 80 GB card has 81,559, and Gt means "more than".
        mib = str(job.gpu_memory * 10**9 // 2**20 - 1)
        common = (m.Expression(key=GPU_MEMORY, operator="Gt", values=(mib,)),)
    spots = [(m.Expression(key=key, operator="In", values=(value,)),) for key, value in _SPOT] if job.spot else [()]
    terms = tuple(m.NodeSelectorTerm(match_expressions=common + spot) for spot in spots if common + spot)
    if not terms:
        return None
    selector = m.NodeSelector(node_selector_terms=terms)
    return m.Affinity(node_affinity=m.NodeAffinity(required_during_scheduling_ignored_during_execution=selector))


def _tolerations(job: ClusterJob, *, on_gpu: bool, is_worker: bool) -> tuple[m.Toleration, ...]:
    found = [m.Toleration(key=GPU, operator="Exists", effect="NoSchedule")] if on_gpu else []
    if job.spot and is_worker:
        found += [m.Toleration(key=k, operator="Equal", value=v, effect="NoSchedule") for k, v in _SPOT_TAINTS]
    for text in job.tolerations:
        taint = TAINT.fullmatch(text)
        assert taint is not None
        value, effect = taint["value"], taint["effect"]
        found.append(
            m.Toleration(key=taint["key"], operator="Equal" if value else "Exists", value=value, effect=effect)
        )
    return tuple(found)
