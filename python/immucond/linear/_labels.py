"""A task with its labels: features and labels from the left singular vectors of the features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._gram import condensed
from .._rank import default_rtol, numerical_rank, rank_rule, tolerance_at
from .._task import root_of_gram
from .._validate import FloatArray, as_array, as_float64, as_matrix, as_targets, check_real

# By how much rounding may make the labels that a Gram matrix explains exceed their energy.
_EXPLAINED = 1e-6


@dataclass(frozen=True)
class LabelledTask:
    """``Z = U scale R`` and ``Y = U C + rest``: U has orthonormal columns and is never formed.

    Attributes
    ----------
    matrix : (rank, d) array
        R, of about unit size.
    labels : (rank, c) array
        C, the labels that features can explain: ``Z^T Y = scale R^T C``.
    energy : float
        ``||Y||_F^2``, of the labels centred where they are; NaN where it was not given.
    rtol : float
        Singular values of R below it, relative to the largest, are rounding.
    name : str
        What was given, for messages.
    """

    matrix: FloatArray
    labels: FloatArray
    energy: float
    rtol: float
    name: str

    @property
    def rank(self) -> int:
        """Rank of the features."""
        return int(self.matrix.shape[0])

    @property
    def dim(self) -> int:
        """Number of features, d."""
        return int(self.matrix.shape[1])

    @property
    def reached(self) -> float:
        """``||Y_||||_F^2``, the labels' energy within the range of the features."""
        return float(np.sum(self.labels**2))

    def basis_of_labels(self) -> FloatArray:
        """``C V`` with independent columns: the labels without what repeats, as one-hot ones do."""
        _, s, vt = np.linalg.svd(self.labels, full_matrices=False)
        kept = int(np.count_nonzero(s > default_rtol(self.labels.shape, np.float64) * s.max()))
        independent: FloatArray = self.labels @ vt[:kept].T
        return independent

    def rho(self, features: FloatArray | None = None) -> float:
        """Label alignment under ``features = R A``; of Z itself without."""
        RA = self.matrix if features is None else features
        top = float(np.linalg.norm(RA, 2))
        if top == 0.0 or self.reached == 0.0:
            return 0.0
        return float(np.sum(((RA / top).T @ self.labels) ** 2)) / self.reached


def labels_of(Y: npt.ArrayLike, rows: int, name: str, inputs: str) -> FloatArray:
    """Labels as targets: names of classes (integers, bools, strings) become one-hot columns."""
    array = np.asarray(Y)
    if array.dtype.kind == "O" and all(isinstance(label, str) for label in array.flat):
        array = array.astype(str)
    if array.ndim == 1 and array.dtype.kind in "iubUS":
        if array.size != rows:
            raise ValueError(f"{name} must have {rows} labels, as {inputs} rows, got {array.size}")
        classes, of = np.unique(array, return_inverse=True)
        if classes.size == 1:
            raise ValueError(f"{name} is constant: all {rows} labels are {classes[0]!r}")
        if classes.size == rows:
            raise ValueError(
                f"{name} names {rows} classes on {rows} rows: a row a class tells features nothing"
            )
        return np.eye(classes.size)[of]
    targets = as_targets(Y, rows, name, inputs)
    if targets.shape[1] > rows:
        raise ValueError(
            f"{name} has {targets.shape[1]} columns, more classes than its {rows} rows"
        )
    return targets


def centred(A: FloatArray) -> FloatArray:
    """Subtract the mean of each column, and once more what rounding left of it."""
    A = A - A.mean(axis=0)
    remainder: FloatArray = A - A.mean(axis=0)
    return remainder


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
        given.shape,
        given.dtype,
        rank=rank,
        rtol=None,
        computed_in=computed_in,
        given="features",
        rank_name=f"rank of {names[0]}",
    )
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
        if float(np.max(np.abs(y))) <= 4 * np.finfo(np.float64).eps:
            raise ValueError(f"{names[1]} is constant: centred, nothing is left to align with")
    energy = float(np.sum(y**2)) * largest_label**2
    A, y = condensed(A, y)
    u, s, vt = np.linalg.svd(A, full_matrices=False)
    rtol = tolerance_at(s, rule) if s[0] > 0.0 else 1.0
    noise = default_rtol(given.shape, np.float64) * size
    k = rule.rank or min(numerical_rank(s, rule), int(np.count_nonzero(s > noise)))
    if k == 0:
        raise ValueError(f"{names[0]} is constant: centred, its rank is 0")
    labels = u[:, :k].T @ y
    if np.linalg.norm(labels) <= default_rtol(given.shape, np.float64) * np.linalg.norm(y):
        labels = np.zeros_like(labels)  # rounding of labels that the features do not see
    return LabelledTask(
        matrix=(s[:k] / s[0])[:, None] * vt[:k],
        labels=labels * largest_label,
        energy=energy,
        rtol=max(rtol, noise / float(s[0])),
        name=names[0],
    )


def task_of_gram(
    K: npt.ArrayLike,
    b: npt.ArrayLike,
    energy: float | None,
    names: tuple[str, str, str],
    *,
    rank: SupportsIndex | None = None,
    computed_in: Any = None,
) -> LabelledTask:
    """Labelled task from ``K = Z^T Z``, ``b = Z^T Y`` and ``||Y||_F^2``, of centred Z and Y."""
    root = root_of_gram(K, names[0], rank=rank, computed_in=computed_in)
    cross = as_targets(as_array(b, names[1], ndim=None), root.dim, names[1], names[0])
    labels = root.whitened(cross.T).T / root.scale
    total = np.nan if energy is None else check_real(energy, names[2], low=0.0)
    reached = float(np.sum(labels**2))
    if reached > total * (1.0 + _EXPLAINED):
        raise ValueError(
            f"{names[2]} is {total:.6g}, and {names[0]} and {names[1]} alone explain {reached:.6g} "
            "of it: all three must be of the same rows, centred alike"
        )
    return LabelledTask(root.matrix, labels, total, root.rtol, names[0])


def tasks_of(
    X: Any,
    Y: Any,
    K: Any,
    b: Any,
    energy: Any,
    *,
    center: bool,
    rank: Any,
    computed_in: Any,
    names: tuple[str, str, str, str, str] = ("X_H", "Y_H", "K_H", "b_H", "energy_H"),
) -> list[LabelledTask]:
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
    count = len(firsts) if several else 1

    def split(value: Any, name: str) -> Sequence[Any]:
        if not several:
            return [value]
        if value is None:
            return [None] * count
        if not isinstance(value, Sequence) or len(value) != count:
            raise ValueError(f"{name} must hold one item a task, {count}, got {value!r:.80}")
        return value

    columns = zip(
        firsts if several else [firsts],
        split(seconds, Y_name if by_inputs else b_name),
        split(energy, energy_name),
        split(rank, "rank"),
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
