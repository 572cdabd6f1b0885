"""`run.json`: the settings of a run, and the command, versions and hardware of each session."""

import os
import platform
import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import Field, FiniteFloat, TypeAdapter

from pipeline.errors import UserError, shortened
from pipeline.plan import score_at
from pipeline.plan.imports import ImportJob, Source
from pipeline.plan.protocol import Protocol
from pipeline.plan.run import METRIC_VERSION, Run
from pipeline.store.records import JobEntry, Stored
from pipeline.store.run_folder import Store, damaged
from pipeline.weights.models import SCORERS, Weights
from sctd.recipe.names import current as current_name
from sctd.recipe.names import current_tree, leaves
from sctd.recipe.names import stored as stored_name

FILE = "run.json"
SCHEMA_VERSION = 1  # increase if older versions must refuse a folder; they keep keys that they do not know
WITH_IMPORTS = 2  # of folders with imported assets, whose facts older versions cannot read
MODELS = "torch", "diffusers", "transformers", "open_clip_torch"
IMPORTED_RECIPE = {"name": "imported"}
LIBRARIES = "segmentdreamer", *MODELS, "numba", "numpy", "ray", "gsplat"


class Hardware(Stored):
    """The machine of a session."""

    system: str
    cpu: str
    cores: int
    memory_gib: FiniteFloat
    gpus: tuple[str, ...]

    @property
    def line(self) -> str:
        """CPU, cores and GPUs in one line."""
        return f"{self.cpu}, {self.cores} cores" + (f", {len(self.gpus)} × {self.gpus[0]}" if self.gpus else "")


class Session(Stored):
    """A command that worked on the run."""

    started_utc: str
    command: str
    commit: str | None
    versions: dict[str, str]
    hardware: Hardware


class UsedWeights(Stored):
    """A weights folder, and the digest of each part that was used."""

    name: str
    folder: str
    sha256: dict[str, str]

    @property
    def scorers(self) -> dict[str, str]:
        """The digests of the parts that score assets."""
        return {part: sha for part, sha in self.sha256.items() if part in SCORERS}


class Imported(Stored):
    """How the assets of an imported method were read: options of `evaluate`."""

    folder: str
    up: str | None = None
    front: str
    fit: str
    shading: str


