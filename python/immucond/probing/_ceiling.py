"""The probe ceiling: how much of a task is read off features, whatever invertible map they had."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._display import Columns, Curves, Line, Plotted
from .._errors import underflow_is_zero
from .._format import plain
from .._labels import named, one_hot
from .._validate import Array, FloatArray, as_array, as_float64, as_matrix
from ._whitened import Whitened, blocks

RIDGES = tuple(10.0**k for k in range(-8, 9))
"""Ridges of the default grid, in units of the rows of the harmful task over the primary's."""

_ALONE = 1e-6  # a row whose leverage in least squares is nearer to 1 has a direction for itself
_EQUAL = 1e-4  # what differs by less, scores and, relatively, errors, may do so by rounding alone


@dataclass(frozen=True, eq=False)
class Ceiling(Plotted):
    """What a linear probe reads off features; ``print`` it for a line.

    Attributes
    ----------
    accuracy : float
        Share of the held-out rows that are put in their class, at `ridge`.
    ridge : float
        The best of `ridges` by `left_out`, of those that tie the largest: no held-out row was
        asked.
    majority : float
        What a constant guess of the most frequent training class gets of the held-out rows.
    rank, rank_P : int
        Numerical ranks of the centred features of the harmful and of the primary task.
    kappa : float
        Condition number of the centred harmful features' Gram matrix, over as many eigenvalues as
        `rank`.
    rho : float
        Label alignment, as `immucond.linear.alignment`. Neither it nor kappa are invariant.
    count : int
        Held-out rows, n.
    outside : float
        Share of the held-out rows that use directions which neither task's rows use: what the probe
        gives these depends on invertible maps of the features, and so does so much of the accuracy.
    predictions : (n,) array
        Class that the probe gives each held-out row.
    ridges : (k,) array
        All that were tried.
    left_out : (k,) array
        Share of the training rows that are put in their class by the probe that is trained on all
        others, by ridge: exact leave-one-out, in closed form.
    held_out : (k,) array
        Accuracy on the held-out rows by ridge.
    """

    accuracy: float
    ridge: float
    majority: float
    rank: int
    rank_P: int
    kappa: float
    rho: float
    count: int
    outside: float
    predictions: Array = field(repr=False)
    ridges: FloatArray = field(repr=False)
    left_out: FloatArray = field(repr=False)
    held_out: FloatArray = field(repr=False)

    @property
    def standard_error(self) -> float:
        """Of the accuracy, by the binomial law of so many held-out rows."""
        return math.sqrt(self.accuracy * (1.0 - self.accuracy) / self.count)

    @property
    def optimism(self) -> float:
        """How much more the ridge that is best on the held-out rows themselves would show."""
        return float(self.held_out.max()) - self.accuracy

    @property
    def told(self) -> str:
        """The accuracy with its standard error, marked where a map of the features can move it."""
        return f"{self.accuracy:.1%} ± {self.standard_error:.1%}{' !' if self.outside else ''}"

    def __str__(self) -> str:
        moved = f"; {self.outside:.1%} of the rows outside the span" if self.outside else ""
        return (
            f"ceiling {self.accuracy:.1%} ± {self.standard_error:.1%} (majority "
            f"{self.majority:.1%}), rank {self.rank}, kappa {self.kappa:.3g}, rho {self.rho:.3g}"
            f"{moved}"
        )

    def _caption(self) -> str:
        return str(self)

    def _columns(self) -> Columns:
        return {"ridge": self.ridges, "left_out": self.left_out, "held_out": self.held_out}

    def _curves(self) -> Curves:
        return Curves(
            "ridge, in the units of the rows",
            "accuracy, %",
            [
                Line("left out, on training rows", self.ridges, 100.0 * self.left_out),
                Line("held out", self.ridges, 100.0 * self.held_out),
            ],
            {"constant guess": 100.0 * self.majority},
            scales=("log", "linear"),
            ylim=(0.0, 100.0),
        )

    def as_dict(self) -> dict[str, Any]:
        """Every number as plain Python values, without the predictions."""
        names = ("accuracy", "standard_error", "optimism", "ridge", "majority", "rank", "rank_P",
                 "kappa", "rho", "count", "outside")  # fmt: skip
        found: dict[str, Any] = plain({name: getattr(self, name) for name in names})
        return found


