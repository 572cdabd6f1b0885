"""What a user asks a cluster for, and the manifests that say it to KubeRay: values in, values out.

A command's words pass two shells on their way (KubeRay's submitter, then Ray's `shell=True`, with Windows' quoting of
`list2cmdline` in between), so no quoting is right for both. `encoded` leaves nothing that any shell would read.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Self
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, model_validator

from cluster.kubernetes import manifests as m
from cluster.kubernetes.manifests import ManifestError, refusing

PROGRAM = "segmentdreamer"
STORAGE, WEIGHTS, NODE_CACHE = "/storage", "/weights", "/var/cache/segmentdreamer/weights"
WEIGHTS_VARIABLE = "SEGMENTDREAMER_WEIGHTS"
PUBLISHED, EMBEDDED = "published", "embedded"
GPU, GPU_PRODUCT, GPU_MEMORY = "nvidia.com/gpu", "nvidia.com/gpu.product", "nvidia.com/gpu.memory"
SPEC_ANNOTATION = "segmentdreamer/spec"  # the digest of what was asked for
JOB_NAME = "$(JOB_NAME)"  # Kubernetes puts in the name of the tick's Job
USER = 1000  # as in deploy/Dockerfile.gpu
MAKES_A_FOLDER = "bench", "generate"
NFS, BUCKETS = "nfs://", ("s3://", "s3a://", "gs://", "gcs://")
VARIABLE, DNS_1123 = re.compile(r"[A-Za-z_][A-Za-z0-9_]*"), re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


class Secret(BaseModel):
    """The key of a Kubernetes Secret, which becomes the environment variable of the same name."""

    model_config = ConfigDict(frozen=True)
    name: str
    key: str


class Job(BaseModel):
    """A command of this program and the machines that it wants."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    command: tuple[str, ...] = ()
    image: str = ""  # of RayJobs and RayClusters, as all that follows
    ray_version: str = ""
    namespace: str | None = None
    gpus: int = 1  # in all
    gpus_per_worker: int = 1
    gpu_type: str | None = None  # a value of the label nvidia.com/gpu.product, or LABEL=VALUE
    gpu_memory: int | None = None  # GB of one GPU, at least
    cpus: int = 8  # of a worker, as the next
    memory: int = 32  # GiB
    storage: str | None = None  # a PersistentVolumeClaim, nfs://SERVER/PATH, or a folder of a bucket, s3://BUCKET/PATH
    weights: str = EMBEDDED  # embedded, published (a cache on each node), or a PersistentVolumeClaim
    secrets: tuple[Secret, ...] = ()
    queue: str | None = None
    retries: int = 2
    deadline_hours: float = 24.0
    start_minutes: float = 30.0
    keep_minutes: float = 60.0
    dashboard_host: str = "127.0.0.1"  # of a RayCluster

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.gpus < 0 or self.gpus_per_worker < 1 or self.gpus % self.gpus_per_worker:
            raise ManifestError(
                f"--gpus is {self.gpus} and --gpus-per-worker {self.gpus_per_worker}; give a multiple of it, or "
                "--gpus 0 for one worker without."
            )
        if min(self.cpus, self.memory) < 1:
            raise ManifestError(f"--cpus is {self.cpus} and --memory {self.memory}; give at least 1 of each.")
        if not self.gpus and (self.gpu_type or self.gpu_memory):
            raise ManifestError("--gpus is 0, and --gpu-type or --gpu-memory was given; leave them out.")
        if self.retries < 0 or min(self.deadline_hours, self.start_minutes) <= 0 or self.keep_minutes < 0:
            raise ManifestError(
                f"--retries is {self.retries}, --deadline-hours {self.deadline_hours:g}, --start-minutes "
                f"{self.start_minutes:g} and --keep-minutes {self.keep_minutes:g}; give limits above 0, and 0 or "
                "more of the others."
            )
        for option, where, urls in (
            ("--storage", self.storage or "", (NFS, *BUCKETS)),
            ("--weights", self.weights, (NFS,)),
        ):
            if where and not where.startswith(urls) and not DNS_1123.fullmatch(where):
                raise ManifestError(
                    f"{option} is {where!r}; give the name of a PersistentVolumeClaim, nfs://SERVER/PATH"
                    f"{' or s3://BUCKET/PATH' if len(urls) > 1 else ': files are read there as on a disk'}."
                )
        if "" in self.command:
            raise ManifestError("The command holds an empty word; leave it out, or write what is missing.")
        return self

    @property
    def digest(self) -> str:
        """Of all that was asked for: whether a job of the same name is the same job."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def words(self) -> list[str]:
        """The command, which writes to the storage unless it says where."""
        words = list(self.command)
        if not words or not self.storage or any(word.partition("=")[0] == "--out" for word in words):
            return words
        if words[0] in MAKES_A_FOLDER:
            return [*words, "--out", f"{STORAGE if self.volume else self.storage.rstrip('/')}/{self.name}"]
        is_for_all = words[0] == "reference" and self.volume and not self.claims_weights
        return [*words, "--out", STORAGE] if is_for_all else words

    @property
    def folder(self) -> str:
        """Where the command writes; empty if it does not say."""
        words = [part for word in self.words for part in (word.split("=", 1) if word.startswith("--out=") else [word])]
        return words[words.index("--out") + 1] if "--out" in words[:-1] else ""

    @property
    def volume(self) -> str | None:
        """What pods mount at `STORAGE`; a bucket is no volume."""
        return None if self.storage is None or in_bucket(self.storage) else self.storage

    @property
    def keeps_in_bucket(self) -> bool:
        """Whether what the command writes outlives its pods without a volume."""
        verb, *words = self.command or ("",)
        return any(map(in_bucket, words)) if verb == "evaluate" else verb != "reference" and in_bucket(self.folder)

    @property
    def text(self) -> str:
        """As JSON that is told to other programs: no shell or template on the way reads the command's words."""
        return json.dumps(self.model_dump(mode="json") | {"command": encoded(self.command)}, sort_keys=True)

    @property
    def claims_weights(self) -> bool:
        """Whether the weights lie on one volume for all nodes, where a reference can be written beside them."""
        return self.weights not in (EMBEDDED, PUBLISHED)

    @property
    def entrypoint(self) -> str:
        return " ".join([PROGRAM, "encoded", *encoded(self.words)])


