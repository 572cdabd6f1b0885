"""A run before it begins: what to make, by which recipes and models, judged how; checked without Ray.

Nor torch, unless there is a file to start from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from pipeline.digests import digest
from pipeline.errors import UserError, shortened
from pipeline.plan.jobs import Job, Method, plan
from pipeline.plan.protocol import Protocol
from pipeline.prompts.prompt import Prompt
from pipeline.weights.models import EVALUATION, GENERATION, Weights
from sctd.recipe.names import current as current_name
from sctd.recipe.names import stored as stored_name
from sctd.recipe.recipe import Recipe

METRIC_VERSION = 1  # one more whenever the same asset would be given other numbers than before
MAX_VIEWS = 1000
LONGEST_VIEW_TEXT = ", overhead view"
BYTES_PER_NUMBER, COPIES = 4, 5  # an asset, and a checkpoint with Adam's moments, statistics and its next version
IMAGE_BYTES = 6 * 2**20  # turntable, contact sheet, evaluation with features of every network


@dataclass(frozen=True)
class Run:
    """Everything that decides the numbers of a run."""

    suite: str
    prompts: Sequence[Prompt]
    methods: Sequence[Method]  # one per objective and cell of the sweep
    seed: int
    weights: Weights
    protocol: Protocol

    @property
    def recipes(self) -> list[Recipe]:
        return [method.recipe for method in self.methods]

    @cached_property
    def jobs(self) -> list[Job]:
        """One per prompt and method."""
        jobs = plan(self.prompts, self.methods, self.seed, self.weights.generation_digest(with_shape=self._with_shape))
        if not any(map(_is_controlled, self.recipes)):
            return jobs
        weights = self.weights.generation_digest(with_shape=self._with_shape, with_control=True)
        return [replace(job, weights=weights) if _is_controlled(job.recipe) else job for job in jobs]

    @property
    def _with_shape(self) -> bool:
        return any(recipe.initialization.kind == "point_e" for recipe in self.recipes)

    @cached_property
    def evaluation(self) -> str:
        return evaluation_digest(self.weights, self.protocol, [prompt.text for prompt in self.prompts])

    @property
    def name(self) -> str:
        """The default name of its folder: the same settings, the same name, whichever distances are measured.

        So a network that was added later finds the assets where they are.
        """
        texts = [prompt.text for prompt in self.prompts]
        scored = evaluation_digest(self.weights, self.protocol, texts, required_only=True)
        objectives = "+".join(dict.fromkeys(recipe.objective.display_name for recipe in self.recipes))
        sweep = "-sweep" if any(method.swept for method in self.methods) else ""
        return f"{self.suite}-{objectives}{sweep}-{digest([[job.id for job in self.jobs], scored])[:10]}"

    def settings(self) -> dict[str, Any]:
        """What a run folder remembers of it, to be compared with the next command's."""
        return {
            "suite": self.suite,
            "seed": self.seed,
            "views": self.protocol.num_views,
            "protocol": self.protocol.name,
            "metric_version": METRIC_VERSION,
            "evaluation": self.evaluation,
            "recipes": {method.label: method.recipe.stored() for method in self.methods},
            "swept": list(
                dict.fromkeys(stored_name(current_name(key)) for method in self.methods for key in method.swept)
            ),
            "weights": {"name": self.weights.name, "folder": str(self.weights.folder), "sha256": self.weights.digests},
            "jobs": [
                {
                    "job_id": job.id,
                    "prompt_id": job.prompt.id,
                    "prompt": job.prompt.text,
                    "shape_prompt": job.prompt.shape_text,
                    "method": job.method,
                    "objective": job.objective,
                    "seed": job.seed,
                }
                for job in self.jobs
            ],
        }

    def check(self, *, scored: bool) -> None:
        """Raise UserError for what could not be run to its end; the judges are needed if it is `judged`."""
        if not self.prompts:
            raise UserError("There is no prompt to run; give one with --prompt, or a larger --limit.")
        if not 1 <= self.protocol.num_views <= MAX_VIEWS:
            raise UserError(
                f"--views is {self.protocol.num_views}; give 1 to {MAX_VIEWS}, or 120 to follow the paper."
            )
        if not 0 <= self.seed < 2**63:
            raise UserError(f"--seed is {self.seed}; give a whole number from 0 to 2^63 - 1.")
        added = {"shape": self._with_shape, "control": any(map(_is_controlled, self.recipes))}
        parts = [part for part, is_needed in added.items() if is_needed]
        self.weights.require([*GENERATION, *parts, *(EVALUATION if scored else [])])
        self._check_tokens()
        self._check_files()

    def _check_tokens(self) -> None:
        """A prior reads so many tokens and no more; it would cut the rest off without a word."""
        count, most = token_counter(self.weights)
        for recipe in self.recipes:
            ending = "" if recipe.guidance.view_text == "none" else LONGEST_VIEW_TEXT
            for prompt in self.prompts:
                whole = recipe.guidance.prompt_template.replace("{prompt}", prompt.text) + ending
                if (found := count(whole)) > most:
                    raise UserError(
                        f"The prompt {shortened(prompt.text)!r} comes to {found} tokens with its view words, and this "
                        f"prior reads {most}: shorten it."
                    )

    def _check_files(self) -> None:
        """A file to start from is read as a worker will read it; only this check needs torch."""
        shapes = dict.fromkeys(recipe.initialization for recipe in self.recipes if recipe.initialization.path)
        if not shapes:
            return
        from torch import Generator

        from sctd.train.initialization import InitializationError, initial_gaussians

        for shape in shapes:
            try:
                initial_gaussians(shape, "", Generator())
            except InitializationError as error:
                raise UserError(f"No shape to start from: {str(error).rstrip('.')}.") from error

    def needed_bytes(self, jobs: Sequence[Job]) -> int:
        """What these jobs may add to its folder, generously."""
        return sum(IMAGE_BYTES + _asset_bytes(job.recipe) for job in jobs)


