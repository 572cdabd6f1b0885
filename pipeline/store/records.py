"""Typed values of the JSON files of a job: `generation.json`, its entry in `run.json`, and `record.json`.

A finished job has exactly one record: done, generated (not scored yet) or failed. Only the classes here and in
`manifest` know which keys older versions lacked. Keys of newer versions are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    model_serializer,
    model_validator,
)

from cluster.scheduling.executor import Outcome
from pipeline.plan.imports import ImportJob
from pipeline.plan.jobs import Job


def _are_complete(scores: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    for metric, summary in scores.items():
        if missing := sorted({"mean", "sd", "p10"} - summary.keys()):
            raise ValueError(f"{metric} has no {missing[0]}")
    return scores


Scores = Annotated[dict[str, dict[str, float]], AfterValidator(_are_complete)]
"""By metric: mean, standard deviation and lowest tenth over the views."""


class Stored(BaseModel):
    """A JSON object in a run folder. Its keys are the fields, in their order, then unknown keys as they were read."""

    model_config = ConfigDict(frozen=True, extra="allow", ser_json_inf_nan="constants")  # by default, NaN becomes null

    @model_serializer(mode="wrap")
    def _without_missing(self, dump: Callable[["Stored"], dict[str, Any]]) -> dict[str, Any]:
        """Optional fields are written only if they have a value."""
        optional = {name for name, field in type(self).model_fields.items() if not field.is_required()}
        return {key: value for key, value in dump(self).items() if value not in (None, {}) or key not in optional}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.model_dump(mode="json")


def first_error(error: ValidationError) -> str:
    """The first invalid field and what is wrong with it, such as "seed: Input should be a valid integer"."""
    found = error.errors()[0]
    where = ".".join(str(part) for part in found["loc"] if part not in KINDS_OF_FACTS)
    return " ".join(f"{where}: {found['msg']}".removeprefix(": ").split())


class Snapshot(Stored):
    """An asset after an iteration before the last one, in a file of its own, and its cost until then."""

    iteration: int
    seconds: float  # as `optimize_seconds`
    unet_samples: int | None = None

    def file(self, finished: str) -> str:
        """The name of its file in the item's folder, from that of the finished asset."""
        stem, suffix = finished.split(".")
        return f"{stem}-{self.iteration}.{suffix}"


class ScoredSnapshot(Stored):
    """The scores of a snapshot, or why it has none."""

    iteration: int
    scores: Scores = {}
    error: str | None = None


class GenerationFacts(Stored):
    """`generation.json`: costs and properties of a generated asset. Older versions lacked those that may be None."""

    init_seconds: float
    optimize_seconds: float
    seconds: float  # in all attempts, like `optimize_seconds`
    build_seconds: float | None = None  # for CUDA graphs
    seconds_per_iteration: float | None = None
    times_floor: float | None = None  # `seconds_per_iteration` as a multiple of the roofline
    views_at_once: int | None = None
    assets_per_gpu: int | None = None  # workers that shared the GPU, so that each took longer; 1 on a CPU
    resumed_from: int  # the iteration of the checkpoint that the accepted attempt started from
    attempt: int | None = None
    sub_seed: int | None = None
    warnings: tuple[str, ...] | None = None
    iterations: int
    image_size: int
    num_gaussians: int | None = None  # of other representations there are none
    has_views: bool | None = None  # instead of a file that is scored: of a custom representation
    loss: float
    mean_loss: float | None = None
    skipped_iterations: int
    unet_samples: int | None = None  # latents that the prior's U-Net denoised: by CFG two for each view
    snapshots: tuple[Snapshot, ...] | None = None  # of `bench --score-at`
    peak_bytes: int
    device: str

    @property
    def object_file(self) -> str:
        """The name of the asset in the item's folder."""
        if self.has_views:
            return "views.npz"
        return "asset.safetensors" if self.num_gaussians is None else "asset.ply"

    @property
    def shading(self) -> None:
        """Gaussians have none."""
        return None


class ImportFacts(Stored):
    """`generation.json` of an imported asset: its file, and what was done to it. It has no costs.

    A point p of the file, in our axes, is at R (scale p + shift), where R turns the front to azimuth 0.
    """

    file: str
    sha256: str
    format: str
    up: str | None = None  # the axis of the file that points up; ready-made views have none, as of all below
    fit: str | None = None
    scale: float | None = None
    shift: tuple[float, float, float] | None = None
    front_degrees: float
    front: Literal["given", "auto", "unclear"]  # unclear: the scorer found no front, and the file's was kept
    front_certainty: float | None = None  # share of resampled views that agree with the front
    shading: Literal["unlit", "lit"] | None = None  # of meshes
    image_size: int
    num_gaussians: int | None = None
    num_triangles: int | None = None
    num_views: int | None = None  # ready-made
    attempt: int | None = None
    warnings: tuple[str, ...] | None = None

    @property
    def object_file(self) -> str:
        """The name of the file of the object in the item's folder."""
        return "asset.ply" if self.num_gaussians else "mesh.npz" if self.num_triangles else "views.npz"

    @property
    def snapshots(self) -> None:
        """Imported assets have none."""
        return None


KINDS_OF_FACTS = GenerationFacts.__name__, ImportFacts.__name__


def _kind_of_facts(value: Any) -> str:
    if isinstance(value, Stored):
        return type(value).__name__
    return KINDS_OF_FACTS["sha256" in value] if isinstance(value, dict) else KINDS_OF_FACTS[0]


