"""The seam between the operators and what computes them, by device."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from .._rank import Rule
from .._regularizers import SpectralRegularizer
from . import _cpu, _cuda, _fallback
from ._fallback import Evaluated, Pairs


class Kernels(Protocol):
    """What a device's module does for a finite or infinite matrix, or a stack (b, rows, columns).

    The rule decides the rank; features Z stand for ``Z^T Z``. Nothing is differentiated here.
    """

    def evaluate(
        self,
        regularizer: SpectralRegularizer,
        X: Tensor,
        *,
        features: bool,
        rule: Rule,
        p_is_rank: bool,
        gradient: bool,
    ) -> Evaluated:
        """Return a regularizer's values, and with `gradient` those, in at least float32."""

    def pairs(self, X: Tensor, *, features: bool, rule: Rule) -> Pairs:
        """Return the extreme pairs."""

    def gram(self, X: Tensor) -> Tensor:
        """Return ``X^T X`` of one matrix in float64."""


def kernels_for(X: Tensor) -> Kernels:
    """Return the kernels for tensors where `X` is."""
    if X.device.type == "cpu":
        return _cpu
    return _cuda if X.device.type == "cuda" and _cuda.available(X.device.index) else _fallback
