"""sctd.render.hash_grid: the paper's formulas, kernels against torch and torch against central differences.

Kernels and torch place a position in its cell with the same roundings; the sums of some hundred float32 terms differ by
less than 1e-6 of the largest entry. The kernels for GPUs run on a GPU if there is one, and in triton's interpreter, in
a process of its own.
"""

import importlib.util
import os
import subprocess
import sys
from importlib import metadata

import pytest
import torch
from packaging.version import Version

from sctd.errors import SctdError
from sctd.render.hash_grid import Levels, _rows, encode, encode_reference

INTERPRETER = "TRITON_INTERPRET"


def on_gpu(table, positions, levels):
    return encode(table.cuda(), positions.cuda(), levels).cpu()


def interpreted(table, positions, levels):
    from sctd.render.hash_grid_triton import Encode

    return Encode.apply(table, positions, _rows(levels))


def samples(device):
    """Samples in random full cells on random rays through and past a box: those of the kernel and those of torch."""
    from sctd.render import nerf
    from sctd.render.sampling_triton import occupied

    generator = torch.Generator().manual_seed(0)
    centers = 3 * torch.nn.functional.normalize(torch.randn(60, 3, generator=generator), dim=-1)
    rays = 2 * torch.rand(60, 3, generator=generator) - 1.3 - centers
    cells = torch.rand(5, 5, 5, generator=generator) > 0.6
    field = nerf.Field(MIXED, 4, 1.1, 1.0, 1.0)
    lit = nerf.Lit(nerf.Nerf.random(field, generator), nerf.Occupancy(cells.float(), 0.5), 40)
    lengths = rays.norm(dim=-1)
    ends = nerf._inside(centers, rays / lengths[:, None], 1.1)
    given = 40, 3.9 / 40, torch.tensor([0.3])
    expected = nerf._seen(lit, centers, rays, lengths, ends, given)
    on_device = [tensor.to(device) for tensor in (centers, rays, lengths)]
    there = tuple(end.to(device) for end in ends)
    found = occupied(*on_device, there, (*given[:2], given[2].to(device)), cells.to(device), 1.1)
    return found.cpu().flatten().nonzero().squeeze(1), expected


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
needs_interpreter = pytest.mark.skipif(INTERPRETER not in os.environ, reason="test_in_the_interpreter runs it")
KERNELS = [encode, pytest.param(on_gpu, marks=needs_gpu), pytest.param(interpreted, marks=needs_interpreter)]

MIXED = Levels(4, 4, 32, 9, 2)  # 4 and 8 cells along an edge: 125 entries are dense, 729 > 512 are hashed
ENCODERS = pytest.mark.parametrize("encoder", [*KERNELS, encode_reference])


def random_table(levels, dtype=torch.float32):
    return torch.randn(levels.entries, levels.features, dtype=dtype, generator=torch.Generator().manual_seed(0))


def random_positions(num, dtype=torch.float32):
    return torch.rand(num, 3, dtype=dtype, generator=torch.Generator().manual_seed(1))


def results(encoder, levels, positions):
    """The encoding and the gradients of a random linear loss on table and positions."""
    table, positions = random_table(levels).requires_grad_(), positions.clone().requires_grad_()
    encoding = encoder(table, positions, levels)
    slopes = torch.randn(encoding.shape, generator=torch.Generator().manual_seed(2))
    return encoding.detach(), *torch.autograd.grad((slopes * encoding).sum(), (table, positions))


def assert_equal_results(actual, expected):
    for name, a, b in zip(("encoding", "v_table", "v_positions"), actual, expected, strict=True):
        torch.testing.assert_close(
            a, b, rtol=0, atol=1e-6 * float(b.abs().max()), msg=lambda text, n=name: f"{n}: {text}"
        )


def test_resolutions_grow_geometrically():
    # b = 32^(1/15) = 1.26: the paper's settings for N_max = 512.
    levels = Levels(16, 16, 512, 19, 2)
    assert levels.resolutions() == (16, 20, 25, 32, 40, 50, 64, 80, 101, 128, 161, 203, 256, 322, 406, 512)
    assert levels.width == 32


def test_levels_are_dense_up_to_the_size_of_the_table():
    # 81³ = 531,441 is the first number of corners above 2^19 = 524,288.
    levels = Levels(16, 16, 512, 19, 2)
    dense = (17**3, 21**3, 26**3, 33**3, 41**3, 51**3, 65**3)
    assert levels.sizes() == dense + 9 * (2**19,)
    assert levels.entries == sum(dense) + 9 * 2**19


