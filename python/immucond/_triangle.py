"""R factors, which keep what a Gram matrix loses: of arrays, and of streams of rows."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import reduce
from typing import Any, ClassVar, Self, SupportsIndex

import numpy as np
import numpy.typing as npt

from . import _core
from ._accumulator import Accumulator, need_rows, wider
from ._errors import underflow_is_zero
from ._extreme import ExtremePairs, pairs_of_features, pairs_of_triangle
from ._products import RowProduct
from ._validate import Array, FloatArray, as_count

# Relative to the largest entry: a singular value below it has a kappa beyond the float range.
_DUST = 1e-154
# Where columns of so large entries end cannot be told: their norms leave the range of float64.
_LARGEST = 2.0**1000


def triangular(X: FloatArray) -> FloatArray:
    """R factor of X, or X itself where it has no more rows than columns."""
    return X if X.shape[0] <= X.shape[1] else triangle(X)


@underflow_is_zero
def triangle(X: Array) -> FloatArray:
    """R factor of X, which has as many rows as columns at least.

    Reduced by blocks of rows in a tree, so that its rounding does not grow with their number.

    Columns that repeat leave entries of 1e-16, 1e-32, ... down to subnormal ones, on which LAPACK's
    SVD spends a hundred times its time; they are set to zero.
    """
    return _without_dust(_core.triangle(X))


@underflow_is_zero
def joined(upper: FloatArray, lower: FloatArray) -> FloatArray:
    """R factor of the rows of two triangles, at a fifth of the time of those of 2 m other rows."""
    return _without_dust(_core.joined_triangles(upper, lower))


def _without_dust(R: FloatArray) -> FloatArray:
    R[np.abs(R) < _DUST * np.max(np.abs(R))] = 0.0
    return R


def condensed(X: FloatArray, y: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return at most d + c rows for which every ``||X v - y||_F`` is what it was.

    They are the R factor of [X y]; unlike ``X^T X`` and ``X^T y`` it squares nothing.
    """
    d = X.shape[1]
    if X.shape[0] <= d + y.shape[1]:
        return X, y
    R = triangular(np.hstack([X, y]))
    return R[:, :d], R[:, d:]


