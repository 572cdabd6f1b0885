"""The description of a job: a command of this program and the machines it needs.

On the way to a pod a command passes through two shells (KubeRay's submitter, then Ray's `shell=True`, with the Windows
quoting of `list2cmdline` in between), so no quoting is right for both. `encoded` leaves no character that a shell
interprets.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from typing import Self
from urllib.parse import quote, unquote

from pydantic import BaseModel, ConfigDict, model_validator

from cluster.jobs.errors import ManifestError, manifest_errors

PROGRAM = "segmentdreamer"
STORAGE, WEIGHTS = "/storage", "/weights"  # where pods mount the two volumes
PUBLISHED, EMBEDDED = "published", "embedded"
MAKES_A_FOLDER = "bench", "generate"
NFS, BUCKETS = "nfs://", ("s3://", "s3a://", "gs://", "gcs://")
VARIABLE, DNS_1123 = re.compile(r"[A-Za-z_][A-Za-z0-9_]*"), re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


class Secret(BaseModel):
    """A key of a Kubernetes Secret, which sets the environment variable of the same name."""

    model_config = ConfigDict(frozen=True)
    name: str
    key: str


class Job(BaseModel):
    """A command of this program and the machines it needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    command: tuple[str, ...] = ()
    image: str = ""  # this field and all below apply to RayJobs and RayClusters only
    ray_version: str = ""
    namespace: str | None = None
    gpus: int = 1  # in total
    gpus_per_worker: int = 1
    gpu_type: str | None = None  # a value of the label nvidia.com/gpu.product, or LABEL=VALUE
    gpu_memory: int | None = None  # minimum memory of one GPU, GB
    cpus: int = 8  # per worker
    memory: int = 32  # per worker, GiB
    storage: str | None = None  # a PersistentVolumeClaim, nfs://SERVER/PATH, or a folder of a bucket, s3://BUCKET/PATH
    weights: str = EMBEDDED  # embedded, published (cached on each node), or a PersistentVolumeClaim
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
                f"--gpus is {self.gpus} and --gpus-per-worker is {self.gpus_per_worker}; --gpus must be a multiple of "
                "--gpus-per-worker, or 0 for one worker without a GPU."
            )
        if min(self.cpus, self.memory) < 1:
            raise ManifestError(f"--cpus is {self.cpus} and --memory is {self.memory}; expected at least 1 of each.")
        if not self.gpus and (self.gpu_type or self.gpu_memory):
            raise ManifestError("--gpus is 0, but --gpu-type or --gpu-memory is set; omit them.")
        if self.retries < 0 or min(self.deadline_hours, self.start_minutes) <= 0 or self.keep_minutes < 0:
            raise ManifestError(
                f"--retries is {self.retries}, --deadline-hours {self.deadline_hours:g}, --start-minutes "
                f"{self.start_minutes:g} and --keep-minutes {self.keep_minutes:g}; --deadline-hours and "
                "--start-minutes must be above 0, the others 0 or more."
            )
        for option, where, urls in (
            ("--storage", self.storage or "", (NFS, *BUCKETS)),
            ("--weights", self.weights, (NFS,)),
        ):
            if where and not where.startswith(urls) and not DNS_1123.fullmatch(where):
                raise ManifestError(
                    f"{option} is {where!r}; expected the name of a PersistentVolumeClaim, nfs://SERVER/PATH"
                    f"{' or s3://BUCKET/PATH' if len(urls) > 1 else ': weights are read as local files'}."
                )
        if "" in self.command:
            raise ManifestError("The command contains an empty argument; remove it, or pass the missing value.")
        return self

    @property
    def digest(self) -> str:
        """A digest of all fields: two jobs of the same name are the same job if their digests are equal."""
        return hashlib.sha256(json.dumps(self.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]

    @property
    def words(self) -> list[str]:
        """The command; if it has no --out, one in the storage is added."""
        words = list(self.command)
        if not words or not self.storage or any(word.partition("=")[0] == "--out" for word in words):
            return words
        if words[0] in MAKES_A_FOLDER:
            return [*words, "--out", f"{STORAGE if self.volume else self.storage.rstrip('/')}/{self.name}"]
        is_shared = words[0] == "reference" and self.volume and not self.claims_weights
        return [*words, "--out", STORAGE] if is_shared else words

    @property
    def folder(self) -> str:
        """The --out of the command; empty if there is none."""
        words = [part for word in self.words for part in (word.split("=", 1) if word.startswith("--out=") else [word])]
        return words[words.index("--out") + 1] if "--out" in words[:-1] else ""

    @property
    def volume(self) -> str | None:
        """The volume that pods mount at `STORAGE`; None without a storage, or if it is a bucket."""
        return None if self.storage is None or in_bucket(self.storage) else self.storage

    @property
    def keeps_in_bucket(self) -> bool:
        """Whether the command writes its results to a bucket, where they outlive its pods without a volume."""
        verb, *words = self.command or ("",)
        return any(map(in_bucket, words)) if verb == "evaluate" else verb != "reference" and in_bucket(self.folder)

    @property
    def text(self) -> str:
        """The job as JSON for other programs, with an encoded command that no shell or template interprets."""
        return json.dumps(self.model_dump(mode="json") | {"command": encoded(self.command)}, sort_keys=True)

    @property
    def claims_weights(self) -> bool:
        """Whether the weights are on one volume for all nodes, where a reference set can be written beside them."""
        return self.weights not in (EMBEDDED, PUBLISHED)

    @property
    def entrypoint(self) -> str:
        """The command line that a cluster runs."""
        return " ".join([PROGRAM, "encoded", *encoded(self.words)])


def in_bucket(where: str) -> bool:
    """Whether an address is in an object store."""
    return where.startswith(BUCKETS)


def encoded(words: Sequence[str]) -> list[str]:
    """Percent-encode words to letters, digits and -._/=:,+@%, which no shell changes. Inverse: `decoded`."""
    return [quote(word, safe="-._/=:,+@") for word in words]


def decoded(words: Sequence[str]) -> list[str]:
    """Decode the words of `encoded`."""
    return [unquote(word) for word in words]


def job(**options: object) -> Job:
    """A job from its options. Raises ManifestError."""
    with manifest_errors():
        return Job.model_validate(options)


def from_text(text: str) -> Job:
    """The job of a `Job.text`. Raises ManifestError."""
    fields = json.loads(text)
    return job(**fields | {"command": decoded(fields["command"])})


def secret(text: str) -> Secret:
    """Parse SECRET=KEY of the command line. Raises ManifestError, also for a value, which belongs in no manifest."""
    name, _, key = text.partition("=")
    if not DNS_1123.fullmatch(name) or not VARIABLE.fullmatch(key):
        raise ManifestError(
            "--secret names no key of a Secret; pass SECRET=KEY, for example --secret hub=HF_TOKEN for the key "
            "HF_TOKEN of the Secret hub: secret values are never passed on the command line."
        )
    return Secret(name=name, key=key)
