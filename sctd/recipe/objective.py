"""The registry of objectives, and the recipe settings of an objective: its options, time weight and weight.

`ENTRIES` is the only list of objectives: command line, recipes, testbed and pages read it. Listing it imports no torch;
`sctd.objectives.load` imports the function of an entry.
"""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import field_validator, model_validator
from pydantic_core import PydanticCustomError

from sctd.recipe import custom_file
from sctd.recipe.fields import OURS, RELEASE, Config, Range, field


@dataclasses.dataclass(frozen=True)
class Entry:
    """An objective: its function, and what recipes need to know about it."""

    name: str
    function: str
    """`module:function`, or FILE.py:FUNCTION@DIGEST of a custom objective."""
    rules: tuple[str, ...]
    """The values of `times.rule` that it supports."""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The recipe keys that define it. All others are those of the base, so that only the objectives are compared."""
    authors: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The keys that the method NAME-authors sets in addition (sources: docs/objectives/); empty: no such method."""
    options: tuple[str, ...] = ()
    """The recipe keys whose values the function takes, as arguments of the same names."""
    is_guided: bool = True
    """Whether it uses the guidance of the recipe. If not, scale, Perp-Neg and its negative prompt have no effect."""


_OF_SDS = {"objective.time_weight": "one_minus_alpha_bar", "times.rule": "single", "noise.kind": "fresh"}
"""t alone, fresh noise, w(t) = 1 − ᾱ_t."""

