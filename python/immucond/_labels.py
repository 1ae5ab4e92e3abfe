"""Labels as targets: names of classes become one-hot columns."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ._validate import Array, FloatArray, as_targets, converted


def named(Y: npt.ArrayLike, name: str) -> Array:
    """Labels as they are given; strings that stand as objects, as tables have them, as strings."""
    array = converted(Y, name)
    if array.dtype.kind == "O" and all(isinstance(label, str) for label in array.flat):
        array = array.astype(str)
    return array


def one_hot(numbers: Array, classes: int) -> FloatArray:
    """Numbers of classes (N,) as columns (N, classes), without a square matrix of these."""
    columns = np.zeros((len(numbers), classes))
    columns[np.arange(len(numbers)), numbers] = 1.0
    return columns


def is_column(array: Array) -> bool:
    """Whether it holds one label a row, as a row or, as tables give them, a column."""
    return array.shape[1:] in ((), (1,))


def labels_of(
    Y: npt.ArrayLike, rows: int, name: str, inputs: str, *, batch: bool = False
) -> FloatArray:
    """Labels as targets: names of classes (integers, bools, strings) become one-hot columns.

    A column of them is what tables give, and names classes too. More classes than rows, and a row a
    class, are refused but for a `batch` of a task.
    """
    array = named(Y, name)
    if is_column(array) and array.dtype.kind in "iubUS":
        array = array.ravel()
        if array.size != rows:
            raise ValueError(f"{name} must have {rows} labels, as {inputs} rows, got {array.size}")
        classes, of = np.unique(array, return_inverse=True)
        if classes.size == 1:
            raise ValueError(f"{name} is constant: all {rows} labels are {classes[0].item()!r}")
        if classes.size == rows and not batch:
            raise ValueError(
                f"{name} names {rows} classes on {rows} rows: a row a class tells features nothing"
            )
        return one_hot(of, classes.size)
    targets = as_targets(Y, rows, name, inputs)
    if targets.shape[1] > rows and not batch:
        raise ValueError(
            f"{name} has {targets.shape[1]} columns, more classes than its {rows} rows"
        )
    return targets