def in_bucket(where: str) -> bool:
    """Whether an address is one of an object store."""
    return where.startswith(BUCKETS)


def encoded(words: Sequence[str]) -> list[str]:
    """Words of letters, digits and -._/=:,+@% alone, of which no shell changes any; `decoded` is the way back."""
    return [quote(word, safe="-._/=:,+@") for word in words]


def decoded(words: Sequence[str]) -> list[str]:
    return [unquote(word) for word in words]


def from_text(text: str) -> Job:
    """The way back from `Job.text`. Raises ManifestError."""
    fields = json.loads(text)
    return job(**fields | {"command": decoded(fields["command"])})


def secret(text: str) -> Secret:
    """NAME=KEY of the command line. Raises ManifestError: also for a value, which belongs into no manifest."""
    name, _, key = text.partition("=")
    if not DNS_1123.fullmatch(name) or not VARIABLE.fullmatch(key):
        raise ManifestError(
            "--secret names no key of a Secret; write NAME=KEY, as in --secret hub=HF_TOKEN for the key "
            "HF_TOKEN of the Secret hub: values stay in the cluster."
        )
    return Secret(name=name, key=key)


def job(**options: object) -> Job:
    """A job of these options. Raises ManifestError."""
    with refusing():
        return Job.model_validate(options)


def ray_job(job: Job) -> m.RayJob:
    """A cluster that is made for one command and ends with it. Raises ManifestError."""
    with refusing():
        return m.RayJob(metadata=_metadata(job), spec=_ray_job_spec(job))


def ray_cluster(job: Job) -> m.RayCluster:
    """A cluster that stays, for `submit ray`. Raises ManifestError."""
    with refusing():
        return m.RayCluster(metadata=_metadata(job), spec=_cluster(job, job.dashboard_host))


def ray_cron_job(job: Job, schedule: str, time_zone: str | None) -> m.RayCronJob:
    """KubeRay's own clock, an alpha feature. Raises ManifestError."""
    with refusing():
        spec = m.RayCronJobSpec(schedule=_schedule(schedule), time_zone=time_zone, job_template=_ray_job_spec(job))
        return m.RayCronJob(metadata=_metadata(job), spec=spec)