def test_exact_powers_are_resolutions():
    assert Levels(6, 16, 512, 14, 2).resolutions() == (16, 32, 64, 128, 256, 512)
    assert Levels(4, 10, 10_000, 14, 2).resolutions() == (10, 100, 1000, 10_000)
    assert Levels(1, 16, 16, 14, 2).resolutions() == (16,)
    assert Levels(3, 7, 7, 14, 2).resolutions() == (7, 7, 7)


def test_a_level_with_exactly_one_entry_per_corner_is_dense():
    levels = Levels(1, 3, 3, 6, 1)  # 4³ = 2^6
    entry = 1 + 4 * (2 + 4 * 3)
    table = torch.arange(64.0)[:, None]
    for encoder in (encode, encode_reference):
        torch.testing.assert_close(
            encoder(table, torch.tensor([[1, 2, 3]]) / 3, levels), torch.tensor([[float(entry)]])
        )


@ENCODERS
def test_the_hash_of_a_corner(encoder):
    # 3 xor 5 · 2654435761 xor 6 · 805459861, mod 2^10. Mod 2^10 the factors are 433 and 917, the products 117 and 382:
    # 0b0000000011 xor 0b0001110101 xor 0b0101111110 = 0b0100001000 = 264.
    levels = Levels(1, 16, 16, 10, 1)
    table = torch.arange(1024.0)[:, None]
    assert encoder(table, torch.tensor([[3.0, 5, 6]]) / 16, levels).tolist() == [[264.0]]


@ENCODERS
def test_a_dense_level_reproduces_a_trilinear_function(encoder):
    levels = Levels(1, 5, 5, 10, 2)

    def function(points):
        x, y, z = points.unbind(-1)
        return torch.stack([0.3 - x + 2 * y - 0.5 * z, x * y * z + x * y - z], dim=-1)

    z, y, x = torch.meshgrid(*[torch.linspace(0, 1, 6)] * 3, indexing="ij")  # x varies fastest
    table = function(torch.stack([x, y, z], dim=-1).view(-1, 3))
    # The second function is trilinear: linear along each axis, so one interpolation per cell is exact.
    positions = random_positions(500)
    torch.testing.assert_close(encoder(table, positions, levels), function(positions), rtol=0, atol=1e-6)


@ENCODERS
def test_the_gradient_on_positions_is_the_slope_of_an_affine_function(encoder):
    levels = Levels(1, 5, 5, 10, 1)
    slopes = torch.tensor([-1.0, 2, -0.5])
    z, y, x = torch.meshgrid(*[torch.linspace(0, 1, 6)] * 3, indexing="ij")
    table = (torch.stack([x, y, z], dim=-1).view(-1, 3) @ slopes)[:, None]
    positions = random_positions(100).requires_grad_()
    encoder(table, positions, levels).sum().backward()
    torch.testing.assert_close(positions.grad, slopes.expand(100, 3), rtol=0, atol=5e-6)  # differences of 0.2, times 5


@pytest.mark.parametrize("encoder", KERNELS)
@pytest.mark.parametrize("features", [1, 2, 3, 4])
@pytest.mark.parametrize("num", [1, 256, 1000])  # a block of the kernels has 256 points
def test_kernels_match_torch(num, features, encoder):
    levels = MIXED._replace(features=features)
    positions = random_positions(num)
    assert_equal_results(results(encoder, levels, positions), results(encode_reference, levels, positions))


@pytest.mark.parametrize("encoder", KERNELS)
def test_kernels_match_torch_at_the_papers_resolutions(encoder):
    # Cells of 1 / 4096: a product and a difference that are rounded together would place positions 1e-4 elsewhere.
    levels, positions = Levels(16, 16, 4096, 14, 2), random_positions(3000)
    assert_equal_results(results(encoder, levels, positions), results(encode_reference, levels, positions))


@pytest.mark.parametrize(
    "device", [pytest.param("cuda", marks=needs_gpu), pytest.param("cpu", marks=needs_interpreter, id="interpreted")]
)
def test_samples_in_full_cells_are_those_of_torch(device):
    """But for samples at the border of a cell, of which there are none here."""
    found, expected = samples(device)
    assert 100 < len(expected) < 1500
    assert torch.equal(found, expected)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.skipif(INTERPRETER in os.environ, reason="this is the interpreter")
