"""Attackers on frozen features: what a linear head learns of a task, however it is trained.

Each is a function of ``(Z_train, y_train, Z_test, y_test, seed, epochs)``, in which features
are (N, m) tensors and classes are counted from 0. All train a head with a bias from zero.
Where a step length is to be chosen, the one with the highest held-out accuracy counts: no attacker
could choose better, so that none is made weaker than it is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..._errors import extra
from ..._validate import as_count, check_choice

with extra("deep"):
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import cross_entropy, one_hot

from ...deep.parts import BATCH as BATCH
from ...deep.parts import Rows, descend, rows_of, whitened

LBFGS_STEPS = 10  # in what is counted as an epoch
LOGISTIC_STEPS = 1000  # at most, of scikit-learn's solver

Curve = dict[str, Any]
"""Lists "accuracy" (held out) and "loss" (of the training rows) by epoch, and "lr" where chosen."""


@dataclass(frozen=True)
class Attacker:
    """How a head is trained.

    Attributes
    ----------
    label : str
        What tables and figures call it.
    learn : callable
        ``learn(Z_train, y_train, Z_test, y_test, seed, epochs)`` returns a `Curve`.
    undoes : bool
        Whether it sees nothing of how the features are conditioned.
    """

    label: str
    learn: Callable[..., Curve]
    undoes: bool = False


# ---- by batches, with the optimizers of PyTorch ----


def descent(
    Z: Tensor, y: Tensor, Z_test: Tensor, y_test: Tensor, seed: int = 0, epochs: int = 20,
    *, rule: str, normalized: bool = False,
) -> Curve:  # fmt: skip
    """Train by mini-batches at several step lengths at once; `normalized`: behind a BatchNorm."""
    # Without weights of its own, which would be the head's.
    front = nn.BatchNorm1d(Z.shape[1], affine=False) if normalized else None
    heads = descend(Rows(Z, y, Z_test, y_test), rule, epochs, seed, bias=True, front=front)
    last = np.where(np.isfinite(heads.loss).all(0), heads.accuracy[-1], -1.0)
    best = heads.of(int(np.argmax(last)))
    return {**best, "accuracy": best["accuracy"].tolist(), "loss": best["loss"].tolist()}


# ---- other features first ----


def standardized(rows: Rows) -> Rows:
    """Features with mean 0 and standard deviation 1, by the rows to train on."""
    mean, scale = rows.Z.double().mean(0), rows.Z.double().std(0, correction=0)
    scale = torch.where(scale > 0.0, scale, 1.0)
    return rows.mapped(lambda Z: (Z.double() - mean) / scale)


def _after(change: Callable[[Rows], Rows], learn: Callable[..., Curve]) -> Callable[..., Curve]:
    def changed(
        Z: Tensor, y: Tensor, Z_test: Tensor, y_test: Tensor, seed: int = 0, epochs: int = 20
    ) -> Curve:
        return learn(*change(Rows(Z, y, Z_test, y_test)), seed, epochs)

    return changed


# ---- all rows at once ----


def _with_ones(Z: Tensor) -> Tensor:
    return torch.cat([Z, torch.ones_like(Z[:, :1])], dim=1)


def lbfgs(
    Z: Tensor, y: Tensor, Z_test: Tensor, y_test: Tensor, _: int = 0, epochs: int = 20
) -> Curve:
    """Train by L-BFGS with a line search, in float64; `LBFGS_STEPS` steps are an epoch."""
    rows = Rows(Z, y, Z_test, y_test)
    rows = rows.mapped(lambda part: part.double() / Z.double().square().mean().sqrt())
    head = torch.zeros(Z.shape[1] + 1, rows.classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [head], max_iter=LBFGS_STEPS, history_size=20, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(_with_ones(rows.Z) @ head, rows.y)
        loss.backward()
        return loss

    @torch.no_grad()
    def measured() -> tuple[float, float]:
        right = (_with_ones(rows.Z_test) @ head).argmax(1) == rows.y_test
        loss = cross_entropy(_with_ones(rows.Z) @ head, rows.y)
        return float(right.double().mean()), float(loss)

    found = [measured()]
    for _ in range(epochs):
        optimizer.step(closure)
        found.append(measured())
    return {"accuracy": [a for a, _ in found], "loss": [loss for _, loss in found]}


def logistic(
    Z: Tensor, y: Tensor, Z_test: Tensor, y_test: Tensor, seed: int = 0, *_: int,
    scaled: bool = False,
) -> Curve:  # fmt: skip
    """Fit scikit-learn's LogisticRegression with its defaults, alone or behind a StandardScaler."""
    with extra("experiments"):
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.metrics import log_loss
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    before = [StandardScaler()] if scaled else []
    model = make_pipeline(*before, LogisticRegression(max_iter=LOGISTIC_STEPS, random_state=seed))
    X, X_test = Z.double().numpy(), Z_test.double().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(X, y.numpy())
    loss = log_loss(y.numpy(), model.predict_proba(X), labels=model[-1].classes_)
    return {"accuracy": [float(model.score(X_test, y_test.numpy()))], "loss": [float(loss)]}


