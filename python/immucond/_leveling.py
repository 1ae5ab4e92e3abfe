"""Rotations after which the Hessian of some features has a constant diagonal."""

from __future__ import annotations

from . import _core
from ._validate import FloatArray


def level(rows: FloatArray, H: FloatArray) -> None:
    """Rotate pairs of rows, in place, until the Hessian of these features is level.

    Parameters
    ----------
    rows : (n, w) array
        C-contiguous float64: a feature each.
    H : (n, n) array
        Their Hessian, symmetric.
    """
    _core.level(rows, H)
