"""Both ends of a large symmetric positive semidefinite matrix on the device.

Lanczos for the top, Lanczos on the inverse (by Cholesky) for the bottom; cuSOLVER's direct method
where that does not converge, an end is not clearly simple, or the rank is not full.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
import scipy.linalg

from .. import _core
from .._rank import Rule
from .._validate import FloatArray
from . import _device
from ._device import Library, Place

WIDTH = 2  # starting vectors: two see a double eigenvalue, where one takes it for simple
MOST = 384  # products, after which a direct method is the cheaper way
ROUND, GROWTH = 16, 1.25  # products between two looks at the projection: so many, or by that more
_SEPARATED = 1e4  # times the tolerance: closer, more values may hide than there are vectors
_IN_RANGE = 2.0**200  # beyond this, or below its inverse, H is left to others: R_ill takes D^2


# ---- band Lanczos: what multiplies, and where, is the steps' affair ----


class Steps(Protocol):
    """``A V_k = V_{k + WIDTH} T_k`` on some device."""

    n: int

    def advance(self, first: int, last: int) -> None:
        """Do so many more steps."""

    def projection(self, k: int) -> FloatArray:
        """Return T_k, (k + WIDTH) x k; this waits for the device."""

    def combine(self, coefficients: FloatArray) -> Any:
        """Return ``V_k`` times the coefficients (k x count)."""


class End(NamedTuple):
    """The largest eigenvalue, the next one with the norm of its residual, and both vectors."""

    value: float
    next: float
    next_error: float
    vectors: Any

    def inverted(self) -> tuple[float, float, float]:
        """Return this end of the inverse as that of the matrix: value, neighbour and its error."""
        error = self.next_error
        moved = error / (self.next * (self.next - error)) if error < self.next else math.inf
        return 1.0 / self.value, 1.0 / self.next if self.next > 0.0 else math.inf, moved


def largest(steps: Steps, tolerance: float) -> End | None:
    """Return the top end, or None where it does not converge or is not clearly simple."""
    done, most = 0, min(MOST, steps.n - WIDTH)
    if most < WIDTH:
        return None
    while done < most:
        k = min(max(done + ROUND, int(GROWTH * done)), most)
        steps.advance(done, k)
        done = k
        T = steps.projection(k)
        if not np.isfinite(T).all():
            return None
        values, vectors = _top_two(T[:k])
        if len(values) < 2 or not values[1] > 0.0:  # LAPACK gives none where very many agree
            return None
        following, value = values
        next_error, residual = map(float, np.linalg.norm(T[k:] @ vectors, axis=0))
        known = next_error <= max(0.1 * (value - following), tolerance * value)
        if residual <= tolerance * value and known:
            if value - following <= _SEPARATED * tolerance * value:
                return None
            return End(value, following, next_error, steps.combine(vectors[:, ::-1]))
    return None


def _top_two(T: FloatArray) -> tuple[list[float], FloatArray]:
    """Return the two largest eigenpairs, ascending: T is symmetric and banded, to rounding."""
    k = len(T)
    band = np.zeros((WIDTH + 1, k))
    for below in range(WIDTH + 1):
        band[below, : k - below] = (np.diag(T, -below) + np.diag(T, below)) / 2
    values, vectors = scipy.linalg.eig_banded(
        band, lower=True, select="i", select_range=(k - 2, k - 1), check_finite=False
    )
    return values.tolist(), vectors


def start(n: int, *known: float) -> FloatArray:
    """Return orthonormal starting vectors (n x WIDTH), the same ones each time for a matrix.

    An end whose vector is orthogonal to them would be missed. By chance that does not happen; they
    are drawn by what is `known` of the matrix, so that none can be made for which it does.
    """
    seed = [20260101, *np.array(known).view(np.uint64).tolist()]
    random = np.random.default_rng(seed).normal(size=(n, WIDTH))
    return np.asarray(np.linalg.qr(random)[0])


class DeviceSteps:
    """The steps of Lanczos with a matrix on the device."""

    def __init__(self, A: Any, first: FloatArray, n: int, library: Library, device: int) -> None:
        self.n, self._A, self._library, self._place = n, A, library, Place(library, device)
        self._cuda = _device.bound_module()
        most = min(MOST, n - WIDTH)
        self._rows = most + WIDTH
        self._V = self._place.empty(self._rows, n)  # by rows here: columns there
        self._T = self._place.empty(most, self._rows)
        self._work = self._place.empty(self._cuda.lanczos_workspace(n, self._rows))
        library.assign(self._V, slice(0, WIDTH), first.T.copy())
        library.assign(self._T, slice(None), 0.0)

    def advance(self, first: int, last: int) -> None:
        """As `Steps.advance`."""
        self._place.run(
            self._cuda.lanczos, n=self.n, A=self._A, V=self._V, width=WIDTH, first=first, last=last,
            T=self._T, rows=self._rows, work=self._work,
        )  # fmt: skip

    def projection(self, k: int) -> FloatArray:
        """As `Steps.projection`."""
        return np.asarray(self._library.to_numpy(self._T[:k]).T[: k + WIDTH])

    def combine(self, coefficients: FloatArray) -> Any:
        """As `Steps.combine`; the vectors are the rows of the result."""
        k, count = coefficients.shape
        S, out = self._place.empty(count, k), self._place.empty(count, self.n)
        self._library.assign(S, slice(None), np.ascontiguousarray(coefficients.T))
        self._place.run(self._cuda.combine, n=self.n, V=self._V, k=k, S=S, count=count, out=out)
        return out


# ---- large matrices ----


class Large(NamedTuple):
    """Simple ends, and their vectors (2, n) on the device."""

    spectrum: _core.Spectrum
    vectors: Any


_Found = tuple[int, float, float, Any]  # rank, both ends, and their vectors


class LargeMatrix:
    """A symmetric positive semidefinite matrix H (n x n, float64) whose ends are wanted.

    With `rows` it is a Gram matrix of ours, of so many, and `rule` that of its features.
    """

    def __init__(
        self, H: Any, n: int, library: Library, device: int, *, rule: Rule, rows: int = 0
    ) -> None:
        self.H, self.n, self.library, self.place = H, n, library, Place(library, device)
        self.rule, self.formed, self.tolerance = rule, rows > 0, _core.reduction_noise(n)
        self.noise = _core.reduction_noise(max(n, rows))  # cuBLAS sums the rows in one go
        self.floor = 0.0

    def ends(self, p: int) -> Large | None:
        """Return both ends, or None where they are not for these methods.

        `p` counts as in the core. This waits for the device at every look at the projection.
        """
        squares, rest, top_entry = self._measured()
        if not 1.0 / _IN_RANGE < top_entry < _IN_RANGE:
            return None
        if self.rule.rounded > 0.0:
            self.floor = (
                _core.gram_floor(rule=self.rule, trace=float(self.H.trace()))
                if self.formed
                else _core.matrix_floor(rule=self.rule, squares=squares)
            )
        full = self.rule.rank in (0, self.n)
        found = self._iterated(start(self.n, squares, rest)) if full else None
        if found is None:
            found = self._direct()
        if found is None or not self._carries(*found[:3]):
            return None
        rank, sigma_max, sigma_min, vectors = found
        spectrum = _core.Spectrum.of_squares(
            p={_core.ALL_VALUES: self.n, _core.NONZERO_VALUES: rank}.get(p, p),
            rank=rank,
            sigma_max=sigma_max,
            sigma_min=sigma_min,
            squares=squares,
            rest=rest,
        )
        return Large(spectrum, vectors)

    # ---- the rules of spectrum.hpp for this matrix ----

    def _cut(self, sigma_max: float) -> float:
        rtol = _core.gram_rtol(rule=self.rule, noise=self.noise) if self.formed else self.rule.rtol
        return _core.cut(rtol=rtol, sigma_max=sigma_max, floor=self.floor)

    def _width(self, sigma: float, sigma_max: float) -> float:
        return _core.tie_width(
            sigma=sigma,
            sigma_max=sigma_max,
            noise=self.noise * sigma_max,
            precision=self.rule.precision,
            features=self.formed,
        )

    def _simple(self, value: float, following: float, error: float, sigma_max: float) -> bool:
        return _core.clearly_simple(
            distance=abs(value - following), width=self._width(value, sigma_max), error=error
        )

    def _carries(self, rank: int, sigma_max: float, sigma_min: float) -> bool:
        """Return whether the matrix shows the rank, and carries the digits of sigma_min."""
        if not self.formed:
            return self.noise * sigma_max < sigma_min / 2
        return _core.gram_carries(
            rule=self.rule, sigma_max=sigma_max, sigma_min=sigma_min, rank=rank, n=self.n,
            noise=self.noise, floor=self.floor,
        )  # fmt: skip

    # ---- the methods ----

    def _measured(self) -> tuple[float, float, float]:
        """Return the sum of squares in two parts, and the largest magnitude, infinite for NaN."""
        cuda = _device.bound_module()
        out = self.place.empty(cuda.PARTS, 3)
        self.place.run(cuda.measure, count=self.n**2, x=self.H, out=out)
        parts = self.library.to_numpy(out)
        if not np.isfinite(parts).all():
            return 0.0, 0.0, math.inf
        sums = parts[:, :2].ravel().tolist()
        squares = math.fsum(sums)
        return squares, math.fsum([*sums, -squares]), float(parts[:, 2].max())

    def _iterated(self, first: FloatArray) -> _Found | None:
        top = largest(DeviceSteps(self.H, first, self.n, *self.place), self.tolerance)
        inverse = None if top is None else self._inverse()
        if top is None or inverse is None:
            return None
        below = largest(DeviceSteps(inverse, first, self.n, *self.place), self.tolerance)
        if below is None:
            return None
        bottom, following, error = below.inverted()
        simple = self._simple(top.value, top.next, top.next_error, top.value) and self._simple(
            bottom, following, error, top.value
        )
        if not simple or (self.rule.rank == 0 and bottom <= self._cut(top.value)):
            return None
        vectors = self.place.empty(2, self.n)
        vectors[0], vectors[1] = top.vectors[0], below.vectors[0]
        return self.n, top.value, bottom, vectors

    def _inverse(self) -> Any:
        """Return the inverse (in its lower triangle), or None where H is not definite."""
        cuda, empty = _device.bound_module(), self.place.empty
        A = empty(self.n, self.n)
        A[:] = self.H
        size = cuda.inverse_workspace(self.n, self.library.address(A), self.place.device)
        work, info = empty(size), empty(2, dtype="int32")
        self.place.run(cuda.inverse, n=self.n, a=A, work=work, size=size, info=info)
        return A if not self.library.to_numpy(info).any() else None

    def _direct(self) -> _Found | None:
        cuda, empty, at, n = _device.bound_module(), self.place.empty, self.library.address, self.n
        A, w = empty(n, n), empty(n)
        A[:] = self.H
        size = cuda.syevd_workspace(n, at(A), at(w), self.place.device)
        work, info = empty(size), empty(1, dtype="int32")
        self.place.run(cuda.syevd, n=n, a=A, w=w, work=work, size=size, info=info)
        if self.library.to_numpy(info).any():
            return None
        values = self.library.to_numpy(w)[::-1]
        top, known = float(values[0]), self.rule.rank
        if self.formed:
            allowed = _core.largest_negative(n, 0.0) * top
        else:  # negative eigenvalues are singular values where they count
            allowed = max(0.0, values[known - 1]) if known else self._cut(top)
        if not top > 0.0 or values[-1] < -allowed:
            return None
        k = known or max(1, int(np.count_nonzero(values > self._cut(top))))
        if k == 1:  # all nonzero eigenvalues are equal: others know what to do
            return None
        bottom = abs(float(values[k - 1]))
        at_top = np.count_nonzero(values[:k] > top - self._width(top, top))
        at_bottom = np.count_nonzero(values[:k] <= bottom + self._width(bottom, top))
        if at_top > 1 or at_bottom > 1:
            return None
        vectors = empty(2, n)
        vectors[0], vectors[1] = A[n - 1], A[n - k]  # columns there: rows here
        return k, top, bottom, vectors