def test_in_the_interpreter():
    """The tests above with the kernels for GPUs."""
    triton, numpy = (Version(metadata.version(name)) for name in ("triton", "numpy"))
    if triton < Version("3.9") and numpy >= Version("2.4"):
        pytest.skip(f"triton {triton} interprets loops by a conversion that numpy {numpy} refuses; 3.9 does not")
    # Without the project's options: they wrap the functions of a module, which the interpreter then does not find.
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=", __file__]
    command += ["-k", "interpreted and not 256 and not papers and not 1-"]  # others take a minute
    environment = {**os.environ, INTERPRETER: "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert "11 passed" in done.stdout


def test_only_requested_gradients_are_computed():
    table, positions = random_table(MIXED), random_positions(10)
    encode(table, positions.requires_grad_(), MIXED).sum().backward()
    assert table.grad is None
    positions.grad = None
    encode(table.requires_grad_(), positions.detach(), MIXED).sum().backward()
    assert positions.grad is None
    assert table.grad.sum() == pytest.approx(10 * MIXED.width, rel=1e-5)  # the weights of a cell's corners sum to 1


def test_layouts_in_memory_do_not_matter():
    table, positions = random_table(MIXED), random_positions(40)
    expected = encode(table, positions, MIXED)
    assert torch.equal(encode(table.t().contiguous().t(), positions.t().contiguous().t(), MIXED), expected)
    leaf = table.clone().requires_grad_()
    encode(leaf, positions, MIXED).sum().backward()  # an expanded gradient
    dense = table.clone().requires_grad_()
    encode(dense, positions, MIXED).backward(torch.ones(40, MIXED.width))
    assert torch.equal(leaf.grad, dense.grad)


def test_derivatives_of_torch_match_central_differences():
    levels = Levels(3, 2, 8, 5, 2)
    table = random_table(levels, torch.float64).requires_grad_()
    positions = random_positions(6, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda *inputs: encode_reference(*inputs, levels), (table, positions))
    assert torch.autograd.gradgradcheck(lambda *inputs: encode_reference(*inputs, levels), (table, positions))


def test_double_precision_is_computed_by_torch():
    table, positions = random_table(MIXED, torch.float64), random_positions(20, torch.float64)
    assert torch.equal(encode(table, positions, MIXED), encode_reference(table, positions, MIXED))


def test_results_are_bit_identical_for_any_number_of_threads():
    positions, found = random_positions(5000), []
    try:
        for threads in (1, 2, 3, 2):
            torch.set_num_threads(threads)
            found.append(results(encode, MIXED, positions))
    finally:
        torch.set_num_threads(1)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@ENCODERS
def test_faces_of_the_cube_belong_to_the_outer_cells(encoder):
    levels = Levels(1, 4, 4, 7, 1)
    table = torch.arange(125.0)[:, None]
    ends = torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 1]])
    assert encoder(table, ends, levels).flatten().tolist() == [0, 4, 20, 100, 124]


@ENCODERS
def test_positions_outside_are_clamped_and_get_no_gradient(encoder):
    table = random_table(MIXED)
    outside = torch.tensor([[-0.5, 0.3, 1.5], [1e30, -1e30, 0.2], [torch.inf, 0.7, -torch.inf]], requires_grad=True)
    clamped = outside.detach().clamp(0, 1).requires_grad_()
    encoding = encoder(table, outside, MIXED)
    assert torch.equal(encoding, encoder(table, clamped, MIXED))
    encoding.sum().backward()
    encoder(table, clamped, MIXED).sum().backward()
    inside = (outside >= 0) & (outside <= 1)
    assert torch.equal(outside.grad, torch.where(inside, clamped.grad, 0))
    assert bool(clamped.grad.all())


@ENCODERS
def test_a_position_that_is_not_a_number_has_no_encoding(encoder):
    positions = torch.tensor([[0.5, torch.nan, 0.5], [0.5, 0.5, 0.5]])
    first, second = encoder(random_table(MIXED), positions, MIXED).isnan()
    assert bool(first.all())
    assert not second.any()


@ENCODERS
def test_an_empty_batch(encoder):
    encoding, v_table, v_positions = results(encoder, MIXED, torch.empty(0, 3))
    assert encoding.shape == (0, MIXED.width)
    assert v_positions.shape == (0, 3)
    assert v_table.shape == (MIXED.entries, 2)
    assert not v_table.any()


@pytest.mark.parametrize("encoder", [encode, encode_reference])
def test_a_table_of_another_shape_is_refused(encoder):
    message = r"^The hash table is 100 × 2, but its levels need 1661 × 2 \(entries × features\)\.$"
    with pytest.raises(SctdError, match=message):
        encoder(torch.zeros(100, 2), torch.zeros(1, 3), MIXED)
