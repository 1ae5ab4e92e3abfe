"""The keywords that all iterative methods share: checked, defaulted and recorded in one place."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._task import Ranks
from .._validate import as_count, check_choice, check_real, plain

Balance = Literal["gradient-norm"]
Callback = Callable[[int, Mapping[str, float]], object]
LossName = Literal["squared", "logistic", "softmax"]
Optimizer = Literal["gd", "adam"]
Path = str | os.PathLike[str]
Preconditioner = Literal["right", "projected", "ridge"]

EVERY = 100  # steps from one checkpoint to the next
# What a result does not keep of its method's keywords: the data, and who looks on.
_NOT_KEPT = ("X_P", "y_P", "X_H", "y_H", "checkpoint", "checkpoint_every", "callback")


@dataclass(frozen=True)
class Setup:
    """What a method was asked for, as :func:`algorithm1` documents it.

    Each method passes on the keywords that its own signature has; the rest stay at the defaults
    here, which mean "not so".
    """

    X_P: npt.ArrayLike
    y_P: npt.ArrayLike
    X_H: npt.ArrayLike
    y_H: npt.ArrayLike | None = None
    _: KW_ONLY
    loss: LossName
    lr: float
    steps: int
    batch_size: int | None = None
    hessian: Literal["full", "batch"] = "full"
    preconditioner: Preconditioner | None = None
    ridge: float = 1.0
    optimizer: Optimizer = "gd"
    theta: npt.ArrayLike | None = None
    omega: npt.ArrayLike | None = None
    seed: int | None = 0
    ranks: Ranks | None = None
    computed_in: Any = None
    checkpoint: Path | None = None
    checkpoint_every: int = EVERY
    callback: Callback | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "lr", check_real(self.lr, "lr", low=0.0))
        as_count(self.steps, "steps", least=0)
        as_count(self.checkpoint_every, "checkpoint_every", least=1)
        check_choice(self.hessian, "hessian", ("full", "batch"))
        if self.preconditioner is not None:
            choices = ("right", "projected", "ridge")
            check_choice(self.preconditioner, "preconditioner", choices)
        check_choice(self.optimizer, "optimizer", ("gd", "adam"))
        if self.callback is not None and not callable(self.callback):
            raise TypeError(f"callback must be callable or None, got {self.callback!r}")


def recorded(
    method: Callable[..., Any], setup: Setup, own: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """Keywords of a method in the order of its signature, as JSON has them.

    `own` are those that it does not share with others, `seed` the one that was drawn for None.
    """
    values = vars(setup) | dict(own) | {"seed": seed}
    names = [name for name in inspect.signature(method).parameters if name not in _NOT_KEPT]
    return {name: described(values[name]) for name in names}


def described(value: Any) -> Any:
    """Return an array as its shape and the SHA-256 of its entries, all else in plain Python."""
    if value is None or isinstance(value, type) or np.ndim(value) == 0:
        return plain(value)
    array = np.ascontiguousarray(value)
    if array.size <= 2:  # a pair of ranks or ridges
        return array.tolist()
    digest = hashlib.sha256(str(array.dtype.str).encode() + array.tobytes()).hexdigest()
    return f"array of shape {array.shape}, SHA-256 {digest}"


def entropy(seed: int | None) -> int:
    """Return the seed, or a fresh one for None: a run can then be told from another."""
    if seed is not None:
        return as_count(seed, "seed", least=0)
    fresh = np.random.SeedSequence().entropy
    assert isinstance(fresh, int)
    return fresh
