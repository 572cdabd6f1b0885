"""Averages, paired differences and deviations over seeds of appearance, on made-up numbers."""

import math

import pytest

from pipeline.errors import UserError
from pipeline.leaderboard.appearance import Label, key_of, labels, measures, require_alike, summary
from pipeline.store.results import RunResults
from pipeline.store.run_folder import Store
from tests.support import runs

KEY = "guidance.scale"


def row(method: str, scale: float | None, prompt: str, value: float | None, seed: int = 0) -> dict:
    return {"method": method, KEY: scale, "prompt": prompt, "seed": seed, "specks": value}


def found(rows: list[dict], method: str, scale: float | None) -> dict:
    return next(r for r in summary(rows, KEY) if (r["measure"], r["method"], r[KEY]) == ("specks", method, scale))


def test_averages_have_t_intervals_over_prompts():
    """Values 1 and 2: standard error 0.5, t = 12.706 for one degree of freedom."""
    cell = found([row("sds", 5, "a", 1.0), row("sds", 5, "b", 2.0)], "sds", 5)
    assert (cell["n_prompts"], cell["mean"], cell["standard_error"]) == (2, 1.5, 0.5)
    assert cell["high"] == pytest.approx(1.5 + 12.7062 * 0.5, abs=1e-4)
    assert (cell["minus"], cell["difference"], cell["seed_sd"], cell["unit"]) == (None, None, None, "share of opacity")


def test_a_prompt_of_several_seeds_counts_once():
    """Prompt a: seeds 1 and 3, mean 2, deviation √2; prompt b: one seed, which has no deviation."""
    rows = [row("sds", 5, "a", 1.0, 0), row("sds", 5, "a", 3.0, 1), row("sds", 5, "b", 6.0)]
    cell = found(rows, "sds", 5)
    assert (cell["n_prompts"], cell["n_assets"], cell["mean"]) == (2, 3, 4.0)
    assert (cell["seed_sd_prompts"], cell["seed_sd"], cell["seed_sd_low"]) == (1, math.sqrt(2), None)


def test_differences_are_paired_by_prompt_and_seed_at_the_same_setting():
    rows = [row("sds", 5, "a", 1.0), row("sds", 5, "b", 5.0), row("sds", 30, "a", 100.0)]
    rows += [row("sctd", 5, "a", 2.0), row("sctd", 5, "b", 8.0), row("sctd", 5, "a", 50.0, seed=1)]
    cell = found(rows, "sctd", 5)
    assert (cell["minus"], cell["difference_prompts"], cell["difference"]) == ("sds", 2, 2.0)
    assert cell["difference_standard_error"] == 1.0
    assert cell["difference_confidence"] == 0.95
    more = [*rows, row("ism", 5, "a", 0.0), row("ism", 30, "a", 0.0), row("ism", 60, "a", 0.0)]
    assert found(more, "sctd", 5)["difference_confidence"] == pytest.approx(1 - 0.05 / 3)
    assert found(more, "ism", 60)["minus"] is None, "the first method was not run there"


def test_changes_are_from_the_lowest_setting_of_the_same_method_paired_by_prompt():
    rows = [row("sds", 30, "a", 3.0), row("sds", 30, "b", 6.0), row("sds", 5, "a", 1.0), row("sds", 5, "b", 2.0)]
    rows += [row("sctd", 5, "a", 9.0), row("sctd", 60, "a", 9.0), row("sctd", 60, "b", 50.0)]
    cell = found(rows, "sds", 30)
    assert (cell["since"], cell["change"], cell["change_standard_error"], cell["change_prompts"]) == (5, 3.0, 1.0, 2)
    assert cell["change_confidence"] == 0.975, "one of two changes"
    assert (found(rows, "sctd", 60)["change"], found(rows, "sctd", 60)["change_prompts"]) == (0.0, 1)
    assert (found(rows, "sds", 5)["since"], found(rows, "sds", 5)["change"]) == (None, None)


def test_unknown_values_are_absent_and_never_zero():
    rows = [row("sds", 5, "a", None), row("sds", 5, "b", 2.0), row("sctd", 5, "a", None)]
    assert (found(rows, "sds", 5)["n_prompts"], found(rows, "sds", 5)["mean"]) == (1, 2.0)
    cell = found(rows, "sctd", 5)
    assert (cell["n_prompts"], cell["mean"], cell["difference"], cell["difference_prompts"]) == (0, None, None, 0)


def test_settings_are_in_order_and_imported_methods_last():
    rows = [row("sds", scale, "a", 1.0) for scale in (30, None, 5, 7.5)]
    assert [r[KEY] for r in summary(rows, KEY) if r["measure"] == "specks"] == [5, 7.5, 30, None]


def test_scores_of_the_record_are_measures_with_their_unit():
    known = measures([row("sds", 5, "a", 1.0) | {"clip@embedded": 60.0, "ir@embedded": 1.0}])
    assert known["clip@embedded"] == ("clip@embedded", "points")
    assert known["second_face"][1] == "points"
    assert list(known)[-2:] == ["clip@embedded", "ir@embedded"]


def results(root, recipes: dict, **changes) -> RunResults:
    jobs = [runs.job(f"{root.name}{number}", method=method) for number, method in enumerate(recipes)]
    return RunResults.read(Store(root), runs.manifest(Store(root), jobs, recipes=recipes, **changes))


def recipe(scale: float, segments: int = 5, batch: int = 1) -> dict:
    return {
        "name": "embedded",
        "guidance": {"scale": scale},
        "times": {"num_segments": segments},
        "compute": {"batch": batch},
    }


def test_labels_lose_the_setting_of_the_axis_and_keep_others(tmp_path):
    recipes = {f"sctd scale={s} num_segments=3": recipe(float(s), 3) for s in ("5", "7.5")}
    run = results(tmp_path, recipes, swept=("guidance.scale", "times.num_segments"))
    assert list(labels(run, KEY).values()) == [Label("sctd num_segments=3", 5.0), Label("sctd num_segments=3", 7.5)]
    assert labels(run, "times.num_segments")["sctd scale=5 num_segments=3"] == Label("sctd scale=5", 3)
    with pytest.raises(UserError, match=r"--key is 'guidance.scal', which is no setting of 'sctd scale=5 num_segments"):
        labels(run, "guidance.scal")


def test_the_axis_is_the_guidance_scale_or_what_was_swept(tmp_path):
    recipes = {"sctd": recipe(7.5)}
    assert key_of([results(tmp_path / "a", recipes)]) == KEY
    assert key_of([results(tmp_path / "b", recipes, swept=("times.num_segments",))]) == "times.num_segments"
    assert key_of([results(tmp_path / "c", recipes, swept=("times.num_segments", KEY))]) == KEY


def test_runs_of_one_scale_each_make_a_line_if_all_else_is_equal(tmp_path):
    one, two = (results(tmp_path / f"{scale:g}", {"sctd": recipe(scale, batch=int(scale))}) for scale in (5.0, 30.0))
    require_alike([one, two], KEY)
    assert labels(two, KEY) == {"sctd": Label("sctd", 30.0)}
    other = results(tmp_path / "other", {"sctd": recipe(5.0, segments=3)})
    with pytest.raises(UserError, match=r"'sctd' has times.num_segments 5 in .*5 and 3 in .*other; compare these runs"):
        require_alike([one, other], KEY)
    other = results(tmp_path / "views", {"sds": recipe(5.0)}, protocol="paper24")
    with pytest.raises(UserError, match=r"5 and .*views were scored differently \(protocol\); score both alike with"):
        require_alike([one, other], KEY)
