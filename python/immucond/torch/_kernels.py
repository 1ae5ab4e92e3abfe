"""The seam between the operators and what computes them, by device."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from .._rank import Rule
from .._regularizers import SpectralRegularizer
from . import _cpu, _cuda, _fallback
from ._fallback import Evaluated, Pairs


class Kernels(Protocol):
    """What the module of a device does, for a matrix or for a stack (b, rows, columns).

    The rule decides the rank; features Z stand for ``Z^T Z``. Nothing here is differentiated.
    """

    def evaluate(
        self,
        regularizer: SpectralRegularizer,
        X: Tensor,
        *,
        features: bool,
        rule: Rule,
        p: int,
        gradient: bool,
    ) -> Evaluated:
        """Return a regularizer's value, its gradient if that is asked for, and what to warn of.

        `p` is how many singular values count: all (0), the nonzero ones (-1), or so many.
        """

    def pairs(self, X: Tensor, *, features: bool, rule: Rule) -> Pairs:
        """Return the extreme pairs of each matrix."""

    def gram(self, X: Tensor) -> Tensor:
        """Return ``X^T X`` of one matrix in float64."""


def kernels_for(X: Tensor) -> Kernels:
    """Return the kernels for tensors where `X` is."""
    if X.device.type == "cpu":
        return _cpu
    return _cuda if X.device.type == "cuda" and _cuda.available(X.device.index) else _fallback