class Manifest(Stored):
    """`run.json`. `recipes` are by method, with the key names of `sctd.recipe.names.stored`.

    A method in `imported` has the recipe `IMPORTED_RECIPE`.
    """

    schema_version: int = SCHEMA_VERSION
    run_id: str
    suite: str
    seed: int
    views: int
    protocol: str
    metric_version: int
    evaluation: str | None = None  # older versions did not record it
    recipes: dict[str, dict[str, Any]]
    swept: tuple[str, ...] = ()  # older versions had no sweeps
    score_at: tuple[float, ...] | None = None  # `--score-at` of all sessions
    imported: dict[str, Imported] = Field(default={})  # by method
    weights: UsedWeights
    jobs: tuple[JobEntry, ...]
    sessions: tuple[Session, ...]

    @classmethod
    def of(cls, run: Run, store: Store, before: "Manifest | None" = None) -> "Manifest":
        """The settings of a run in a folder. Of the folder's manifest so far, the sessions and unknown keys stay."""
        unknown = {entry.job_id: entry.model_extra or {} for entry in before.jobs} if before else {}
        imported = before.imported if before else {}
        swept = [stored_name(current_name(key)) for method in run.methods for key in method.swept]
        return cls(
            schema_version=WITH_IMPORTS if imported else SCHEMA_VERSION,
            run_id=store.root.resolve().name or str(store.root),  # a bucket root has no name
            suite=run.suite,
            seed=run.seed,
            views=run.protocol.num_views,
            protocol=run.protocol.name,
            metric_version=METRIC_VERSION,
            evaluation=run.evaluation,
            recipes={method.label: method.recipe.stored() for method in run.methods}
            | dict.fromkeys(imported, IMPORTED_RECIPE),
            imported=imported,
            swept=tuple(dict.fromkeys(swept)),
            score_at=before.score_at if before else None,
            weights=UsedWeights(name=run.weights.name, folder=str(run.weights.folder), sha256=run.weights.digests),
            jobs=(
                *(JobEntry.of(job, **unknown.get(job.id, {})) for job in run.jobs),
                *(entry for entry in (before.jobs if before else ()) if entry.method in imported),
            ),
            sessions=before.sessions if before else (),
            **((before.model_extra or {}) if before else {}),
        )

    def with_session(self, argv: list[str]) -> "Manifest":
        """The manifest with a new last session: this command, on this machine, now."""
        session = Session(
            started_utc=datetime.now(UTC).isoformat(timespec="seconds"),
            command=shlex.join(["segmentdreamer", *argv]),
            commit=commit(),
            versions=versions(),
            hardware=hardware(),
        )
        return self.model_copy(update={"sessions": (*self.sessions, session)})

    def scored_at(self, shares: Sequence[float]) -> "Manifest":
        """The manifest with these shares of the iterations added to those after which assets are scored."""
        joined = score_at.joined(self.score_at or (), shares)
        return self.model_copy(update={"score_at": joined or None})

    def rescored(self, scorers: Weights, protocol: Protocol, evaluation: str) -> "Manifest":
        """The manifest after scoring with other scorers or views. The settings of generation stay."""
        generated_by = {part: sha for part, sha in self.weights.sha256.items() if part not in SCORERS}
        scored_by = {part: scorers.digests[part] for part in scorers.scorers}
        weights = UsedWeights(name=scorers.name, folder=str(scorers.folder), sha256=generated_by | scored_by)
        scoring = {"views": protocol.num_views, "protocol": protocol.name, "metric_version": METRIC_VERSION}
        return self.model_copy(update=scoring | {"evaluation": evaluation, "weights": weights})

    def with_imports(self, sources: Sequence[Source], jobs: Iterable[ImportJob]) -> "Manifest":
        """The manifest with these methods, in place of earlier imports of the same names."""
        names = [source.method for source in sources]
        others = {method: recipe for method, recipe in self.recipes.items() if method not in names}
        imported = {
            source.method: Imported(folder=str(source.folder.resolve()), **asdict(source.placing)) for source in sources
        }
        kept = [entry for entry in self.jobs if entry.method not in names]
        added = [JobEntry.of(job, file=job.entry.name) for job in jobs]
        changes = {
            "schema_version": WITH_IMPORTS,
            "recipes": others | dict.fromkeys(names, IMPORTED_RECIPE),
            "imported": {name: about for name, about in self.imported.items() if name not in names} | imported,
            "jobs": (*kept, *added),
        }
        return self.model_copy(update=changes)

    @property
    def generated_methods(self) -> list[str]:
        """The methods whose assets were generated here."""
        return [method for method in self.recipes if method not in self.imported]

    @property
    def prompts(self) -> list[str]:
        """The texts of the prompts, in order."""
        return list(dict.fromkeys(job.prompt for job in self.jobs))

    def recipe(self, method: str) -> dict[str, Any]:
        """The recipe of a method as nested values, with the present key names."""
        return current_tree(self.recipes[method])

    def settings(self, method: str) -> dict[str, Any]:
        """The recipe of a method by dotted key, such as `guidance.scale`."""
        return dict(leaves(self.recipe(method)))


MANIFEST_FILE = TypeAdapter(Manifest)


def find(store: Store) -> Manifest | None:
    """The manifest of a folder; None if it contains no run. Raises UserError if it is damaged or of a newer version."""
    path = store.root / FILE
    if (found := store.read_typed(path, MANIFEST_FILE)) is None:
        return None
    if found.schema_version > WITH_IMPORTS:
        raise UserError(
            f"{path} has schema version {found.schema_version}, and this version of segmentdreamer reads up to "
            f"{WITH_IMPORTS}; upgrade segmentdreamer."
        )
    if problem := next(_contradictions(found), None):
        raise damaged(path, problem)
    return found


def _contradictions(found: Manifest) -> Iterator[str]:
    """What readers rely on and types cannot say."""
    if not found.sessions:
        yield "sessions: it has none"
    if len({job.job_id for job in found.jobs}) < len(found.jobs):
        yield "jobs: two have the same job_id"
    for job in found.jobs:
        if not re.fullmatch(r"[^/\0]{1,200}", job.job_id):
            yield f"jobs: {shortened(job.job_id)!r} is no job_id"
        if job.method not in found.recipes:
            yield f"recipes: {job.method!r} is missing"
    for method in found.recipes:
        settings = found.settings(method)
        if not isinstance(settings.get("name", ""), str) or type(settings.get("guidance.scale", 0)) not in (int, float):
            yield f"recipes.{method}: its name or guidance.scale has another type"


