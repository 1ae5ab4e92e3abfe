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
from typing import Any, NamedTuple

import numpy as np

from ..._errors import extra
from ..._validate import as_count, check_choice

with extra("deep"):
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import cross_entropy, one_hot

BATCH = 256
LBFGS_STEPS = 10  # in what is counted as an epoch
LOGISTIC_STEPS = 1000  # at most, of scikit-learn's solver

Curve = dict[str, Any]
"""Lists "accuracy" (held out) and "loss" (of the training rows) by epoch, and "lr" where chosen."""


class Rows(NamedTuple):
    """Features with their classes, to train on and to test on."""

    Z: Tensor
    y: Tensor
    Z_test: Tensor
    y_test: Tensor

    @property
    def classes(self) -> int:
        """Number of classes that the labels name."""
        return int(max(self.y.max(), self.y_test.max())) + 1

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Rows:
        """Rows of other features."""
        return self._replace(Z=change(self.Z), Z_test=change(self.Z_test))


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

# Optimizer and step lengths. Those of descent are in units of 1 / (largest eigenvalue of the
# Hessian of the features); Adam's are of features with a root mean square of 1.
_RULES: dict[str, tuple[Callable[..., torch.optim.Optimizer], tuple[float, ...]]] = {
    "sgd": (torch.optim.SGD, (0.5, 1.0, 2.0, 4.0, 8.0)),
    "momentum": (partial(torch.optim.SGD, momentum=0.9), (0.05, 0.1, 0.2, 0.4, 0.8)),
    "adam": (torch.optim.Adam, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)),
    "long-sgd": (torch.optim.SGD, (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)),
}


def descent(
    Z: Tensor, y: Tensor, Z_test: Tensor, y_test: Tensor, seed: int = 0, epochs: int = 20,
    *, rule: str, normalized: bool = False,
) -> Curve:  # fmt: skip
    """Train by mini-batches at several step lengths at once; `normalized`: behind a BatchNorm."""
    make, lengths = _RULES[rule]
    rows = Rows(Z, y, Z_test, y_test)
    size = Z.square().mean().sqrt()
    rows = rows.mapped(lambda part: (part / size).float())
    front: nn.Module = nn.Identity()
    if normalized:
        front = nn.BatchNorm1d(Z.shape[1], affine=False)  # its weights would be the head's
    unit = 1.0
    if make is not torch.optim.Adam:
        unit = float(torch.linalg.matrix_norm(_with_ones(rows.Z), 2) ** 2) / len(Z)
    heads = [torch.zeros(Z.shape[1] + 1, rows.classes, requires_grad=True) for _ in lengths]
    optimizer = make(
        [
            {"params": [head], "lr": length / unit}
            for head, length in zip(heads, lengths, strict=True)
        ]
    )
    order = torch.Generator().manual_seed(seed)
    found = [_accuracy_and_loss(heads, rows, front)]
    for _ in range(epochs):
        for batch in torch.randperm(len(Z), generator=order).split(BATCH):
            if normalized and len(batch) == 1:
                continue  # one row has no variance
            optimizer.zero_grad()
            logits = _logits(front(rows.Z[batch]), heads)
            targets = rows.y[batch][:, None].expand(-1, len(heads))
            (cross_entropy(logits, targets) * len(heads)).backward()
            optimizer.step()
        found.append(_accuracy_and_loss(heads, rows, front))
    accuracy, loss = (np.array(column) for column in zip(*found, strict=True))
    last = np.where(np.isfinite(loss).all(0), accuracy[-1], -1.0)
    best = int(np.argmax(last))
    return {
        "lr": lengths[best] / unit,
        "accuracy": accuracy[:, best].tolist(),
        "loss": loss[:, best].tolist(),
    }


def _with_ones(Z: Tensor) -> Tensor:
    return torch.cat([Z, torch.ones_like(Z[:, :1])], dim=1)


def _logits(Z: Tensor, heads: Sequence[Tensor]) -> Tensor:
    """Logits (N, c, heads)."""
    side_by_side = torch.stack(tuple(heads), dim=2).flatten(1)
    logits: Tensor = (_with_ones(Z) @ side_by_side).unflatten(1, (-1, len(heads)))
    return logits