def cron_job(job: Job, schedule: str, time_zone: str | None, launch: Sequence[str]) -> tuple[m.Manifest, ...]:
    """Kubernetes' clock runs our launcher, with the rights that it needs. Raises ManifestError.

    `launch` are the options of `submit kuberay`. Each tick's job has the name that Kubernetes gives the tick, so a
    launcher that is started again attaches to it; it waits for the end, so that ticks do not overlap.
    """
    _check_storage(job)
    account = account_of(job.name)
    arguments = [*(word.replace("$", "$$") for word in launch), "--", *(w.replace("$", "$$") for w in job.command)]
    with refusing():
        container = m.Container(
            name="launcher",
            image=job.image,
            command=(PROGRAM, "submit", "kuberay", "--wait", "--name", JOB_NAME),
            args=tuple(arguments),
            env=(_from_field("JOB_NAME", "metadata.labels['batch.kubernetes.io/job-name']"),),
            resources=_resources({"cpu": "500m", "memory": "1Gi"}),
            security_context=_UNPRIVILEGED,
        )
        pod = m.PodSpec(containers=(container,), restart_policy="Never", service_account_name=account)
        spec = m.CronJobSpec(
            schedule=_schedule(schedule),
            time_zone=time_zone,
            starting_deadline_seconds=3600,
            job_template=m.JobTemplate(spec=m.JobSpec(backoff_limit=3, template=m.PodTemplate(spec=pod))),
        )
        named = m.Metadata(name=account, namespace=job.namespace)
        return (
            m.ServiceAccount(metadata=named),
            m.Role(metadata=named, rules=_RIGHTS),
            m.RoleBinding(metadata=named, role_ref=m.RoleRef(name=account), subjects=(m.Subject(name=account),)),
            m.CronJob(
                metadata=m.Metadata(
                    name=job.name,
                    namespace=job.namespace,
                    annotations={SPEC_ANNOTATION: hashlib.sha256(spec.model_dump_json().encode()).hexdigest()[:16]},
                ),
                spec=spec,
            ),
        )


def account_of(cron_job: str) -> str:
    """The name of the account, and of its rights, as which a CronJob's ticks run."""
    return f"{cron_job}-launcher"


# ---- parts --------------------------------------------------------------------------------------------------------

_UNPRIVILEGED = m.SecurityContext(run_as_user=USER, run_as_non_root=True)
# A folder that Kubernetes makes on a node belongs to root, and so does its loader, without any capability of root.
_LOADER = m.SecurityContext(run_as_user=0)
_RIGHTS = (
    m.PolicyRule(api_groups=("ray.io",), resources=("rayjobs",), verbs=("create", "get", "delete")),
    m.PolicyRule(api_groups=("",), resources=("pods", "pods/log"), verbs=("get", "list")),
)


def _metadata(job: Job) -> m.Metadata:
    return m.Metadata(
        name=job.name,
        namespace=job.namespace,
        labels={m.QUEUE_LABEL: job.queue} if job.queue else None,
        annotations={SPEC_ANNOTATION: job.digest},
    )


def _ray_job_spec(job: Job) -> m.RayJobSpec:
    _check_storage(job)
    return m.RayJobSpec(
        entrypoint=job.entrypoint,
        backoff_limit=job.retries,
        active_deadline_seconds=round(job.deadline_hours * 3600),
        pre_running_deadline_seconds=round(job.start_minutes * 60),
        ttl_seconds_after_finished=round(job.keep_minutes * 60),
        # The operator and the submitter reach the dashboard over the pods' network, where a token guards it.
        ray_cluster_spec=_cluster(job, "0.0.0.0"),
    )


def _check_storage(job: Job) -> None:
    if not job.volume and not job.keeps_in_bucket:
        raise ManifestError(
            "There is no --storage that the command writes to, and what a pod writes is gone when it ends; give a "
            "PersistentVolumeClaim that many nodes write, nfs://SERVER/PATH or, but for reference, s3://BUCKET/PATH."
        )


