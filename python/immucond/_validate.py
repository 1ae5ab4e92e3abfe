"""Arguments as NumPy users write them, checked once and named in every message."""

from __future__ import annotations

import math
import operator
import os
from collections.abc import Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]

_LARGEST_EXACT = 2**53


def as_array(x: npt.ArrayLike, name: str, *, ndim: int | None) -> Array:
    """Return `x` as an array whose entries float64 holds exactly, without a copy where possible.

    Parameters
    ----------
    x : array_like
        float16, float32, float64, integers or bools.
    name : str
        The argument's name, for messages.
    ndim : int or None
        The number of dimensions needed; None where any will do.

    Raises
    ------
    TypeError
        For masked, sparse, complex, longdouble, object, string and date arrays.
    ValueError
        For another number of dimensions, no entries, or integers beyond 2^53.
    """
    array = x if type(x) is np.ndarray else converted(x, name)
    kind, size = array.dtype.kind, array.dtype.itemsize
    if not (kind in "biu" or (kind == "f" and size <= 8)):
        raise TypeError(
            f"{name} must hold float16, float32, float64, integers or bools, "
            f"and has dtype {array.dtype}"
        )
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimension(s), and has shape {array.shape}")
    if array.size == 0:
        raise ValueError(f"{name} must have at least one entry, and has shape {array.shape}")
    if kind in "iu" and size == 8:
        extreme = max(int(array.max()), int(array.min()), key=abs)
        if abs(extreme) > _LARGEST_EXACT:
            raise ValueError(f"{name} holds the integer {extreme}, which float64 may not hold")
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def converted(x: npt.ArrayLike, name: str) -> Array:
    """Return `x` as an array of whatever it holds; masked and sparse ones are refused."""
    if _is_sparse(x):
        raise TypeError(
            f"{name} is sparse ({type(x).__name__}) and must be dense: give {name}.toarray() (of a "
            "tensor to_dense()), or scipy.sparse.linalg.aslinearoperator of it where products are "
            "enough (extreme_pairs, psd_extreme_pairs)"
        )
    try:
        if not _is_masked(x):
            return np.asarray(x)
    except ValueError as error:
        raise ValueError(f"{name} does not form an array: {error}") from error
    except (TypeError, RuntimeError) as error:  # of a tensor: its dtype, device or gradient
        raise TypeError(f"{name} does not form an array: {error}") from error
    raise TypeError(f"{name} is a masked array; fill or drop the masked entries first")


def _is_masked(x: Any) -> bool:
    """Say whether it is masked, or lists hold what is: NumPy reads what that hides."""
    if isinstance(x, list | tuple):
        return any(map(_is_masked, x))
    return isinstance(x, np.ma.MaskedArray)


def _is_sparse(x: Any) -> bool:
    """SciPy's matrices and arrays, and such as are made like them; torch's tensors."""
    return hasattr(x, "nnz") or "sparse" in str(getattr(x, "layout", ""))


def as_matrix(x: npt.ArrayLike, name: str) -> Array:
    """`as_array` for a matrix."""
    return as_array(x, name, ndim=2)


def as_matrices(x: npt.ArrayLike, name: str) -> Array:
    """`as_array` for a matrix or a stack of them."""
    array = as_array(x, name, ndim=None)
    if array.ndim not in (2, 3):
        raise ValueError(
            f"{name} must have 2 dimension(s), or 3 for a stack, and has shape {array.shape}"
        )
    return array


def as_float64(x: npt.ArrayLike, name: str, *, ndim: int | None = 2) -> FloatArray:
    """`as_array`, converted to float64 and checked to be finite."""
    array: FloatArray = as_array(x, name, ndim=ndim).astype(np.float64, copy=False)
    finite = np.isfinite(array)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(f"{name} must be finite, and holds {array[where]} at index {where}")
    return array


