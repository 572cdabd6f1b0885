"""The parts of a recipe that make the gradient: objective, guidance, times, noise, encoding.

Frozen, validated models with a unit and a source under every field. A default is the value of `recipes.paper()`;
`docs/recipe.md` is the same table. "release" means the paper's released code, "ours" a choice of this project. Noise
levels are indices into the schedule (bigger = noisier).
"""

from typing import Literal

from pydantic import model_validator

from sctd.diffusion import segments
from sctd.recipe import custom_objective
from sctd.recipe.fields import OURS, RELEASE, Part, Range, field

NUM_STEPS = 1000  # of every Stable-Diffusion schedule


class Objective(Part):
    """Which gradient on z_0, and its weight."""

    name: Literal["sctd", "sctd-official", "sds", "ism", "cds", "gcs"] = field(
        "sctd", "–", "Eq. 10", "a name in sctd.objectives"
    )
    function: str = field("", "–", OURS, "FILE.py:FUNCTION@DIGEST, one's own in place of the named")
    outer_weight: float = field(8.5, "–", "Eq. 10, release: w + 1", "weight of cross-consistency (sctd)", ge=0)
    self_sign: Literal[1, -1] = field(1, "–", "Eq. 10; release: −1", "sign of self-consistency (sctd)")
    approximation: bool = field(True, "–", "Sec. 4.4", "z_sm stands for G(z_t, t, ∅); false: computed (sctd)")
    inversion_step: int = field(200, "indices", "LucidDreamer", "of the inversion to z_s (ism)", ge=1, le=1000)
    compact_consistency: float = field(1, "–", "Connect3D", "weight of L_CC (gcs)", ge=0)
    conditional_guidance: float = field(0.5, "–", "Connect3D", "weight of L_CG (gcs)", ge=0)
    pixel_constraint: float = field(0.5, "–", "Connect3D", "weight of L_CP (gcs); 0 spares two decodings", ge=0)
    time_weight: Literal["one", "sigma_over_alpha", "b_t", "one_minus_alpha_bar"] = field(
        "sigma_over_alpha", "–", RELEASE, "w(t), a name in sctd.objectives.weights"
    )
    weight: float = field(0.1, "–", "release: λ_guidance", "weight against the regularisers", gt=0)
    clamp: Range = field(
        (0, 0), "–", "Consistent3D: 2–8", "each number of the gradient on z_0 is cut to ± this, start … end; 0: never"
    )

    @property
    def display_name(self) -> str:
        """What tables call it: its name, or that of the function in its place."""
        return custom_objective.reference(self.function).function if self.function else self.name

    @model_validator(mode="after")
    def _names_a_function(self) -> "Objective":
        if self.function and not ("@" in self.function and custom_objective.is_custom(self.function)):
            raise ValueError(
                f"function is {self.function!r}; expected FILE.py:FUNCTION@DIGEST, which --objective FILE.py:FUNCTION "
                "makes"
            )
        return self

    @model_validator(mode="after")
    def _clamp(self) -> "Objective":
        if min(self.clamp) < 0 or (min(self.clamp) == 0) != (max(self.clamp) == 0):
            raise ValueError(f"clamp is {self.clamp}; expected two bounds above 0, or 0,0 for none")
        return self


class Guidance(Part):
    """What the prior is asked, and how loudly."""

    scale: float = field(7.5, "–", "release", "w in ε_∅ + w(ε_y − ε_∅); the paper's w is one less", ge=0)
    negative_prompt: str = field(
        "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, low-resolution, oversaturation.",
        "text", RELEASE, "stands for ∅ inside the guidance; empty: the empty prompt",
    )  # fmt: skip
    prompt_template: str = field("{prompt}", "text", RELEASE, "what the prior reads; {prompt} is the user's")
    view_text: Literal["nearest", "interpolated", "none"] = field(
        "interpolated", "–", RELEASE, "', front view' and so on after the prompt: the nearest, a mixture, or none"
    )
    perp_neg: bool = field(False, "–", RELEASE, "Perp-Neg: away from what the other views' words say (heads: on)")
    control: Literal["none", "depth"] = field("none", "–", OURS, "what of the render a ControlNet sees")
    control_scale: float = field(1, "–", "diffusers", "weight of the ControlNet's residuals", ge=0)

    @model_validator(mode="after")
    def _has_prompt(self) -> "Guidance":
        if self.prompt_template.count("{prompt}") != 1 or "{" in self.prompt_template.replace("{prompt}", ""):
            raise ValueError(f"prompt_template is {self.prompt_template!r}; it must hold {{prompt}} exactly once")
        if self.perp_neg and self.view_text == "none":
            raise ValueError("perp_neg is true and view_text 'none'; Perp-Neg needs the words for the views")
        return self


