import io

import pytest
import torch

from sctd.scene.gaussians import Gaussians
from sctd.scene.population import Population
from sctd.train.checkpoint import CheckpointError, Identity, State, from_bytes, to_bytes

IDENTITY = Identity(recipe="0123456789abcdef", prompt="a red cube", seed=3)
CPU = torch.device("cpu")


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
        population=Population(gaussians(), gaussians(), gaussians(), *statistics),
        noise=torch.randn(2, 4, 8, 8, generator=generator),
        random=generator.get_state(),
    )


def tensors(state: State) -> dict[str, torch.Tensor]:
    population = state.population
    moments = ("gaussians", "first_moment", "second_moment")
    inner = {f"{part}.{name}": x for part in moments for name, x in getattr(population, part).tensors().items()}
    statistics = {name: getattr(population, name) for name in ("gradient_sum", "sightings", "largest_radius")}
    return {**inner, **statistics, "noise": state.noise, "random": state.random}


def test_there_and_back_again() -> None:
    before = state()
    after = from_bytes(to_bytes(before, IDENTITY), IDENTITY, CPU)
    there, back = tensors(before), tensors(after)
    assert len(there) == 20
    for name, tensor in there.items():
        assert torch.equal(tensor, back[name]), name
        assert tensor.dtype == back[name].dtype, name
    counters = ("iteration", "updates", "skipped", "skipped_in_a_row", "loss")
    assert [getattr(after, name) for name in counters] == [12, 11, 1, 0, 0.1]


def test_the_bytes_hold_no_code() -> None:
    tree = torch.load(io.BytesIO(to_bytes(state(), IDENTITY)), weights_only=True)
    assert tree["identity"] == IDENTITY._asdict()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            IDENTITY._replace(recipe="fedcba9876543210"),
            "the checkpoint is of recipe 0123456789ab, this run is of recipe fedcba987654; delete it or run that",
        ),
        (IDENTITY._replace(prompt="a cat"), "is of prompt 'a red cube', this run is of prompt 'a cat'"),
        (IDENTITY._replace(seed=4), "is of seed 3, this run is of seed 4"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(other: Identity, message: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        from_bytes(to_bytes(state(), IDENTITY), other, CPU)
    assert message in str(caught.value)


def test_damaged_or_foreign_bytes_are_refused() -> None:
    good = to_bytes(state(), IDENTITY)
    foreign, future = io.BytesIO(), io.BytesIO()
    torch.save({"weights": torch.zeros(3)}, foreign)
    torch.save({"format": 99, "identity": IDENTITY._asdict(), "state": {}}, future)
    for content in (b"", b"hello", good[: len(good) // 2], foreign.getvalue()):
        with pytest.raises(CheckpointError, match=r"bytes are no checkpoint \(\w+\); delete them to start anew"):
            from_bytes(content, IDENTITY, CPU)
    with pytest.raises(CheckpointError, match="the checkpoint has format 99, expected 1; delete it to start anew"):
        from_bytes(future.getvalue(), IDENTITY, CPU)