def _cluster(job: Job, dashboard_host: str) -> m.RayClusterSpec:
    group = m.WorkerGroup(
        group_name="gpu" if job.gpus else "cpu",
        replicas=(replicas := job.gpus // job.gpus_per_worker if job.gpus else 1),
        min_replicas=replicas,
        max_replicas=replicas,
        ray_start_params={},
        template=_pod(job, "ray-worker", {"cpu": str(job.cpus), "memory": f"{job.memory}Gi"}, job.gpus_per_worker),
    )
    head = m.HeadGroup(
        # The head runs the command and no worker: what it needs does not grow with the cluster.
        ray_start_params={"dashboard-host": dashboard_host, "num-cpus": "0"},
        template=_pod(job, "ray-head", {"cpu": "2", "memory": "8Gi"}, 0),
    )
    return m.RayClusterSpec(ray_version=job.ray_version, head_group_spec=head, worker_group_specs=(group,))


def _pod(job: Job, name: str, amounts: dict[str, str], gpus: int) -> m.PodTemplate:
    on_gpu = bool(job.gpus and gpus)
    volumes, mounts = [m.Volume(name="shm", empty_dir=m.EmptyDir(medium="Memory", size_limit="2Gi"))], []
    mounts.append(m.VolumeMount(name="shm", mount_path="/dev/shm"))
    if job.volume:
        volumes.append(_volume("storage", job.volume))
        mounts.append(m.VolumeMount(name="storage", mount_path=STORAGE))
    if job.weights != EMBEDDED:
        volumes.append(_volume("weights", job.weights))
        mounts.append(m.VolumeMount(name="weights", mount_path=WEIGHTS, read_only=not job.claims_weights))
    container = m.Container(
        name=name,
        image=job.image,
        env=_environment(job) or None,
        resources=_resources(amounts | ({GPU: str(gpus)} if on_gpu else {})),
        security_context=_UNPRIVILEGED,
        volume_mounts=tuple(mounts),
    )
    pod = m.PodSpec(
        containers=(container,),
        init_containers=(_loader(job),) if job.weights != EMBEDDED else None,
        volumes=tuple(volumes),
        node_selector=_selector(job) if on_gpu else None,
        affinity=_affinity(job) if on_gpu else None,
        tolerations=(m.Toleration(key=GPU, operator="Exists", effect="NoSchedule"),) if on_gpu else None,
        restart_policy="Never",
        security_context=m.PodSecurity(fs_group=USER),
        automount_service_account_token=False,
    )
    return m.PodTemplate(spec=pod)


def _loader(job: Job) -> m.Container:
    """Fetches the weights before Ray starts; of many pods that share the volume one does, and the others wait for it.

    A node's cache also gets the references that `segmentdreamer reference` made in the storage.
    """
    fetch: tuple[str, ...] = (PROGRAM, "weights", "fetch")
    mounts = [m.VolumeMount(name="weights", mount_path=WEIGHTS)]
    if job.volume and not job.claims_weights:
        copy = f"find {STORAGE} -maxdepth 1 -name 'reference*.npz' -exec cp -u -t {WEIGHTS} {{}} +"
        fetch = ("sh", "-c", f"{' '.join(fetch)} && {copy}")
        mounts.append(m.VolumeMount(name="storage", mount_path=STORAGE, read_only=True))
    return m.Container(
        name="weights",
        image=job.image,
        command=("flock", f"{WEIGHTS}/.loading", *fetch),
        env=(*_environment(job), m.EnvVar(name="HF_HOME", value=f"{WEIGHTS}/.hub")),
        resources=_resources({"cpu": "1", "memory": "4Gi"}),
        security_context=_UNPRIVILEGED if job.claims_weights else _LOADER,
        volume_mounts=tuple(mounts),
    )


def _environment(job: Job) -> tuple[m.EnvVar, ...]:
    weights = () if job.weights == EMBEDDED else (m.EnvVar(name=WEIGHTS_VARIABLE, value=WEIGHTS),)
    return weights + tuple(
        m.EnvVar(name=s.key, value_from=m.ValueFrom(secret_key_ref=m.SecretKey(name=s.name, key=s.key)))
        for s in job.secrets
    )


def _from_field(name: str, path: str) -> m.EnvVar:
    return m.EnvVar(name=name, value_from=m.ValueFrom(field_ref=m.FieldPath(field_path=path)))


def _volume(name: str, where: str) -> m.Volume:
    if where.startswith(NFS):
        server, _, path = where.removeprefix(NFS).partition("/")
        return m.Volume(name=name, nfs=m.Nfs(server=server, path=f"/{path}"))
    if name == "weights" and where == PUBLISHED:
        return m.Volume(name=name, host_path=m.HostPath(path=NODE_CACHE))
    return m.Volume(name=name, persistent_volume_claim=m.Claim(claim_name=where))


def _resources(amounts: dict[str, str]) -> m.Resources:
    """Requests equal to limits: Ray tells its scheduler the limits, and such a pod is the last to be evicted."""
    return m.Resources(limits=amounts, requests=amounts)


def _selector(job: Job) -> dict[str, str] | None:
    if not job.gpu_type:
        return None
    label, equals, value = job.gpu_type.rpartition("=")
    return {label if equals else GPU_PRODUCT: value}


def _affinity(job: Job) -> m.Affinity | None:
    if job.gpu_memory is None:
        return None
    mib = str(
        job.gpu_memory * 10**9 // 2**20 - 1
    )  # the label counts MiB, and a card of 80 GB has 81,559; Gt is "more than"
    term = m.NodeSelectorTerm(match_expressions=(m.Expression(key=GPU_MEMORY, operator="Gt", values=(mib,)),))
    return m.Affinity(node_affinity=_on_nodes(term))


def _on_nodes(term: m.NodeSelectorTerm) -> m.NodeAffinity:
    selector = m.NodeSelector(node_selector_terms=(term,))
    return m.NodeAffinity(required_during_scheduling_ignored_during_execution=selector)


def _schedule(text: str) -> str:
    if not text.startswith("@") and len(text.split()) != 5:
        raise ManifestError(f"--schedule is {text!r}; give five fields of cron, as in '0 2 * * *', or @daily.")
    return text
