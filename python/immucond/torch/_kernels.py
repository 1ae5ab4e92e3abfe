"""The seam between the operators and what computes them, by device."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from . import _cpu, _cuda, _device


def kernels_for(X: Tensor) -> ModuleType:
    """Return the module with `evaluate`, `pairs` and `gram` for tensors where `X` is."""
    if X.device.type == "cpu":
        return _cpu
    return _cuda if X.device.type == "cuda" and _cuda.available(X.device.index) else _device
