"""evaluation.distance_metrics: against the leaderboard's functions and torchmetrics' own FID and KID, in one and in two
processes."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import multiprocessing
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from evaluation import EvaluationError
from evaluation.distance_metrics import FrechetDistance, KernelDistance
from evaluation.fid import Moments
from evaluation.jackknife import frechet
from evaluation.kid import kernel_distance
from evaluation.references import Reference
from tests.support.object_metrics import Channels, metrics, numbers, objects, process, reference


def added(metric, views):
    """The metric after these objects."""
    for each in views:
        metric.update(each, "a prompt")
    return metric


def test_distances_and_errors_are_those_of_the_leaderboard():
    made, features = reference(), [Channels()(views) for views in objects()]
    expected = [frechet(features, made.moments), kernel_distance(features, made.features)]
    for kind, estimate in zip((FrechetDistance, KernelDistance), expected, strict=True):
        found = added(kind(made, Channels(), with_error=True), map(torch.from_numpy, objects())).compute()
        assert tuple(map(float, found)) == estimate
    alone = added(FrechetDistance(made, Channels()), objects()).compute()
    assert float(alone) == pytest.approx(expected[0].value, rel=1e-10)
    assert float(added(KernelDistance(made, Channels()), objects()).compute()) == expected[1].value


def test_moments_of_fewer_views_than_dimensions_agree_to_1e_6():
    few = [views[:1] for views in objects()[:3]]
    whole = frechet([Channels()(views) for views in few], reference().moments).value
    assert float(added(FrechetDistance(reference(), Channels()), few).compute()) == pytest.approx(whole, rel=1e-6)


class Network(torch.nn.Module):
    """`Channels` as torchmetrics calls a network: [views, 3, height, width] bytes to features in float64."""

    num_features = 6

    def forward(self, images):
        return torch.from_numpy(Channels()(images.permute(0, 2, 3, 1).numpy())).double()


def images(views):
    return torch.from_numpy(views).permute(0, 3, 1, 2)


def test_the_frechet_distance_is_that_of_torchmetrics():
    """Its roots are of complex eigenvalues, whose last digits the product of the covariances loses: 1e-6."""
    real, ours = np.concatenate(objects(1, (40, 50))), objects(2, (9, 12, 20))
    theirs = FrechetInceptionDistance(feature=Network()).set_dtype(torch.float64)
    theirs.update(images(real), real=True)
    theirs.update(images(np.concatenate(ours)), real=False)
    made = Reference(Moments.of(Channels()(real)), None, {"network": "channels", "weights": "c0ffee"})
    found = added(FrechetDistance(made, Channels()), ours).compute()
    assert float(found) == pytest.approx(float(theirs.compute()), rel=1e-6)


def test_the_kernel_distance_of_single_views_is_that_of_torchmetrics():
    """With one view per object no pair is left out, and one subset of everything is no sample: 1e-9, ours × 1000."""
    real, ours = objects(1, (30,))[0], objects(2, (30,))[0]
    with pytest.warns(UserWarning, match="will save all extracted features in buffer"):
        theirs = KernelInceptionDistance(feature=Network(), subsets=1, subset_size=30)
    theirs.update(images(real), real=True)
    theirs.update(images(ours), real=False)
    features = Channels()(real)
    made = Reference(Moments.of(features), features, {"network": "channels", "weights": "c0ffee"})
    found = added(KernelDistance(made, Channels()), np.split(ours, 30)).compute()
    assert float(found) == pytest.approx(1000 * float(theirs.compute()[0]), rel=1e-9)


@pytest.mark.parametrize("name", ["frechet", "frechet_error", "kernel"])
def test_neither_the_order_nor_the_split_of_objects_matters(name):
    whole = numbers({"": added(metrics()[name], objects()).compute()})[""]
    parts = [added(metrics()[name], [objects()[i] for i in part]) for part in ((4, 2), (), (0, 3, 1))]
    for part in parts[1:]:
        parts[0].merge_state(part)
    assert numbers({"": parts[0].compute()})[""] == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("name", ["frechet", "frechet_error", "kernel"])
def test_forward_copies_and_saved_states_continue(name):
    metric, whole = metrics()[name], added(metrics()[name], objects()).compute()
    metric(objects()[0], "a prompt") if name.startswith("frechet") else metric.update(objects()[0])
    metric.persistent(True)
    other = metrics()[name]
    other.persistent(True)
    other.load_state_dict(metric.state_dict())
    for each in (copy.deepcopy(metric), other, metric):
        torch.testing.assert_close(added(each, objects()[1:]).compute(), whole, rtol=1e-12, atol=0)
        each.reset()
        torch.testing.assert_close(added(each, objects()).compute(), whole, rtol=1e-12, atol=0)


def test_two_processes_compute_what_one_computes(tmp_path):
    """To 1e-12: sums in another order. The jackknife error is a difference of sums: 1e-9. States are local again.

    In the second round the first process has no object.
    """
    rounds = [[[0, 3], [1, 2, 4]], [[], [0, 1, 2, 3, 4]]]
    multiprocessing.spawn(process, (2, str(tmp_path), rounds), nprocs=2)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for number, shares in enumerate(rounds):
        own = {
            name: added(metric, [objects()[i] for share in shares for i in share]) for name, metric in metrics().items()
        }
        expected = numbers({name: metric.compute() for name, metric in own.items()})
        for rank in (0, 1):
            first, again, counts = found[rank][number]
            assert first == again
            for name, values in expected.items():
                assert first[name][0] == pytest.approx(values[0], rel=1e-12)
                assert first[name] == pytest.approx(values, rel=1e-9)
            assert counts["brightness"] == len(shares[rank])


@pytest.mark.parametrize(
    ("make", "views", "reason"),
    [
        (FrechetDistance, [objects()[2]], "a covariance needs at least 2 features, found 1: render more views"),
        (KernelDistance, objects()[:1], "a kernel distance needs 2 objects and 2 reference features, found 1 and 150"),
    ],
)
def test_too_few_views_give_nan_with_a_warning(make, views, reason):
    for with_error in (False, True):
        metric = added(make(reference(), Channels(), with_error=with_error), views)
        with pytest.warns(UserWarning, match=f"{make.__name__} is NaN: {reason}"):
            assert all(math.isnan(value) for value in numbers({"": metric.compute()})[""])


@pytest.mark.parametrize("with_error", [False, True])
@pytest.mark.parametrize("make", [FrechetDistance, KernelDistance])
@pytest.mark.filterwarnings("ignore:.*is NaN")
def test_without_objects_the_distance_is_nan(make, with_error):
    metric = make(reference(), Channels(), with_error=with_error)
    with pytest.warns(UserWarning, match="was called before the ``update`` method"):
        assert math.isnan(numbers({"": metric.compute()})[""][0])


def test_an_error_that_cannot_be_computed_is_nan():
    value, error = added(FrechetDistance(reference(), Channels(), with_error=True), objects()[:1]).compute()
    assert value > 0
    assert math.isnan(error)


def test_references_of_other_networks_or_without_features_are_refused():
    made = reference()
    other = Reference(made.moments, made.features, {"network": "inception", "weights": "ab" * 32})
    for kind in (FrechetDistance, KernelDistance):
        with pytest.raises(EvaluationError, match="the reference set holds features of inception"):
            kind(other, Channels())
    with pytest.raises(EvaluationError, match="holds no features, which a kernel distance needs: rebuild it"):
        KernelDistance(Reference(made.moments, None, made.made_of), Channels())
