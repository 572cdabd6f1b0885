from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from sctd.diffusion.guidance import cfg
from sctd.diffusion.times import Times
from sctd.experiments.testbed import MixtureAdapters, distil, settings, twelve_modes
from sctd.objectives import load
from sctd.objectives.adamw import adamw
from sctd.objectives.vsd import init, update, vsd
from sctd.prior.adapters import Adapters
from sctd.prior.stable_diffusion import StableDiffusionPrior
from sctd.recipe.methods import for_objective
from sctd.recipe.presets import embedded
from sctd.scene.cameras import Cameras
from sctd.train import draws, optimize
from sctd.train.checkpoint import tensors_of
from sctd.train.gradient import LoopOptions
from tests.support import tiny_models
from tests.support.analytic import mixture
from tests.support.tiny_prior import TinyPrior, ball, recipe, same
from tests.support.toy_adapters import ToyAdapters

AT_560 = Times(560, 560, 560)


def random() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def arguments(scale: float = 7.5) -> dict[str, Any]:
    world = mixture(5, spread=0.3)
    z_0, noise = torch.randn(2, 3, 4, 2, 2, generator=random(), dtype=torch.float64)
    guided, text = cfg(world, scale, world.null), world.text([0], 3)
    adapted = ToyAdapters(world, torch.float64)
    given = {"z_0": z_0, "denoise": guided, "text": text, "noise": noise, "times": AT_560, "schedule": world.schedule}
    return given | {"adapted": adapted, "cameras": None, "state": init(adapted=adapted, generator=random())}


def test_it_is_the_difference_of_the_two_predictions_of_one_noisy_latent() -> None:
    given = arguments()
    given["state"] = {"psi": torch.tensor([0.25, 0.5], dtype=torch.float64), "moments": {}}
    z_t = given["schedule"].noised(given["z_0"], given["noise"], 560)
    plain = given["adapted"].predicted(z_t, 560, given["text"])
    expected = given["denoise"](z_t, 560, given["text"]) - (1.25 * plain + 0.5)
    torch.testing.assert_close(vsd(**given), expected, rtol=1e-12, atol=1e-12)


def test_at_first_it_is_the_guidance_alone() -> None:
    """ε_ψ = ε_φ: (w − 1)(ε_y − ε_∅), and nothing at a scale of 1."""
    given = arguments()
    world, z_t = given["adapted"].predicted, given["schedule"].noised(given["z_0"], given["noise"], 560)
    expected = 6.5 * (world(z_t, 560, given["text"]) - world(z_t, 560, None))
    torch.testing.assert_close(vsd(**given), expected, rtol=1e-9, atol=1e-9)
    assert vsd(**arguments(scale=1.0)).abs().max() < 1e-12


def test_adamw_is_that_of_torch() -> None:
    """Ten steps, each from the values and moments of the last, against one optimizer that keeps them."""
    target = torch.linspace(-1, 1, 7, dtype=torch.float64)
    parameter = torch.nn.Parameter(torch.zeros(7, dtype=torch.float64))
    optimizer = torch.optim.AdamW([parameter], lr=0.01)
    values, moments = torch.zeros(7, dtype=torch.float64), {}
    for _ in range(10):
        optimizer.zero_grad()
        ((parameter - target) ** 2).sum().backward()
        optimizer.step()
        before = values.clone(), {name: each.clone() for name, each in moments.items()}
        changed, later = adamw(lambda x: ((x - target) ** 2).sum(), values, moments, rate=0.01)
        assert torch.equal(values, before[0])
        assert all(torch.equal(moments[name], each) for name, each in before[1].items())
        values, moments = changed, later
    assert torch.equal(values, parameter.detach())


def test_an_update_learns_the_noise_of_the_renders() -> None:
    """For renders at one point the loss of ε_ψ falls below that of ε_φ, which knows other modes."""
    world, generator = twelve_modes(), random()
    z_0 = world.means[:1].expand(64, -1, -1, -1)
    text, adapted = world.text([0, 1], 64), MixtureAdapters(world)
    state = init(adapted=adapted, generator=generator)
    given = {"text": text, "schedule": world.schedule, "adapted": adapted, "cameras": None, "generator": generator}

    def loss(psi: Tensor) -> float:
        noise = torch.randn(z_0.shape, generator=random(), dtype=z_0.dtype)
        return float((adapted(psi, world.schedule.noised(z_0, noise, 200), 200, text, None) - noise).square().mean())

    first = loss(state["psi"])
    for _ in range(60):
        state = update(z_0, **given, state=state, adapter_rate=0.03)
    assert loss(state["psi"]) < 0.7 * first


def test_particles_of_vsd_are_samples_rather_than_centres() -> None:
    """Samples of p(x | y) have −12.6 nats and a norm of 1.06; VSD −11.3 and 1.09, SDS 3.2 and 1.04."""
    world = twelve_modes()
    fast = {"objective.adapter_rate": 0.01}
    ends = {"vsd": distil(settings("vsd", fast)), "sds": distil(settings("sds"))}
    log_p = {name: float(world.log_density(each, world.text([0, 1], 64)).mean()) for name, each in ends.items()}
    assert -18 < log_p["vsd"] < -6 < 0 < log_p["sds"]


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> StableDiffusionPrior:
    return StableDiffusionPrior.load(tiny_models.write(tmp_path_factory.mktemp("weights")) / "prior")


