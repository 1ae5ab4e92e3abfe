"""The seam between the operators and what computes them, by device."""

from __future__ import annotations

from types import ModuleType

from torch import Tensor

from . import _cpu, _device


def kernels_for(X: Tensor) -> ModuleType:
    """Return the module with `evaluate`, `pairs` and `gram` for tensors where `X` is."""
    return _cpu if X.device.type == "cpu" else _device
