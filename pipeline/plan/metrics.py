"""The table of metrics: what each one is, how it is computed, and where it is shown.

The evaluator, the leaderboard, the comparison of methods, the report pages and the nightly gates read this table. A new
metric of single views is a row with the name of its class; docs/howto/metric.md adds one. Distances also have a row in
`pipeline.weights.networks`, with the parts of a weights folder that they need.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pipeline.weights.models import Weights

PERCENT = "percent of the baseline"
ARROWS = {"higher": "↑", "lower": "↓", "same": "="}
UNNAMED = "clip", "ir", "clip_rprec"  # metrics of the first release, which the digest of an evaluation does not name


@dataclass(frozen=True)
class Metric:
    """A metric, cost or rank. Its column is `<id>@<models>` after the models that score it, or `<id>` without models.

    `better`: the better direction; "same" if any change matters, "" if none is better. `definition` is the text in
    `columns.json`. `scorer` is the class of a metric of views, `module:Class`, a subclass of
    `evaluation.metrics.ViewMetric`; without the `part` of the weights folder it is not measured. Objects below
    `min_objects` have no average. A `compared` metric also has intervals, a lowest tenth, penalised averages,
    differences between methods, and curves over the azimuth. `brief`: in the table on the terminal. `is_detail`: hidden
    on the report pages until requested. `gated`: nightly runs may have a gate for it. `is_cost`: depends on the machine
    and its load.
    """

    id: str
    unit: str
    better: Literal["higher", "lower", "same", ""]
    definition: str
    title: str = ""
    scorer: str = ""
    part: str = ""
    min_objects: int = 1
    compared: bool = False
    brief: bool = True
    is_detail: bool = False
    gated: bool = False
    is_cost: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "title", self.title or self.id)

    @property
    def lowest_tenth(self) -> "Metric":
        """Its 10 % quantile over the views of an object: the score of the worst sides."""
        definition = f"10 % quantile of {self.id} over the views of an object, average over prompts"
        named = replace(self, id=f"{self.id}_p10", title=f"{self.title} p10", definition=definition)
        return replace(named, scorer="", compared=False, brief=False, is_detail=True)

    @property
    def penalised(self) -> "Metric":
        """Its average with a white image for each failed object."""
        definition = f"{self.id}, counting each failed object as a white image"
        named = replace(self, id=f"{self.id}_penalised", definition=definition)
        return replace(named, scorer="", compared=False, gated=False)


_ROWS = (
    Metric(
        "clip",
        "points",
        "higher",
        "CLIP score: 100 cos(view, prompt), average over views, then over prompts",
        title="CLIP",
        scorer="evaluation.metrics:CLIPScore",
        compared=True,
        gated=True,
    ),
    Metric(
        "ir",
        "standard deviations",
        "higher",
        "ImageReward, standardized, average over views, then over prompts",
        title="ImageReward",
        scorer="evaluation.metrics:ImageRewardScore",
        compared=True,
        gated=True,
    ),
    Metric(
        "clip_rprec",
        "share",
        "higher",
        "R-precision: share of views whose nearest prompt, among all prompts of the run, is their own",
        scorer="evaluation.metrics:CLIPRPrecision",
        min_objects=2,
        is_detail=True,
        gated=True,
    ),
    Metric(
        "clip_faces",
        "points",
        "higher",
        "clip in which a second face counts nothing: views beyond 130° from the front lose the share of their score by "
        "which they read as a front view; average over views, then over prompts",
        title="CLIP, one face",
        scorer="evaluation.faces:CLIPFaces",
        compared=True,
        brief=False,
        gated=True,
    ),
    Metric(
        "pickscore",
        "points",
        "higher",
        "PickScore: exp(logit scale) cos(view, prompt) by PickScore_v1, average over views, then over prompts",
        title="PickScore",
        scorer="evaluation.preference:PickScore",
        part="pickscore",
        compared=True,
        gated=True,
    ),
    Metric(
        "hps",
        "points",
        "higher",
        "HPS v2.1: 100 cos(view, prompt) by its CLIP ViT-H/14, average over views, then over prompts",
        title="HPS v2.1",
        scorer="evaluation.preference:HPSScore",
        part="hps",
        compared=True,
        gated=True,
    ),
    Metric(
        "aesthetic",
        "points, 1 to 10",
        "higher",
        "LAION's aesthetic predictor on the scorer's image vectors, whatever the prompt; average over views, then over "
        "prompts",
        scorer="evaluation.preference:AestheticScore",
        part="aesthetic",
        compared=True,
        gated=True,
    ),
    Metric(
        "vqa",
        "probability",
        "higher",
        'VQAScore: P("yes") of a vision-language model for: Does this figure show "<prompt>"? Please answer yes or no. '
        "Average over 12 evenly spaced views (all, if fewer), then over prompts",
        title="VQAScore",
        scorer="evaluation.vqa:VQAScore",
        part="vlm",
        compared=True,
        gated=True,
    ),
    Metric(
        "fd",
        "squared distance",
        "lower",
        "Fréchet distance of all views to the reference set; standard error: jackknife over objects",
        gated=True,
    ),
    Metric(
        "fid",
        "squared distance",
        "lower",
        "fd with Inception-v3 features; views resized with clean-fid's bicubic filter",
        gated=True,
    ),
    Metric(
        "fid_tf",
        "squared distance",
        "lower",
        "fd with Inception-v3 features; views resized with TensorFlow's bilinear filter",
        brief=False,
        is_detail=True,
        gated=True,
    ),
    Metric("fd_dinov2", "squared distance", "lower", "fd with DINOv2 [CLS] features", gated=True),
    Metric(
        "kid_cl",
        "10^-3",
        "lower",
        "kernel distance to the reference set, without pairs of views of one object; standard error: jackknife over "
        "objects",
        brief=False,
        is_detail=True,
        gated=True,
    ),
    Metric(
        "kid_cl_inception",
        "10^-3",
        "lower",
        "kid_cl with the features of fid",
        brief=False,
        is_detail=True,
        gated=True,
    ),
    Metric("time_min", "minutes", "lower", "time to generate an asset, average over prompts", is_cost=True),
    Metric(
        "peak_gib",
        "GiB",
        "",
        "peak memory of a process that generates assets (GPU memory if it uses a GPU)",
        is_detail=True,
        is_cost=True,
    ),
    Metric("n_gauss", "Gaussians", "", "Gaussians of an asset, average over prompts"),
    Metric(
        "q1_rank", "rank", "lower", "user study, text alignment: average rank among the methods compared, 1 is best"
    ),
    Metric("q2_rank", "rank", "lower", "user study, realism: average rank, as q1_rank"),
    Metric("q3_rank", "rank", "lower", "user study, details: average rank, as q1_rank"),
    Metric("n_voters", "volunteers", "", "volunteers who voted in the user study"),
    Metric("time", PERCENT, "lower", "time to generate an asset, by prompt", gated=True, is_cost=True),
    Metric("memory", PERCENT, "lower", "peak memory of a process, by prompt", gated=True, is_cost=True),
    Metric("loss", PERCENT, "same", "geometric mean of the loss over all iterations, by prompt", gated=True),
)
METRICS = {
    metric.id: metric for row in _ROWS for metric in (row, *((row.lowest_tenth, row.penalised) if row.compared else ()))
}
PER_VIEW = tuple(metric for metric in METRICS.values() if metric.scorer)
COMPARED = tuple(metric for metric in PER_VIEW if metric.compared)
GATED = {name: metric for name, metric in METRICS.items() if metric.gated}


def measured(weights: "Weights") -> tuple[Metric, ...]:
    """The metrics of views that these weights score: those that need no part of their own, or whose part exists."""
    return tuple(metric for metric in PER_VIEW if not metric.part or weights.has(metric.part))


def shown(metrics: Iterable[Metric], scores: Iterable[Container[str]]) -> list[Metric]:
    """The metrics to list for these records: those of the first release, and others that a record has scores of."""
    known = list(scores)
    return [metric for metric in metrics if metric.id in UNNAMED or any(metric.id in found for found in known)]
