"""evaluation.metrics: the torchmetrics classes of views, with the bundled scorers and with a metric of pixels."""

import copy
import doctest
import inspect
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from torchmetrics import Metric, MetricCollection

import evaluation
from evaluation import EvaluationError, distance_metrics, metrics
from evaluation.clip_score import ClipScorer, clip_score, is_nearest
from evaluation.features import ClipTower
from evaluation.image_reward import ImageReward
from evaluation.metrics import CLIPRPrecision, CLIPScore, ImageRewardScore, ViewMetric
from evaluation.references import from_bytes
from evaluation.views import checked
from pipeline.embedded import frozen, weights_folder
from tests.support.object_metrics import SIZE, Brightness, objects


@pytest.fixture(scope="module")
def renders():
    """Four views of each of four objects, by prompt."""
    return frozen.read()


@pytest.fixture(scope="module")
def scorer():
    return ClipScorer.load(weights_folder() / "scorer")


@pytest.fixture(scope="module")
def reward():
    return ImageReward.load(weights_folder() / "reward")


@pytest.fixture
def three(scorer, reward, renders):
    return [CLIPScore(scorer), CLIPRPrecision(scorer, list(renders)), ImageRewardScore(reward)]


def added(metric, views):
    """The metric after these objects."""
    for each in views:
        metric.update(each, "")
    return metric


def test_values_are_averages_over_objects_of_averages_over_views(three, scorer, reward, renders):
    texts = scorer.text_features(list(renders))
    features = [scorer.image_features(views) for views in renders.values()]
    expected = [
        [clip_score(each, text).mean() for each, text in zip(features, texts, strict=True)],
        [is_nearest(each, texts, number).mean() for number, each in enumerate(features)],
        [reward.score(views, prompt).mean() for prompt, views in renders.items()],
    ]
    for metric, values in zip(three, expected, strict=True):
        for prompt, views in renders.items():
            metric.update(torch.from_numpy(views), prompt)
        assert metric.compute().dtype == torch.float64
        assert float(metric.compute()) == pytest.approx(np.mean(values, dtype=float), rel=1e-6)


def test_features_kept_by_a_scorer_give_the_same_scores(renders, monkeypatch):
    plain, keeping = (ClipScorer.load(weights_folder() / "scorer") for _ in range(2))
    (prompt, views), *_ = renders.items()
    keeping.keep(views=views, texts=list(renders))
    monkeypatch.setattr(keeping, "_unit", lambda _: pytest.fail("features were computed again"))
    for metric in (CLIPScore(keeping), CLIPRPrecision(keeping, list(renders))):
        other = CLIPScore(plain) if isinstance(metric, CLIPScore) else CLIPRPrecision(plain, list(renders))
        np.testing.assert_allclose(metric.scores(views, prompt), other.scores(views, prompt), rtol=1e-5)
    for changed in ((views.copy(), prompt), (views, "another prompt")):
        with pytest.raises(pytest.fail.Exception):
            CLIPScore(keeping).scores(*changed)


def test_scores_of_several_prompts_are_those_of_each(scorer, renders):
    metric, view = CLIPScore(scorer), next(iter(renders.values()))[:1]
    each = ViewMetric.scores_of_prompts(metric, view, list(renders))
    np.testing.assert_allclose(metric.scores_of_prompts(view, list(renders)), each, rtol=1e-5)


def test_objects_count_equally_whatever_their_number_of_views():
    everything = objects()
    expected = np.mean([each.mean() for each in everything])
    assert float(added(Brightness(), everything).compute()) == pytest.approx(expected, rel=1e-12)


def test_neither_the_order_nor_the_split_of_objects_matters():
    everything, order = objects(), np.random.default_rng(3).permutation(5)
    whole = added(Brightness(), everything).compute()
    parts = [added(Brightness(), [everything[i] for i in part]) for part in np.split(order, [1, 3])]
    for part in parts[1:]:
        parts[0].merge_state(part)
    torch.testing.assert_close(parts[0].compute(), whole, rtol=1e-12, atol=0)


