"""Erasure: the map of a given rank that outputs feel least, and nothing brings back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt
import scipy.linalg

from .._display import Curves, Line
from .._errors import underflow_is_zero
from .._rank import largest_negative, largest_skew
from .._task import Root, root_of_gram
from .._validate import (
    FloatArray,
    as_count,
    as_float64,
    as_heads,
    as_matrix,
    as_rows,
    check_real,
)
from ._worths import Worths


@dataclass(frozen=True, eq=False)
class Erasure(Worths):
    """``Z @ erasure`` keeps `rank` directions of the features; ``E = left right^T``, ``E E = E``.

    Attributes
    ----------
    left, right : (d, r) array
        Factors, ``right^T left = I``.
    price : float
        Of harmful variance, in units of `cost`: a direction stays where it is worth more. Infinite
        for a rank that no finite price leaves.
    values : (rank of K_P,) array
        What the directions that matter most are worth to the outputs, descending, in units of
        ``tr(G K_P)``: the eigenvalues of ``G K_P``.
    cost : float
        ``tr G (E - I)^T K_P (E - I)``: what the outputs of the primary task change by.
    kept : float
        Share of the harmful variance, in units of the primary's, that is left.
    """

    left: FloatArray = field(repr=False)
    right: FloatArray = field(repr=False)
    price: float
    values: FloatArray = field(repr=False)
    cost: float
    kept: float

    @property
    def rank(self) -> int:
        """Directions that are kept, r."""
        return int(self.left.shape[1])

    @property
    def shape(self) -> tuple[int, int]:
        """``(d, d)``."""
        return (self.left.shape[0],) * 2

    @property
    def bound(self) -> float:
        """Least `cost` of any map of this rank: the sum of `values` beyond it."""
        return float(self.values[self.rank :].sum())

    @property
    def total(self) -> float:
        """``tr(G K_P)``, the cost of erasing everything."""
        return float(self.values.sum())

    @property
    def theta(self) -> FloatArray:
        """(d, d) array E."""
        return np.asarray(self.left @ self.right.T)

    def __rmatmul__(self, Z: npt.ArrayLike) -> FloatArray:
        return np.asarray((as_rows(Z, self.shape[0], "Z") @ self.left) @ self.right.T)

    def __matmul__(self, omega: npt.ArrayLike) -> FloatArray:
        return np.asarray(self.left @ (self.right.T @ as_heads(omega, self.shape[0])))

    # NumPy leaves the product Z @ erasure to us.
    __array_ufunc__ = None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> FloatArray:
        if copy is False:
            raise ValueError("a map of low rank becomes an array by a copy alone")
        return self.theta.astype(np.float64 if dtype is None else dtype, copy=False)

    def __repr__(self) -> str:
        return (
            f"Erasure(rank {self.rank} of {self.shape[0]}, cost {self.cost:.3g} of "
            f"{self.total:.3g} (bound {self.bound:.3g}), price {self.price:.3g})"
        )

    def _worths(self) -> FloatArray:
        return self.values

    def _curves(self) -> Curves:
        drawn, style = super()._curves(), {"marker": "D", "linestyle": "none"}
        kept = Line("this map", [self.rank], [self.cost], style=style)
        return replace(drawn, lines=[*drawn.lines, kept])


@underflow_is_zero
def erasure(
    K_P: npt.ArrayLike,
    G: npt.ArrayLike,
    rank: SupportsIndex | None = None,
    *,
    price: float | None = None,
    K_H: npt.ArrayLike | None = None,
    computed_in: Any = None,
) -> Erasure:
    r"""Keep the directions of features that the outputs need, and erase all others.

    Features of the primary task with second moment :math:`K_P = E[z z^T]` move the outputs by
    :math:`E \|J (E^T - I) z\|^2 = \operatorname{tr} G (E - I)^T K_P (E - I)` to first order,
    :math:`G = E[J^T J]` for the outputs' Jacobian J. With :math:`K_P = R^T R` the maps

    .. math::

        E = R^+ V V^T R, \qquad V \text{ orthonormal}

    are what the choice is among: projectors along the primary metric. For the `rank` leading
    eigenvectors V of :math:`R G R^T` the cost is the least of all maps of that rank, projectors or
    not: the sum of the other eigenvalues, which are those of :math:`G K_P`.

    With harmful features those directions go first in which harmful variance is largest beside the
    primary one: of all V, the columns minimize the cost plus `price` times
    :math:`\operatorname{tr} V^T (R^{+T} K_H R^+) V`.

    Parameters
    ----------
    K_P : (d, d) array_like
        Second moment of the primary features, per row (centred, where their mean is kept).
    G : (d, d) array_like
        Second moment of the outputs' gradients by these features, per row.
    rank : int, optional
        Directions to keep, from 0 to d; or give `price`.
    price : float, optional
        Directions stay whose worth to the outputs is more than this for a unit of harmful variance
        relative to the primary one; without `K_H` each direction counts as one.
    K_H : (d, d) array_like, optional
        Second moment of the harmful features, per row, with whatever weighs more in it, such as
        that of the means of classes. It may be singular.
    computed_in : dtype_like, optional
        The precision in which the features of `K_P` were computed, where it is not that of `K_P`.

    Returns
    -------
    Erasure

    Raises
    ------
    ValueError
        For NaN, sizes that differ, matrices that are not symmetric positive semidefinite, a `K_P`
        of zeros, products beyond the range of float64, a rank beyond d, a negative price, and
        neither or both of rank and price.

    Notes
    -----
    Ours as a defence; the bound is that of Eckart and Young in the metrics of both sides, and the
    same projector truncates a balanced linear system (Moore, 1981: K_P and G are its Gramians).
    An invertible map A of the features takes it to :math:`A^{-1} E A`, on the primary rows where
    `K_P` is singular: no gauge moves what is erased. Directions that no primary row uses are erased
    at no cost, so that the rank is that of `K_P` at most; those below the tolerance of its rank
    count as such, and are in no cost, whatever G says of them. No inverse of G is taken.

    Without `K_H` the maps of all prices share their directions. With it, a given rank r has the
    least price at which no more than r directions stay: the (r + 1)-th eigenvalue of the pencil, or
    infinity where more than r of some worth have no harm. Directions that are worth nothing stay
    where a rank asks for them, those of least harm.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> K_P, G = np.diag([4.0, 1.0, 1.0]), np.diag([1.0, 2.0, 0.1])
    >>> E = ic.linear.erasure(K_P, G, 2)
    >>> E.theta
    array([[1., 0., 0.],
           [0., 1., 0.],
           [0., 0., 0.]])
    >>> round(E.cost, 12), round(E.bound, 12)
    (0.1, 0.1)

    The harmful rows use the second direction most:

    >>> E = ic.linear.erasure(K_P, G, price=0.25, K_H=np.diag([1.0, 10.0, 0.1]))
    >>> E.theta.diagonal()
    array([1., 0., 1.])
    """
    if (rank is None) == (price is None):
        raise ValueError("give either rank or price")
    path = erasure_path(K_P, G, K_H=K_H, computed_in=computed_in)
    return path.keeping(rank) if rank is not None else path.at(price)  # type: ignore[arg-type]


@dataclass(frozen=True, eq=False)
class ErasurePath(Worths):
    """Erasures of the same features, by price or rank: what they share is computed once.

    Four (d, d) matrices where K_P is definite, and five where it is not.

    Attributes
    ----------
    root : Root
        Of K_P.
    basis : (k, k) array
        Orthonormal vectors by which harm is diagonal, k the rank of K_P; without harmful features
        by which worth is, descending.
    values : (k,) array
        Eigenvalues of worth, descending.
    pencil : ((k, k) array, (k,) array) or None
        Worth and the diagonal of harm by the basis, ascending; None without harmful features.
    """

    root: Root = field(repr=False)
    basis: FloatArray = field(repr=False)
    values: FloatArray = field(repr=False)
    pencil: tuple[FloatArray, FloatArray] | None = field(repr=False)

    @property
    def dim(self) -> int:
        """Number of features, d."""
        return self.root.dim

    def __repr__(self) -> str:
        harm = "" if self.pencil is None else ", with harmful features"
        return (
            f"ErasurePath({self.root.rank} of {self.dim} directions, total {self.total:.3g}{harm})"
        )

    def _worths(self) -> FloatArray:
        return self.values

    @property
    def worth(self) -> FloatArray:
        """(k, k) array ``R G R^T``: what each direction is worth to the outputs."""
        by_basis = np.diag(self.values) if self.pencil is None else self.pencil[0]
        return np.asarray(self.basis @ by_basis @ self.basis.T)

    @property
    def harm(self) -> FloatArray | None:
        """(k, k) array ``R^+T K_H R^+``; None for the identity."""
        if self.pencil is None:
            return None
        return np.asarray((self.basis * self.pencil[1]) @ self.basis.T)

    @property
    def total(self) -> float:
        """``tr(G K_P)``."""
        return float(self.values.sum())

    @property
    def _rounding(self) -> float:
        """What is worth no more than this is worth nothing."""
        return float(4.0 * np.finfo(np.float64).eps * self.root.rank * self.total)

    @underflow_is_zero
    def at(self, price: float) -> Erasure:
        """Return the erasure of a price, at least 0."""
        paid = check_real(price, "price", low=0.0)
        s, U = self._at(paid)
        # What is worth nothing but for rounding is not kept, at a price of 0 either.
        return self._made(U, int(np.count_nonzero(s > self._rounding)), paid)

    @underflow_is_zero
    def keeping(self, rank: SupportsIndex) -> Erasure:
        """Return the erasure that keeps so many directions, from 0 to d."""
        keep = as_count(rank, "rank", least=0)
        if keep > self.dim:
            raise ValueError(f"rank must be at most {self.dim}, the features, and is {keep}")
        keep = min(keep, self.root.rank)
        paid = self._least_price(keep)
        return self._made(self._at(paid)[1], keep, paid)

    def _at(self, price: float) -> tuple[FloatArray, FloatArray | None]:
        """Eigenvalues of ``worth - price harm``, descending, and vectors by the basis.

        At infinity their limit; None where the vectors are those of the basis.
        """
        if self.pencil is None:
            return self.values - price, None
        worth, h = self.pencil
        if price == 0.0:
            s, U = (found[..., ::-1] for found in np.linalg.eigh(worth))
            # What is worth nothing is kept where a rank asks for it, the least harmful first.
            last = U[:, s <= self._rounding]
            _, turn = np.linalg.eigh(last.T @ (h[:, None] * last))
            return s, np.hstack((U[:, s > self._rounding], last @ turn))
        # Inverted about 2 tr(worth), where it is definite and harm of any size keeps its digits.
        sigma = 2.0 * self.total or 1.0
        with np.errstate(over="ignore", divide="ignore"):
            paid = np.zeros_like(h)
            paid[h > 0.0] = h[h > 0.0] * np.longdouble(price) / sigma
            unit = 1.0 / np.sqrt(1.0 + paid)
            near = np.linalg.inv(np.eye(h.size) - unit[:, None] * (worth / sigma) * unit)
            mu, U = np.linalg.eigh(unit[:, None] * near * unit)
            s = sigma * (1.0 - 1.0 / np.maximum(mu, 0.0))
        return s[::-1], U[:, ::-1]

    def _least_price(self, keep: int) -> float:
        """Return the (keep + 1)-th largest eigenvalue of the pencil worth - price harm."""
        if keep >= self.root.rank:
            return 0.0
        if self.pencil is None:
            return float(self.values[keep])
        by_basis, h = self.pencil
        free = int(np.count_nonzero(h == 0.0))
        if keep < np.count_nonzero(np.linalg.eigvalsh(by_basis[:free, :free]) > self._rounding):
            return math.inf
        if free == h.size or self.values[keep] <= self._rounding:
            return 0.0
        # As shares of both together, so that harm may be singular; what both lack counts as harm.
        worth, harm = by_basis / self.total, np.diag(h / h.sum())
        both = worth + harm + np.finfo(np.float64).eps * h.size * np.eye(h.size)
        at = h.size - 1 - keep
        _, X = scipy.linalg.eigh(worth, both, subset_by_index=(at, at))
        x = X[:, 0]
        ratio = np.longdouble(max(float(x @ worth @ x), 0.0)) / float(x @ harm @ x)
        with np.errstate(over="ignore"):
            found = float(ratio * self.total / float(h.sum()))
        if not math.isfinite(found) or (ratio > 0.0 and found < np.finfo(np.float64).tiny):
            raise ValueError("the price is beyond the range of float64: give K_H in other units")
        return found

    def _made(self, U: FloatArray | None, rank: int, price: float) -> Erasure:
        if self.pencil is None or U is None:
            V, kept = self.basis[:, :rank], rank / self.root.rank
            cost = float(self.values[rank:].sum())
        else:
            (worth, h), U = self.pencil, U[:, :rank]
            V = self.basis @ U
            kept = float(h @ np.sum(U**2, axis=1)) / (float(h.sum()) or 1.0)
            cost = max(float(np.trace(worth)) - float(np.sum(U * (worth @ U))), 0.0)
        return Erasure(
            left=self.root.unwhitened(V),
            right=self.root.matrix.T @ V,
            price=price,
            values=self.values,
            cost=cost,
            kept=kept,
        )


@underflow_is_zero
def erasure_path(
    K_P: npt.ArrayLike,
    G: npt.ArrayLike,
    *,
    K_H: npt.ArrayLike | None = None,
    computed_in: Any = None,
) -> ErasurePath:
    """Return all erasures of the same features; arguments and errors as those of `erasure`.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> path = ic.linear.erasure_path(np.diag([4.0, 1.0, 1.0]), np.eye(3))
    >>> [path.at(price).rank for price in (0.5, 2.0, 8.0)], path.keeping(1).price
    ([3, 1, 0], 1.0)
    """
    root = root_of_gram(K_P, "K_P", computed_in=computed_in)
    unit, size = _psd(G, "G", root.dim, computed_in)
    worth = _in_units(root.matrix @ unit @ root.matrix.T, root.scale**2, size, "G K_P")
    if K_H is None:
        s, V = np.linalg.eigh(worth)
        return ErasurePath(root, V[:, ::-1].copy(), np.maximum(s[::-1], 0.0), None)
    unit, size = _psd(K_H, "K_H", root.dim, computed_in)
    within = root.whitened(root.whitened(unit).T)
    h, Q = np.linalg.eigh(_in_units(within, root.scale**-2, size, "K_H K_P^-1"))
    h = np.where(h > np.finfo(np.float64).eps * h.size * h[-1], h, 0.0)
    values = np.maximum(np.linalg.eigvalsh(worth)[::-1], 0.0)
    return ErasurePath(root, Q, values, (Q.T @ worth @ Q, h))


def _psd(A: npt.ArrayLike, name: str, d: int, computed_in: Any) -> tuple[FloatArray, float]:
    """Return a semidefinite matrix of the size of K_P with entries up to 1, and the unit."""
    given = as_matrix(A, name)
    found = as_float64(given, name)
    if found.shape != (d, d):
        raise ValueError(f"{name} must have shape ({d}, {d}), as K_P, and has {found.shape}")
    size = float(np.abs(found).max()) or 1.0
    found = found / size
    precision = given.dtype if computed_in is None else computed_in
    skew = float(np.abs(found - found.T).max())
    if skew > max(1e-8, largest_skew(d, precision)):
        raise ValueError(f"{name} must be symmetric, and max|A - A^T| is {skew * size:.3g}")
    found = 0.5 * (found + found.T)
    least, most = scipy.linalg.eigvalsh(found)[[0, -1]]
    if least < -max(1e-8, largest_negative(d, precision)) * max(most, 1.0):
        raise ValueError(
            f"{name} must be positive semidefinite, and has the eigenvalue {least * size:.3g}"
        )
    return found, size


def _in_units(A: FloatArray, one: float, other: float, name: str) -> FloatArray:
    """Return the symmetric matrix times both units, if float64 holds it."""
    with np.errstate(over="ignore"):
        found = 0.5 * (A + A.T) * one * other
    if not np.isfinite(found).all() or (A.any() and not found.any()):
        raise ValueError(f"{name} is beyond the range of float64: give both in other units")
    return found
