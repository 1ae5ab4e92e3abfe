"""Extreme pairs of an operator known by its products alone (SciPy's LinearOperator)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, SupportsIndex

import numpy as np

from . import _core
from ._pairs import ExtremePairs, search_from
from ._validate import FloatArray, as_count

_GRAIN = 2.0**-1074  # to a multiple of which results are rounded


class Pair(NamedTuple):
    """The largest eigenpair of a psd operator, its neighbour, and a bound on the value's error."""

    value: float
    next: float
    bound: float
    vector: FloatArray
    neighbour: FloatArray


def is_operator(S: Any) -> bool:
    """Say whether `S` is given by its products."""
    return hasattr(S, "matvec") and hasattr(S, "shape") and not isinstance(S, np.ndarray)


def check_operator(op: Any, name: str, *, size: int | None = None) -> tuple[int, int]:
    """Return the shape of a real operator; with `size` it must be square of that size."""
    shape = tuple(op.shape)
    if len(shape) != 2 or min(shape) < 1:
        raise ValueError(f"{name} must have two dimensions, and has shape {shape}")
    if getattr(op, "dtype", None) is not None and np.dtype(op.dtype).kind not in "fiub":
        raise TypeError(f"{name} must be real, and has dtype {op.dtype}")
    if size is not None and shape != (size, size):
        raise ValueError(f"{name} must have shape ({size}, {size}), and has shape {shape}")
    return int(shape[0]), int(shape[1])


def pairs_of_operator(
    op: Any, inverse: Any, name: str, of_entries: dict[str, Any], *, psd: bool, seed: SupportsIndex,
    **steering: Any,
) -> ExtremePairs:  # fmt: skip
    """Return the pairs of an operator, those of the smallest end None without an inverse.

    Lanczos on H itself, or on ``S^T S`` (or ``S S^T``, the smaller); the smallest pair from the
    same iteration on the inverse. Bounds hold where the operator's products are right to the
    rounding of its dtype, or of the results' where that is worse (`_Products.error`), however
    inexact the inverse.

    `of_entries` are the keywords that decide the rank of an array; an operator has no entries to
    decide it from, and they must be None. `steering` are those of `search_from`.
    """
    for keyword, value in of_entries.items():
        if value is not None:
            raise ValueError(f"{keyword} must be None for a LinearOperator, and is {value!r}")
    search = search_from(tuple(op.shape), methods=("auto", "lanczos"), **steering)
    if not all(np.isfinite(vector).all() for vector in (*search.max, *search.min)):
        raise ValueError("start must hold finite real vectors, and holds NaN or infinity")
    seed = as_count(seed, "seed", least=0)
    if seed >= 2**64:
        raise ValueError(f"seed must be below 2^64, and is {seed}")
    rows, cols = check_operator(op, name)
    if psd and rows != cols:
        raise ValueError(f"{name} must be square, and has shape {(rows, cols)}")
    wide = rows < cols
    products = _Products(op, name)
    apply, transposed = products.of(op.matvec), products.of(op.rmatvec)
    if wide:
        apply, transposed = transposed, apply
    square = apply if psd else lambda x: transposed(apply(x))
    size = min(rows, cols)
    top = _largest(square, products, size, search.tol, search.max, seed, times=1 if psd else 2)
    if top.value <= 0.0:
        raise ValueError(f"{name} has rank 0 (its largest singular value is zero)")
    root = float if psd else math.sqrt
    sigma = root(top.value)  # in units of 2^exponent, as all until it is told
    other = top.vector if psd else _unit(apply(top.vector))
    sides = ("v", "u") if not wide else ("u", "v")
    bound_max = top.bound if psd else top.bound / sigma
    gap_max = 1.0 - root(max(top.next, 0.0)) / sigma if size > 1 else math.inf
    found: dict[str, Any] = {
        "sigma_max": _told(sigma, products.exponent, name),
        f"{sides[0]}_max": top.vector,
        f"{sides[1]}_max": other,
        "gap_max": gap_max,
        "bound_max": _told(bound_max, products.exponent, name) + _GRAIN,
        "simple_max": gap_max * sigma > 2 * bound_max,
        "neighbour_max": top.neighbour,
        "neighbour_min": np.empty(0),
        "method": "lanczos",
        "frobenius": None,
        "rank": None,
        "condition_number": None,
        "determined_min": False,
    }
    found |= dict.fromkeys(("sigma_min", "u_min", "v_min", "gap_min", "simple_min", "bound_min"))
    if inverse is None:
        return ExtremePairs(**found)
    if rows != cols:
        raise ValueError(f"inverse has a meaning for square {name} only, of shape {(rows, cols)}")
    check_operator(inverse, "inverse", size=size)
    solutions = _Products(inverse, "inverse")
    solve, solve_t = solutions.of(inverse.matvec), solutions.of(inverse.rmatvec)
    inverse_square = solve if psd else lambda x: solve(solve_t(x))
    low = _largest(
        inverse_square, solutions, size, search.tol, search.min, seed, times=1 if psd else 2
    )
    largest = root(abs(low.value))
    if low.bound >= low.value:
        raise ValueError(
            f"inverse must be a solver for the same positive definite (or nonsingular) {name}, and "
            f"its largest singular value, {_told(largest, solutions.exponent, 'inverse'):.3g}, is "
            "not determined"
        )
    with np.errstate(over="ignore"):
        expected = float(np.ldexp(1.0 / largest, -products.exponent - solutions.exponent))
    image = apply(low.vector)
    length, slack = float(np.linalg.norm(image)), 2.0 * products.error * sigma
    if not expected / 2.0 - slack <= length <= 2.0 * expected + slack:
        raise ValueError(
            f"inverse must be a solver for the same {name}, and is none: it says that {name} makes "
            f"{expected / sigma:.3g} of a vector of which it makes {length / sigma:.3g}, relative "
            "to the largest"
        )
    kappa = max(1.0, _told(sigma * largest, products.exponent + solutions.exponent, name))
    gap = largest / root(low.next) - 1.0 if size > 1 and low.next > 0 else math.inf
    other = low.vector if psd else _unit(solve_t(low.vector))
    # How well a solver solves only products with what it inverts tell: it may stop early, and a
    # stable one is off by the rounding of the largest singular value.
    residuals = [image - expected * other]
    if not psd:
        residuals.append(transposed(other) - expected * low.vector)
    residual = float(np.linalg.norm(residuals)) / math.sqrt(len(residuals))
    by_solver = largest / root(low.value - low.bound) - 1.0
    relative = max(by_solver, (residual + products.error * sigma) / expected)
    sigma_min = _told(1.0 / largest, -solutions.exponent, name)
    bound_min = relative * sigma_min + _GRAIN
    found |= {
        "sigma_min": sigma_min,
        "v_min": low.vector,
        "u_min": other,
        "gap_min": gap,
        "simple_min": gap > 2 * relative,
        "bound_min": bound_min,
        "neighbour_min": low.neighbour,
        "determined_min": bound_min < sigma_min / 2,
        "rank": size,
        "condition_number": kappa,
    }
    return ExtremePairs(**found)


