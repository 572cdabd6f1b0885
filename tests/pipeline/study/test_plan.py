"""Choice of turntables, invalid plans, and the order for each volunteer."""

import re
from collections import Counter

import pytest

from pipeline.errors import UserError
from pipeline.store.run_folder import Store
from pipeline.study import plan
from tests.support.study_fixtures import METHODS, PROMPTS, write_run


def test_every_method_of_every_run_is_a_competitor(runs):
    made = plan.planned(runs, [], 3, seed=0)
    assert made.labels == ["alpha/sctd-secret", "sds-secret", "beta/sctd-secret"]
    assert sorted(made.prompts) == sorted(PROMPTS)
    assert made.steps == 9
    for prompt, paths in zip(made.prompts, made.turntables, strict=True):
        number = PROMPTS.index(prompt)
        assert [path.split("/items/")[1] for path in paths] == [
            f"{method}-{number}/turntable.mp4" for methods in METHODS.values() for method in methods
        ]


def test_same_seed_draws_the_same_prompts(runs):
    drawn = {plan.planned(runs, [], 1, seed).prompts for seed in range(20)}
    assert len(drawn) == 3
    assert plan.planned(runs, [], 2, 5).prompts == plan.planned(runs, [], 2, 5).prompts


def test_plan_round_trip(runs, tmp_path):
    made = plan.planned(runs, ["sctd-secret"], 2, seed=0)
    plan.write(Store(tmp_path), made)
    assert plan.read(Store(tmp_path)) == made
    assert len(made.competitors) == 2


def test_prompts_are_drawn_from_those_that_all_methods_finished(tmp_path):
    write_run(tmp_path / "one", ["a", "b"], unfinished=["a-0", "b-2"])
    assert plan.planned([tmp_path / "one"], [], 1, seed=0).prompts == (PROMPTS[1],)
    with pytest.raises(
        UserError, match=r"--prompts is 2, and 1 prompts have a turntable of every method; expected 1 to that number"
    ):
        plan.planned([tmp_path / "one"], [], 2, seed=0)


def test_invalid_plans_are_refused(runs, tmp_path):
    with pytest.raises(UserError, match=r"No run has a method 'sds-secre'; .*; the nearest is 'sds-secret'\."):
        plan.planned(runs, ["sds-secre"], 1, seed=0)
    with pytest.raises(UserError, match="The runs have 1 methods to rank; a volunteer can compare 2 to 8 at once"):
        plan.planned(runs, ["sds-secret"], 1, seed=0)
    with pytest.raises(UserError, match="--runs lists a run folder twice"):
        plan.planned([runs[1], runs[1]], [], 1, seed=0)
    with pytest.raises(UserError, match="contains no run"):
        plan.planned([tmp_path], [], 1, seed=0)
    with pytest.raises(UserError, match=re.escape(f"{tmp_path} contains no study (no study.json)")):
        plan.read(Store(tmp_path))


def test_each_volunteer_has_a_random_order(runs):
    """Every method and every group comes first equally often: 600 volunteers, within 4 standard errors."""
    made = plan.planned(runs, [], 3, seed=0)
    orders = [made.shuffled() for _ in range(600)]
    for order in orders:
        assert sorted(group for group, _ in order) == [0, 1, 2]
        assert all(sorted(competitors) == [0, 1, 2] for _, competitors in order)
    first = Counter(order[0][0] for order in orders), Counter(order[0][1][0] for order in orders)
    for counts in first:
        assert all(abs(counts[i] - 200) < 4 * (600 * 2 / 9) ** 0.5 for i in range(3))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda tree: tree["competitors"].pop(), "it has 1 methods and 1 prompts"),
        (lambda tree: tree.update(prompts=[]), "it has 2 methods and 0 prompts"),
        (lambda tree: tree["turntables"][0].pop(), "turntables: expected one for each prompt and method"),
    ],
)
def test_a_study_that_contradicts_itself_is_damaged(tmp_path, change, reason):
    methods = plan.Competitor("a", "r", "sctd"), plan.Competitor("a", "r", "sds")
    made = Store(tmp_path)
    plan.write(made, plan.StudyPlan("id", methods, ("a cat",), (("x.mp4", "y.mp4"),)))
    tree = made.read_json(tmp_path / "study.json")
    change(tree)
    made.write_json(tmp_path / "study.json", tree)
    with pytest.raises(UserError, match=rf"study\.json is damaged \({reason}\)"):
        plan.read(made)
