"""Recipe settings of the guidance gradient: guidance, times, noise, encoding.

Every field has a unit and a source, and defaults are those of `presets.paper()`; `docs/recipe.md` is the same table.
"release" is the paper's released code, "ours" a choice of this project. Noise levels are indices into the schedule
(larger = noisier).
"""

from typing import Literal

from pydantic import model_validator

from sctd.diffusion import segments
from sctd.recipe.fields import OURS, RELEASE, Config, field

NUM_STEPS = 1000  # of every Stable Diffusion schedule


class GuidanceConfig(Config):
    """Prompts, classifier-free guidance, Perp-Neg and ControlNet."""

    scale: float = field(7.5, "–", "release", "w in ε_∅ + w(ε_y − ε_∅); the paper's w is this − 1", ge=0)
    negative_prompt: str = field(
        "unrealistic, blurry, low quality, out of focus, ugly, low contrast, dull, low-resolution, oversaturation.",
        "text", RELEASE, "replaces ∅ in the guidance; empty: the empty prompt",
    )  # fmt: skip
    prompt_template: str = field("{prompt}", "text", RELEASE, "text for the prior; {prompt} is the user's prompt")
    view_text: Literal["nearest", "interpolated", "none"] = field(
        "interpolated",
        "–",
        RELEASE,
        "view-dependent suffix of the prompt, such as ', front view': of the nearest view, interpolated, or none",
    )
    perp_neg: bool = field(
        False, "–", RELEASE, "use Perp-Neg with the other views as negative prompts (release: on for heads)"
    )
    control: Literal["none", "depth"] = field("none", "–", OURS, "render passed to a ControlNet")
    control_scale: float = field(1, "–", "diffusers", "weight of the ControlNet's residuals", ge=0)

    @model_validator(mode="after")
    def _has_prompt(self) -> "GuidanceConfig":
        if self.prompt_template.count("{prompt}") != 1 or "{" in self.prompt_template.replace("{prompt}", ""):
            raise ValueError(f"prompt_template is {self.prompt_template!r}; it must contain {{prompt}} exactly once")
        if self.perp_neg and self.view_text == "none":
            raise ValueError("perp_neg is true but view_text is 'none'; Perp-Neg needs a view-dependent suffix")
        return self


