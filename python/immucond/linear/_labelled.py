"""A task with its labels: the parts of features that labels reach, from inputs or Gram matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._labels import labels_of
from .._rank import (
    default_rtol,
    numerical_rank,
    rank_rule,
    refuse_more,
    seen_labels,
    tolerance_at,
)
from .._svd import svd
from .._task import root_of_gram
from .._triangle import condensed
from .._validate import (
    Array,
    FloatArray,
    as_array,
    as_float64,
    as_matrix,
    as_targets,
    check_real,
)  # fmt: skip
from ._factored import frobenius, plausible, unchanged

# By how much rounding may make the labels that a Gram matrix explains exceed their energy.
_EXPLAINED = 1e-6
# Sums that are centred by a difference lose as many digits as means are larger than the spread,
# squared: three are allowed for.
CANCELLED = 1e3


@dataclass(frozen=True)
class LabelledTask:
    """``Z = U scale R`` and ``Y = U C + rest``: U has orthonormal columns and is never formed.

    Attributes
    ----------
    dim : int
        Number of features, d.
    energy : float
        ``||Y||_F^2``, of the labels centred where they are, in the unit of C squared; NaN where it
        was not given.
    name : str
        What was given, for messages.
    rounding : float
        By how much rounding of the features may have moved Z^T Y, in the unit of `basis_of_cross`.
    decompose : callable
        Returns R (rank x d), of about unit size; C (rank x c), the labels that features can
        explain, ``Z^T Y = scale R^T C``; and below what, relative to the largest, singular values
        of R are rounding. Called once, and only where these are asked for.
    cross : (d, c) array or None
        ``Z^T Y`` in some unit, where that was given.
    """

    dim: int
    energy: float
    name: str
    rounding: float
    decompose: Callable[[], tuple[FloatArray, FloatArray, float]]
    cross: FloatArray | None = None

    @cached_property
    def _decomposed(self) -> tuple[FloatArray, FloatArray, float]:
        return self.decompose()

    @property
    def matrix(self) -> FloatArray:
        """(rank, d) matrix R."""
        return self._decomposed[0]

    @property
    def labels(self) -> FloatArray:
        """(rank, c) matrix C."""
        return self._decomposed[1]

    @property
    def rtol(self) -> float:
        """Relative size of singular values of R that are rounding."""
        return self._decomposed[2]

    @property
    def rank(self) -> int:
        """Rank of the features."""
        return int(self.matrix.shape[0])

    @property
    def reached(self) -> float:
        """``||Y_||||_F^2``, the labels' energy within the range of the features."""
        return float(np.sum(self.labels**2))

    def basis_of_labels(self) -> FloatArray:
        """``C V`` with independent columns: the labels without what repeats, as one-hot ones do."""
        return _independent(self.labels)

    def basis_of_cross(self) -> FloatArray:
        """``Z^T Y V`` with independent columns, in some unit."""
        if self.cross is not None:
            return _independent(self.cross, self.rounding)
        return self.matrix.T @ self.basis_of_labels()

    def rho(self, features: FloatArray | None = None) -> float:
        """Label alignment under ``features = R A``; of Z itself without."""
        RA = self.matrix if features is None else features
        top = float(np.linalg.norm(RA, 2))
        if top == 0.0 or self.reached == 0.0:
            return 0.0
        seen = np.sum(((RA / top).T @ self.labels) ** 2) / self.reached
        return float(np.minimum(1.0, seen))  # by rounding more; NaN stays


def _independent(A: FloatArray, rounding: float = 0.0) -> FloatArray:
    _, s, vt = svd(A, full_matrices=False)
    kept = int(np.count_nonzero(s > max(default_rtol(A.shape, np.float64) * s.max(), rounding)))
    return np.asarray(A @ vt[:kept].T)


def varies(y: FloatArray) -> bool:
    """Whether centred targets, of entries up to 1 before, are more than rounding."""
    return float(np.max(np.abs(y))) > 4.0 * float(np.finfo(np.float64).eps)


def centred(A: FloatArray) -> FloatArray:
    """Subtract the mean of each column, and once more what rounding left of it."""
    A = A - A.mean(axis=0)
    return np.asarray(A - A.mean(axis=0))


