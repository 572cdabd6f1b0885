"""The leaderboard's columns: unit, better direction and definition of each metric, as written to `columns.json`.

A metric's column is named `<metric>@<models>` after the models that score it (`clip@embedded`), so that no column mixes
scorers. Statistics of a metric are columns of their own (`clip@embedded_se`). Every other column of `leaderboard.csv`
identifies the run (`run_id`, `method`, `protocol`, …) or what it was computed from (`ref_key`, `weights_sha`, …).
"""

from collections.abc import Iterable
from typing import NamedTuple

from pipeline.leaderboard import paper_table

AVERAGED = "clip", "ir"  # averaged over views, then over prompts
DETAILS = "clip_p10", "ir_p10", "kid_cl", "kid_cl_inception", "fid_tf"  # left out of the brief table
ARROWS = {"higher": "↑", "lower": "↓"}


class Column(NamedTuple):
    """`direction`: whether a "higher" or a "lower" value is better; empty if neither is."""

    unit: str
    direction: str
    definition: str


METRICS = {
    "clip": Column("points", "higher", "CLIP score: 100 cos(view, prompt), average over views, then over prompts"),
    "clip_p10": Column("points", "higher", "10 % quantile of clip over the views of an object, average over prompts"),
    "clip_rprec": Column(
        "share",
        "higher",
        "R-precision: share of views whose nearest prompt, among all prompts of the run, is their own",
    ),
    "ir": Column("standard deviations", "higher", "ImageReward, standardized, average over views, then over prompts"),
    "ir_p10": Column(
        "standard deviations", "higher", "10 % quantile of ir over the views of an object, average over prompts"
    ),
    "fd": Column(
        "squared distance",
        "lower",
        "Fréchet distance of all views to the reference set; standard error: jackknife over objects",
    ),
    "fid": Column(
        "squared distance", "lower", "fd with Inception-v3 features; views resized with clean-fid's bicubic filter"
    ),
    "fid_tf": Column(
        "squared distance", "lower", "fd with Inception-v3 features; views resized with TensorFlow's bilinear filter"
    ),
    "fd_dinov2": Column("squared distance", "lower", "fd with DINOv2 [CLS] features"),
    "kid_cl": Column(
        "10^-3",
        "lower",
        "kernel distance to the reference set, without pairs of views of one object; standard error: jackknife over "
        "objects",
    ),
    "kid_cl_inception": Column("10^-3", "lower", "kid_cl with the features of fid"),
    "clip_penalised": Column("points", "higher", "clip, counting each failed object as a white image"),
    "ir_penalised": Column("standard deviations", "higher", "ir, counting each failed object as a white image"),
    "time_min": Column("minutes", "lower", "time to generate an asset, average over prompts"),
    "peak_gib": Column("GiB", "", "peak memory of a process that generates assets (GPU memory if it uses a GPU)"),
    "n_gauss": Column("Gaussians", "", "Gaussians of an asset, average over prompts"),
    "q1_rank": Column(
        "rank", "lower", "user study, text alignment: average rank among the methods compared, 1 is best"
    ),
    "q2_rank": Column("rank", "lower", "user study, realism: average rank, as q1_rank"),
    "q3_rank": Column("rank", "lower", "user study, details: average rank, as q1_rank"),
    "n_voters": Column("volunteers", "", "volunteers who voted in the user study"),
}
STATISTICS = {
    "_se": "standard error",
    "_lo": "lower end of the 95 % t-interval",
    "_hi": "upper end of the 95 % t-interval",
}


def definitions(names: Iterable[str]) -> dict[str, dict[str, str]]:
    """`columns.json`: unit, direction and definition of each metric among these columns."""
    found = {}
    for name in names:
        metric, _, models = str(name).partition("@")
        if metric not in METRICS:
            continue
        unit, direction, definition = METRICS[metric]
        if models == paper_table.MODELS:
            direction, definition = "", f"{metric} in Table 2 of SegmentDreamer; comparable with no other column"
        suffix = next((ending for ending in STATISTICS if models.endswith(ending)), "")
        if suffix:
            direction, definition = "", f"{STATISTICS[suffix]} of {metric}@{models.removesuffix(suffix)}"
        found[str(name)] = {"unit": unit, "direction": direction, "definition": definition}
    return found