@torch.no_grad()
def _accuracy_and_loss(
    heads: Sequence[Tensor], rows: Rows, front: nn.Module
) -> tuple[list[float], list[float]]:
    """Held-out accuracy and training loss of each head."""
    front.eval()
    right = _logits(front(rows.Z_test), heads).argmax(1) == rows.y_test[:, None]
    logits = _logits(front(rows.Z), heads)
    front.train()
    targets = rows.y[:, None].expand(-1, len(heads))
    loss = cross_entropy(logits, targets, reduction="none").double().mean(0)
    return right.double().mean(0).tolist(), loss.tolist()


# ---- other features first ----


def standardized(rows: Rows) -> Rows:
    """Features with mean 0 and standard deviation 1, by the rows to train on."""
    mean, scale = rows.Z.double().mean(0), rows.Z.double().std(0, correction=0)
    scale = torch.where(scale > 0.0, scale, 1.0)
    return rows.mapped(lambda Z: (Z.double() - mean) / scale)


def whitened(rows: Rows) -> Rows:
    """Features with the identity for their covariance, by the rows to train on."""
    Z = rows.Z.double()
    mean = Z.mean(0)
    values, vectors = torch.linalg.eigh((Z - mean).T @ (Z - mean) / len(Z))
    # What is below was lost to the rounding of float32 in the features.
    kept = values > Z.shape[1] * torch.finfo(torch.float32).eps ** 2 * values[-1]
    W = vectors[:, kept] / values[kept].sqrt()
    return rows.mapped(lambda part: (part.double() - mean) @ W)


def _after(change: Callable[[Rows], Rows], learn: Callable[..., Curve]) -> Callable[..., Curve]:
    def changed(
        Z: Tensor, y: Tensor, Z_test: Tensor, y_test: Tensor, seed: int = 0, epochs: int = 20
    ) -> Curve:
        return learn(*change(Rows(Z, y, Z_test, y_test)), seed, epochs)

    return changed


# ---- all rows at once ----


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

    found = [_accuracy_and_loss([head], rows, nn.Identity())]
    for _ in range(epochs):
        optimizer.step(closure)
        found.append(_accuracy_and_loss([head], rows, nn.Identity()))
    return {"accuracy": [a for (a,), _ in found], "loss": [loss for _, (loss,) in found]}


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
        "whitened, SGD", _after(whitened, partial(descent, rule="long-sgd")), undoes=True
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
    rows = Rows(*_checked(train, "train"), *_checked(test, "test"))
    if rows.Z.shape[1] != rows.Z_test.shape[1]:
        raise ValueError(
            f"train and test must have features of one width, and have {rows.Z.shape[1]} and "
            f"{rows.Z_test.shape[1]}"
        )
    if not bool(rows.Z.any()):
        raise ValueError("the features of train must not all be zero, and are")
    if len(rows.y.unique()) < 2:
        raise ValueError(f"train must have two classes at least, and has {int(rows.y[0])} alone")
    for name in attackers:
        check_choice(name, "attackers", tuple(ATTACKERS))
    passes, drawn = as_count(epochs, "epochs", least=1), as_count(seed, "seed", least=0)
    return {name: ATTACKERS[name].learn(*rows, drawn, passes) for name in attackers}


def _checked(pair: tuple[Tensor, Tensor], name: str) -> tuple[Tensor, Tensor]:
    Z, y = pair
    if not (isinstance(Z, Tensor) and isinstance(y, Tensor)):
        raise TypeError(f"{name} must be a pair of tensors, features (N, m) and classes (N,)")
    if Z.ndim != 2 or Z.numel() == 0 or y.shape != Z.shape[:1]:
        raise ValueError(
            f"{name} must be features (N, m) and classes (N,), and has shapes {tuple(Z.shape)} and "
            f"{tuple(y.shape)}"
        )
    if not Z.is_floating_point() or y.is_floating_point() or y.is_complex():
        raise TypeError(
            f"{name} must be real features and whole classes, and has {Z.dtype} and {y.dtype}"
        )
    if not bool(Z.isfinite().all()):
        raise ValueError(f"the features of {name} must be finite, and are not")
    if int(y.min()) < 0:
        raise ValueError(f"the classes of {name} must be counted from 0, and hold {int(y.min())}")
    return Z.detach().cpu(), y.cpu().long()
