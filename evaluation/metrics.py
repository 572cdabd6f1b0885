"""CLIP score, R-precision and ImageReward as `torchmetrics.Metric` classes; distances are in `distance_metrics`.

```
metrics = MetricCollection([CLIPScore(scorer), ImageRewardScore(reward), FrechetDistance(reference, network)])
for prompt, views in objects:
    metrics.update(views, prompt)  # uint8 [views, height, width, 3], NumPy array or torch tensor
metrics.compute()                  # over the objects of all processes
```

One `update` is one object: all its rendered views, and its prompt. The unit of averages and errors is the object,
because the views of an object are not independent. Sums are in float64. `compute` returns a float64 scalar, the number
in the leaderboard for the same objects. A value that cannot be computed (no object, too few views) is NaN, with a
warning. Move a metric with `.to(device)` only for the communication backend: NCCL needs its states on the GPU. Each
network stays on the device that it was loaded to.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from evaluation.clip_score import ClipScorer, clip_score, is_nearest
from evaluation.errors import EvaluationError
from evaluation.image_reward import ImageReward
from evaluation.views import Views, checked

_numbers = count()


class Models(NamedTuple):
    """What a metric of single views can be constructed from. `part` returns the path of a part of the weights."""

    clip: ClipScorer
    reward: ImageReward
    prompts: Sequence[str]
    part: Callable[[str], Path]
    device: torch.device | str


class ObjectMetric(Metric):
    """A metric that is updated with the views of one object at a time. States keep their dtype, whatever the model's.

    `MetricCollection` merges metrics whose states are equal after the first update, even if their networks differ. The
    state `number` is unique to a metric and its copies, so it prevents this.
    """

    is_differentiable = False
    full_state_update = False
    number: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._dtype = torch.float32  # of the list states, also of a process without objects
        self.add_state("number", torch.tensor(next(_numbers)), "max")

    def plot(self, val: Any = None, ax: Any = None) -> Any:
        """Plot one value or a list of values; see `torchmetrics.Metric`."""
        return self._plot(val, ax)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the objects of another metric; the next `compute` includes them."""
        super().merge_state(incoming_state)
        self._states_changed(incoming_state.update_count if isinstance(incoming_state, Metric) else 1)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._states_changed(1)

    def _states_changed(self, updates: int) -> None:
        """Discard the cached result, which torchmetrics 1.9 keeps."""
        self._computed = None
        self._update_count += updates

    def _apply(self, fn: Callable, exclude_state: Sequence[str] = "") -> Any:
        """Move states to another device, but do not convert float64 sums with `.to(dtype)` of a model around them."""
        return super()._apply(lambda tensor: tensor.to(fn(tensor[:0] if tensor.ndim else tensor).device), exclude_state)


class ViewMetric(ObjectMetric):
    """Average over objects of the average over their views. Subclasses define `scores`.

    A custom metric of single views is a subclass with one method; see docs/howto/metric.md.

    Args:
        kwargs: passed to `torchmetrics.Metric`.

    Raises:
        EvaluationError: from `update`, if the views are not uint8 [views, height, width, 3].
    """

    higher_is_better = True
    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("count", torch.zeros((), dtype=torch.float64), "sum")

    @classmethod
    def of(cls, models: Models) -> ViewMetric:
        """The metric that the evaluator uses; the default needs no model."""
        return cls()

    @abstractmethod
    def scores(self, views: Views, prompt: str) -> Float[np.ndarray, " views"]:
        """The score of each view."""

    def scores_of_prompts(self, view: Views, prompts: Sequence[str]) -> Float[np.ndarray, " prompts"]:
        """The scores of a single view, [1, height, width, 3], for several prompts."""
        return np.array([self.scores(view, prompt)[0] for prompt in prompts])

    def update(self, views: np.ndarray | Tensor, prompt: str) -> None:
        """Add an object."""
        if not isinstance(prompt, str):
            raise EvaluationError(f"the prompt is a {type(prompt).__name__}: expected the text of one object")
        self.total += float(self.scores(checked(views), prompt).mean())
        self.count += 1

    def compute(self) -> Tensor:
        """The average over objects."""
        return self.total / self.count


class CLIPScore(ViewMetric):
    """100 cos(view, prompt) without clamp or factor, averaged over views, then over objects; see `clip_score`.

    Args:
        scorer: a CLIP model. `scorer.keep` shares features with other metrics of the same scorer.
        kwargs: passed to `torchmetrics.Metric`.

    Example:
        >>> metric = CLIPScore(ClipScorer.load(weights / "scorer"))
        >>> metric.update(views, "a red mushroom")
        >>> 60 < metric.compute() < 75
        tensor(True)
    """

    plot_lower_bound = -100.0
    plot_upper_bound = 100.0

    def __init__(self, scorer: ClipScorer, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scorer = scorer

    @classmethod
    def of(cls, models: Models) -> CLIPScore:
        return cls(models.clip)

    def scores(self, views: Views, prompt: str) -> Float[np.ndarray, " views"]:
        return self.scorer.score(views, prompt)

    def scores_of_prompts(self, view: Views, prompts: Sequence[str]) -> Float[np.ndarray, " prompts"]:
        return clip_score(self.scorer.text_features(list(prompts)), self.scorer.image_features(view)[0])


class CLIPRPrecision(ViewMetric):
    """R-precision: the share of views whose nearest prompt, among all prompts, is their own; see `is_nearest`.

    Args:
        scorer: a CLIP model.
        prompts: all prompts, the object's own included. The value depends on them.
        kwargs: passed to `torchmetrics.Metric`.

    Raises:
        EvaluationError: if there are no prompts; from `update`, if the prompt is not one of them.

    Example:
        >>> metric = CLIPRPrecision(ClipScorer.load(weights / "scorer"), ["a red mushroom", "a blue penguin"])
        >>> metric.update(views, "a red mushroom")
        >>> metric.compute()
        tensor(1., dtype=torch.float64)
    """

    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(self, scorer: ClipScorer, prompts: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not prompts:
            raise EvaluationError("R-precision ranks prompts, found none: pass all prompts of the objects")
        self.scorer, self.prompts = scorer, list(prompts)
        self.text_features = scorer.text_features(self.prompts)

    @classmethod
    def of(cls, models: Models) -> CLIPRPrecision:
        return cls(models.clip, models.prompts)

    def scores(self, views: Views, prompt: str) -> Float[np.ndarray, " views"]:
        if prompt not in self.prompts:
            raise EvaluationError(
                f"{prompt!r} is not one of the {len(self.prompts)} prompts that R-precision ranks: pass all prompts of "
                "the objects"
            )
        return is_nearest(self.scorer.image_features(views), self.text_features, self.prompts.index(prompt))


class ImageRewardScore(ViewMetric):
    """The standardised reward of `ImageReward`, averaged over views, then over objects.

    Args:
        reward: a reward model. It is not a submodule of the metric, so it is neither saved nor converted with it.
        kwargs: passed to `torchmetrics.Metric`.

    Example:
        >>> metric = ImageRewardScore(ImageReward.load(weights / "reward"))
        >>> metric.update(views, "a red mushroom")
        >>> -3 < metric.compute() < 3
        tensor(True)
    """

    def __init__(self, reward: ImageReward, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._score = reward.score

    @classmethod
    def of(cls, models: Models) -> ImageRewardScore:
        return cls(models.reward)

    def scores(self, views: Views, prompt: str) -> Float[np.ndarray, " views"]:
        return self._score(views, prompt)