def views(prior: StableDiffusionPrior) -> tuple[Tensor, Tensor, Cameras]:
    cameras = draws.views(embedded(), 1, prior.image_size, random())
    z_t = torch.randn(cameras.num, *prior.latent_shape, generator=random())
    return z_t, prior.embed(["a red car"]).expand(cameras.num, -1, -1), cameras


def test_adapters_start_as_the_prior_to_the_bit_and_share_its_weights(prior: StableDiffusionPrior) -> None:
    adapters: Adapters = prior.adapters(4)
    z_t, text, cameras = views(prior)
    psi = adapters.initial(random())
    assert torch.equal(adapters(psi, z_t, 300, text, cameras), prior.denoise(z_t, 300, text))
    own = {id(each) for each in prior.unet.parameters()}
    assert own <= {id(each) for each in adapters.unet.parameters()}
    assert not any(module.training for module in adapters.unet.modules())
    assert not any(each.requires_grad for each in prior.unet.parameters())
    assert not any("lora" in name for name, _ in prior.unet.named_parameters())


def test_every_adapter_has_a_gradient_once_the_second_matrices_are_not_zero(prior: StableDiffusionPrior) -> None:
    adapters = prior.adapters(2)
    z_t, text, cameras = views(prior)
    psi = (adapters.initial(random()) + 0.01).requires_grad_()
    (gradient,) = torch.autograd.grad(adapters(psi, z_t, 300, text, cameras).square().sum(), psi)
    parts = adapters._named(gradient)
    assert len(parts) == len(adapters.shapes) > 8
    assert [name for name, part in parts.items() if not part.any()] == []


def test_adapters_see_the_camera(prior: StableDiffusionPrior) -> None:
    adapters = prior.adapters(2)
    z_t, text, cameras = views(prior)
    psi = adapters.initial(random()) + 0.01
    same_view = replace(cameras, world_to_camera=cameras.world_to_camera[:1].expand_as(cameras.world_to_camera))
    one, other = (adapters(psi, z_t[:1].expand_as(z_t), 300, text, each) for each in (cameras, same_view))
    assert torch.equal(one[0], other[0])
    assert not torch.allclose(one[1], other[1])
    assert torch.allclose(other[0], other[1], atol=1e-6)


def vsd_recipe(**overrides: object) -> Any:
    return for_objective(recipe(objective__adapter_rate=0.01, **overrides), "vsd")


def steps(prior: object, resume: bytes | None = None, loop: LoopOptions | None = None) -> list[optimize.Step]:
    given = {} if loop is None else {"loop": loop}
    return list(optimize.optimize(vsd_recipe(), prior, ball(), "a red ball", 0, resume, **given))


def test_a_resumed_run_is_undisturbed_with_what_was_learned(prior: StableDiffusionPrior) -> None:
    for chosen in (TinyPrior(), prior):
        whole = steps(chosen)
        assert whole[-1].objective["psi"].any()
        for stop in (0, 4, 10):
            resumed = steps(chosen, whole[stop].checkpoint())
            assert same(resumed[-1], whole[-1])
            assert torch.equal(resumed[-1].objective["psi"], whole[-1].objective["psi"])
            assert resumed[-1].checkpoint() == whole[-1].checkpoint()


def test_adapters_that_became_nan_are_undone_with_the_iteration(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, good = [], ToyAdapters.__call__

    def sometimes_nan(self: ToyAdapters, psi: Tensor, *given: Any) -> Tensor:
        calls.append(psi.requires_grad)
        broken = psi.requires_grad and sum(calls) == 5  # the fifth update
        return good(self, psi, *given) * (torch.nan if broken else 1)

    monkeypatch.setattr(ToyAdapters, "__call__", sometimes_nan)
    before, undone, after = steps(TinyPrior())[3:6]
    assert (before.skipped, undone.skipped, after.skipped) == (0, 1, 1)
    assert undone.updates == before.updates
    kept, left = tensors_of(before.objective), tensors_of(undone.objective)
    assert kept.keys() == left.keys()
    assert all(torch.equal(kept[name], left[name]) for name in kept)
    assert all(each.isfinite().all() for each in tensors_of(after.objective).values())


def test_views_in_parts_learn_the_same() -> None:
    """All views are learned from together at the end of an iteration, however many are rendered at once."""
    whole, parts = (steps(TinyPrior(), loop=LoopOptions(views_at_once=number))[-1] for number in (2, 1))
    torch.testing.assert_close(parts.objective["psi"], whole.objective["psi"], rtol=1e-4, atol=1e-6)


def test_a_pure_objective_keeps_nothing() -> None:
    objective = load("sds")
    assert (objective.init, objective.update) == (None, None)
    assert objective.initial(prior=None) == {}


def test_a_prior_without_adapters_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(TinyPrior, "adapters")
    with pytest.raises(Exception, match="learns along, but the prior has no adapters; add a method adapters"):
        steps(TinyPrior())