@underflow_is_zero
def ceiling(
    Z: npt.ArrayLike,
    y: npt.ArrayLike,
    Z_P: npt.ArrayLike,
    *,
    held_out: tuple[npt.ArrayLike, npt.ArrayLike],
    ridges: Sequence[float] | FloatArray | None = None,
    rank: SupportsIndex | None = None,
    computed_in: Any = None,
) -> Ceiling:
    r"""Held-out accuracy of the best linear probe with a ridge in the primary task's metric.

    The probe is :math:`w = (K_H + \text{ridge}\, K_P)^{-1} Z^T Y` with
    :math:`K_H = Z^T Z` and :math:`K_P = Z_P^T Z_P`, of one-hot labels Y, all centred: a probe with
    an intercept. An invertible map A of the features takes each K to :math:`A^T K A` and w to
    :math:`A^{-1} w`: what is predicted stays. So no lock on the features lowers it, and what it
    shows, an attacker who whitens them gets.

    Parameters
    ----------
    Z : (N, m) array_like
        Harmful features to train on, one row a sample.
    y : (N,) array_like
        Their classes: integers, bools or strings.
    Z_P : (N_P, m) array_like
        Features of the primary task, without labels.
    held_out : ((n, m) array_like, (n,) array_like)
        Features and classes of other harmful rows, in which every class has a row.
    ridges : sequence of float, optional
        Positive numbers; by default the decades from 1e-8 to 1e8, times N / N_P. The best is
        chosen by leave-one-out accuracy on the training rows, among equals by squared error, and of
        those that are within 1e-4 of the least error, as rounding may be, it is the largest.
    rank : int, optional
        Rank of both tasks' centred features together, where it is known.
    computed_in : dtype_like, optional
        The precision in which the features were computed, where it is not their dtype: directions
        that are no more than its rounding are left out.

    Returns
    -------
    Ceiling

    Raises
    ------
    ValueError
        For NaN, other widths, fewer than two classes, classes that training or held-out rows lack,
        as many classes as rows, features that are constant, or ridges that are not positive.
    TypeError
        For labels that are no classes.

    Notes
    -----
    Ours; the ridge in the primary task's metric is what makes it invariant (a plain one is not).
    Both triangles of the (centred) features, made by QR, are stacked and whitened together, and
    what is left of the two is diagonal at once (the CS decomposition), :math:`C^2 + S^2 = I`: no
    Gram matrix is formed, and the probe is :math:`C / (C^2 + \text{ridge}\, S^2)` in each
    direction. One that no primary row uses, S = 0, costs nothing: there the probe is least squares,
    whatever the ridge. One that no harmful row uses, C = 0, has no weight.

    Singular values are compared with rounding in columns of unit norm (before they are centred), so
    that the units of single features do not matter. In float64 a map A changes scores by about
    :math:`\kappa(A)` units of rounding; in float32 the features themselves are rounded anew, and a
    map beyond ``1e5`` over their own condition number hides some.

    A held-out row that leaves the span of both tasks' rows, as all do where there are fewer rows
    than features, is judged by its part within, which a map moves: `Ceiling.outside` counts these
    rows, and no map changes the accuracy by more. More primary rows, which need no labels, help.

    The ridge is chosen, and the accuracy is taken, on different rows: `Ceiling.optimism` is what a
    choice on the held-out rows would add.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> rng = np.random.default_rng(0)
    >>> Z, Z_P = rng.standard_normal((400, 5)), rng.standard_normal((300, 5))
    >>> y = Z[:, 0] > 0
    >>> lock = rng.standard_normal((5, 5)) * [1, 10, 100, 1e3, 1e4]
    >>> found, locked = (
    ...     ic.probing.ceiling(Z[:200] @ A, y[:200], Z_P @ A, held_out=(Z[200:] @ A, y[200:]))
    ...     for A in (np.eye(5), lock)
    ... )
    >>> found.accuracy > 0.9, np.array_equal(found.predictions, locked.predictions)
    (True, True)
    >>> locked.kappa > 1e6 * found.kappa
    True
    """
    train, primary = as_matrix(Z, "Z"), as_matrix(Z_P, "Z_P")
    test, test_labels = _pair(held_out)
    for rows, name in ((primary, "Z_P"), (test, "held_out[0]")):
        if rows.shape[1] != train.shape[1]:
            raise ValueError(
                f"{name} must have {train.shape[1]} columns, as Z, and has shape {rows.shape}"
            )
    for rows, name in ((train, "Z"), (primary, "Z_P")):
        if len(rows) < 2:
            raise ValueError(f"{name} must have two rows at least, and has shape {rows.shape}")
    classes, of = _classes(y, len(train))
    wanted = _places(test_labels, len(test), classes)
    tasks = Whitened.of(train, of, classes.size, primary, rank, computed_in)
    units = len(train) / len(primary)
    grid = _grid(np.multiply(RIDGES, units) if ridges is None else ridges)
    costs = grid / units * tasks.S[:, None] ** 2
    weights = 1.0 / (tasks.C[:, None] ** 2 + costs)
    right, errors = _left_out(tasks, train, of, costs, weights)
    errors[right < right.max()] = np.inf
    best = int(np.flatnonzero(errors <= (1.0 + _EQUAL) * errors.min())[-1])
    guesses = _guesses(tasks, test, weights)
    shares = np.mean(guesses == wanted[:, None], axis=0)
    most = np.bincount(of).argmax()
    return Ceiling(
        accuracy=float(shares[best]),
        ridge=float(grid[best]),
        majority=float(np.mean(wanted == most)),
        rank=tasks.rank,
        rank_P=tasks.rank_P,
        kappa=tasks.kappa,
        rho=tasks.rho,
        count=len(test),
        outside=sum(tasks.outside(block) for _, block in blocks(test, "held_out[0]")) / len(test),
        predictions=classes[guesses[:, best]],
        ridges=grid,
        left_out=right / len(train),
        held_out=shares,
    )