class TriangleAccumulator(Accumulator):
    """The R factor of a stream of row blocks, which keeps what their Gram matrix loses.

    ``R^T R = X^T X`` for all rows X so far, but nothing was squared: sigma_min of ``X^T X`` keeps
    ``16 - log10(kappa) / 2`` digits where that of a Gram matrix keeps ``16 - log10(kappa)``. A
    monoid: rows may come in blocks of any size, in any order, and from other accumulators.

    Rows are reduced by leaves of ``max(4 d, 2^13 / d)``, and the triangles in pairs, as in a binary
    counter: rounding grows with the logarithm of the number of rows, and the bits do not depend on
    where a stream was cut into blocks. Less than a leaf of rows is held as it came, in float64,
    beside at most ``1 + log2(N / 4 d)`` triangles.

    Parameters
    ----------
    d : int
        Number of columns of every block.

    See Also
    --------
    GramAccumulator : A fifth of the time, where half of the digits will do.

    References
    ----------
    Demmel, Grigori, Hoemmen, Langou (2012), Communication-optimal parallel and sequential QR and LU
    factorizations.

    Examples
    --------
    >>> import immucond as ic
    >>> first = ic.TriangleAccumulator(2).update([[1.0, 0.0]])
    >>> second = ic.TriangleAccumulator(2).update([[0.0, 1e-9]])
    >>> first.merge(second).R
    array([[1.e+00, 0.e+00],
           [0.e+00, 1.e-09]])
    >>> pairs = first.pairs()
    >>> f"{pairs.condition_number:.6e}", pairs.rank
    ('1.000000e+18', 2)
    """

    _ARRAYS: ClassVar[Mapping[str, str]] = {
        "rows": "float64",
        "triangles": "float64",
        "levels": "int64",
    }

    _reduced: tuple[Any, Any, FloatArray] | None = None  # rows, triangles, and the R made of them

    def __init__(self, d: int) -> None:
        super().__init__(d)
        self._leaf = max(4 * self._d, (1 << 13) // self._d)
        # Both are replaced and never changed, so that a failure leaves them, and copies are apart.
        self._rows: tuple[FloatArray, ...] = ()  # fewer than a leaf's
        self._triangles: dict[int, FloatArray] = {}  # of 2^level leaves

    @property
    def R(self) -> FloatArray:
        """The R factor of all rows so far, shape (d, d), float64.

        Upper triangular, rows beyond the `count` zero, and the first entry of each row that is not
        zero positive: for rows of full column rank there is one such matrix. Entries below 1e-154
        of the largest are zero.
        """
        R = self._factor()
        first = np.take_along_axis(R, np.argmax(R != 0.0, axis=1)[:, None], axis=1)
        return np.where(first < 0.0, -R, R) + 0.0  # no -0.0

    def leading(self, d: SupportsIndex) -> TriangleAccumulator:
        """Return an accumulator of the first `d` columns, as if they alone had come.

        What stands behind them, such as a column of ones that tells the means, is left out.

        Raises
        ------
        ValueError
            Where `d` is below 1, or beyond the width.

        Examples
        --------
        >>> import immucond as ic
        >>> both = ic.TriangleAccumulator(2).update([[3.0, 1.0], [4.0, 1.0]])
        >>> both.leading(1).R
        array([[5.]])
        """
        width = as_count(d, "d", least=1)
        if width > self._d:
            raise ValueError(f"d must be at most the width, {self._d}, and is {width}")
        found = TriangleAccumulator(width)
        found._triangles = {level: R[:width, :width] for level, R in self._triangles.items()}
        for rows in self._rows:
            found._rows, found._triangles = found._with(rows[:, :width], found._triangles)
        found._counted(self._count, self._dtype)
        return found

    def pairs(
        self,
        *,
        rows: Sequence[npt.ArrayLike] | None = None,
        group: Any = None,
        computed_in: Any = None,
        **keywords: Any,
    ) -> ExtremePairs:
        """Return the extreme eigenpairs of ``H = X^T X`` for all rows X so far.

        Parameters
        ----------
        rows : sequence of array_like, optional
            The blocks again, where they are still at hand, of d rows at least: the small end is
            refined by them, to full precision up to kappa(H) of about 1e24. A step reads them once.
        group : torch.distributed.ProcessGroup or DeviceMesh, optional
            The ranks whose rows `all_reduce` brought together; then `rows` are this rank's (none:
            an empty list), and a step gathers d numbers twice from each.
        computed_in : dtype_like, optional
            The precision in which the rows were computed, which sets the default `rtol`; by default
            the coarsest dtype they had.
        **keywords
            The others of `feature_extreme_pairs`; with `rows` its rank, rtol, tol and method
            ("auto", "qr" or "jacobi").

        Returns
        -------
        ExtremePairs
            Bounds hold for the rows themselves: they allow for the rounding of R (Notes).

        Raises
        ------
        ValueError
            Where there are no rows, or all are zero, or an option is out of range.

        Warns
        -----
        DegenerateSpectrumWarning, AccuracyWarning
            As in `feature_extreme_pairs`.

        Notes
        -----
        Householder's QR is backward stable by columns (Higham 2002, Theorem 19.4): R is the exact
        factor of ``X + E`` with ``||E_j|| <= t c ||X_j||`` after t reductions, for c the rounding
        that the library allows for in one of them. So a singular value of X is within
        ``e = ||E||_F`` of that of R (Weyl), and for full rank also within the relative ``||E R^+||
        <= t c sqrt(d) / sigma_min(R D^-1)``, D the norms of the columns (Eisenstat and Ipsen 1995):
        columns of different scales cost nothing.

        Examples
        --------
        >>> import immucond as ic
        >>> graded = ic.TriangleAccumulator(2).update([[1.0, 1e-12], [1.0, -1e-12]])
        >>> pairs = graded.pairs()
        >>> f"{pairs.condition_number:.6e}", pairs.bound_min < 1e-12 * pairs.sigma_min
        ('1.000000e+24', True)
        """
        need_rows(self)
        R = self._factor()[: min(self._count, self._d)]
        given = self._dtype if computed_in is None else computed_in
        if rows is not None and len(R) == self._d:
            dust = math.sqrt(self._d) * _dust(float(np.abs(R).max()))
            lost = self._reductions() * (_noise(self._d) + dust)
            product = RowProduct(rows, self._d, group)
            if product.count != self._count:
                raise ValueError(
                    f"rows must be the {self._count} that were accumulated, and are {product.count}"
                )
            return pairs_of_triangle(R, self._count, lost, product, computed_in=given, **keywords)
        pairs = pairs_of_features(R, "X", computed_in=given, **keywords)
        return wider(pairs, *_rounding(R, self._reductions(), pairs))

    def _factor(self) -> FloatArray:
        """R factor of all rows so far, padded with zeros to be square; made once."""
        held = self._reduced
        if held is None or held[0] is not self._rows or held[1] is not self._triangles:
            held = self._reduced = (self._rows, self._triangles, self._joined_parts())
        return held[2]

    def _joined_parts(self) -> FloatArray:
        parts = [R for _, R in sorted(self._triangles.items())]
        if self._rows or not parts:
            rows = np.vstack([*self._rows, np.zeros((0, self._d))])
            missing = max(0, self._d - len(rows))
            parts.insert(0, triangle(np.pad(rows, ((0, missing), (0, 0)))))
        return reduce(joined, parts)

    def _reductions(self) -> int:
        """How many reductions a row has gone through to R, at most."""
        parts = len(self._triangles) + (1 if self._rows or not self._triangles else 0)
        return _reductions(self._leaf, self._d) + max(self._triangles, default=0) + parts - 1

    def _add(self, rows: Array) -> None:
        for end in (rows.min(), rows.max()):
            if not math.isfinite(end):
                _core.gram(rows)  # refuses them, and says where
            if abs(float(end)) > _LARGEST:
                raise OverflowError(f"X holds {end:g}, beyond {_LARGEST:.2g}; scale the rows down")
        self._rows, self._triangles = self._with(rows, self._triangles)

    def _join(self, other: Self) -> None:
        triangles = self._triangles
        for level, R in sorted(other._triangles.items()):
            triangles = _carried(triangles, level, R)
        held = self._rows, triangles
        for rows in other._rows:
            held = self._with(rows, held[1], held[0])
        self._rows, self._triangles = held

    def _with(
        self,
        rows: Array,
        triangles: dict[int, FloatArray],
        held: tuple[FloatArray, ...] | None = None,
    ) -> tuple[tuple[FloatArray, ...], dict[int, FloatArray]]:
        """Return what would be held with these rows: a leaf is reduced as soon as it is full."""
        held = self._rows if held is None else held
        filled, at = sum(map(len, held)), 0
        while at < len(rows):
            piece = rows[at : at + self._leaf - filled]
            at += len(piece)
            filled += len(piece)
            if filled < self._leaf:
                # A copy: a stream may write its next block over this one.
                return (*held, piece.astype(np.float64)), triangles
            leaf = np.vstack([*held, piece]) if held else piece
            triangles = _carried(triangles, 0, triangular(leaf))
            held, filled = (), 0
        return held, triangles

    def _depth(self) -> int:
        return self._reductions()

    def _packed(self) -> FloatArray:
        return self._factor()[np.triu_indices(self._d)]

    def _joined(self, first: FloatArray, second: FloatArray) -> FloatArray:
        pair = np.zeros((2, self._d, self._d))
        upper, columns = np.triu_indices(self._d)
        pair[:, upper, columns] = first, second
        return joined(*pair)[upper, columns]

    def _unpack(self, packed: FloatArray, depth: int) -> None:
        R = np.zeros((self._d, self._d))
        R[np.triu_indices(self._d)] = packed
        level = max(0, depth - _reductions(self._leaf, self._d))
        self._rows, self._triangles = (), {level: R}

    def _arrays(self) -> dict[str, Array]:
        levels = sorted(self._triangles, reverse=True)
        none = np.zeros((0, self._d))
        return {
            "rows": np.vstack([none, *self._rows]),
            "triangles": np.array([self._triangles[level] for level in levels]).reshape(
                -1, self._d, self._d
            ),
            "levels": np.array(levels, dtype=np.int64),
        }

    def _restore(self, arrays: dict[str, Array], count: int) -> None:
        rows, triangles, levels = (arrays[name] for name in self._ARRAYS)
        if len(rows) >= self._leaf:
            raise ValueError(f"rows must be fewer than {self._leaf}, and have shape {rows.shape}")
        if triangles.shape != (levels.size, self._d, self._d) or levels.ndim != 1:
            raise ValueError(
                f"triangles must have shape {(levels.size, self._d, self._d)}, one a level, and "
                f"have shape {triangles.shape}"
            )
        if np.any(np.tril(triangles, -1)):
            raise ValueError("triangles must be zero below their diagonals, and are not")
        if np.any(np.diff(levels) >= 0) or np.any(levels < 0) or np.any(levels > 62):
            raise ValueError(f"levels must descend from at most 62 to 0, and are {levels.tolist()}")
        least = len(rows) + levels.size
        if count < least or (levels.size == 0 and count > least):
            raise ValueError(f"count must be that of the rows held, and is {count}")
        self._rows = (rows,) if len(rows) else ()
        self._triangles = dict(zip(levels.tolist(), triangles, strict=True))


def _carried(triangles: dict[int, FloatArray], level: int, R: FloatArray) -> dict[int, FloatArray]:
    """Add a triangle of 2^level leaves, as a binary counter adds a digit."""
    rest = dict(triangles)
    while level in rest:
        R = joined(rest.pop(level), R)
        level += 1
    rest[level] = R
    return rest


def _rows_at_once(d: int) -> int:
    """Rows of a reduction within one kernel call, at most (cpp/src/qr.cpp)."""
    return max(128, 4 * d)


def _noise(d: int) -> float:
    """Return what one reduction leaves in a column, relative to its norm."""
    return max(_core.reduction_noise(_rows_at_once(d)), _core.qr_noise(d))


def _reductions(rows: int, d: int) -> int:
    """How many reductions a row goes through in the tree of one kernel call, at most."""
    return 1 + math.ceil(math.log2(max(1.0, rows / _rows_at_once(d))))


@underflow_is_zero
def _rounding(R: FloatArray, reductions: int, pairs: ExtremePairs) -> tuple[float, float]:
    """How far rounding has moved the largest and the smallest eigenvalue of R^T R, relatively."""
    d = R.shape[1]
    scale = float(np.abs(R).max())
    unit = R / scale
    norms = np.linalg.norm(unit, axis=0)
    # What is set to zero for being small, and what underflows.
    dust = math.sqrt(d) * _dust(scale)
    errors = reductions * (_noise(d) * norms + dust)
    largest = float(np.linalg.norm(unit @ pairs.v_max))
    smallest = largest / math.sqrt(pairs.condition_number)
    ends = np.array([largest, smallest])
    shares = np.linalg.norm(errors) / ends
    live = norms > 0.0
    # Only worth its time where the norm of the errors tells little.
    if pairs.rank == np.count_nonzero(live) and shares[1] > 1e-8:
        relative = np.linalg.norm(errors[live] / norms[live]) / _least(unit[:, live] / norms[live])
        shares = np.minimum(shares, relative + np.linalg.norm(errors[~live]) / ends)
    with np.errstate(over="ignore"):  # of subnormal rows nothing is known
        most, least = ((2.0 + shares) * shares).tolist()  # of their squares
    return most, least


def _dust(scale: float) -> float:
    """Return what is set to zero or underflows, relative to the largest entry."""
    return max(_DUST, float(np.finfo(np.float64).tiny) / scale) if scale > 0.0 else _DUST


def _least(columns: FloatArray) -> float:
    """Lower bound of the smallest singular value of unit columns; 1e-100 where there is none."""
    sigma = np.linalg.svd(columns, compute_uv=False)
    return max(1e-100, float(sigma[-1] - _core.reduction_noise(len(sigma)) * sigma[0]))
