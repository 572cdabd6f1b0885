"""Which turntables take part; the refusals; the order in which volunteers see them."""

import re
from collections import Counter

import pytest

from pipeline.errors import UserError
from pipeline.store.run_folder import Store
from pipeline.study import plan
from tests.support.study_fixtures import METHODS, PROMPTS, write_run


def test_every_method_of_every_run_takes_part(runs):
    made = plan.planned(runs, [], 3, seed=0)
    assert made.labels == ["alpha/sctd-secret", "sds-secret", "beta/sctd-secret"]
    assert sorted(made.prompts) == sorted(PROMPTS)
    assert made.steps == 9
    for prompt, paths in zip(made.prompts, made.turntables, strict=True):
        number = PROMPTS.index(prompt)
        assert [path.split("/items/")[1] for path in paths] == [
            f"{method}-{number}/turntable.mp4" for methods in METHODS.values() for method in methods
        ]


def test_the_same_seed_draws_the_same_prompts(runs):
    drawn = {plan.planned(runs, [], 1, seed).prompts for seed in range(20)}
    assert len(drawn) == 3
    assert plan.planned(runs, [], 2, 5).prompts == plan.planned(runs, [], 2, 5).prompts


def test_it_is_written_and_read(runs, tmp_path):
    made = plan.planned(runs, ["sctd-secret"], 2, seed=0)
    plan.write(Store(tmp_path), made)
    assert plan.read(Store(tmp_path)) == made
    assert len(made.competitors) == 2


def test_only_prompts_that_all_have_made(tmp_path):
    write_run(tmp_path / "one", ["a", "b"], unmade=["a-0", "b-2"])
    assert plan.planned([tmp_path / "one"], [], 1, seed=0).prompts == (PROMPTS[1],)
    with pytest.raises(
        UserError, match=r"--prompts is 2 and all methods have a turntable of 1 prompts; give 1 to that"
    ):
        plan.planned([tmp_path / "one"], [], 2, seed=0)


def test_refusals(runs, tmp_path):
    with pytest.raises(UserError, match=r"No run has a method 'sds-secre'; .*; the nearest is 'sds-secret'\."):
        plan.planned(runs, ["sds-secre"], 1, seed=0)
    with pytest.raises(UserError, match="The runs have 1 methods to rank; a volunteer can compare 2 to 8 at once"):
        plan.planned(runs, ["sds-secret"], 1, seed=0)
    with pytest.raises(UserError, match="--runs names a run folder twice"):
        plan.planned([runs[1], runs[1]], [], 1, seed=0)
    with pytest.raises(UserError, match="holds no run"):
        plan.planned([tmp_path], [], 1, seed=0)
    with pytest.raises(UserError, match=re.escape(f"{tmp_path} holds no study (no study.json)")):
        plan.read(Store(tmp_path))


def test_each_volunteer_has_an_order_of_their_own(runs):
    """Every method comes first about equally often, and every group: 600 volunteers, 4 standard errors."""
    made = plan.planned(runs, [], 3, seed=0)
    orders = [made.shuffled() for _ in range(600)]
    for order in orders:
        assert sorted(group for group, _ in order) == [0, 1, 2]
        assert all(sorted(competitors) == [0, 1, 2] for _, competitors in order)
    first = Counter(order[0][0] for order in orders), Counter(order[0][1][0] for order in orders)
    for counts in first:
        assert all(abs(counts[i] - 200) < 4 * (600 * 2 / 9) ** 0.5 for i in range(3))