ENTRIES = {
    entry.name: entry
    for entry in (
        Entry(
            "sctd",
            "sctd.objectives.sctd:sctd",
            rules=("segments",),
            options=("objective.outer_weight", "objective.self_sign", "objective.approximation", "times.threshold"),
        ),
        # The released code's gradient: its sign, its weight σ_t/α_t, segments of [20, 980], both bounds of t falling.
        Entry(
            "sctd-official",
            "sctd.objectives.sctd_official:sctd_official",
            rules=("segments",),
            settings={
                "objective.time_weight": "sigma_over_alpha", "times.segment_range": (20, 980),
                "times.shift_lower_bound": True,
            },
            options=("objective.outer_weight", "times.threshold"),
        ),
        # DreamFusion: t alone, fresh noise, w(t) = 1 − ᾱ_t. Its authors' scale is ε_y + 100 (ε_y − ε_∅), and
        # t ~ U(20, 980) throughout. Only SDS can use t alone.
        Entry(
            "sds",
            "sctd.objectives.sds:sds",
            rules=("single", "segments", "interval", "two_intervals", "annealed"),
            settings=_OF_SDS,
            authors={"guidance.scale": 101, "times.high": 980, "times.start_high": 980, "noise.offset": 0},
        ),
        # LucidDreamer: t and s an interval Δ apart, inversion from time 0; w(t) = σ_t/α_t and fresh noise.
        Entry(
            "ism",
            "sctd.objectives.ism:ism",
            rules=("interval", "segments"),
            settings={"times.rule": "interval"},
            authors={"objective.time_weight": "sigma_over_alpha", "guidance.scale": 7.5, "noise.kind": "fresh"},
            options=("objective.inversion_step",),
        ),
        # Consistent3D: s falls from 700 to 100 as √progress, t is 100 to 299 above it, one ε for all views. Its scale
        # is the middle of the paper's 20 to 40; w(t) = 1; the gradient is clamped to ±2, at the end to ±8.
        Entry(
            "cds",
            "sctd.objectives.cds:cds",
            rules=("annealed", "segments", "interval"),
            settings={
                "times.rule": "annealed", "times.low": 100, "times.high": 700, "times.gap": (100, 299),
                "noise.shared": True,
            },
            authors={
                "objective.time_weight": "one", "objective.clamp": (2, 8), "guidance.scale": 30, "noise.offset": 0,
            },
        ),
        # Connect3D: two intervals, three losses, no weight over time; with Perp-Neg, both bounds of t falling, and
        # limited brightness (BEG).
        Entry(
            "gcs",
            "sctd.objectives.gcs:gcs",
            rules=("two_intervals", "segments"),
            settings={"objective.time_weight": "one", "times.rule": "two_intervals"},
            authors={
                "guidance.scale": 7.5, "guidance.perp_neg": True, "times.shift_lower_bound": True,
                "brightness.enabled": True,
            },
            options=("objective.compact_consistency", "objective.conditional_guidance", "objective.pixel_constraint"),
        ),
        # SDI: t alone, falling linearly, and the noise of an inversion in ten steps. In its authors' code guidance is
        # ε_y + 7.5 (ε_y − ε_∅), that of the inversion ε_y − 7.5 (ε_y − ε_∅); w(t) = σ_t/α_t belongs to their loss.
        Entry(
            "sdi",
            "sctd.objectives.sdi:sdi",
            rules=("linear", "single"),
            settings={"times.rule": "linear", "objective.inversion_step": 100},
            authors={
                "objective.time_weight": "sigma_over_alpha", "guidance.scale": 8.5, "guidance.perp_neg": True,
                "objective.inversion_guidance": -6.5 / 8.5, "times.low": 250, "noise.offset": 0,
            },
            options=("objective.inversion_step", "objective.inversion_guidance"),
        ),
        # ProlificDreamer with one particle: t alone, fresh noise, w(t) = 1 − ᾱ_t, and guidance of 7.5 for the prior.
        Entry(
            "vsd",
            "sctd.objectives.vsd:vsd",
            rules=("single", "linear"),
            settings=_OF_SDS,
            authors={"guidance.scale": 7.5, "times.high": 500, "times.start_high": 980, "noise.offset": 0},
            options=("objective.adapter_rank", "objective.adapter_rate"),
        ),
        # CFD: t alone, falling linearly, and a noise fixed to the surface, with one fixed noise of all views behind it.
        # Its authors' stage on Stable Diffusion ends at t = 212; w(t) = σ_t/α_t belongs to their loss.
        Entry(
            "cfd",
            "sctd.objectives.cfd:cfd",
            rules=("linear", "single"),
            settings={"times.rule": "linear", "noise.kind": "fixed", "noise.shared": True, "noise.offset": 0},
            authors={
                "objective.time_weight": "sigma_over_alpha", "guidance.scale": 70, "guidance.perp_neg": True,
                "times.start_high": 980, "times.low": 212,
            },
            options=("objective.noise_injection",),
        ),
        # CSD: the recipe of SDS, without guidance. Its authors' stage on Stable Diffusion: t ~ U(20, 500), and a
        # negative prompt whose weight falls from 1 to 1/2.
        Entry(
            "csd",
            "sctd.objectives.csd:csd",
            rules=("single", "linear"),
            settings=_OF_SDS,
            authors={
                "objective.negative_weight": (1, 0.5),
                "objective.negative_prompt": "oversaturated color, ugly, tiling, low quality, noisy",
                "times.high": 500, "times.start_high": 500, "noise.offset": 0,
            },
            options=("objective.negative_weight", "objective.negative_prompt"),
            is_guided=False,
        ),
        # NFSD: the recipe of SDS, with an empty ∅ in the guidance, since the negative prompt has its own term. s = 7.5,
        # and t ~ U(20, 980) throughout.
        Entry(
            "nfsd",
            "sctd.objectives.nfsd:nfsd",
            rules=("single", "linear"),
            settings={**_OF_SDS, "guidance.negative_prompt": ""},
            authors={"guidance.scale": 7.5, "times.high": 980, "times.start_high": 980, "noise.offset": 0},
            options=("objective.negative_prompt",),
        ),
    )
}  # fmt: skip

_ALWAYS_STORED = {
    "outer_weight", "self_sign", "approximation", "inversion_step", "compact_consistency", "conditional_guidance",
    "pixel_constraint",
}  # fmt: skip


