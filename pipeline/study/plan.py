"""The plan of a study: which methods of which runs are compared on which prompts. Volunteers never see study.json.

study.json  study.sqlite  clips/<group>-<competitor>.mp4  (results.csv  tests.csv  pairs.csv  votes.csv)
"""

import random
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import TypeAdapter

from pipeline.errors import UserError, nearest
from pipeline.store import manifest
from pipeline.store.manifest import Manifest
from pipeline.store.run_folder import TURNTABLE, Store, damaged

FILE, CLIPS, DATABASE = "study.json", "clips", "study.sqlite"
FEWEST, MOST = 2, 8  # methods that can be ranked at once
LETTERS = "ABCDEFGH"
QUESTIONS = (
    "Which fits the text best?",
    "Which looks most real?",
    "Which has the best details?",
)
MEANINGS = "text alignment", "realism", "details"


@dataclass(frozen=True)
class Competitor:
    """A method of a run that volunteers rank."""

    run: str
    run_id: str
    method: str

    @property
    def label(self) -> str:
        return f"{self.run_id}/{self.method}"


@dataclass(frozen=True)
class StudyPlan:
    """`turntables[group][competitor]` is a video in a run folder; `prompts[group]` is its prompt."""

    id: str
    competitors: tuple[Competitor, ...]
    prompts: tuple[str, ...]
    turntables: tuple[tuple[str, ...], ...]

    @property
    def labels(self) -> list[str]:
        """The methods' names, prefixed with the run if two are equal."""
        names = [competitor.method for competitor in self.competitors]
        return [c.method if names.count(c.method) == 1 else c.label for c in self.competitors]

    @property
    def steps(self) -> int:
        """The number of rankings per volunteer."""
        return len(self.prompts) * len(QUESTIONS)

    def clip(self, store: Store, group: int, competitor: int) -> Path:
        return store.root / CLIPS / f"{group:02}-{competitor}.mp4"

    def shuffled(self) -> list[tuple[int, list[int]]]:
        """One volunteer's order: groups in random order, each with its competitors in random order."""
        chance = secrets.SystemRandom()
        groups = chance.sample(range(len(self.prompts)), len(self.prompts))
        k = len(self.competitors)
        return [(group, chance.sample(range(k), k)) for group in groups]


def planned(folders: Sequence[Path], methods: Sequence[str], prompts: int, seed: int) -> StudyPlan:
    """A study of the run folders' methods, on prompts drawn from those that all of them finished. Raises UserError."""
    stores = [Store(folder) for folder in folders]
    settings = [manifest.read(store) for store in stores]
    every = [
        (Competitor(str(store.root.resolve()), about.run_id, method), _turntables(store, about, method))
        for store, about in zip(stores, settings, strict=True)
        for method in about.recipes
    ]
    known = {competitor.method for competitor, _ in every}
    for method in methods:
        if method not in known:
            raise UserError(f"No run has a method {method!r}; choose from {', '.join(known)}{nearest(method, known)}.")
    rivals = [(competitor, found) for competitor, found in every if not methods or competitor.method in methods]
    if len({competitor for competitor, _ in rivals}) < len(rivals):
        raise UserError("--runs lists a run folder twice; list each once.")
    if not FEWEST <= len(rivals) <= MOST:
        raise UserError(
            f"The runs have {len(rivals)} methods to rank; a volunteer can compare {FEWEST} to {MOST} at once: choose "
            "with --runs and --methods."
        )
    common = [prompt for prompt in rivals[0][1] if all(prompt in found for _, found in rivals)]
    if not 1 <= prompts <= len(common):
        raise UserError(
            f"--prompts is {prompts}, and {len(common)} prompts have a turntable of every method; expected 1 to that "
            "number, or finish the runs."
        )
    chosen = random.Random(seed).sample(common, prompts)
    return StudyPlan(
        id=secrets.token_hex(8),
        competitors=tuple(competitor for competitor, _ in rivals),
        prompts=tuple(chosen),
        turntables=tuple(tuple(found[prompt] for _, found in rivals) for prompt in chosen),
    )


def write(store: Store, plan: StudyPlan) -> None:
    store.write_json(store.root / FILE, asdict(plan))


def read(store: Store) -> StudyPlan:
    """Raises UserError if the folder contains no study."""
    if (found := store.read_typed(store.root / FILE, TypeAdapter(StudyPlan))) is None:
        raise UserError(f"{store.root} contains no study (no {FILE}); create one with segmentdreamer study create.")
    methods = len(found.competitors)
    if not FEWEST <= methods <= MOST or not found.prompts or len(set(found.competitors)) < methods:
        raise damaged(store.root / FILE, f"it has {methods} methods and {len(found.prompts)} prompts")
    if [len(videos) for videos in found.turntables] != [methods] * len(found.prompts):
        raise damaged(store.root / FILE, "turntables: expected one for each prompt and method")
    return found


def _turntables(store: Store, about: Manifest, method: str) -> dict[str, str]:
    """A turntable for each prompt that the method finished, of the first seed if there are several."""
    found: dict[str, str] = {}
    for job in about.jobs:
        path = store.item(job.job_id) / TURNTABLE
        if job.method == method and path.is_file():
            found.setdefault(job.prompt, str(path.resolve()))
    return found
