import pytest

from sctd.objectives import ENTRIES
from sctd.recipe.methods import for_objective
from sctd.train import optimize
from sctd.train.batch_sizes import batch_sizes
from sctd.train.gradient import LoopOptions
from tests.support.tiny_prior import TinyPrior, ball, recipe


@pytest.mark.parametrize("perp_neg", [False, True])
@pytest.mark.parametrize("name", ENTRIES)
def test_the_sizes_are_those_of_a_run_by_every_objective(name, perp_neg):
    guidance = {"guidance__perp_neg": True, "guidance__view_text": "interpolated"} if perp_neg else {}
    chosen, prior = for_objective(recipe(**guidance), name), TinyPrior()
    sizes = batch_sizes(chosen, prior, 2)
    assert prior.calls == []
    list(optimize.optimize(chosen, prior, ball(), "a red ball", 0))
    assert sizes == sorted({size for size, *_ in prior.calls})


def test_fewer_views_at_once_are_smaller_batches():
    chosen, prior = recipe(cameras__views=3), TinyPrior()
    assert batch_sizes(chosen, prior, 3) == [3, 6]
    list(optimize.optimize(chosen, prior, ball(), "a red ball", 0, loop=LoopOptions(views_at_once=2)))
    assert {*batch_sizes(chosen, prior, 2), *batch_sizes(chosen, prior, 1)} == {size for size, *_ in prior.calls}
