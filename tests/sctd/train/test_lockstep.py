"""Distillations in lockstep: each asset as alone, whatever its companions do; and one batch of all of them."""

import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from sctd.errors import SctdError
from sctd.prior.denoise_calls import DenoiseCall, in_one_batch
from sctd.prior.stable_diffusion import StableDiffusionPrior
from sctd.recipe import presets
from sctd.recipe.methods import for_objective
from sctd.recipe.recipe import Recipe, with_overrides
from sctd.train.lockstep import Lockstep
from sctd.train.optimize import Step, optimize
from tests.support import tiny_models
from tests.support.tiny_prior import ball, rows

ITERATIONS = 4
PROMPTS = ["a red cube", "a very small blue ball", "a green penguin"]
TOLERANCE = 1e-5  # of parameters around 1: a batch of another size sums in another order
Outcome = Step | BaseException


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    return StableDiffusionPrior.load(tiny_models.write_prior(tmp_path_factory.mktemp("prior")))


def recipe_of(objective: str = "sctd", **overrides) -> Recipe:
    small = {"iterations": ITERATIONS, "cameras.views": 2, "relocate.interval": 2, "encoding.posterior": "sample"}
    chosen = for_objective(presets.embedded(), objective)
    return with_overrides(chosen, small | {k.replace("__", "."): v for k, v in overrides.items()})


def distil(prior, recipe: Recipe, prompt: str, seed: int = 0, resume: bytes | None = None) -> Iterator[Step]:
    return optimize(recipe, prior, ball(40), prompt, seed, resume=resume)


def last(steps: Iterator[Step]) -> Step:
    *_, step = steps
    return step


def in_lockstep(lockstep: Lockstep, *runs: Callable[[object], Step]) -> list[Outcome]:
    """The results or errors of the runs, all in lockstep from the first iteration on."""
    found: list[Outcome] = [RuntimeError("it has not ended")] * len(runs)
    joined = threading.Barrier(len(runs))

    def work(number: int) -> None:
        with lockstep.member() as member:
            joined.wait()
            try:
                found[number] = runs[number](member)
            except BaseException as error:
                found[number] = error

    threads = [threading.Thread(target=work, args=[number], daemon=True) for number in range(len(runs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert not any(thread.is_alive() for thread in threads), "they wait for each other"
    return found


def assert_close(found: Outcome, expected: Step) -> None:
    if isinstance(found, BaseException):
        raise found
    assert found.iteration == expected.iteration
    torch.testing.assert_close(rows(found.gaussians), rows(expected.gaussians), atol=TOLERANCE, rtol=TOLERANCE)
    assert torch.equal(found.random, expected.random), "the same random numbers are drawn"


def test_each_asset_is_that_of_a_run_alone(prior):
    """Methods of different numbers of predictions, recipes with their own views, prompts and seeds."""
    jobs = [
        (recipe_of("sctd"), PROMPTS[0], 0),
        (recipe_of("gcs", cameras__views=3), PROMPTS[1], 1),
        (recipe_of("sds", encoding__posterior="mean", iterations=2), PROMPTS[2], 2),
    ]
    found = in_lockstep(Lockstep(prior), *(lambda member, job=job: last(distil(member, *job)) for job in jobs))
    for outcome, job in zip(found, jobs, strict=True):
        assert_close(outcome, last(distil(prior, *job)))


def test_equal_methods_are_computed_in_one_batch(prior, monkeypatch):
    batches: list[tuple[int, int]] = []
    denoise_each = StableDiffusionPrior.denoise_each

    def counted(self, calls):
        batches.append((len(calls), sum(len(call.z_t) for call in calls)))
        return denoise_each(self, calls)

    monkeypatch.setattr(StableDiffusionPrior, "denoise_each", counted)
    recipe = recipe_of("sds", iterations=3)
    in_lockstep(Lockstep(prior), *(lambda m, p=p: last(distil(m, recipe, p)) for p in PROMPTS))
    assert batches == [(3, 3 * 2 * 2)] * 3


def test_the_failure_of_one_asset_changes_no_other(prior):
    class NotFiniteError(SctdError):
        pass

    def fails(member):
        steps = distil(member, recipe_of(), PROMPTS[0])
        next(steps)
        raise NotFiniteError

    def asks_for_nonsense(member):
        next(distil(member, recipe_of(), PROMPTS[0]))
        return member.denoise(torch.zeros(1, 7, 2, 2), 3, None)

    job = recipe_of(), PROMPTS[1], 5
    failed, wrong, good = in_lockstep(Lockstep(prior), fails, asks_for_nonsense, lambda m: last(distil(m, *job)))
    assert isinstance(failed, NotFiniteError)
    assert isinstance(wrong, RuntimeError)
    assert_close(good, last(distil(prior, *job)))


def test_an_asset_resumes_among_others(prior):
    job = recipe_of(), PROMPTS[0], 3
    steps = distil(prior, *job)
    saved = [next(steps) for _ in range(2)][-1].checkpoint()
    resumed, companion = in_lockstep(
        Lockstep(prior),
        lambda m: last(distil(m, *job, resume=saved)),
        lambda m: last(distil(m, recipe_of("ism"), PROMPTS[1])),
    )
    assert_close(resumed, last(distil(prior, *job)))
    assert_close(companion, last(distil(prior, recipe_of("ism"), PROMPTS[1])))


def test_a_member_that_leaves_between_the_passes_of_the_encoder_does_not_count(prior):
    images = torch.rand(2, 3, prior.image_size, prior.image_size, generator=torch.Generator().manual_seed(1))

    def stays(member):
        z_0, vjp = member.encode_with_vjp(images, None)
        return z_0, vjp(torch.ones_like(z_0))

    _, (z_0, gradient) = in_lockstep(Lockstep(prior), lambda m: m.encode_with_vjp(images.flip(0), None), stays)
    alone = images.clone().requires_grad_()
    expected = prior.encode(alone)
    torch.testing.assert_close(z_0, expected.detach(), atol=TOLERANCE, rtol=TOLERANCE)
    (expected_gradient,) = torch.autograd.grad(expected.sum(), alone)
    torch.testing.assert_close(gradient, expected_gradient, atol=TOLERANCE, rtol=1e-4)


def test_calls_are_filled_up_to_a_power_of_two_of_the_first(prior):
    calls = [DenoiseCall(torch.full((2, *prior.latent_shape), float(n)), 10 * n, None) for n in range(3)]
    z_t, times, text = in_one_batch(calls, prior.null, fill=True)
    assert times.tolist() == [0, 0, 10, 10, 20, 20, 20, 20]
    assert z_t[:, 0, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 2, 2]
    assert len(text) == 8
    assert len(in_one_batch(calls, prior.null, fill=False)[0]) == 6
    (alone, *_) = in_one_batch(calls[:1], prior.null, fill=True)
    assert alone is calls[0].z_t