class TimesConfig(Config):
    """The draw of t, s and s_m in each iteration.

    `segments`: t in its segment [s_m, s_{m+1}), s in between (SCTD). `single`: t alone (SDS). `interval`: s = t − Δ,
    s_m = 0 (ISM). `two_intervals`: s = t − Δ, s_m in another interval below s (GCS). `annealed`: s falls from `high` to
    `low` as √progress, t is a random gap above it and at most `start_high` (CDS).
    """

    rule: Literal["segments", "single", "linear", "interval", "two_intervals", "annealed"] = field(
        "segments", "–", "each objective's paper", "how t, s and s_m are drawn"
    )
    segments: Literal["equal", "increasing"] = field(
        "equal", "–", "release; paper: both", "segments of equal or of increasing length"
    )
    num_segments: int = field(5, "segments", "paper", "number of segments N_s", ge=1, le=100)
    segment_range: tuple[int, int] = field(
        (0, NUM_STEPS), "indices", "paper; release: 20–980", "range divided into segments"
    )
    threshold: int = field(150, "index", "Eq. 11", "t_τ: above it, the inversion takes two steps", ge=0, lt=NUM_STEPS)
    minimum_interval: int = field(80, "indices", RELEASE, "minimum of t − s_m; a smaller t is raised", ge=2, le=500)
    epsilon: int = field(10, "indices", RELEASE, "minimum distance of s from s_m and t", ge=0, le=200)
    interval: int = field(80, "indices", "LucidDreamer, Connect3D", "Δ = t − s after the warm-up", ge=1, le=500)
    interval_extra: int = field(
        20, "indices", "LucidDreamer, Connect3D", "added to Δ at the start of the warm-up", ge=0, le=500
    )
    gap: tuple[int, int] = field((100, 299), "indices", "Consistent3D", "range of t − s, uniform (rule annealed)")
    low: int = field(20, "index", "paper", "smallest t", ge=0, lt=NUM_STEPS)
    high: int = field(500, "index", "paper", "largest t after the warm-up", ge=0, lt=NUM_STEPS)
    start_high: int = field(980, "index", "paper", "largest t at the start", ge=0, lt=NUM_STEPS)
    warmup_share: float = field(
        0.3,
        "share of iterations",
        "paper: 1500 of 5000",
        "warm-up, in which the largest t falls linearly from start_high to high",
        ge=0,
        le=1,
    )
    shift_lower_bound: bool = field(
        False, "–", "paper; release: true", "the smallest t falls by the same amount as the largest"
    )

    @model_validator(mode="after")
    def _possible(self) -> "TimesConfig":
        """Raise ValueError for settings that leave some time no valid value."""
        low, high, start_high, gap = self.low, self.high, self.start_high, self.gap
        interval, extra, epsilon = self.interval, self.interval_extra, self.epsilon
        if not low < high <= start_high:
            raise ValueError(f"low {low}, high {high}, start_high {start_high}; expected low < high <= start_high")
        if not 1 <= gap[0] <= gap[1]:
            raise ValueError(f"gap is {gap}; expected two numbers of at least 1, the smaller first")
        if self.minimum_interval < 2 * epsilon + 1:
            found = f"minimum_interval {self.minimum_interval} and epsilon {epsilon} leave no valid time s"
            raise ValueError(f"{found}; minimum_interval must be at least {2 * epsilon + 1}")
        if self.rule == "annealed" and low + gap[0] > start_high:
            found = f"gap {gap[0]} above low {low} exceeds start_high {start_high}"
            raise ValueError(f"{found}; expected low + gap <= start_high")
        if self.rule == "two_intervals" and interval <= epsilon:
            found = f"interval {interval} and epsilon {epsilon} leave no valid time s_m"
            raise ValueError(f"{found}; interval must be at least {epsilon + 1}")
        if self.rule == "two_intervals" and interval + extra >= start_high:
            found = f"interval {interval} and interval_extra {extra} exceed start_high {start_high}"
            raise ValueError(f"{found}; expected interval + interval_extra < start_high")
        if self.rule == "segments":
            self._check_segments()
        return self

    def _check_segments(self) -> None:
        start, end = self.segment_range
        if not 0 <= start <= self.low or not self.start_high <= end <= NUM_STEPS:
            found = f"segment_range {start}–{end} does not contain every t from {self.low} to {self.start_high}"
            raise ValueError(f"{found}; widen it, or raise low or lower start_high")
        if self.edges()[-2] + self.minimum_interval >= end:
            found = f"the last of {self.num_segments} segments must be longer than minimum_interval"
            raise ValueError(f"{found} {self.minimum_interval}; use fewer segments or a smaller interval")

    def edges(self) -> tuple[int, ...]:
        """The start of each segment, and the end of the last."""
        start, end = self.segment_range
        if self.segments == "increasing":
            return segments.increasing(self.num_segments, self.threshold, end, start=start)
        return segments.equal(self.num_segments, end, start=start)


class NoiseConfig(Config):
    """The noise ε* in z_{s_m} = α z_0 + σ ε*."""

    kind: Literal["fixed", "fresh"] = field("fixed", "–", "Sec. 4.4: ε*", "drawn once per run, or in every iteration")
    shared: bool = field(False, "–", "Consistent3D: true", "true: the same noise for all views; false: one per view")
    offset: float = field(0.1, "–", RELEASE, "standard deviation of a random constant added to each channel", ge=0)


class EncodingConfig(Config):
    """From a render to z_0."""

    posterior: Literal["sample", "mean"] = field("sample", "–", RELEASE, "sample or mean of the VAE posterior")
    disparity_share: float = field(
        0.2, "share of iterations", RELEASE, "iterations that encode disparity instead of colour", ge=0, le=1
    )
    flip_share: float = field(
        0.5, "share of iterations", RELEASE, "iterations in which all views are mirrored", ge=0, le=1
    )
    scale_noise: float = field(0.2, "–", RELEASE, "scales s are rendered as s(1 + √this/4 · N(0, 1))", ge=0, lt=1)