def read(store: Store) -> Manifest:
    """The manifest of a run folder. Raises UserError if there is none."""
    if (manifest := find(store)) is None:
        raise UserError(f"{store.root} contains no run (no {FILE}); pass the run folder of a bench run.")
    return manifest


def write(store: Store, manifest: Manifest) -> None:
    store.write_json(store.root / FILE, manifest)


def check_same(store: Store, run: Run) -> Manifest | None:
    """The manifest of a folder that `run` may resume; None if it has none.

    All jobs of the folder must be jobs of `run`, scored in the same way. `run` may have additional scorers, which then
    score the existing assets, too. Raises UserError with the first difference.
    """
    if (before := find(store)) is None:
        return None
    _check_imports(before, run, store)
    new = Manifest.of(run, store, before)
    known = {entry.job_id for entry in new.jobs}
    left_out = [entry for entry in before.jobs if entry.job_id not in known]
    if not left_out and _is_scored_alike(before, new):
        return before
    difference = next(_differences(before, new), None)
    if difference is None:
        difference = f"{len(left_out)} of its jobs are missing now, first {shortened(left_out[0].prompt)!r}"
    raise UserError(
        f"{store.root} was generated with other settings: {difference}; use those, or choose another --out."
    )


def _check_imports(before: Manifest, run: Run, store: Store) -> None:
    """Raise UserError if `run` cannot share its folder with the imported methods in it."""
    for method in run.methods:
        if method.label in before.imported:
            raise UserError(
                f"{store.root} has an imported method {method.label!r}; import it under another name, or choose "
                "another --out."
            )
    texts = {prompt.text for prompt in run.prompts}
    for entry in before.jobs:
        if entry.method in before.imported and entry.prompt not in texts:
            raise UserError(
                f"{store.root} has an imported asset for {shortened(entry.prompt)!r}, which is no prompt of this run; "
                "choose another --out."
            )


def versions() -> dict[str, str]:
    """Versions of Python and of the installed libraries that can change results."""
    found = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            found[library] = metadata.version(library)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit of the source tree this code runs from, with '+' if it has changes; None outside a source tree."""
    tree = Path(__file__).resolve().parents[2]
    if _git(tree, "rev-parse", "--show-toplevel") != str(tree):  # installed, perhaps inside another repository
        return None
    changed = "+" if _git(tree, "status", "--porcelain", "--untracked-files=no") else ""
    return f"{_git(tree, 'rev-parse', 'HEAD')}{changed}"


def hardware() -> Hardware:
    """This machine."""
    return Hardware(
        system=platform.platform(),
        cpu=_cpu(),
        cores=cores(),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        gpus=tuple(gpus()),
    )


def cores() -> int:
    """The CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs of this machine."""
    return (_output(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]) or "").splitlines()


def _is_scored_alike(there: Manifest, here: Manifest) -> bool:
    same_scorers = there.weights.scorers.items() <= here.weights.sha256.items()
    return same_scorers and (there.protocol, there.metric_version) == (here.protocol, here.metric_version)


def _differences(there: Manifest, here: Manifest) -> Iterator[str]:
    for method in there.recipes:
        if method not in here.recipes:
            yield f"methods {', '.join(there.recipes)}, now {', '.join(here.recipes)}"
            continue
        old, new = there.settings(method), here.settings(method)
        yield from (f"{key} {old[key]!r}, now {new.get(key)!r}" for key in old if old[key] != new.get(key))
    for key in ("seed", "views", "metric_version"):
        if (before := getattr(there, key)) != (now := getattr(here, key)):
            yield f"{key} {before}, now {now}"
    for part, sha in there.weights.sha256.items():
        if sha != (now := here.weights.sha256.get(part, "none")):
            yield f"{part} weights {sha[:12]}, now {now[:12]}"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _git(tree: Path, *arguments: str) -> str | None:
    return _output(["git", "-C", str(tree), *arguments])


def _output(command: list[str]) -> str | None:
    """The standard output of a command; None if the command is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
