"""Both ends of a large symmetric positive semidefinite matrix.

Lanczos for the top, Lanczos on the inverse (by Cholesky) for the bottom; cuSOLVER's direct method
where that does not converge, an end is not clearly simple, or the rank is not full.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from .._core import Spectrum, reduction_noise
from .._rank import Rule, largest_negative
from .._validate import FloatArray
from ._arrays import Library
from ._lanczos import MOST, WIDTH, End, largest, start
from ._libraries import bound_module
from ._spectrum import carried, clearly_simple, cut, ends_of, floor_of, rank_of, tie_width

_IN_RANGE = 2.0**200  # beyond this, or below its inverse, H is left to others: R_ill takes D^2


class Large(NamedTuple):
    """Simple ends, and their vectors (2, n) on the device."""

    ends: Spectrum
    vectors: Any


class DeviceSteps:
    """The steps of Lanczos with a matrix on the device."""

    def __init__(self, A: Any, n: int, library: Library, device: int) -> None:
        self.n, self._A, self._library, self._device = n, A, library, device
        self._cuda = bound_module()
        self._most = min(MOST, n - WIDTH)
        self._rows = self._most + WIDTH
        self._V = self._empty(self._rows, n)  # by rows here: columns there
        self._T = self._empty(self._most, self._rows)
        self._work = self._empty(self._cuda.lanczos_workspace(n, self._rows))
        library.assign(self._V, slice(0, WIDTH), start(n).T.copy())
        library.assign(self._T, slice(None), 0.0)

    def _empty(self, *shape: int) -> Any:
        return self._library.empty(shape, "float64", self._device)

    def _where(self) -> dict[str, int]:
        return {"device": self._device, "stream": self._library.stream(self._device)}

    def advance(self, first: int, last: int) -> None:
        """As `Steps.advance`."""
        at = self._library.address
        self._cuda.lanczos(
            n=self.n,
            A=at(self._A),
            V=at(self._V),
            width=WIDTH,
            first=first,
            last=last,
            T=at(self._T),
            rows=self._rows,
            work=at(self._work),
            **self._where(),
        )

    def projection(self, k: int) -> FloatArray:
        """As `Steps.projection`."""
        T: FloatArray = self._library.to_numpy(self._T[:k]).T[: k + WIDTH]
        return T

    def combine(self, coefficients: FloatArray) -> Any:
        """As `Steps.combine`; the vectors are the rows of the result."""
        k, count = coefficients.shape
        S = self._empty(count, k)
        self._library.assign(S, slice(None), np.ascontiguousarray(coefficients.T))
        out, at = self._empty(count, self.n), self._library.address
        self._cuda.combine(
            n=self.n, V=at(self._V), k=k, S=at(S), count=count, out=at(out), **self._where()
        )
        return out


def large_ends(
    H: Any, n: int, library: Library, device: int, *, rule: Rule, formed: bool, p: int
) -> Large | None:
    """Return both ends of H (n x n, float64), or None where they are not for these methods.

    `formed`: H is a Gram matrix of ours, and `rule` that of its features. This waits for the
    device at every look at the projection.
    """
    squares, top_entry = _measure(H, n * n, library, device)
    if not 1.0 / _IN_RANGE < top_entry < _IN_RANGE:
        return None
    floor = 0.0
    if rule.rounded > 0.0:
        trace = float(H.trace())
        floor = floor_of(trace, float(squares), rule, formed)
    found = None
    if rule.rank in (0, n):
        found = _iterate(H, n, library, device, rule, formed, floor)
    if found is None:
        found = _direct(H, n, library, device, rule, formed, floor)
    if found is None:
        return None
    rank, sigma_max, sigma_min, vectors = found
    if not carried(sigma_max, sigma_min, rank, n, rule, formed, floor):
        return None
    return Large(ends_of(p, rank, sigma_max, sigma_min, squares), vectors)


_Found = tuple[int, float, float, Any]


def _measure(x: Any, count: int, library: Library, device: int) -> tuple[Fraction, float]:
    """Return the sum of squares, and the largest magnitude (infinite for NaN)."""
    cuda = bound_module()
    out = library.empty((cuda.PARTS, 3), "float64", device)
    cuda.measure(
        count=count,
        x=library.address(x),
        out=library.address(out),
        device=device,
        stream=library.stream(device),
    )
    parts = library.to_numpy(out)
    top = float(parts[:, 2].max())
    if not np.isfinite(parts).all():
        return Fraction(0), math.inf
    return sum((Fraction(x) for x in parts[:, :2].ravel().tolist()), Fraction(0)), top


def _iterate(
    H: Any, n: int, library: Library, device: int, rule: Rule, formed: bool, floor: float
) -> _Found | None:
    tolerance = reduction_noise(n)
    top = largest(DeviceSteps(H, n, library, device), tolerance)
    if top is None:
        return None
    inverse = _inverse(H, n, library, device)
    if inverse is None:
        return None
    below = largest(DeviceSteps(inverse, n, library, device), tolerance)
    if below is None:
        return None
    bottom, following, error = inverted(below)
    simple = clearly_simple(
        top.value, top.next, top.next_error, top.value, n, rule, formed
    ) and clearly_simple(bottom, following, error, top.value, n, rule, formed)
    if not simple or (rule.rank == 0 and bottom <= cut(top.value, n, rule, formed, floor)):
        return None
    vectors = library.empty((2, n), "float64", device)
    vectors[0], vectors[1] = top.vectors[0], below.vectors[0]
    return n, top.value, bottom, vectors


def inverted(end: End) -> tuple[float, float, float]:
    """Return an end of the inverse as that of the matrix: value, neighbour and its error."""
    error = end.next_error
    moved = error / (end.next * (end.next - error)) if error < end.next else math.inf
    return 1.0 / end.value, 1.0 / end.next if end.next > 0.0 else math.inf, moved


def _inverse(H: Any, n: int, library: Library, device: int) -> Any:
    """Return the inverse (in its lower triangle), or None where H is not definite."""
    cuda, at = bound_module(), library.address
    A = library.empty((n, n), "float64", device)
    A[:] = H
    size = cuda.inverse_workspace(n, at(A), device)
    work = library.empty((size,), "float64", device)
    info = library.empty((2,), "int32", device)
    cuda.inverse(
        n=n,
        a=at(A),
        work=at(work),
        size=size,
        info=at(info),
        device=device,
        stream=library.stream(device),
    )
    return A if not library.to_numpy(info).any() else None


def _direct(
    H: Any, n: int, library: Library, device: int, rule: Rule, formed: bool, floor: float
) -> _Found | None:
    cuda, at = bound_module(), library.address
    A, w = library.empty((n, n), "float64", device), library.empty((n,), "float64", device)
    A[:] = H
    size = cuda.syevd_workspace(n, at(A), at(w), device)
    work, info = library.empty((size,), "float64", device), library.empty((1,), "int32", device)
    cuda.syevd(
        n=n,
        a=at(A),
        w=at(w),
        work=at(work),
        size=size,
        info=at(info),
        device=device,
        stream=library.stream(device),
    )
    if library.to_numpy(info).any():
        return None
    values = library.to_numpy(w)[::-1]
    # Of a matrix that is given, negative eigenvalues are singular values where they count.
    counted = max(0.0, values[rule.rank - 1]) if rule.rank else max(rule.rtol * values[0], floor)
    allowed = largest_negative(n, "float64") * values[0] if formed else counted
    if not values[0] > 0.0 or values[-1] < -allowed:
        return None
    k = rank_of(values, rule, formed, floor)
    if k == 1:  # all nonzero eigenvalues are equal: others know what to do
        return None
    top, bottom = float(values[0]), abs(float(values[k - 1]))
    at_top = np.count_nonzero(values[:k] > top - tie_width(top, top, n, rule, formed))
    at_bottom = np.count_nonzero(values[:k] <= bottom + tie_width(bottom, top, n, rule, formed))
    if at_top > 1 or at_bottom > 1:
        return None
    vectors = library.empty((2, n), "float64", device)
    vectors[0], vectors[1] = A[n - 1], A[n - k]  # columns there: rows here
    return k, top, bottom, vectors
