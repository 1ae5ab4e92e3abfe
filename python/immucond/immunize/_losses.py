"""Mean losses on the product ``v = theta omega``: value, gradient and curvature by v."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import scipy.special

from .._labels import named, one_hot
from .._triangle import condensed
from .._validate import FloatArray, as_targets, check_choice


@dataclass(frozen=True)
class Loss(ABC):
    """A mean loss of the predictions ``F = X v``, of any rows.

    Attributes
    ----------
    X : (N, d) array
        Inputs.
    targets : (N, c) array
        What the predictions are compared with: values, signs, or indicators of the classes.
    classes : (c,) array or None
        Labels of the columns, where these are classes.
    """

    X: FloatArray
    targets: FloatArray
    classes: npt.NDArray[Any] | None = None

    @property
    def heads(self) -> int:
        """Number of columns of v, c."""
        return int(self.targets.shape[1])

    @property
    def entries(self) -> int:
        """What sums are divided by."""
        return self.targets.size

    def value_and_grad(self, v: FloatArray) -> tuple[float, FloatArray]:
        """Loss and its (d, c) gradient at the (d, c) matrix v."""
        total, slope = self._total_and_slope(self.X @ v)
        return total / self.entries, self.X.T @ (slope / self.entries)

    def curvature(self, v: FloatArray, u: FloatArray) -> FloatArray:
        """Differentiate the gradient at v along u: a (d, c) matrix."""
        return self.X.T @ (self._bend(self.X @ v, self.X @ u) / self.entries)

    def rows(self, index: npt.NDArray[np.intp]) -> Self:
        """Return the loss on some of the rows."""
        return replace(self, X=self.X[index], targets=self.targets[index])

    def whole(self) -> Loss:
        """Return the loss on all rows, with as few as will do."""
        return self

    @abstractmethod
    def _total_and_slope(self, F: FloatArray) -> tuple[float, FloatArray]:
        """Sum over rows, and its gradient by F."""

    @abstractmethod
    def _bend(self, F: FloatArray, dF: FloatArray) -> FloatArray:
        """Differentiate the slope along dF."""

    @abstractmethod
    def smoothness(self) -> float:
        """Largest curvature by F of one row, as a share of the mean: at most that for any F."""


class SquaredLoss(Loss):
    """``||X v - y||^2 / (N c)``."""

    def _total_and_slope(self, F: FloatArray) -> tuple[float, FloatArray]:
        residual = F - self.targets
        return float(np.vdot(residual, residual)), 2.0 * residual

    def _bend(self, F: FloatArray, dF: FloatArray) -> FloatArray:  # noqa: ARG002
        return 2.0 * dF

    def smoothness(self) -> float:
        return 2.0 / self.entries

    def whole(self) -> Loss:
        return CondensedSquaredLoss(
            *condensed(self.X, self.targets), None, original=self.targets.size
        )


@dataclass(frozen=True)
class CondensedSquaredLoss(SquaredLoss):
    """The squared loss on condensed rows: no step depends on N."""

    original: int = 0

    @property
    def entries(self) -> int:
        return self.original


class LogisticLoss(Loss):
    """``mean log(1 + exp(-s f))`` with signs s = +-1 and predictions f = X v."""

    def _total_and_slope(self, F: FloatArray) -> tuple[float, FloatArray]:
        margin = self.targets * F
        total = float(np.sum(np.logaddexp(0.0, -margin)))
        return total, -self.targets * scipy.special.expit(-margin)

    def _bend(self, F: FloatArray, dF: FloatArray) -> FloatArray:
        return np.asarray(scipy.special.expit(F) * scipy.special.expit(-F) * dF)

    def smoothness(self) -> float:
        return 0.25 / self.entries


class SoftmaxLoss(Loss):
    """``mean (log sum_j exp f_j - f_label)``, one column of ``F = X v`` a class."""

    @property
    def entries(self) -> int:
        return int(self.targets.shape[0])

    def _total_and_slope(self, F: FloatArray) -> tuple[float, FloatArray]:
        top = F.max(axis=1, keepdims=True)
        weights = np.exp(F - top)
        sums = weights.sum(axis=1, keepdims=True)
        # From the top down: the sum of exponentials and the label's own cancel least there.
        total = float(np.sum(np.log(sums) + top) - np.vdot(F, self.targets))
        return total, weights / sums - self.targets

    def _bend(self, F: FloatArray, dF: FloatArray) -> FloatArray:
        chances = scipy.special.softmax(F, axis=1)
        weighted = chances * dF
        return np.asarray(weighted - chances * weighted.sum(axis=1, keepdims=True))

    def smoothness(self) -> float:
        return 0.5 / self.entries


def task_loss(
    name: str, X: FloatArray, y: npt.ArrayLike, names: tuple[str, str] = ("y_P", "X_P")
) -> Loss:
    """Loss by name on a task's rows; `names` are those of the targets and of the inputs."""
    check_choice(name, "loss", ("squared", "logistic", "softmax"))
    if name == "softmax":
        classes, indicators = _classes(y, X.shape[0], *names)
        return SoftmaxLoss(X, indicators, classes)
    targets = as_targets(y, X.shape[0], *names)
    if name == "squared":
        return SquaredLoss(X, targets)
    values = np.unique(targets)
    if not (np.isin(values, (0.0, 1.0)).all() or np.isin(values, (-1.0, 1.0)).all()):
        shown = ", ".join(f"{value:g}" for value in values[:5])
        raise ValueError(
            f"{names[0]} must hold labels 0 and 1, or -1 and 1, for logistic, got {shown}"
        )
    return LogisticLoss(X, np.where(targets > 0.0, 1.0, -1.0))


def _classes(
    y: npt.ArrayLike, rows: int, name: str, inputs: str
) -> tuple[npt.NDArray[Any], FloatArray]:
    """Distinct labels, and the (N, c) indicators of which one each row has."""
    labels = named(y, name)
    if labels.dtype.kind not in "biufUS":
        raise TypeError(
            f"{name} must hold numbers or strings as labels, and has dtype {labels.dtype}"
        )
    if labels.ndim != 1:
        raise ValueError(
            f"{name} must have 1 dimension for softmax, a label a sample, and has shape "
            f"{labels.shape}"
        )
    if labels.shape[0] != rows:
        raise ValueError(
            f"{name} must have one label a sample, {rows} as {inputs}, got {labels.shape[0]}"
        )
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise ValueError(f"{name} must be finite, and holds {labels[~np.isfinite(labels)][0]}")
    classes, index = np.unique(labels, return_inverse=True)
    if classes.size < 2:
        raise ValueError(f"{name} must hold at least 2 classes for softmax, got {classes[0]} alone")
    return classes, one_hot(index, classes.size)