def check_views(num_views: int) -> None:
    """Raise UserError for a number of views that cannot be meant."""
    if not 1 <= num_views <= MAX_VIEWS:
        raise UserError(f"--views is {num_views}; give 1 to {MAX_VIEWS}, or 120 to follow the paper.")


def evaluation_digest(scorers: Weights, protocol: Protocol, texts: Sequence[str], *, required_only: bool = False) -> str:
    """Of all that can change the scores of an asset: judges, views, and the prompts that it is told from."""
    scored_by = scorers.evaluation_digest(required_only=required_only)
    return digest([scored_by, protocol.name, METRIC_VERSION, sorted(texts)])[:16]


def token_counter(weights: Weights) -> tuple[Any, int]:
    """A function that counts a text's tokens as the prior does, and the most that it reads. Without torch."""
    import json

    folder = weights.part("prior") / "tokenizer"
    try:
        most = int(json.loads((folder / "tokenizer_config.json").read_text())["model_max_length"])
        if (folder / "tokenizer.json").is_file():
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            tokenizer.no_truncation()
            tokenizer.no_padding()
            return lambda text: len(tokenizer.encode(text).ids), most
        from transformers import CLIPTokenizer

        slower = CLIPTokenizer.from_pretrained(folder)
        return lambda text: len(slower(text, verbose=False).input_ids), most
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{folder} holds no tokenizer that can be read ({error}); expected that of a Stable Diffusion folder."
        ) from error


def _is_controlled(recipe: Recipe) -> bool:
    return recipe.guidance.control != "none"


def _asset_bytes(recipe: Recipe) -> int:
    numbers = 11 + 3 * (recipe.sh_degree + 1) ** 2
    grows = recipe.densify.enabled
    shape = recipe.initialization
    replicas = 1 if shape.kind in ("ball", "sphere", "box") else shape.replicas
    count = recipe.bounds.max_gaussians if grows else shape.count * replicas
    return COPIES * BYTES_PER_NUMBER * numbers * count
