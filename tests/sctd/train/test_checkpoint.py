"""sctd.train.checkpoint: round trip, no code, and refusal of damaged files and of other runs."""

import io

import pytest
import torch

from sctd.recipe.presets import paper
from sctd.scene.gaussians import Gaussians
from sctd.scene.population import Population
from sctd.train.checkpoint import CheckpointError, Identity, State, from_bytes, to_bytes
from sctd.train.gaussian_splatting import GaussianSplatting

IDENTITY = Identity(recipe="0123456789abcdef", prompt="a red cube", seed=3)
CPU = torch.device("cpu")
RESTORED = GaussianSplatting(paper()).restored


def state() -> State:
    generator = torch.Generator().manual_seed(1)

    def gaussians() -> Gaussians:
        shapes = [(7, 3), (7, 3), (7, 4), (7,), (7, 4, 3)]
        return Gaussians(*(torch.randn(shape, generator=generator) for shape in shapes))

    statistics = torch.rand(3, 7, generator=generator).unbind()
    return State(
        iteration=12,
        updates=11,
        skipped=1,
        skipped_in_a_row=0,
        loss=0.1,
        scene=Population(gaussians(), gaussians(), gaussians(), *statistics),
        noise=torch.randn(2, 4, 8, 8, generator=generator),
        random=generator.get_state(),
    )


def tensors(state: State) -> dict[str, torch.Tensor]:
    population = state.scene
    moments = ("gaussians", "first_moment", "second_moment")
    inner = {f"{part}.{name}": x for part in moments for name, x in getattr(population, part).tensors().items()}
    statistics = {name: getattr(population, name) for name in ("gradient_sum", "sightings", "largest_radius")}
    return {**inner, **statistics, "noise": state.noise, "random": state.random}


def test_checkpoint_round_trip() -> None:
    before = state()
    after = from_bytes(to_bytes(before, IDENTITY), IDENTITY, CPU, RESTORED)
    expected, found = tensors(before), tensors(after)
    assert len(expected) == 20
    for name, tensor in expected.items():
        assert torch.equal(tensor, found[name]), name
        assert tensor.dtype == found[name].dtype, name
    counters = ("iteration", "updates", "skipped", "skipped_in_a_row", "loss")
    assert [getattr(after, name) for name in counters] == [12, 11, 1, 0, 0.1]


def test_a_checkpoint_contains_no_code() -> None:
    tree = torch.load(io.BytesIO(to_bytes(state(), IDENTITY)), weights_only=True)
    assert tree["identity"] == IDENTITY._asdict()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            IDENTITY._replace(recipe="fedcba9876543210"),
            "the checkpoint has recipe 0123456789ab, this run has recipe fedcba987654; delete it or resume that run",
        ),
        (IDENTITY._replace(prompt="a cat"), "has prompt 'a red cube', this run has prompt 'a cat'"),
        (IDENTITY._replace(seed=4), "has seed 3, this run has seed 4"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(other: Identity, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        from_bytes(to_bytes(state(), IDENTITY), other, CPU, RESTORED)
    assert message in str(caught.value)


def test_damaged_or_foreign_bytes_are_refused() -> None:
    good = to_bytes(state(), IDENTITY)
    foreign, future = io.BytesIO(), io.BytesIO()
    torch.save({"weights": torch.zeros(3)}, foreign)
    torch.save({"format": 99, "identity": IDENTITY._asdict(), "state": {}}, future)
    for content in (b"", b"hello", good[: len(good) // 2], foreign.getvalue()):
        with pytest.raises(CheckpointError, match=r"bytes are not a checkpoint \(\w+\); delete them to start over"):
            from_bytes(content, IDENTITY, CPU, RESTORED)
    with pytest.raises(CheckpointError, match="the checkpoint has format 99, expected 1; delete it to start over"):
        from_bytes(future.getvalue(), IDENTITY, CPU, RESTORED)


@pytest.mark.parametrize(
    "change",
    [
        lambda tree: tree.update(state=[]),
        lambda tree: tree["state"].pop("population"),
        lambda tree: tree["state"].update(noise=None),
        lambda tree: tree["state"]["population"].update(gaussians={}),
    ],
)
def test_a_state_with_missing_values_is_refused(change):
    tree = torch.load(io.BytesIO(to_bytes(state(), IDENTITY)), weights_only=True)
    change(tree)
    file = io.BytesIO()
    torch.save(tree, file)
    with pytest.raises(CheckpointError, match=r"^\d+ bytes are not a checkpoint \(\w+\); delete them to start over"):
        from_bytes(file.getvalue(), IDENTITY, torch.device("cpu"), RESTORED)
