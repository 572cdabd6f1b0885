"""The description of a job: a command, the program that it belongs to, and the machines it needs.

On the way to a pod a command passes through two shells (KubeRay's submitter, then Ray's `shell=True`, with the Windows
quoting of `list2cmdline` in between), so no quoting is right for both. `encoded` leaves no character that a shell
interprets.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Self
from urllib.parse import quote, unquote

from pydantic import Field, field_validator, model_validator

from cluster.jobs.errors import CheckedModel, ManifestError, shortened

STORAGE, WEIGHTS = "/storage", "/weights"  # where pods mount the two volumes
PUBLISHED, EMBEDDED = "published", "embedded"
NFS, BUCKETS = "nfs://", ("s3://", "s3a://", "gs://", "gcs://")
OPERATOR, MULTIKUEUE = "ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue"
LABEL = re.compile(
    r"(?P<key>[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?)=(?P<value>([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?)"
)
TAINT = re.compile(
    r"(?P<key>[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?)(=(?P<value>[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?))?"
    r"(:(?P<effect>NoSchedule|PreferNoSchedule|NoExecute))?"
)
VARIABLE, DNS_1123 = re.compile(r"[A-Za-z_][A-Za-z0-9_]*"), re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


class Program(NamedTuple):
    """The program of a job's image, as far as a cluster has to know it."""

    decode: tuple[str, ...]  # the words before a command that `encoded` encoded
    fetch: tuple[str, ...]  # the command that fetches the weights
    shared_files: str  # a pattern: files at the top of the storage that belong beside the weights
    weights_variable: str  # the environment variable of the folder of the weights
    weights_cache: str  # the folder of a node where its pods share the weights


class Command(CheckedModel):
    """A command of the program, and what the program's parser found in it."""

    words: tuple[str, ...] = ()
    results: str = ""  # the folder or URL that it names for its results; empty if it names none
    place: Literal["", "folder", "storage"] = ""  # where else they can go: a folder of the job, or the storage itself
    option: str = ""  # the option that tells it so
    weights: str = EMBEDDED  # the weights that it needs: embedded or published


class Secret(CheckedModel):
    """A key of a Kubernetes Secret, which sets the environment variable of the same name. Also made from SECRET=KEY."""

    name: str
    key: str

    @model_validator(mode="before")
    @classmethod
    def _parse(cls, value: Any) -> Any:
        """Raises ManifestError for anything but two names: a value of a secret belongs in no manifest."""
        if not isinstance(value, str):
            return value
        name, _, key = value.partition("=")
        if not DNS_1123.fullmatch(name) or not VARIABLE.fullmatch(key):
            raise ManifestError(
                "`secret` names no key of a Secret; pass SECRET=KEY, for example `secret` hub=HF_TOKEN for the key "
                "HF_TOKEN of the Secret hub: secret values are never passed on the command line."
            )
        return {"name": name, "key": key}

    def __str__(self) -> str:
        return f"{self.name}={self.key}"


def option(default: Any, metavar: str | None, help: str, **attributes: Any) -> Any:
    """A field that a command line offers as an option. `attributes`: its flags and show_default."""
    return Field(default, description=help, json_schema_extra={"metavar": metavar, **attributes})


_LATER = (
    "priority", "managed_by", "spot", "node_selectors", "tolerations", "min_workers", "max_workers",
    "run_deadline_hours",
)  # fmt: skip