def blind(train: Array, test: Array) -> Ceiling:
    """Return what is read of features that are the same for all rows: by the labels alone."""
    classes, counts = np.unique(train, return_counts=True)
    most = classes[counts.argmax()]
    share = float(np.mean(test == most))
    none = np.ones(0)
    return Ceiling(
        accuracy=share, ridge=1.0, majority=share, rank=0, rank_P=0, kappa=math.inf, rho=0.0,
        count=len(test), outside=0.0, predictions=np.full(len(test), most), ridges=none,
        left_out=none, held_out=np.full(1, share),
    )  # fmt: skip


# ---- arguments ----


def _pair(held_out: Any) -> tuple[Array, Any]:
    if not isinstance(held_out, (tuple, list)) or len(held_out) != 2:
        raise TypeError(
            f"held_out must be a pair of features and labels, and is {type(held_out).__name__}"
        )
    return as_matrix(held_out[0], "held_out[0]"), held_out[1]


def _named(y: Any, rows: int, name: str) -> Array:
    labels = named(y, name)
    if labels.dtype.kind not in "iubUS":
        raise TypeError(
            f"{name} must hold classes, as integers, bools or strings, and has dtype {labels.dtype}"
        )
    if labels.shape != (rows,):
        raise ValueError(f"{name} must have {rows} labels, and has shape {labels.shape}")
    return labels