class ObjectiveConfig(Config):
    """The objective, its options and its weight. An option is an argument of the objectives that list it."""

    name: str = field("sctd", "–", "Eq. 10", "a name in sctd.recipe.objective")
    function: str = field("", "–", OURS, "custom objective in place of name: FILE.py:FUNCTION@DIGEST")
    outer_weight: float = field(8.5, "–", "Eq. 10, release: w + 1", "weight of cross-consistency", ge=0)
    self_sign: Literal[1, -1] = field(1, "–", "Eq. 10; release: −1", "sign of self-consistency")
    approximation: bool = field(True, "–", "Sec. 4.4", "true: z_sm replaces G(z_t, t, ∅); false: G is computed")
    inversion_step: int = field(
        200, "indices", "LucidDreamer", "step of the inversion to z_s, or to z_t", ge=1, le=1000
    )
    inversion_guidance: float = field(
        -1, "–", "SDI", "guidance of the inversion as a multiple of that at t; −1 mirrors it", ge=-100, le=100
    )
    adapter_rank: int = field(4, "–", "ProlificDreamer", "rank of the adapters (LoRA) that learn along", ge=1, le=1024)
    adapter_rate: float = field(1e-4, "1/step", "ProlificDreamer", "their learning rate, by AdamW", gt=0, le=1)
    noise_injection: float = field(
        1e-4, "1/step", "CFD", "share γ of fresh noise in that of the surface: 0 none, 1 all", ge=0, le=1
    )
    negative_prompt: str = field(
        "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, dark, low-resolution, gloomy",
        "–",
        "NFSD",
        "what the image should not look like, of objectives with a negative prompt",
    )
    negative_weight: Range = field(
        (0, 0), "–", "CSD", "weight ω of the negative prompt, ∅ has 1 − ω: start … end; 0,0: no negative prompt"
    )
    compact_consistency: float = field(1, "–", "Connect3D", "weight of L_CC", ge=0)
    conditional_guidance: float = field(0.5, "–", "Connect3D", "weight of L_CG", ge=0)
    pixel_constraint: float = field(0.5, "–", "Connect3D", "weight of L_CP; 0 saves two decodings", ge=0)
    time_weight: Literal["one", "sigma_over_alpha", "b_t", "one_minus_alpha_bar"] = field(
        "sigma_over_alpha", "–", RELEASE, "w(t), a name in sctd.objectives.weights"
    )
    weight: float = field(0.1, "–", "release: λ_guidance", "weight of the objective relative to the regularizers", gt=0)
    clamp: Range = field(
        (0, 0), "–", "Consistent3D: 2–8", "elementwise clamp of the gradient on z_0 to ± this, start … end; 0: off"
    )

    @property
    def display_name(self) -> str:
        """The name in tables: the objective's, or that of the custom function."""
        return custom_file.reference(self.function).name if self.function else self.name

    @property
    def unstored(self) -> set[str]:
        """Options of other objectives that `run.json` and job ids leave out.

        Options of the first release are always stored. A later one is stored if the objective takes it or its value is
        not the default, so that a new objective does not change the ids of all others.
        """
        taken = {key.rpartition(".")[2] for key in ENTRIES[self.name].options}
        options = {key.partition(".")[2] for entry in ENTRIES.values() for key in entry.options}
        later = type(self).model_fields.keys() & options - _ALWAYS_STORED - taken
        return {name for name in later if getattr(self, name) == type(self).model_fields[name].default}

    @field_validator("name")
    @classmethod
    def _is_registered(cls, name: str) -> str:
        if name not in ENTRIES:
            *rest, last = map(repr, ENTRIES)
            similar = difflib.get_close_matches(name, ENTRIES, n=1)
            nearest = f"; the nearest is {similar[0]!r}" if similar else ""
            raise PydanticCustomError("objective", f"Input should be {', '.join(rest)} or {last}{nearest}")
        return name

    @model_validator(mode="after")
    def _names_a_function(self) -> "ObjectiveConfig":
        if self.function and not ("@" in self.function and custom_file.is_custom(self.function)):
            raise ValueError(
                f"function is {self.function!r}; expected FILE.py:FUNCTION@DIGEST: pass --objective FILE.py:FUNCTION, "
                "which adds the digest"
            )
        return self

    @model_validator(mode="after")
    def _clamp(self) -> "ObjectiveConfig":
        if min(self.clamp) < 0 or (min(self.clamp) == 0) != (max(self.clamp) == 0):
            raise ValueError(f"clamp is {self.clamp}; expected two bounds above 0, or 0,0 for no clamp")
        return self
