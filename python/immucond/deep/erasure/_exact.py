"""Products of low rank that floating-point numbers hold exactly."""

from __future__ import annotations

import numpy as np

from ..._validate import FloatArray


def exact_product(A: FloatArray, B: FloatArray, digits: int) -> FloatArray:
    """Return a matrix near A B, of rank at most r, that is no more than `digits` bits wide.

    A product that is rounded has full rank: its rounding tells of all that the factors leave out,
    to whoever computes in higher precision and rescales. So both factors are rounded to whole
    numbers, in units that are powers of 2 by row of A and by column of B, as many bits of them as
    leave every entry of their product a whole number of `digits` bits: it is then stored exactly.

    Parameters
    ----------
    A : (d, r) array
        With orthonormal columns, for the least error.
    B : (r, n) array
    digits : int
        Bits of the significand that the product is stored with: 24 for float32.

    Returns
    -------
    (d, n) array
        In float64, off by about ``2^(2 - digits/2)`` of the size of each row and column, and by
        sqrt(r) times as much where all roundings of a column of B align.
    """
    if not A.shape[1]:
        return np.zeros((len(A), B.shape[1]))
    of_rows, of_columns = _units(A, axis=1), _units(B, axis=0)
    bits = digits // 2 - 1
    whole, part = np.rint(np.ldexp(A / of_rows, bits)), B / of_columns
    # Partial sums of the products must not be rounded either, in the 53 bits that compute them.
    room = A.shape[1] <= 2 ** (53 - digits)

    def widest(part: FloatArray) -> FloatArray:
        sums = whole @ part if room else np.abs(whole) @ np.abs(part)
        return np.asarray(np.abs(sums).max(axis=0))

    more = np.minimum(digits - np.frexp(widest(part))[1], digits - bits)
    while more.min() > 0:
        rounded = np.rint(np.ldexp(part, more))
        wide = widest(rounded) > 2.0**digits
        if not wide.any():
            return np.asarray(np.ldexp(whole @ rounded, -bits - more) * of_rows * of_columns)
        more -= wide  # columns that rounding has made too wide
    raise ValueError(f"{digits} bits do not hold a product of {A.shape[1]} terms")


def _units(A: FloatArray, axis: int) -> FloatArray:
    """Return powers of 2 at least as large as each row or column."""
    largest = np.abs(A).max(axis=axis, keepdims=True)
    return np.asarray(np.ldexp(1.0, np.frexp(largest)[1]))