def test_a_merged_state_counts_after_a_result_was_cached():
    first, second = added(Brightness(), objects()[:1]), added(Brightness(), objects()[1:])
    first.compute()
    first.merge_state(second)
    torch.testing.assert_close(first.compute(), added(Brightness(), objects()).compute(), rtol=1e-12, atol=0)
    fresh = Brightness()
    fresh.merge_state(first.metric_state)
    assert fresh.compute() == first.compute(), "without the warning that nothing was added"


def test_forward_returns_the_value_of_one_object_and_adds_it():
    metric, everything = Brightness(), objects()
    values = [float(metric(each, "")) for each in everything]
    assert values == pytest.approx([each.mean() for each in everything], rel=1e-12)
    assert float(metric.compute()) == pytest.approx(np.mean(values), rel=1e-12)


def test_reset_forgets_the_objects():
    metric = added(Brightness(), objects())
    metric.reset()
    assert float(added(metric, objects()[:1]).compute()) == pytest.approx(objects()[0].mean())


def test_without_objects_the_value_is_nan_with_a_warning():
    with pytest.warns(UserWarning, match="`compute`` method of metric Brightness was called before"):
        assert math.isnan(Brightness().compute())


def test_copies_and_pickles_have_the_same_state(three, renders):
    for metric in three:
        prompt, views = next(iter(renders.items()))
        metric.update(views, prompt)
        for other in (pickle.loads(pickle.dumps(metric)), copy.deepcopy(metric)):
            for each in (metric, other):
                each.update(views[:2], prompt)
            assert other.compute() == metric.compute()
            metric.reset()
            metric.update(views, prompt)


def test_states_are_saved_only_on_request_and_networks_never(three, renders):
    for metric in three:
        metric.update(next(iter(renders.values())), next(iter(renders)))
        assert metric.state_dict() == {}
        metric.persistent(True)
        assert set(metric.state_dict()) == {"number", "total", "count"}
    saved, other = added(Brightness(), objects()), added(Brightness(), objects()[:1])
    for metric in (saved, other):
        metric.persistent(True)
    other.compute()
    torch.nn.ModuleDict({"metric": other}).load_state_dict(torch.nn.ModuleDict({"metric": saved}).state_dict())
    assert other.compute() == saved.compute(), "not the result from before"


@pytest.mark.parametrize("convert", [lambda m: m.to(torch.bfloat16), lambda m: m.half(), lambda m: m.to("cpu").float()])
def test_sums_stay_in_float64_when_a_model_around_them_is_converted(convert):
    model = torch.nn.ModuleDict({"metric": Brightness()})
    metric = convert(model)["metric"]
    assert added(metric, objects()).total.dtype == torch.float64
    torch.testing.assert_close(metric.compute(), added(Brightness(), objects()).compute(), rtol=0, atol=0)


def test_the_mode_of_a_model_around_them_does_not_reach_the_networks(three, scorer, reward):
    """A network in training mode would normalize by its batch and drop features."""
    torch.nn.ModuleDict({type(metric).__name__: metric for metric in three}).train()
    assert not any(module.training for network in (scorer.model, reward) for module in network.modules())
    assert all(list(metric.modules()) == [metric] for metric in three)


class Contrast(Brightness):
    def scores(self, views, prompt):
        return super().scores(views, prompt) if views.max() < 128 else np.zeros(len(views))


def test_a_collection_does_not_merge_metrics_that_are_equal_at_first():
    """torchmetrics merges by equal states after the first update; the second object would then count in neither."""
    dark, bright = np.full((2, SIZE, SIZE, 3), 10, np.uint8), np.full((2, SIZE, SIZE, 3), 200, np.uint8)
    collection = MetricCollection([Brightness(), Contrast()])
    for views in (dark, bright):
        collection.update(views, "")
    assert {name: float(value) for name, value in collection.compute().items()} == {"Brightness": 105, "Contrast": 5}


