"""The results in a run folder: its manifest and the record of each job. Commands read each record once, here."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.digests import digest
from pipeline.errors import UserError
from pipeline.plan.jobs import Job
from pipeline.store import manifest
from pipeline.store.manifest import Manifest
from pipeline.store.records import BLANK_FILE, Done, Failed, JobEntry, Record, StoredRecord, Unfinished
from pipeline.store.run_folder import BLANK, EVALUATION, Store, damaged
from pipeline.weights.models import digest_of
from pipeline.weights.networks import DISTANCES, REQUIRED, Distance

if TYPE_CHECKING:
    import numpy as np

    from evaluation.references import Reference


MOST_SHOWN = 500  # jobs in images and lists: those of 2,000 take three minutes and 3 GB


@dataclass(frozen=True)
class RunResults:
    """A run folder with its manifest and the `current` records of its jobs by id, in the order of the manifest."""

    store: Store
    manifest: Manifest
    records: dict[str, Record]

    @classmethod
    def read(cls, store: Store, settings: Manifest | None = None) -> "RunResults":
        """The results of the jobs in `settings`, by default the folder's manifest. Raises UserError if it has none."""
        settings = manifest.read(store) if settings is None else settings
        found = store.records([job.job_id for job in settings.jobs])
        records = {job.job_id: current(record, job, settings) for record, job in zip(found, settings.jobs, strict=True)}
        return cls(store, settings, records)

    def updated(self, records: Iterable[StoredRecord]) -> "RunResults":
        """The results after jobs have ended."""
        return replace(self, records=self.records | {record.job_id: record for record in records})

    @cached_property
    def shown(self) -> "RunResults":
        """The results of the first prompts, of at most 500 jobs: those in images and lists."""
        if len(self.records) <= MOST_SHOWN:
            return self
        prompts = self.manifest.prompts
        first = set(prompts[: max(1, MOST_SHOWN * len(prompts) // len(self.records))])
        jobs = tuple(job for job in self.manifest.jobs if job.prompt in first)
        about = self.manifest.model_copy(update={"jobs": jobs})
        return replace(self, manifest=about, records={job.job_id: self.records[job.job_id] for job in jobs})

    @property
    def shown_note(self) -> str:
        """Which prompts are shown, for headings; empty if all are."""
        shown, prompts = len(self.shown.manifest.prompts), len(self.manifest.prompts)
        return "" if shown == prompts else f" (the first {shown:,} of {prompts:,} prompts)"

    @property
    def models(self) -> str:
        return self.manifest.weights.name

    @property
    def methods(self) -> list[str]:
        return list(self.manifest.recipes)

    def of(self, method: str) -> list[Record]:
        """The records of a method's jobs."""
        return [record for record in self.records.values() if record.method == method]

    def label(self, method: str) -> str:
        """The name of a method in tables, which says if its assets are imported."""
        return f"{method} (imported)" if method in self.manifest.imported else method

    def done(self, method: str) -> list[Done]:
        return [record for record in self.of(method) if isinstance(record, Done)]

    @property
    def failed(self) -> list[Failed]:
        return [record for record in self.records.values() if isinstance(record, Failed)]

    def unscored(self, jobs: Iterable[Job]) -> list[Job]:
        """The jobs without scores by the scorers of the manifest. Failed jobs are included."""
        return [job for job in jobs if not isinstance(self.records[job.id], Done)]

    @cached_property
    def blank(self) -> dict[str, dict[str, float]] | None:
        """The scores of a white image for each prompt, by the same scorers; None if there are none."""
        found = self.store.read_typed(self.store.root / BLANK, BLANK_FILE)
        return found.scores if found and found.evaluation == self.manifest.evaluation else None

    def features(self, record: Done, distances: Sequence[Distance] | None = None) -> dict[str, "np.ndarray"]:
        """The features of a job's views for these distances, by default all: [views, width] by metric.

        Raises UserError for a damaged file.
        """
        path = self.store.item(record.job_id) / EVALUATION
        names = {each.features: each.metric for each in (self.distances if distances is None else distances)}
        arrays = self.store.read_arrays(path, record.evaluation_sha256, names)
        found = {names[name]: array for name, array in arrays.items()}
        for array in found.values():
            if array.ndim != 2 or array.dtype.kind != "f" or not all(array.shape):
                raise damaged(path, "an array has another shape or type")
        return found

    @property
    def distances(self) -> list[Distance]:
        """The distances that this run was scored with."""
        parts = self.manifest.weights.sha256
        return [d for d in DISTANCES.values() if d.metric == REQUIRED or d.reference in parts]

    def reference(self, distance: Distance) -> "Reference":
        """The reference of a distance. Raises UserError if its file is missing or has changed."""
        from evaluation.references import from_bytes

        path = Path(self.manifest.weights.folder) / distance.reference
        if not path.is_file():
            raise UserError(f"{path} is missing; {self.store.root} was scored against it: restore the file.")
        known = self.manifest.weights.sha256.get(distance.reference)
        if known and known != digest_of(path):
            raise UserError(
                f"{path} is not the reference that {self.store.root} was scored against; restore that file, or score "
                f"the assets again with segmentdreamer evaluate {self.store.root}."
            )
        return from_bytes(path.read_bytes())


@dataclass(frozen=True)
class Features(Sequence["np.ndarray"]):
    """The features of scored objects for one distance, [views, width] each. They are read when asked for."""

    run: RunResults
    records: tuple[Done, ...]
    distance: Distance
    width: int

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: Any) -> Any:
        record = self.records[number]
        array = self.run.features(record, [self.distance]).get(self.distance.metric)
        if array is None or array.shape[1] != self.width:
            path = self.run.store.item(record.job_id) / EVALUATION
            raise damaged(path, f"expected {self.distance.features} of width {self.width}")
        return array

    @property
    def content(self) -> str | None:
        """A digest of the files of all objects; None if a record of an older version lacks that of its own."""
        found = [record.evaluation_sha256 for record in self.records]
        return None if None in found else digest([self.distance.features, found])


def current(record: StoredRecord | None, job: JobEntry, settings: Manifest) -> Record:
    """A job's record under the names of the manifest, and without scores by other scorers than the manifest's."""
    if record is None:
        return Unfinished(**job.identity)
    if isinstance(record, Done) and settings.evaluation not in (None, record.evaluation):
        record = record.unscored
    identity = job.identity
    return record if record.identity == identity else record.model_copy(update=identity)