class ClusterJob(CheckedModel):
    """A command and the machines it needs. All fields but the name, the command and the program apply to pods only."""

    program: Program = Field(exclude=True)
    command: Command = Command()
    dashboard_host: str = option("127.0.0.1", "HOST", "Address that the dashboard listens on.")  # of a RayCluster
    name: str = option(..., "NAME", "Name of the job.")
    image: str = option("", "IMAGE", "Container image that contains segmentdreamer; see cluster/deploy.")
    namespace: str | None = option(None, "NAME", "Kubernetes namespace.", show_default="the current one")
    gpus: int = option(1, "N", "Total number of GPUs; 0 starts one worker without a GPU.")
    gpus_per_worker: int = option(1, "N", "GPUs per pod.")
    gpu_type: str | None = option(
        None, "VALUE", "GPU type: a value of the node label nvidia.com/gpu.product, or LABEL=VALUE."
    )
    gpu_memory: int | None = option(None, "GB", "Minimum memory of a GPU, in GB (10^9 bytes).")
    cpus: int = option(8, "N", "CPU cores per worker pod.")
    memory: int = option(32, "GIB", "Memory per worker pod, in GiB (2^30 bytes).")
    storage: str | None = option(
        None,
        "CLAIM|NFS|URL",
        "Storage for run folders: a ReadWriteMany PersistentVolumeClaim or nfs://SERVER/PATH (both mounted at "
        "/storage), or s3://BUCKET/PATH.",
    )
    weights: str = option(
        EMBEDDED,
        "NAME|CLAIM|NFS",
        "Model weights: embedded, published (downloaded once per node), or a volume shared by all nodes (downloaded "
        "once).",
    )
    secrets: tuple[Secret, ...] = option(
        (),
        "SECRET=KEY",
        "Set the environment variable KEY from the key KEY of the Kubernetes Secret SECRET. Repeatable.",
        flags=("--secret",),
    )
    queue: str | None = option(None, "NAME", "Kueue LocalQueue to submit the job to.")
    priority: str | None = option(
        None, "CLASS", "Priority: a WorkloadPriorityClass of Kueue with --queue, else a PriorityClass of the pods."
    )
    managed_by: str | None = option(
        None,
        "CONTROLLER",
        f"Controller that starts the job: {MULTIKUEUE} for a queue of MultiKueue, on another cluster.",
        show_default="KubeRay's operator",
    )
    spot: bool = option(
        False,
        None,
        "Start workers on spot (preemptible) nodes of Google, Amazon, Azure or Karpenter only; the head on any node.",
        flags=("--spot",),
    )
    node_selectors: tuple[str, ...] = option(
        (), "LABEL=VALUE", "Label of the nodes of workers. Repeatable.", flags=("--node-selector",)
    )
    tolerations: tuple[str, ...] = option(
        (), "KEY[=VALUE][:EFFECT]", "Taint of nodes that pods tolerate. Repeatable.", flags=("--toleration",)
    )
    min_workers: int | None = option(
        None, "N", "Fewest worker pods: Ray's autoscaler removes idle ones.", show_default="all, without autoscaler"
    )
    max_workers: int | None = option(
        None, "N", "Most worker pods: Ray's autoscaler adds them for waiting workers.", show_default="those of --gpus"
    )
    retries: int = option(2, "N", "Number of retries of a failed job, each with a new cluster that resumes the run.")
    deadline_hours: float = option(24.0, "HOURS", "Maximum duration of the job, in hours.")
    start_minutes: float = option(30.0, "MINUTES", "Maximum time until the job starts, in minutes.")
    keep_minutes: float = option(60.0, "MINUTES", "Time to keep the pods after the job has ended, in minutes.")
    run_deadline_hours: float | None = option(
        None,
        "HOURS",
        "Maximum duration of the pipeline run, in hours; needs kfp 2.17 or later.",
        show_default="the time limits of its steps, with all retries",
    )
    ray_version: str = option("", "VERSION", "Ray version in the image.", show_default="the installed version")

    @field_validator("secrets", "node_selectors", "tolerations", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any) -> Any:
        return value or ()

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if self.gpus < 0 or self.gpus_per_worker < 1 or self.gpus % self.gpus_per_worker:
            raise ManifestError(
                f"`gpus` is {self.gpus} and `gpus_per_worker` is {self.gpus_per_worker}; `gpus` must be a multiple of "
                "`gpus_per_worker`, or 0 for one worker without a GPU."
            )
        if min(self.cpus, self.memory) < 1:
            raise ManifestError(f"`cpus` is {self.cpus} and `memory` is {self.memory}; expected at least 1 of each.")
        if not self.gpus and (self.gpu_type or self.gpu_memory):
            raise ManifestError("`gpus` is 0, but `gpu_type` or `gpu_memory` is set; omit them.")
        if self.retries < 0 or min(self.deadline_hours, self.start_minutes) <= 0 or self.keep_minutes < 0:
            raise ManifestError(
                f"`retries` is {self.retries}, `deadline_hours` {self.deadline_hours:g}, `start_minutes` "
                f"{self.start_minutes:g} and `keep_minutes` {self.keep_minutes:g}; `deadline_hours` and "
                "`start_minutes` must be above 0, the others 0 or more."
            )
        if self.run_deadline_hours is not None and self.run_deadline_hours <= 0:
            raise ManifestError(
                f"`run_deadline_hours` is {self.run_deadline_hours:g}; it must be above 0, or omitted for the default."
            )
        for field, where, urls in (
            ("`storage`", self.storage or "", (NFS, *BUCKETS)),
            ("`weights`", self.weights, (NFS,)),
        ):
            if where and not where.startswith(urls) and not DNS_1123.fullmatch(where):
                raise ManifestError(
                    f"{field} is {shortened(where)!r}; expected the name of a PersistentVolumeClaim, nfs://SERVER/PATH"
                    f"{' or s3://BUCKET/PATH' if len(urls) > 1 else ': weights are read as local files'}."
                )
        for field, texts, pattern, expected in (
            ("`node_selector`", self.node_selectors, LABEL, "LABEL=VALUE"),
            ("`toleration`", self.tolerations, TAINT, "KEY, KEY=VALUE or KEY=VALUE:NoSchedule"),
        ):
            for text in texts:
                if not pattern.fullmatch(text):
                    raise ManifestError(f"{field} is {shortened(text)!r}; expected {expected}.")
        if self.priority is not None and not DNS_1123.fullmatch(self.priority):
            raise ManifestError(f"`priority` is {shortened(self.priority)!r}; expected the name of a priority class.")
        if self.managed_by not in (None, OPERATOR, MULTIKUEUE):
            raise ManifestError(f"`managed_by` is {shortened(self.managed_by)!r}; expected {MULTIKUEUE} or {OPERATOR}.")
        if self.managed_by == MULTIKUEUE and not self.queue:
            raise ManifestError("`managed_by` names MultiKueue, which starts jobs of a queue; set `queue`, too.")
        self._check_workers()
        if "" in self.command.words:
            raise ManifestError("The command contains an empty argument; remove it, or pass the missing value.")
        return self

    def _check_workers(self) -> None:
        if not self.is_elastic:
            return
        fewest, most = self.worker_range
        if not 0 <= fewest <= self.workers <= most:
            raise ManifestError(
                f"`min_workers` is {fewest} and `max_workers` {most}; the job starts with {self.workers} worker pods "
                "(`gpus` / `gpus_per_worker`); expected a range that contains it."
            )
        words = self.command.words
        if words and not any(word.partition("=")[0] == "--workers" for word in words):
            raise ManifestError(
                "With `min_workers` or `max_workers` Ray's autoscaler adds pods only for workers that wait; pass "
                "--workers N after the command, too."
            )

    @property
    def workers(self) -> int:
        """Worker pods at the start."""
        return self.gpus // self.gpus_per_worker if self.gpus else 1

    @property
    def is_elastic(self) -> bool:
        """Whether Ray's autoscaler adds and removes worker pods."""
        return self.min_workers is not None or self.max_workers is not None

    @property
    def worker_range(self) -> tuple[int, int]:
        """The fewest and the most worker pods."""
        return (
            self.workers if self.min_workers is None else self.min_workers,
            self.workers if self.max_workers is None else self.max_workers,
        )

    @property
    def volume(self) -> str | None:
        """The volume that pods mount at `STORAGE`; None without a storage, or if it is a bucket."""
        return None if self.storage is None or in_bucket(self.storage) else self.storage

    @property
    def claims_weights(self) -> bool:
        """Whether the weights are on one volume for all nodes."""
        return self.weights not in (EMBEDDED, PUBLISHED)

    @property
    def results(self) -> str:
        """Where the command writes its results: what it names itself, or a place in the storage; may be empty."""
        if self.command.results or not self.storage:
            return self.command.results
        if self.command.place == "folder":
            return f"{STORAGE if self.volume else self.storage.rstrip('/')}/{self.name}"
        # On a volume of their own, the weights are where shared files are written by default.
        is_shared = self.command.place == "storage" and self.volume and not self.claims_weights
        return STORAGE if is_shared else ""

    @property
    def words(self) -> list[str]:
        """The command, with the place of its results if it names none itself."""
        words = list(self.command.words)
        if self.results != self.command.results:
            end = words.index("--") if "--" in words else len(words)  # no option can follow --
            words[end:end] = [self.command.option, self.results]
        return words

    @property
    def entrypoint(self) -> str:
        """The command line that a cluster runs."""
        return " ".join([*self.program.decode, *encoded(self.words)])

    @property
    def digest(self) -> str:
        """A digest of all fields: two jobs of the same name are the same job if their digests are equal."""
        return hashlib.sha256(self._json(list(self.command.words)).encode()).hexdigest()[:16]

    @property
    def text(self) -> str:
        """The job as JSON for other programs, with an encoded command that no shell or template interprets."""
        return self._json(self.command.model_dump(mode="json") | {"words": encoded(self.command.words)})

    def _json(self, command: Any) -> str:
        # Fields that came later are left out at their defaults, so that jobs of before keep their digests.
        later = {name for name in _LATER if getattr(self, name) == type(self).model_fields[name].default}
        return json.dumps(self.model_dump(mode="json", exclude=later) | {"command": command}, sort_keys=True)

    @classmethod
    def from_text(cls, text: str, **more: Any) -> Self:
        """The job of a `text`; `more` are fields that it lacks, such as the program. Raises ManifestError."""
        try:
            fields = json.loads(text)
            command = fields.pop("command")
            return cls(**fields, **more, command=Command(**command | {"words": decoded(command["words"])}))
        except ManifestError:
            raise
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise ManifestError("The text of the job is damaged; submit the job again.") from error


def in_bucket(where: str) -> bool:
    """Whether an address is in an object store."""
    return where.startswith(BUCKETS)


def encoded(words: Sequence[str]) -> list[str]:
    """Percent-encode words to letters, digits and -._/=:,+@%, which no shell changes. Inverse: `decoded`."""
    return [quote(word, safe="-._/=:,+@") for word in words]


def decoded(words: Sequence[str]) -> list[str]:
    """Decode the words of `encoded`."""
    return [unquote(word) for word in words]