class Times(Part):
    """Which t, s and s_m an iteration draws.

    `segments`: t in its segment [s_m, s_{m+1}), s between (SCTD). `single`: t alone (SDS). `interval`: s = t − Δ below
    it, s_m = 0 (ISM). `two_intervals`: s_m another interval below s (GCS). `annealed`: s falls from `high` to `low` as
    √progress, t is a random gap above it and at most `start_high` (CDS).
    """

    rule: Literal["segments", "single", "interval", "two_intervals", "annealed"] = field(
        "segments", "–", "each objective's paper", "how t, s and s_m belong together"
    )
    segments: Literal["equal", "increasing"] = field("equal", "–", "release; paper: both", "how [0, T] is divided")
    num_segments: int = field(5, "segments", "paper", "N_s", ge=1, le=100)
    segment_range: tuple[int, int] = field((0, NUM_STEPS), "indices", "paper; release: 20–980", "what is divided")
    threshold: int = field(150, "index", "Eq. 11", "t_τ: above it the inversion takes two steps", ge=0, lt=NUM_STEPS)
    minimum_interval: int = field(80, "indices", RELEASE, "t is raised to at least s_m + this", ge=2, le=500)
    epsilon: int = field(10, "indices", RELEASE, "s stays this far from s_m and from t", ge=0, le=200)
    interval: int = field(80, "indices", "LucidDreamer, Connect3D", "Δ = t − s at the end of the warm-up", ge=1, le=500)
    interval_extra: int = field(20, "indices", "LucidDreamer, Connect3D", "Δ is longer by this at first", ge=0, le=500)
    gap: tuple[int, int] = field((100, 299), "indices", "Consistent3D", "t − s, uniform (rule annealed)")
    low: int = field(20, "index", "paper", "smallest t drawn", ge=0, lt=NUM_STEPS)
    high: int = field(500, "index", "paper", "largest t drawn once warm", ge=0, lt=NUM_STEPS)
    start_high: int = field(980, "index", "paper", "largest t drawn at the start", ge=0, lt=NUM_STEPS)
    warmup_share: float = field(
        0.3, "share of iterations", "paper: 1500 of 5000", "start_high falls to high, linearly", ge=0, le=1
    )
    shift_lower_bound: bool = field(False, "–", "paper; release: true", "the lower bound falls with the upper one")

    @model_validator(mode="after")
    def _possible(self) -> "Times":
        if not self.low < self.high <= self.start_high:
            found = f"low {self.low}, high {self.high}, start_high {self.start_high}"
            raise ValueError(f"{found}; expected low < high <= start_high")
        if not 1 <= self.gap[0] <= self.gap[1]:
            raise ValueError(f"gap is {self.gap}; expected two numbers from 1 on, the smaller first")
        if self.rule == "annealed" and self.low + self.gap[0] > self.start_high:
            found = f"gap {self.gap[0]} above low {self.low} passes start_high {self.start_high}"
            raise ValueError(f"{found}; t must find room between them")
        if self.rule == "two_intervals" and self.interval <= self.epsilon:
            found = f"interval {self.interval} and epsilon {self.epsilon} leave no room for s_m"
            raise ValueError(f"{found}; interval must be at least {self.epsilon + 1}")
        if self.rule == "two_intervals" and self.interval + self.interval_extra >= self.start_high:
            found = (
                f"interval {self.interval} and interval_extra {self.interval_extra} pass start_high {self.start_high}"
            )
            raise ValueError(f"{found}; t must find room above them")
        if self.minimum_interval < 2 * self.epsilon + 1:
            found = f"minimum_interval {self.minimum_interval} and epsilon {self.epsilon} leave no room for s"
            raise ValueError(f"{found}; minimum_interval must be at least {2 * self.epsilon + 1}")
        if self.rule == "segments":
            start, end = self.segment_range
            if not 0 <= start <= self.low or not self.start_high <= end <= NUM_STEPS:
                found = f"segment_range {start}–{end} does not hold every t from {self.low} to {self.start_high}"
                raise ValueError(f"{found}; widen it, or raise low or lower start_high")
            last = self.edges()[-2]
            if last + self.minimum_interval >= end:
                found = f"the last of {self.num_segments} segments is no longer than minimum_interval"
                raise ValueError(f"{found} {self.minimum_interval}; use fewer segments or a smaller interval")
        return self

    def edges(self) -> tuple[int, ...]:
        """Where the segments begin, and the end of the last."""
        start, end = self.segment_range
        if self.segments == "increasing":
            return segments.increasing(self.num_segments, self.threshold, end, start=start)
        return segments.equal(self.num_segments, end, start=start)


class Noise(Part):
    """ε* of z_{s_m} = α z_0 + σ ε*."""

    kind: Literal["fixed", "fresh"] = field("fixed", "–", "Sec. 4.4: ε*", "drawn once for ever, or every iteration")
    shared: bool = field(False, "–", "Consistent3D: true", "one for all views, or one for each")
    offset: float = field(0.1, "–", RELEASE, "standard deviation of a random constant added to each channel", ge=0)


class Encoding(Part):
    """From a rendering to z_0."""

    posterior: Literal["sample", "mean"] = field("sample", "–", RELEASE, "of the VAE encoder")
    disparity_share: float = field(0.2, "share of iterations", RELEASE, "disparity is encoded, not colour", ge=0, le=1)
    flip_share: float = field(0.5, "share of iterations", RELEASE, "all views are mirrored", ge=0, le=1)
    scale_noise: float = field(0.2, "–", RELEASE, "scales s are rendered as s(1 + √this/4 · N(0, 1))", ge=0, lt=1)
