"""The base classes of the models of Kubernetes objects, and their output as YAML."""

import re
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic.alias_generators import to_camel

from cluster.jobs.errors import ManifestError

QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
# KubeRay and Kubernetes append to these names: 11 characters to that of a CronJob, whose Jobs name the RayJobs.
MAX_CHARACTERS = {"RayJob": 47, "RayCluster": 63, "RayCronJob": 36, "CronJob": 38}
DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")


class Model(BaseModel):
    """Field names are those of the API, in snake case."""

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=to_camel, populate_by_name=True)


class Metadata(Model):
    name: str | None = None
    namespace: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None


class Resource(Model):
    """A top-level object of the API."""

    api_version: str
    kind: str
    metadata: Metadata

    @model_validator(mode="after")
    def _name(self) -> Self:
        name, limit = self.metadata.name or "", MAX_CHARACTERS.get(self.kind, 63)
        if len(name) > limit or not DNS_1035.fullmatch(name):
            raise ManifestError(
                f"--name is {name!r}; the name of a {self.kind} has 1 to {limit} characters of a-z, 0-9 and -, begins "
                "with a letter and does not end with -."
            )
        return self

    @property
    def is_queued(self) -> bool:
        return QUEUE_LABEL in (self.metadata.labels or {})

    def tree(self) -> dict[str, Any]:
        """The object as the API accepts it."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def as_yaml(*resources: Resource) -> str:
    """YAML documents, as `kubectl apply -f -` reads them."""
    return yaml.safe_dump_all([resource.tree() for resource in resources], sort_keys=False, width=10_000)