class _Products:
    """Products in float64 that are real and finite, or say whose they are; and how exact.

    They come in units of ``2^exponent``, in which squares stay in the range of float64: that of the
    first one that is not zero, of a random vector.
    """

    def __init__(self, op: Any, name: str) -> None:
        self._name, self._size = name, max(op.shape)
        declared = getattr(op, "dtype", None)
        self._info = _precision(np.float64 if declared is None else declared)
        self._exponent: int | None = None

    @property
    def exponent(self) -> int:
        """That of the unit."""
        return self._exponent or 0

    @property
    def error(self) -> float:
        """Bound on ``||y - A x|| / (||A|| ||x||)`` for a product y.

        ``4 eps sqrt(n)``, and no less than n = 16 has: eps of the worst dtype, declared or
        returned (more where its numbers are subnormal), and the growth that sums of n rounded terms
        show. A rounding of x, of the entries or of each component of y stays within.
        """
        subnormal = max(1.0, math.ldexp(float(self._info.tiny), -self.exponent))
        return 4.0 * float(self._info.eps) * subnormal * math.sqrt(max(self._size, 16))

    def of(self, function: Callable[[FloatArray], Any]) -> Callable[[FloatArray], FloatArray]:
        """Check the products of this function."""

        def product(x: FloatArray) -> FloatArray:
            given = np.asarray(function(x))
            if given.dtype.kind != "f":
                raise TypeError(
                    f"a product of {self._name} must hold real floating-point numbers, and has "
                    f"dtype {given.dtype}"
                )
            self._info = max(self._info, _precision(given.dtype), key=lambda info: float(info.eps))
            y = given.astype(np.float64).reshape(-1)
            if not np.isfinite(y).all():
                raise ValueError(f"a product of {self._name} with a finite vector is not finite")
            if self._exponent is None and y.any():
                self._exponent = int(np.frexp(np.abs(y).max())[1])
            with np.errstate(under="ignore"):
                return np.asarray(np.ldexp(y, -self.exponent))

        return product


def _precision(dtype: Any) -> np.finfo[Any]:
    """Return what is known of a dtype; integers are exact, and nothing is finer than float64."""
    kind = np.dtype(dtype)
    return np.finfo(kind if kind.kind == "f" and kind.itemsize < 8 else np.float64)


def _told(x: float, exponent: int, name: str) -> float:
    """Return ``2^exponent x``, of the singular values of what is called `name`."""
    try:
        return math.ldexp(x, exponent)
    except OverflowError:
        raise OverflowError(
            f"the singular values of {name}, or their ratio, are not representable in float64: one "
            f"is {x:.6g} * 2^{exponent}"
        ) from None


def _largest(
    square: Callable[[FloatArray], FloatArray],
    products: _Products,
    size: int,
    tol: float,
    start: tuple[FloatArray, ...],
    seed: int,
    *,
    times: int,
) -> Pair:
    """Find the largest pair of an operator that takes so many products."""
    # Shows the dtype of what is returned, and the unit, as one that hides most of it would not.
    square(_unit(np.random.default_rng(seed).normal(size=size)))
    while True:
        error = times * products.error
        pair = Pair(
            *_core.largest_pair(square, n=size, tol=tol, start=start, error=error, seed=seed)
        )
        if times * products.error == error:
            return pair


def _unit(x: FloatArray) -> FloatArray:
    return np.asarray(x / np.linalg.norm(x))
