"""evaluation.inception: against torch-fidelity, PIL and (if installed) clean-fid, and one published FID."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_kid import kid_features_to_metric

from evaluation import EvaluationError
from evaluation.fid import Moments, frechet_distance
from evaluation.inception import PUBLISHED, InceptionTower, clean_resize, tf_resize
from evaluation.kid import kernel_distance
from evaluation.references import Reference
from tests.support import tiny_models


@pytest.fixture(scope="module")
def state():
    return tiny_models.inception_state()


@pytest.fixture(scope="module")
def file(state, tmp_path_factory):
    file = tmp_path_factory.mktemp("inception") / PUBLISHED
    torch.save(state, file)
    return file


@pytest.fixture(scope="module")
def clean(file):
    return InceptionTower.load(file)


@pytest.fixture(scope="module")
def tf(file):
    return InceptionTower.load(file.parent, "tf")


def noise(*size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def relative_error(features, expected):
    """The largest difference relative to the largest feature."""
    return np.abs(features - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_fid_tf_features_match_torch_fidelity(file, dtype):
    """Sec. 5.5 no. 12: noise at the paper's 512 px, the synthetic world's 64 px and another shape; 1e-6 relative."""
    precision = str(dtype).removeprefix("torch.")
    theirs = FeatureExtractorInceptionV3("inception", ["2048"], str(file), precision)
    ours = InceptionTower.load(file, "tf", dtype=dtype)
    for size in [(1, 512, 512), (1, 64, 64), (1, 37, 91)] if dtype == torch.float64 else [(2, 64, 64)]:
        views = noise(*size)
        expected = theirs(torch.tensor(views).permute(0, 3, 1, 2))[0].numpy()
        assert np.ptp(expected) > 0.1
        assert relative_error(ours(views), expected) < 1e-6


def test_resizing_a_view_of_299_pixels_is_the_identity(clean, tf):
    views = noise(1, 299, 299)
    for resize in (clean_resize, tf_resize):
        assert np.array_equal(resize(views).numpy(), np.moveaxis(views, 3, 1))
    np.testing.assert_array_equal(clean(views), tf(views))


@pytest.mark.parametrize("size", [(512, 512), (64, 64), (37, 91), (700, 120)])
def test_clean_resize_is_antialiased_bicubic_of_floats(size):
    """Against torch's antialiased bicubic (float32 sums: 1e-3 of 255), and PIL on bytes without clipping.

    On bytes PIL rounds and clips after each of its two passes, which clean-fid avoids.
    """
    view = noise(*size)
    ours = clean_resize(view[None])[0]
    pixels = torch.tensor(view).permute(2, 0, 1)[None].double()
    torchs = nn.functional.interpolate(pixels, size=(299, 299), mode="bicubic", antialias=True).clamp(0, 255)[0]
    assert (ours - torchs).abs().max() < 1e-3
    assert 0 <= ours.min() < 10
    assert 245 < ours.max() <= 255
    gentle = 64 + view // 2
    rounded = np.asarray(Image.fromarray(gentle).resize((299, 299), Image.Resampling.BICUBIC))
    difference = np.moveaxis(clean_resize(gentle[None])[0].numpy(), 0, 2) - rounded
    assert 0.4 < np.abs(difference).max() < 1.1


def test_clean_resize_matches_clean_fid_bit_for_bit():
    """Sec. 5.5 no. 12."""
    resize = pytest.importorskip("cleanfid.resize", reason="needs clean-fid, which is not a dependency")
    for size in [(512, 512), (64, 64), (37, 91)]:
        view = noise(*size)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = resize.build_resizer("clean")(view)
        assert np.array_equal(np.moveaxis(clean_resize(view[None])[0].numpy(), 0, 2), expected)


def test_the_two_resizings_give_different_features(clean, tf):
    """For a view with fine detail the features differ by percents, so the metrics differ."""
    views = noise(1, 512, 512)
    assert relative_error(clean(views), tf(views)) > 1e-2


def test_features_do_not_depend_on_the_batch(tf):
    views = noise(3, 32, 32)
    together, alone = tf(views), np.concatenate([tf(view[None]) for view in views])
    assert together.shape == (3, 2048)
    assert together.dtype == np.float32
    assert relative_error(together, alone) < 1e-6
    assert relative_error(tf(views, batch_size=2), alone) < 1e-6


class Layer(nn.Module):
    def __init__(self, kernel, shift, mean, variance):
        super().__init__()
        self.weight, self.beta = nn.Parameter(kernel), nn.Parameter(shift)
        self.mean, self.var = nn.Parameter(mean), nn.Parameter(variance)


class Scripted(nn.Module):
    """The tensors as in the TorchScript file: 94 convolutions in order, no scale, and the last linear layer."""

    def __init__(self, state):
        super().__init__()
        names = [name.removesuffix(".conv.weight") for name in state if name.endswith(".conv.weight")]
        parts = ("conv.weight", "bn.bias", "bn.running_mean", "bn.running_var")
        self.layers = nn.ModuleList(Layer(*(state[f"{name}.{part}"] for part in parts)) for name in names)
        self.output = nn.Linear(2048, 1008)

    def forward(self, x):
        return x


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_the_torchscript_file_gives_the_same_network(state, clean, tmp_path):
    scripted = Scripted(state)
    assert len(scripted.layers) == 94
    torch.jit.script(scripted).save(tmp_path / "inception-2015-12-05.pt")
    other = InceptionTower.load(tmp_path / "inception-2015-12-05.pt")
    assert other.weights == clean.weights
    np.testing.assert_array_equal(other(noise(1, 40, 40)), clean(noise(1, 40, 40)))


def test_a_reference_key_includes_resizing_precision_and_weights(state, file, clean, tf):
    assert (clean.name, tf.name) == ("inception", "inception_tf")
    assert InceptionTower.load(file, dtype=torch.float32).name == "inception_float32"
    assert InceptionTower.load(file, dtype=torch.float32).weights == clean.weights == tf.weights
    save_file({**state, "Mixed_7c.branch_pool.bn.bias": torch.zeros(192)}, file.with_suffix(".safetensors"))
    assert InceptionTower.load(file.with_suffix(".safetensors")).weights != clean.weights
    made_of = {"network": clean.name, "weights": clean.weights}
    reference = Reference(Moments.of(np.eye(2)), None, made_of)
    reference.require_network(clean.name, clean.weights)
    with pytest.raises(EvaluationError, match=r"holds features of inception .* were evaluated with inception_tf"):
        reference.require_network(tf.name, tf.weights)


@pytest.mark.parametrize(
    ("change", "first"),
    [
        (lambda s: s.pop("Mixed_7c.branch_pool.conv.weight"), "1 tensors .*first Mixed_7c.branch_pool.conv.weight"),
        (lambda s: s.update({"AuxLogits.fc.weight": torch.zeros(1)}), "1 tensors .*first AuxLogits.fc.weight"),
        (lambda s: s.update({"Mixed_5b.branch1x1.bn.bias": torch.zeros(3)}), "1 tensors .*first Mixed_5b.branch1x1.bn"),
        (lambda s: (s.clear(), s.update({"conv1.beta": torch.zeros(3)})), "first Conv2d_1a_3x3.bn.bias"),
    ],
)
def test_another_network_is_refused(state, tmp_path, change, first):
    changed = dict(state)
    change(changed)
    torch.save(changed, tmp_path / "other.pth")
    with pytest.raises(EvaluationError, match=rf"other.pth is not Inception-v3 of 2015-12-05: .*{first}"):
        InceptionTower.load(tmp_path / "other.pth")


def test_a_folder_without_the_file_is_refused(tmp_path):
    with pytest.raises(EvaluationError, match=f"no checkpoint at .*{PUBLISHED}"):
        InceptionTower.load(tmp_path)


def test_published_fid_of_cifar_10(shared_file, published):
    """torch-fidelity's continuous integration: 256 training and 256 validation images, FID 110.28082617 ± 1e-2, KID
    -0.00067925 ± 0.0017778 over random subsets; ours is over the whole set."""
    with np.load(shared_file("fid/cifar10_torchfidelity_256.npz")) as arrays:
        train, valid = (arrays[name] for name in ("train", "valid"))
    tower = InceptionTower.load(published("inception"), "tf", dtype=torch.float32)
    ours, theirs = tower(train), tower(valid)
    assert frechet_distance(Moments.of(ours), Moments.of(theirs)) == pytest.approx(110.28082617, abs=1e-2)
    kid = kid_features_to_metric(*map(torch.tensor, (ours, theirs)), kid_subsets=1, kid_subset_size=256, verbose=False)
    whole = kernel_distance(list(ours[:, None]), theirs).value / 1000
    assert whole == pytest.approx(kid["kernel_inception_distance_mean"], abs=1e-6)
    assert whole == pytest.approx(-0.00067925, abs=0.0017778)