def check_choice(value: str, name: str, choices: tuple[str, ...]) -> str:
    """Return `value` if it is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        listed = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{name} must be one of {listed}, and is {value!r}")
    return value


def check_real(
    value: float, name: str, *, low: float, high: float = math.inf, closed: bool = False
) -> float:
    """Return `value` as a float if ``low <= value < high``; it is a number, and no parameter.

    `high` itself is allowed where the interval is `closed`.
    """
    if not isinstance(value, float) and getattr(value, "requires_grad", False):
        raise TypeError(
            f"{name} must be a number, and is a tensor that requires a gradient, which would end "
            f"here: give its value, {name}.item(), or detach it"
        )
    try:
        if isinstance(value, (str, bytes, bytearray)):  # float() reads those
            raise TypeError("text")
        if not isinstance(value, float) and np.iscomplexobj(value):  # and half of those
            raise TypeError("complex")
        number = float(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} must be a real number, and is {value!r}") from error
    except OverflowError:
        raise ValueError(f"{name} must be below 1.8e308, the largest float") from None
    if not (low <= number < high or (closed and number == high)):
        end = "]" if closed else ")"
        raise ValueError(f"{name} must be in [{low:g}, {high:g}{end}, and is {number:g}")
    return number


def as_integer(value: SupportsIndex, name: str) -> int:
    """Return `value` as an int if it is a whole number."""
    try:
        return operator.index(value)
    except TypeError as error:
        raise TypeError(f"{name} must be an integer, and is {value!r}") from error


def as_count(value: SupportsIndex, name: str, *, least: int) -> int:
    """`as_integer`, checked to be at least `least`."""
    count = as_integer(value, name)
    if count < least:
        raise ValueError(f"{name} must be at least {least}, and is {count}")
    return count


def as_path(path: str | os.PathLike[str], name: str) -> Path:
    """Return the path of a file or a folder that an argument names."""
    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path, and is {path!r:.80}")
    return Path(path)


def plain(value: Any) -> Any:
    """Return numbers, arrays and tensors in a setting as Python's own, dtypes and paths by name.

    Settings that are equal are then equal, and can be written, whoever computed them.
    """
    if value is None or isinstance(value, (bool, str)):
        return value if not isinstance(value, np.str_) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.dtype):
        return value.name
    if isinstance(value, type) and issubclass(value, (np.generic, float)):
        return np.dtype(value).name
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    return plain(value.tolist()) if hasattr(value, "tolist") else str(value).removeprefix("torch.")


def refuse_other(there: Any, here: Mapping[str, Any], what: str, remedy: str) -> None:
    """Refuse what is of other settings, and say which: "NAME is ... there and ... here"."""
    if not isinstance(there, Mapping):
        raise ValueError(f"{what} is of no run: its settings are {_brief(there)}. {remedy}")
    differing = [
        f"{name} is {_brief(there.get(name))} there and {_brief(here.get(name))} here"
        for name in dict.fromkeys((*here, *there))
        if there.get(name) != here.get(name)
    ]
    if differing:
        raise ValueError(f"{what} is that of another run: {'; '.join(differing)}. {remedy}")


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def as_theta(theta: npt.ArrayLike, dim: int, name: str = "theta") -> FloatArray:
    """Check an extractor against the number of input features."""
    A = as_float64(theta, name)
    if A.shape[0] != dim:
        raise ValueError(f"{name} must have {dim} rows, one an input feature, got shape {A.shape}")
    return A


def as_rows(Z: npt.ArrayLike, dim: int, name: str, *, ndim: int | None = None) -> FloatArray:
    """`as_float64` for rows of so many features; any number of axes may stand before them."""
    rows = as_float64(Z, name, ndim=ndim)
    if rows.shape[-1:] != (dim,):
        raise ValueError(f"{name} must have {dim} columns, and has shape {rows.shape}")
    return rows


def as_heads(omega: npt.ArrayLike, dim: int, name: str = "omega") -> FloatArray:
    """`as_float64` for a head on so many features, or for columns of them."""
    heads = as_float64(omega, name, ndim=None)
    if heads.shape[-2:][:1] != (dim,):
        raise ValueError(f"{name} must have {dim} rows, and has shape {heads.shape}")
    return heads


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
    values = as_float64(np.atleast_1d(as_array(delta, "delta", ndim=None)), "delta", ndim=1)
    if values.size not in (1, 2) or np.any(values < 0.0):
        raise ValueError(f"delta must be a number >= 0 or a pair of them, got {delta!r}")
    return float(values[0]), float(values[-1])
