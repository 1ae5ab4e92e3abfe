"""Attackers that solve for a head on features at once: least squares, logistic regression."""

from __future__ import annotations

import math
import time
import warnings
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from ..._errors import extra
from ..._labels import one_hot
from ..._validate import Array, FloatArray
from .._network import array
from .._search import Settings
from ._rows import Batch
from ._trial import Budget, Trial
from ._victims import Head

_LEAST = 1e-10  # of what a row leaves to the others: less is rounding


class _Solved(NamedTuple):
    """Logits of held-out rows, and the iterations that they took."""

    logits: FloatArray
    steps: int


def solve(victim: Head, rule: str, settings: Settings, budget: Budget) -> Trial:
    """Solve once for a head at the rate that the settings name: a ridge, or scikit-learn's C."""
    (Z, y), (Z_test, y_test) = (_rows(part) for part in (victim.train, victim.held_out))
    before = time.perf_counter()
    if rule == "lstsq":
        found = _least_squares(Z, y, Z_test, settings["rate"], victim.module.out_features)
    else:
        found = _logistic(Z, y, Z_test, settings["rate"], budget.steps)
    seconds = time.perf_counter() - before
    told = log_softmax(found.logits, axis=1)
    loss = -float(told[np.arange(len(y_test)), y_test].mean())
    accuracy = float((told.argmax(1) == y_test).mean())
    reached = loss <= budget.target
    return Trial(
        settings=settings,
        steps=float(found.steps) if reached else math.inf,
        passes=float(found.steps) if reached else math.inf,
        seconds=seconds if reached else math.inf,
        loss=loss,
        accuracy=accuracy,
        ended="reached" if reached else "budget",
        curve={"step": [float(found.steps)], "loss": [loss], "accuracy": [accuracy]},
    )


def _rows(batches: list[Batch]) -> tuple[FloatArray, Array]:
    Z = np.concatenate([array(z) for z, _ in batches])
    return Z, np.concatenate([y.cpu().numpy() for _, y in batches])


def _least_squares(
    Z: FloatArray, y: Array, Z_test: FloatArray, ridge: float, classes: int
) -> _Solved:
    """Fit one-hot classes, with a ridge relative to the largest eigenvalue; then one temperature.

    The temperature is that of the least cross-entropy of the rows trained on, each predicted by the
    head of the others: ``y - (y - f) / (1 - h)``, h the leverages. Rows that a head has seen are
    near their classes where there are few of them, and would ask for logits without bound.
    """
    mean, targets = Z.mean(0), one_hot(y, classes)
    shares, centred = targets.mean(0), Z - mean
    values, vectors = scipy.linalg.eigh(centred.T @ centred, check_finite=False)
    damped = np.maximum(values, 0.0) + ridge * values[-1] + np.finfo(float).tiny
    turned = centred @ vectors
    solved = (turned.T @ (targets - shares)) / damped[:, None]
    leverages = 1.0 / len(Z) + np.sum(turned**2 / damped, axis=1)
    missed = targets - shares - turned @ solved
    others = targets - missed / np.maximum(1.0 - leverages, _LEAST)[:, None]

    def loss(log_scale: float) -> float:
        told = log_softmax(math.exp(log_scale) * others, axis=1)
        return -float(told[np.arange(len(y)), y].mean())

    scale = math.exp(minimize_scalar(loss, bounds=(-2.0, 8.0), method="bounded").x)
    return _Solved(scale * ((Z_test - mean) @ (vectors @ solved) + shares), 1)


def _logistic(Z: FloatArray, y: Array, Z_test: FloatArray, C: float, steps: int) -> _Solved:
    """Fit scikit-learn's LogisticRegression; a class that no row has gets no chance.

    On centred features of mean variance 1, since its tolerance and C are in their units.
    """
    with extra("sklearn"):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    mean = Z.mean(0)
    unit = float(np.sqrt(np.square(Z - mean).mean())) or 1.0
    Z, Z_test = (Z - mean) / unit, (Z_test - mean) / unit
    model: Any = LogisticRegression(C=C, max_iter=steps)  # draws nothing
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(Z, y)
    scores = model.decision_function(Z_test)
    if scores.ndim == 1:  # two classes have one score
        scores = np.stack([np.zeros_like(scores), scores], axis=1)
    told = np.full((len(Z_test), 1 + int(y.max())), -np.inf)
    told[:, model.classes_] = scores
    return _Solved(told, int(model.n_iter_.max()))
