"""`columns.json`: unit, better direction and definition of the leaderboard's columns, from the table of metrics.

A metric's column is named `<metric>@<models>` after the models that score it (`clip@embedded`), so that no column mixes
scorers. Statistics of a metric are columns of their own (`clip@embedded_se`). Every other column of `leaderboard.csv`
identifies the run (`run_id`, `method`, `protocol`, …) or what it was computed from (`ref_key`, `weights_sha`, …).
"""

from collections.abc import Iterable

from pipeline.leaderboard import paper_table
from pipeline.plan.metrics import METRICS

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
        unit, direction, definition = METRICS[metric].unit, METRICS[metric].better, METRICS[metric].definition
        if models == paper_table.MODELS:
            direction, definition = "", f"{metric} in Table 2 of SegmentDreamer; comparable with no other column"
        suffix = next((ending for ending in STATISTICS if models.endswith(ending)), "")
        if suffix:
            direction, definition = "", f"{STATISTICS[suffix]} of {metric}@{models.removesuffix(suffix)}"
        found[str(name)] = {"unit": unit, "direction": direction, "definition": definition}
    return found