AssetFacts = Annotated[
    Annotated[GenerationFacts, Tag(KINDS_OF_FACTS[0])] | Annotated[ImportFacts, Tag(KINDS_OF_FACTS[1])],
    Discriminator(_kind_of_facts),
]
FACTS_FILE: TypeAdapter[AssetFacts] = TypeAdapter(AssetFacts)


@dataclass(frozen=True)
class GeneratedAsset:
    """A generated or imported asset in its item's folder: its job and prompt, for the evaluator, and facts about it."""

    job_id: str
    prompt: str
    facts: AssetFacts


@dataclass(frozen=True)
class ScoredAsset:
    """An asset and its scores.

    Defined here and not beside the evaluator, so that the driver can receive it without loading model libraries.
    """

    asset: GeneratedAsset
    scores: Scores
    seconds: float
    snapshots: tuple[ScoredSnapshot, ...] = ()
    sha256: str | None = None  # of `evaluation.npz`


class Claim(Stored):
    """`attempt.json` and `judging.json`: the newest attempt at a job."""

    number: Annotated[int, Field(ge=1)]
    token: str
    started_utc: AwareDatetime | None = None


class NumericFailure(Stored):
    """`breakdown.json`: the numeric failures of a job so far."""

    sub_seed: Annotated[int, Field(ge=1)]
    error: str = ""


class BlankScores(Stored):
    """`blank.json`: the scores of a white image for each prompt, by metric."""

    evaluation: str | None = None
    scores: dict[str, dict[str, Annotated[float, Field(ge=-1e30, le=1e30)]]] = {}


CLAIM_FILE, FAILURE_FILE, BLANK_FILE = TypeAdapter(Claim), TypeAdapter(NumericFailure), TypeAdapter(BlankScores)


class JobEntry(Stored):
    """A job in `run.json`. Its records repeat these fields, without `shape_prompt`."""

    job_id: str
    prompt_id: str
    prompt: str
    shape_prompt: str | None = None
    method: str
    objective: str
    seed: int

    @model_validator(mode="before")
    @classmethod
    def _with_method(cls, value: Any) -> Any:
        """Jobs of older versions have no method: it was the objective."""
        return {"method": value["objective"], **value} if isinstance(value, dict) and "objective" in value else value

    @classmethod
    def of(cls, job: Job | ImportJob, **unknown_keys: Any) -> "JobEntry":
        return cls(
            job_id=job.id,
            prompt_id=job.prompt.id,
            prompt=job.prompt.text,
            shape_prompt=job.prompt.shape_text,
            method=job.method,
            objective=job.objective,
            seed=job.seed,
            **unknown_keys,
        )

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that records repeat."""
        return {name: getattr(self, name) for name in JobEntry.model_fields if name != "shape_prompt"}


class Record(JobEntry):
    """The state of a job. The fields stand in the order of `record.json`; each state has some of them."""

    status: str
    evaluation: str | None = None  # digest of the scorers, views and prompts
    failed_stage: str | None = None
    error_kind: str = ""
    error: str = ""
    details: str | None = None
    deaths: int | None = None  # workers that died while they worked on the job
    preemptions: int | None = None  # workers that were preempted or whose node was lost meanwhile, if any
    scores: Scores = {}
    evaluation_seconds: float | None = None
    evaluation_sha256: str | None = None  # digest of `evaluation.npz`; older versions did not record it
    snapshots: tuple[ScoredSnapshot, ...] | None = None
    generation: AssetFacts | None = None

    @property
    def costs(self) -> GenerationFacts | None:
        """The facts of a generated asset; None for imported ones, whose costs are not known."""
        return self.generation if isinstance(self.generation, GenerationFacts) else None


class Unfinished(Record):
    """A job without a `record.json`."""

    status: Literal["unfinished"] = "unfinished"


class Generated(Record):
    """An asset that was generated but not scored, or not by the scorers of its run."""

    status: Literal["generated"] = "generated"
    evaluation: None
    deaths: int
    generation: AssetFacts


class Done(Record):
    """An asset that was scored."""

    status: Literal["done"] = "done"
    evaluation: str
    deaths: int
    scores: Scores
    evaluation_seconds: float
    generation: AssetFacts

    @property
    def unscored(self) -> Generated:
        """The record without its scores, which are by other scorers than those of the run."""
        return Generated(**self.identity, evaluation=None, deaths=self.deaths, generation=self.generation)


class Failed(Record):
    """A job that failed, perhaps after its asset was generated."""

    status: Literal["failed"] = "failed"
    evaluation: str | None
    failed_stage: str
    error_kind: str
    error: str
    details: str
    deaths: int


StoredRecord = Generated | Done | Failed
RECORD_FILE: TypeAdapter[StoredRecord] = TypeAdapter(Annotated[StoredRecord, Field(discriminator="status")])


def of_outcome(outcome: Outcome, job: JobEntry, evaluation: str | None, generation: AssetFacts | None) -> StoredRecord:
    """The record of a job. `evaluation` is None if it was to be generated only.

    `generation`: of a failed job, the facts of its asset if it has one.
    """
    known = job.identity | {"evaluation": evaluation, "deaths": outcome.deaths}
    known["preemptions"] = outcome.preemptions or None
    if (failure := outcome.error) is not None:
        known |= {"failed_stage": outcome.failed_stage, "error_kind": failure.kind, "error": failure.message}
        return Failed(**known, details=failure.details, generation=generation)
    if isinstance(outcome.result, GeneratedAsset):
        return Generated(**known, generation=outcome.result.facts)
    scored: ScoredAsset = outcome.result
    known |= {"scores": scored.scores, "evaluation_seconds": scored.seconds, "snapshots": scored.snapshots or None}
    return Done(**known, evaluation_sha256=scored.sha256, generation=scored.asset.facts)
