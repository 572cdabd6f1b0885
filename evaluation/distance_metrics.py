"""Fréchet and kernel distance of rendered views to a reference set as `torchmetrics.Metric` classes."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from evaluation.errors import EvaluationError
from evaluation.features import ClipTower, FeatureNetwork
from evaluation.fid import Moments, frechet_distance
from evaluation.jackknife import Estimate, frechet
from evaluation.kid import kernel_distance
from evaluation.metrics import ObjectMetric
from evaluation.references import Reference
from evaluation.views import checked


class DistanceMetric(ObjectMetric):
    """A distance of the views of all objects to a reference set. Subclasses define `_estimate`.

    By default it keeps the features of every view, 4 bytes per number. An object is one vector (its number of views,
    then its features), because torchmetrics 1.9 cannot gather matrices if a process has no object.
    """

    higher_is_better = False
    objects: list[Tensor] | Tensor

    def __init__(self, reference: Reference, network: FeatureNetwork, with_error: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        reference.require_network(network.name, network.weights, is_label=isinstance(network, ClipTower))
        self.reference, self.with_error, self.dim = reference, with_error, len(reference.moments.total)
        self._network = network.__call__  # not a submodule: it is neither saved nor converted with the metric
        self.add_state("objects", [], "cat")

    @abstractmethod
    def _estimate(self) -> Estimate:
        """The distance and its error. Raises EvaluationError if there are too few objects or views."""

    def update(self, views: np.ndarray | Tensor, prompt: str = "") -> None:
        """Add an object. The prompt is not used; it lets all metrics of a `MetricCollection` have one signature."""
        self._add(self._network(checked(views)).astype(np.float32, copy=False))

    def compute(self) -> Tensor | tuple[Tensor, Tensor]:
        """The distance; with `with_error`, also its standard error (NaN if too few objects remain without one)."""
        try:
            value, error = self._estimate()
        except EvaluationError as problem:
            warnings.warn(f"{type(self).__name__} is NaN: {problem}", stacklevel=2)
            value, error = np.nan, None
        found = torch.tensor([value, np.nan if error is None else error], dtype=torch.float64, device=self.device)
        return (found[0], found[1]) if self.with_error else found[0]

    def _add(self, features: Float32[np.ndarray, "views dim"]) -> None:
        numbers = np.append(np.float32(len(features)), features)
        assert isinstance(self.objects, list)
        self.objects.append(torch.from_numpy(numbers).to(self.device))

    def _by_object(self) -> list[Float32[np.ndarray, "_ dim"]]:
        numbers = torch.cat([torch.empty(0), *(each.cpu() for each in _list(self.objects))]).numpy()
        found = []
        while len(numbers):
            end = 1 + int(numbers[0]) * self.dim
            found.append(numbers[1:end].reshape(-1, self.dim))
            numbers = numbers[end:]
        return found


class FrechetDistance(DistanceMetric):
    """Fréchet distance (FID with Inception's features) of all views to the reference set; see `evaluation.fid`.

    Without `with_error`, its states are moments that add, of constant size. For fewer views than dimensions, the result
    then has a relative error of 1e-6.

    Args:
        reference: the reference set, with the moments of its features by the same network.
        network: from views to features: `InceptionTower`, `Dinov2Tower`, `ClipTower` or another `FeatureNetwork`.
        with_error: keep the features of every view, and also compute the standard error by the jackknife over objects.
        kwargs: passed to `torchmetrics.Metric`.

    Raises:
        EvaluationError: if the reference set holds features of another network.

    Example:
        >>> network = ClipTower(ClipScorer.load(weights / "scorer"))
        >>> metric = FrechetDistance(from_bytes((weights / "reference.npz").read_bytes()), network, with_error=True)
        >>> for prompt, object_views in renders.items():
        ...     metric.update(object_views, prompt)
        >>> distance, standard_error = metric.compute()
        >>> bool(0 < standard_error < distance)
        True
    """

    plot_lower_bound = 0.0
    count: Tensor
    total: Tensor
    outer: Tensor

    def __init__(self, reference: Reference, network: FeatureNetwork, with_error: bool = False, **kwargs: Any) -> None:
        super().__init__(reference, network, with_error, **kwargs)
        size = 0 if with_error else self.dim
        self.add_state("count", torch.zeros((), dtype=torch.float64), "sum")
        self.add_state("total", torch.zeros(size, dtype=torch.float64), "sum")
        self.add_state("outer", torch.zeros(size, size, dtype=torch.float64), "sum")

    def _add(self, features: Float32[np.ndarray, "views dim"]) -> None:
        if self.with_error:
            return super()._add(features)
        moments = Moments.of(features)
        self.count += moments.count
        self.total += torch.from_numpy(moments.total).to(self.device)
        self.outer += torch.from_numpy(moments.outer).to(self.device)
        return None

    def _estimate(self) -> Estimate:
        if not self.with_error:
            found = Moments(int(self.count), self.total.cpu().numpy(), self.outer.cpu().numpy())
            return Estimate(frechet_distance(found, self.reference.moments), None)
        if not (objects := self._by_object()):
            raise EvaluationError("no object was added")
        return frechet(objects, self.reference.moments)


class KernelDistance(DistanceMetric):
    """1000 × kernel distance (KID) to the reference set, without pairs of views of one object; see `evaluation.kid`.

    Args:
        reference: the reference set, with features by the same network.
        network: from views to features, as for `FrechetDistance`.
        with_error: also compute the standard error by the jackknife over objects.
        kwargs: passed to `torchmetrics.Metric`.

    Raises:
        EvaluationError: if the reference set holds no features, or features of another network.

    Example:
        >>> network = ClipTower(ClipScorer.load(weights / "scorer"))
        >>> metric = KernelDistance(from_bytes((weights / "reference.npz").read_bytes()), network)
        >>> for prompt, object_views in renders.items():
        ...     metric.update(object_views, prompt)
        >>> bool(metric.compute() > 0)
        True
    """

    def __init__(self, reference: Reference, network: FeatureNetwork, with_error: bool = False, **kwargs: Any) -> None:
        super().__init__(reference, network, with_error, **kwargs)
        if reference.features is None:
            raise EvaluationError("the reference set holds no features, which a kernel distance needs: rebuild it")

    def _estimate(self) -> Estimate:
        assert self.reference.features is not None
        return kernel_distance(self._by_object(), self.reference.features)


def _list(state: list[Tensor] | Tensor) -> list[Tensor]:
    """A "cat" state as a list: torchmetrics replaces it by one tensor while processes are synchronized."""
    return [state] if isinstance(state, Tensor) else state
