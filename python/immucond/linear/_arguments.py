"""Checks of arguments that several functions share."""

from __future__ import annotations

import operator
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from .._validate import FloatArray, as_array, as_float64


def as_theta(theta: npt.ArrayLike, dim: int, name: str = "theta") -> FloatArray:
    """Check an extractor against the number of input features."""
    A = as_float64(theta, name)
    if A.shape[0] != dim:
        raise ValueError(f"{name} must have {dim} rows, one an input feature, got shape {A.shape}")
    return A


def as_targets(y: npt.ArrayLike, rows: int, name: str, inputs: str) -> FloatArray:
    """Check targets against the inputs' number of rows; one head becomes a column."""
    array = as_array(y, name, ndim=None)
    if array.ndim not in (1, 2):
        raise ValueError(f"{name} must have 1 or 2 dimensions, and has shape {array.shape}")
    targets = as_float64(array, name, ndim=array.ndim)
    if targets.shape[0] != rows:
        raise ValueError(
            f"{name} must have one row a sample, {rows} as {inputs}, got shape {targets.shape}"
        )
    return targets[:, None] if targets.ndim == 1 else targets


def as_delta(delta: float | tuple[float, float]) -> tuple[float, float]:
    """Check delta: one number for both tasks or one for each, none negative."""
    values = as_float64(np.atleast_1d(np.asarray(delta)), "delta", ndim=1)
    if values.size not in (1, 2) or np.any(values < 0.0):
        raise ValueError(f"delta must be a number >= 0 or a pair of them, got {delta!r}")
    return float(values[0]), float(values[-1])


def as_count(value: SupportsIndex, name: str, *, least: int) -> int:
    """Check a whole number of at least some size."""
    try:
        count = operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be an integer, got {value!r}") from error
    if count < least:
        raise ValueError(f"{name} must be at least {least}, got {count}")
    return count