def _classes(y: Any, rows: int) -> tuple[Array, Array]:
    classes, of = np.unique(_named(y, rows, "y"), return_inverse=True)
    if classes.size == 1:
        raise ValueError(f"y must have two classes at least, and all labels are {classes[0]!s}")
    if classes.size == rows:
        raise ValueError(f"y names {rows} classes on {rows} rows: there is nothing to learn")
    return classes, of


def _places(y: Any, rows: int, classes: Array) -> Array:
    labels = _named(y, rows, "held_out[1]")
    found = np.unique(labels)
    for there, here, told in (
        (classes, found, "has no row of class"), (found, classes, "has, and y lacks, class"),
    ):  # fmt: skip
        missing = [str(label) for label in there if label not in here]
        if missing:
            raise ValueError(
                f"held_out {told} {', '.join(missing[:5])}{' ...' * (missing[5:] != [])}"
            )
    return np.searchsorted(classes, labels)


def _grid(ridges: Any) -> FloatArray:
    grid = np.unique(
        as_float64(np.atleast_1d(as_array(ridges, "ridges", ndim=None)), "ridges", ndim=1)
    )
    if grid[0] <= 0.0:
        raise ValueError(f"ridges must be positive, and hold {grid[0]:g}")
    return grid


# ---- probes ----


def _left_out(
    tasks: Whitened, Z: Array, of: Array, costs: FloatArray, weights: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Rows that are right, and squared errors, of the probes that all other rows train.

    A row's residual without it is ``r_i / (1 - h_i)``, with the leverage
    ``h_i = 1/N + g_i^T (G^T G + ridge ...)^-1 g_i`` (Allen's PRESS). Where least squares goes
    through a row whatever its label, both are 0 but for the ridge, ``r_i = sum_j u_ij f_j u_j^T Y``
    and ``1 - h_i = sum_j u_ij^2 f_j`` with ``U = G / (sqrt(N) C)`` and
    ``f = ridge S^2 / (C^2 + ridge S^2)``, whose digits no difference takes. Of one that no ridge
    reaches nothing is told without it: it is wrong, and has no error.
    """
    k, classes, N = weights.shape[1], len(tasks.shares), len(Z)
    used = np.count_nonzero(tasks.C)
    scale = math.sqrt(N) * tasks.C[:used]
    kept = (costs * weights)[:used]
    heads = kept[:, :, None] * (N * tasks.cross[:used] / scale[:, None])[:, None, :]
    right, errors = np.zeros(k), np.zeros(k)
    for part, block in blocks(Z, "Z", k * classes):
        G = tasks.coordinates(block)
        U = G[:, :used] / scale
        Y = one_hot(of[part], classes)[:, None, :]
        left = 1.0 - (1.0 + np.square(G[:, :used]) @ weights[:used]) / N
        residuals = Y - tasks.scores(G, weights)
        alone = 1.0 - 1.0 / N - np.square(U).sum(1) < (math.inf if used == N - 1 else _ALONE)
        told = ~alone | (np.square(U) @ (tasks.S[:used] > 0.0) > _ALONE)
        left[alone] = np.square(U[alone]) @ kept
        residuals[alone] = (U[alone] @ heads.reshape(used, -1)).reshape(-1, k, classes)
        residuals = residuals[told] / left[told][:, :, None]
        scores, own = Y[told] - residuals, Y[told] > 0.0
        rivals = np.where(own, -np.inf, scores).max(2)
        right += np.count_nonzero(np.where(own, scores, 0.0).sum(2) > rivals + _EQUAL, axis=0)
        errors += np.square(residuals).sum((0, 2))
    return right, errors


def _guesses(tasks: Whitened, Z: Array, weights: FloatArray) -> Array:
    """Return which class each probe gives rows, (n, k)."""
    found = [
        np.argmax(tasks.scores(tasks.coordinates(block), weights), axis=2)
        for _, block in blocks(Z, "held_out[0]", weights.shape[1] * len(tasks.shares))
    ]
    return np.concatenate(found)