def task_of_inputs(
    Z: npt.ArrayLike,
    Y: npt.ArrayLike,
    names: tuple[str, str],
    *,
    center: bool = True,
    rank: SupportsIndex | None = None,
    computed_in: Any = None,
) -> LabelledTask:
    """Labelled task from features and labels, both centred unless told otherwise."""
    given = as_matrix(Z, names[0])
    rule = rank_rule(
        given.shape, given.dtype, rank=rank, rtol=None, computed_in=computed_in, given="features",
        rank_name=f"rank of {names[0]}",
    )  # fmt: skip
    A = as_float64(given, names[0])
    y = labels_of(Y, A.shape[0], names[1], names[0])
    largest, largest_label = float(np.max(np.abs(A))), float(np.max(np.abs(y)))
    if largest == 0.0:
        raise ValueError(f"{names[0]} is zero: features of rank 0 explain no labels")
    if largest_label == 0.0:
        raise ValueError(f"{names[1]} is zero")
    A, y = A / largest, y / largest_label
    # What rounding of A leaves of features that are constant is measured before the mean goes.
    size = float(np.linalg.norm(A))
    if center:
        A, y = centred(A), centred(y)
        if not varies(y):
            raise ValueError(f"{names[1]} is constant: centred, nothing is left to align with")
    energy = float(np.sum(y**2))
    A, y = condensed(A, y)
    u, s, vt = svd(A, full_matrices=False)
    rtol = tolerance_at(s, rule) if s[0] > 0.0 else 1.0
    noise = default_rtol(given.shape, np.float64) * size
    k = rule.rank or min(numerical_rank(s, rule), int(np.count_nonzero(s > noise)))
    if k == 0 or s[0] == 0.0:
        raise ValueError(f"{names[0]} is constant: centred, its rank is 0")
    # Of centred rows one depends on the others, whatever rounding makes of that.
    refuse_more(k, s[: len(given) - 1] if center else s, names[0], f"rank of {names[0]}")
    labels = seen_labels(u[:, :k].T @ y, s[:k], math.sqrt(energy), given.shape)
    rtol = max(rtol, noise / float(s[0]), float(s[k:].max(initial=0.0) / s[0]))
    parts = (s[:k] / s[0])[:, None] * vt[:k], labels, rtol
    return LabelledTask(
        A.shape[1], energy, names[0], rtol * math.sqrt(energy), partial(_known, parts)
    )


def _known(parts: tuple[FloatArray, FloatArray, float]) -> tuple[FloatArray, FloatArray, float]:
    """Parts that are there already (a lambda could not be pickled)."""
    return parts


def task_of_gram(
    K: npt.ArrayLike, b: npt.ArrayLike, energy: float | None, names: tuple[str, str, str], *,
    rank: SupportsIndex | None = None, computed_in: Any = None,
) -> LabelledTask:  # fmt: skip
    """Labelled task from ``K = Z^T Z``, ``b = Z^T Y`` and ``||Y||_F^2``, of centred Z and Y.

    K is decomposed once that is needed; at once where a glance says that it may be refused.
    """
    given = as_matrix(K, names[0])
    cross = as_targets(as_array(b, names[1], ndim=None), given.shape[0], names[1], names[0])
    total = np.nan if energy is None else check_real(energy, names[2], low=0.0)
    if total == 0.0:
        raise ValueError(f"{names[2]} is 0: labels that are constant have nothing to align with")
    with np.errstate(over="ignore", invalid="ignore"):
        whole = frobenius(given.astype(np.float64, copy=False))
    norm = whole if given.dtype == np.float64 else math.nan  # by which a change is told later
    # In units of the largest entries, whose squares neither overflow nor vanish.
    size, unit = float(np.max(np.abs(cross))) or 1.0, float(given.diagonal().max())
    cross, unit = cross / size, unit if unit > 0.0 else 1.0  # what is not is refused below
    with np.errstate(over="ignore"):
        total = float(np.square(np.sqrt(total) * math.sqrt(unit) / size))
    least = max(
        default_rtol(given.shape, given.dtype if computed_in is None else computed_in, "features"),
        CANCELLED * default_rtol(given.shape, np.float64, "features"),
    )
    # ||Z|| ||Y||, which is at least ||Z^T Y|| where the energy was not given.
    together = float(np.linalg.norm(cross))
    if math.isfinite(whole) and not math.isnan(total):
        together = max(together, math.sqrt(whole / unit) * math.sqrt(total))
    rounding = least * together
    examine = partial(_examined, given, norm, cross, total, rounding, names, rank, computed_in)
    task = LabelledTask(given.shape[0], total, names[0], rounding, examine, cross)
    if rank is not None or not plausible(given, norm / unit, cross, total * (1.0 + _EXPLAINED)):
        _ = task.matrix
    return task


