"""Primary losses on the product ``v = theta omega``: their value and gradient by v."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt
import scipy.special

from .._condensed import condensed
from .._validate import FloatArray, as_targets, check_choice


class Loss(ABC):
    """A mean loss over samples (and heads) of the predictions ``X v``."""

    @abstractmethod
    def value_and_grad(self, v: FloatArray) -> tuple[float, FloatArray]:
        """Loss and its (d, c) gradient at the (d, c) matrix v."""


class SquaredLoss(Loss):
    """``||X v - y||^2 / (N c)``, on condensed rows: no step depends on N."""

    def __init__(self, X: FloatArray, y: FloatArray) -> None:
        self._entries = y.size
        self._X, self._y = condensed(X, y)

    def value_and_grad(self, v: FloatArray) -> tuple[float, FloatArray]:
        residual = self._X @ v - self._y
        value = float(np.vdot(residual, residual)) / self._entries
        return value, self._X.T @ (residual * (2.0 / self._entries))


class LogisticLoss(Loss):
    """``mean log(1 + exp(-s f))`` with signs s = +-1 and predictions f = X v."""

    def __init__(self, X: FloatArray, y: FloatArray) -> None:
        values = np.unique(y)
        if not (np.isin(values, (0.0, 1.0)).all() or np.isin(values, (-1.0, 1.0)).all()):
            shown = ", ".join(f"{value:g}" for value in values[:5])
            raise ValueError(
                f"y_P must hold labels 0 and 1, or -1 and 1, for logistic, got {shown}"
            )
        self._X, self._sign = X, np.where(y > 0.0, 1.0, -1.0)

    def value_and_grad(self, v: FloatArray) -> tuple[float, FloatArray]:
        margin = self._sign * (self._X @ v)
        value = float(np.mean(np.logaddexp(0.0, -margin)))
        return value, self._X.T @ (-self._sign * scipy.special.expit(-margin) / margin.size)


_LOSSES: dict[str, type[SquaredLoss] | type[LogisticLoss]] = {
    "squared": SquaredLoss,
    "logistic": LogisticLoss,
}


def primary_loss(name: str, X: FloatArray, y: npt.ArrayLike) -> Loss:
    """Loss by name on the primary rows."""
    return _LOSSES[check_choice(name, "loss", tuple(_LOSSES))](
        X, as_targets(y, X.shape[0], "y_P", "X_P")
    )
