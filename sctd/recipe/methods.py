"""The recipe of each method, derived from a base recipe: with shared settings, and with its authors' settings.

The first keeps guidance scale, times, noise and weights of the base unless they define the method, so that only the
objectives are compared. The second ("…-authors") has its authors' guidance, times, noise and weights (sources:
docs/objectives/). All keep trainer, cameras, initialization and prior of the base.
"""

from typing import Any

from sctd.recipe import custom_objective
from sctd.recipe.recipe import Recipe, with_overrides


def sctd(base: Recipe) -> Recipe:
    """The base itself: presets use SCTD."""
    return base


def sctd_official(base: Recipe) -> Recipe:
    """The released code's gradient: its sign, its weight σ_t/α_t, segments of [20, 980], both bounds of t falling."""
    return _with(
        base,
        objective={"name": "sctd-official", "time_weight": "sigma_over_alpha"},
        times={"segment_range": (20, 980), "shift_lower_bound": True},
    )


def sds(base: Recipe) -> Recipe:
    """DreamFusion: t alone, fresh noise, w(t) = 1 − ᾱ_t."""
    return _with(
        base,
        objective={"name": "sds", "time_weight": "one_minus_alpha_bar"},
        times={"rule": "single"},
        noise={"kind": "fresh"},
    )


def sds_authors(base: Recipe) -> Recipe:
    """DreamFusion's scale, ε_y + 100 (ε_y − ε_∅), and t ~ U(20, 980) throughout."""
    return _with(sds(base), guidance={"scale": 101}, times={"high": 980, "start_high": 980}, noise={"offset": 0})


def ism(base: Recipe) -> Recipe:
    """LucidDreamer: t and s an interval Δ apart, inversion from time 0."""
    return _with(base, objective={"name": "ism"}, times={"rule": "interval"})


def ism_authors(base: Recipe) -> Recipe:
    """Scale 7.5, w(t) = σ_t/α_t, fresh noise."""
    return _with(
        ism(base), objective={"time_weight": "sigma_over_alpha"}, guidance={"scale": 7.5}, noise={"kind": "fresh"}
    )


def cds(base: Recipe) -> Recipe:
    """Consistent3D: s falls from 700 to 100 as √progress, t is 100 to 299 above it, one ε for all views."""
    return _with(
        base,
        objective={"name": "cds"},
        times={"rule": "annealed", "low": 100, "high": 700, "gap": (100, 299)},
        noise={"shared": True},
    )


def cds_authors(base: Recipe) -> Recipe:
    """Scale 30, the middle of the paper's 20 to 40; w(t) = 1; gradient clamped to ±2, at the end to ±8."""
    return _with(
        cds(base), objective={"time_weight": "one", "clamp": (2, 8)}, guidance={"scale": 30}, noise={"offset": 0}
    )


def gcs(base: Recipe) -> Recipe:
    """Connect3D: two intervals, three losses, no weight over time."""
    return _with(base, objective={"name": "gcs", "time_weight": "one"}, times={"rule": "two_intervals"})


def gcs_authors(base: Recipe) -> Recipe:
    """Scale 7.5 with Perp-Neg, both bounds of t falling, and limited brightness (BEG)."""
    return _with(
        gcs(base),
        guidance={"scale": 7.5, "perp_neg": True},
        times={"shift_lower_bound": True},
        brightness={"enabled": True},
    )


def _with(base: Recipe, **parts: dict[str, Any]) -> Recipe:
    """The base with some fields changed. Raises RecipeError for incompatible settings."""
    fields = {f"{part}.{name}": value for part, fields in parts.items() for name, value in fields.items()}
    return with_overrides(base, fields)


FOR_OBJECTIVE = {
    "sctd": sctd,
    "sctd-official": sctd_official,
    "sds": sds,
    "ism": ism,
    "cds": cds,
    "gcs": gcs,
    "sds-authors": sds_authors,
    "ism-authors": ism_authors,
    "cds-authors": cds_authors,
    "gcs-authors": gcs_authors,
}


def for_objective(base: Recipe, objective: str) -> Recipe:
    """The base adapted to an objective: a name in FOR_OBJECTIVE, or FILE.py:FUNCTION, which runs the file.

    Raises RecipeError for incompatible settings, CustomObjectiveError for a file without a valid objective.
    """
    if not custom_objective.is_custom(objective):
        return FOR_OBJECTIVE[objective](base)
    named = custom_objective.reference(objective)
    if named.function in FOR_OBJECTIVE:
        raise custom_objective.CustomObjectiveError(
            f"{objective} has the name of a built-in objective; rename the function"
        )
    like, changed = custom_objective.settings(named)
    if like not in FOR_OBJECTIVE:
        known = ", ".join(FOR_OBJECTIVE)
        raise custom_objective.CustomObjectiveError(f"{named.path}: LIKE is {like!r}; expected one of {known}")
    return with_overrides(FOR_OBJECTIVE[like](base), {**changed, "objective.function": str(named)})