def test_all_metrics_work_in_one_collection(three, renders):
    collection, alone = MetricCollection(three), [copy.deepcopy(metric) for metric in three]
    for prompt, views in renders.items():
        collection.update(views, prompt)
        for metric in alone:
            metric.update(views, prompt)
    assert collection.compute() == {type(metric).__name__: metric.compute() for metric in alone}


GREY = np.zeros((2, SIZE, SIZE, 3), np.uint8)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ([GREY], "views are a list: expected a NumPy array or a torch tensor"),
        (GREY.astype(float), "views are float64: expected uint8; evaluation.views.to_bytes converts colours"),
        (torch.zeros(2, SIZE, SIZE, 3, dtype=torch.bfloat16), "views are bfloat16: expected uint8; evaluation.views"),
        (GREY[0], r"views have the shape \[8, 8, 3\]: expected \[views, height, width, 3\] with at least one view"),
        (GREY.transpose(0, 3, 1, 2), r"views have the shape \[2, 3, 8, 8\]: expected \[views, height, width, 3\]"),
        (torch.zeros(0, SIZE, SIZE, 3, dtype=torch.uint8), r"views have the shape \[0, 8, 8, 3\]: expected"),
    ],
)
def test_other_views_are_refused(views, message):
    with pytest.raises(EvaluationError, match=f"^{message}"):
        checked(views)
    metric = Brightness()
    if not isinstance(views, list):
        with pytest.raises(EvaluationError, match=f"^{message}"):
            metric.update(views, "a prompt")
    assert metric.count == 0


def test_other_prompts_are_refused(scorer, renders):
    with pytest.raises(EvaluationError, match="the prompt is a list: expected the text of one object"):
        inspect.unwrap(ViewMetric.update)(Brightness(), GREY, ["a", "b"])  # without the type checks of the tests
    with pytest.raises(EvaluationError, match="R-precision ranks prompts, found none: pass all prompts"):
        CLIPRPrecision(scorer, [])
    with pytest.raises(EvaluationError, match="'a cat' is not one of the 4 prompts that R-precision ranks: pass all"):
        CLIPRPrecision(scorer, list(renders)).update(GREY, "a cat")


def test_directions_and_bounds():
    exported = [getattr(evaluation, name) for name in evaluation.__all__]
    kinds = [kind for kind in exported if isinstance(kind, type) and issubclass(kind, Metric)]
    assert {kind.__name__: kind.higher_is_better for kind in kinds} == {
        "CLIPScore": True, "CLIPRPrecision": True, "ImageRewardScore": True, "FrechetDistance": False,
        "KernelDistance": False,
    }  # fmt: skip
    assert (CLIPRPrecision.plot_lower_bound, CLIPRPrecision.plot_upper_bound) == (0.0, 1.0)
    assert CLIPScore.full_state_update is CLIPScore.is_differentiable is False
    figure, _ = added(Brightness(), objects()).plot()
    assert figure.axes


def test_the_package_exports_them_without_importing_torch():
    code = "import evaluation, sys; assert 'torch' not in sys.modules; from evaluation import CLIPScore, KernelDistance"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert set(evaluation.__all__) >= {"CLIPScore", "FrechetDistance", "EvaluationError"}


@pytest.mark.parametrize("module", [metrics, distance_metrics])
def test_examples_in_docstrings_run(module, renders):
    names = {"weights": weights_folder(), "renders": renders, "views": renders["a red mushroom"]}
    names |= {"ClipScorer": ClipScorer, "ClipTower": ClipTower, "ImageReward": ImageReward, "from_bytes": from_bytes}
    found = doctest.DocTestFinder().find(module, extraglobs=names)
    results = [doctest.DocTestRunner().run(each) for each in found if each.examples]
    assert len(results) >= 2
    assert sum(result.failed for result in results) == 0