def _examined(
    K: Array, norm: float, cross: FloatArray, energy: float, rounding: float,
    names: tuple[str, str, str], rank: SupportsIndex | None, computed_in: Any,
) -> tuple[FloatArray, FloatArray, float]:  # fmt: skip
    """Parts of a task that is given by K and b, whose rank and energy are examined."""
    if math.isfinite(norm):
        K = unchanged(K, norm, names[0])
    root = root_of_gram(K, names[0], rank=rank, computed_in=computed_in)
    labels = root.whitened(cross.T).T
    reached = float(np.sum(labels**2))
    # Rounding of K divides the labels in its weakest directions by something else.
    if reached > energy * (1.0 + _EXPLAINED + root.rounding * root.kappa):
        with np.errstate(over="ignore", divide="ignore"):
            times = np.float64(reached) / energy
        raise ValueError(
            f"{names[2]} is below what {names[0]} and {names[1]} alone explain, {times:.9g} of it: "
            "all three must be of the same rows, centred alike"
        )
    if rank is None and not math.isnan(energy):
        if float(np.linalg.norm(cross)) <= rounding:  # of labels that features do not see
            return root.matrix, np.zeros_like(labels), root.rtol
        unseen = root.rtol * float(root.sigma[0]) * math.sqrt(energy) + rounding
        beside = float(np.linalg.norm(root.to_null(cross)))
        if beside > unseen:
            raise ValueError(
                f"{names[1]} has {beside / float(np.linalg.norm(cross)):.3g} of its norm beside "
                f"the range of {names[0]}, where no feature is: both must be of the same rows"
            )
    return root.matrix, labels, root.rtol


def tasks_of(
    X: Any, Y: Any, K: Any, b: Any, energy: Any, *, center: bool, rank: Any, computed_in: Any,
    names: tuple[str, str, str, str, str] = ("X_H", "Y_H", "K_H", "b_H", "energy_H"),
) -> list[LabelledTask]:  # fmt: skip
    """Labelled tasks, one or several, from inputs or from Gram matrices."""
    X_name, Y_name, K_name, b_name, energy_name = names
    by_inputs = X is not None and Y is not None and K is None and b is None and energy is None
    by_gram = K is not None and b is not None and X is None and Y is None
    if not (by_inputs or by_gram):
        seen = zip(names, (X, Y, K, b, energy), strict=True)
        given = ", ".join(name for name, value in seen if value is not None) or "nothing"
        raise TypeError(
            f"give either {X_name} and {Y_name} or {K_name} and {b_name} (the Gram matrix of "
            f"centred features and their product with centred labels), got {given}"
        )
    firsts, seconds = (X, Y) if by_inputs else (K, b)
    several = isinstance(firsts, Sequence) and all(np.ndim(item) == 2 for item in firsts)
    if several and not firsts:
        raise ValueError(f"{X_name if by_inputs else K_name} holds no task")
    count = len(firsts) if several else 1

    def split(value: Any, name: str) -> Sequence[Any]:
        if not several:
            return [value]
        if value is None:
            return [None] * count
        if not isinstance(value, Sequence) or len(value) != count:
            got = f"{len(value)} items" if isinstance(value, Sequence) else type(value).__name__
            raise ValueError(f"{name} must hold one item a task, {count}, got {got}")
        return value

    columns = zip(
        firsts if several else [firsts],
        split(seconds, Y_name if by_inputs else b_name),
        split(energy, energy_name),
        split(rank, f"rank of {X_name}"),
        strict=True,
    )
    tasks = []
    for at, (first, second, total, known) in enumerate(columns):
        of = [f"{name}[{at}]" if several else name for name in names]
        tasks.append(
            task_of_inputs(
                first, second, (of[0], of[1]), center=center, rank=known, computed_in=computed_in
            )
            if by_inputs
            else task_of_gram(
                first, second, total, (of[2], of[3], of[4]), rank=known, computed_in=computed_in
            )
        )
    return tasks