def least_squares(Z: Tensor, y: Tensor, Z_test: Tensor, y_test: Tensor, *_: int) -> Curve:
    """Solve for the least squares to the classes, one-hot; the loss is half their mean."""
    rows = Rows(Z.double(), y, Z_test.double(), y_test)
    X, targets = _with_ones(rows.Z).numpy(), one_hot(y, rows.classes).double().numpy()
    cutoff = 4.0 * np.sqrt(X.shape[1]) * np.finfo(np.float32).eps  # features came in float32
    head = np.linalg.lstsq(X, targets, rcond=cutoff)[0]
    guessed = (_with_ones(rows.Z_test).numpy() @ head).argmax(1)
    loss = 0.5 * float(np.square(X @ head - targets).sum(1).mean())
    return {"accuracy": [float((guessed == y_test.numpy()).mean())], "loss": [loss]}


ATTACKERS = {
    "sgd": Attacker("SGD", partial(descent, rule="sgd")),
    "momentum": Attacker("SGD, momentum 0.9", partial(descent, rule="momentum")),
    "adam": Attacker("Adam", partial(descent, rule="adam")),
    "lbfgs": Attacker("L-BFGS", lbfgs),
    "logistic": Attacker("logistic regression", logistic),
    "scaled-logistic": Attacker(
        "StandardScaler, logistic regression", partial(logistic, scaled=True)
    ),
    "scaled-adam": Attacker(
        "standardized, Adam", _after(standardized, partial(descent, rule="adam"))
    ),
    "batch-norm": Attacker("BatchNorm head, Adam", partial(descent, rule="adam", normalized=True)),
    "whitening": Attacker(
        "whitened, SGD",
        _after(partial(whitened, center=True), partial(descent, rule="whitening")),
        undoes=True,
    ),
    "least-squares": Attacker("least squares", least_squares, undoes=True),
}


def attack(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    attackers: Sequence[str] = tuple(ATTACKERS),
    epochs: int = 20,
    seed: int = 0,
) -> dict[str, Curve]:
    """Let attackers learn a task from features with their classes, each in its own way.

    Parameters
    ----------
    train, test : (Tensor, Tensor)
        Features (N, m) with classes (N,), whole numbers from 0 on: to train on, and to test on.
    attackers : sequence of str
        Names in `ATTACKERS`; all by default.
    epochs : int, default 20
        Passes over the rows to train on, or `LBFGS_STEPS` steps each of L-BFGS.
    seed : int, default 0
        Of the order of the rows.

    Returns
    -------
    dict of str to dict
        By attacker: lists ``accuracy`` (held out) and ``loss`` (of the rows to train on), from
        before the first epoch to the last, of one number where all rows are solved for at once;
        and ``lr`` where a step length was chosen, by the held-out accuracy.

    Raises
    ------
    ValueError, TypeError
        For what are no features with their classes, and unknown attackers.

    Notes
    -----
    Ours: what people do with frozen features, beside the paper's gradient descent (arXiv
    2505.23760, Sec. 5).

    Examples
    --------
    >>> import torch
    >>> from immucond.experiments.deep import attack
    >>> generator = torch.Generator().manual_seed(0)
    >>> Z = torch.randn(400, 5, generator=generator)
    >>> y = (Z[:, 0] > 0).long()
    >>> found = attack((Z[:200], y[:200]), (Z[200:], y[200:]), attackers=["sgd", "least-squares"])
    >>> len(found["sgd"]["accuracy"]), found["least-squares"]["accuracy"][0] > 0.9
    (21, True)
    """
    rows = rows_of(train, test)
    for Z, name in ((rows.Z, "train"), (rows.Z_test, "test")):
        if not Z.is_floating_point():
            raise TypeError(f"the features of {name} must be real numbers, and have {Z.dtype}")
    if len(rows.y.unique()) < 2:
        raise ValueError(f"train must have two classes at least, and has {int(rows.y[0])} alone")
    for name in attackers:
        check_choice(name, "attackers", tuple(ATTACKERS))
    passes, drawn = as_count(epochs, "epochs", least=1), as_count(seed, "seed", least=0)
    return {name: ATTACKERS[name].learn(*rows, drawn, passes) for name in attackers}
