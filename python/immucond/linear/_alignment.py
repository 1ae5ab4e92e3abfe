"""Label alignment: how much of a task's labels lies where gradient descent is fast."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from .._display import Record
from .._errors import underflow_is_zero
from .._validate import as_count, check_real, converted
from ._labelled import LabelledTask, tasks_of


@dataclass(frozen=True)
class Alignment(Record):
    """Label alignment of features, and what it says of plain gradient descent.

    Attributes
    ----------
    rho : float
        ``||Z^T Y||_F^2 / (sigma_1 ||Y_||||_F^2)`` in (0, 1], with sigma_1 the largest eigenvalue of
        ``Z^T Z`` and Y_|| the labels' part in the range of Z; 0 where nothing aligns.
    rho_uncentred : float
        The same without centring features and labels; NaN where it was not asked for.
    explained : float
        ``||Y_||||_F^2 / ||Y||_F^2``, the share of the labels that the features explain; NaN where
        the energy of the labels was not given.
    rank : int
        Rank of the (centred) features.
    """

    rho: float
    rho_uncentred: float
    explained: float
    rank: int

    def loss(self, steps: SupportsIndex) -> float:
        """Lower bound on the share of the reducible loss that is left after a number of steps.

        For gradient descent from zero on the squared loss, whatever the step lengths in
        ``[0, 2 / sigma_1]``: ``max(0, 1 - 2 rho)^(2 steps)``.
        """
        count = as_count(steps, "steps", least=0)
        if self.rho >= 0.5:
            return 1.0 if count == 0 else 0.0
        return math.exp(2.0 * count * math.log1p(-2.0 * self.rho))  # a small rho vanishes beside 1

    def steps(self, eps: float) -> float:
        """Lower bound on the steps until the reducible loss is eps times what it was.

        ``inf`` where the labels do not align at all; 0, which says nothing, from rho = 1/2 on.
        """
        share = check_real(eps, "eps", low=np.nextafter(0.0, 1.0), high=np.nextafter(1.0, 2.0))
        if self.rho >= 0.5 or share == 1.0:
            return 0.0
        return math.log(share) / (2.0 * math.log1p(-2.0 * self.rho)) if self.rho else math.inf


@underflow_is_zero
def alignment(
    Z: npt.ArrayLike | None = None, Y: npt.ArrayLike | None = None, *, center: bool = True,
    K: npt.ArrayLike | None = None, b: npt.ArrayLike | None = None, energy: float | None = None,
    rank: SupportsIndex | None = None, computed_in: Any = None,
) -> Alignment:  # fmt: skip
    r"""Label alignment :math:`\rho = \|Z^T Y\|_F^2 / (\sigma_1 \|Y_\parallel\|_F^2)`.

    The condition number bounds the slowest direction of the weights. How fast the *loss* falls
    depends on where the labels lie, and rho is the mean of the Hessian's eigenvalues over them,
    relative to the largest: plain gradient descent leaves a share of at least
    :math:`\max(0, 1 - 2\rho)^{2t}` of the reducible loss after t stable steps
    (:meth:`Alignment.loss`).
    It does not bound momentum, exact line search or Adam, and whitening the features undoes it.

    Parameters
    ----------
    Z : (N, m) array_like
        Features, one row a sample.
    Y : (N,) or (N, c) array_like
        Targets, or one label a row: integers, bools and strings name classes, and become one-hot.
    center : bool, default: True
        Whether features and targets are centred, as a probe with an intercept sees them. The mean
        of the features otherwise dominates sigma_1, which a bias undoes.
    K, b, energy : (m, m) array_like, (m, c) array_like, float
        In place of Z and Y: ``Z^T Z``, ``Z^T Y`` and ``||Y||_F^2``, of centred Z and Y. Without the
        energy, `explained` is not known, nor whether b is more than rounding.
    rank : int, optional
        Rank of the (centred) features, where it is known; `rho_uncentred` has one of its own.
    computed_in : dtype_like, optional
        Precision in which the features were computed, where it is not their dtype.

    Returns
    -------
    Alignment

    Raises
    ------
    ValueError
        For NaN, mismatched rows, labels or features that are constant, an `energy` below what the
        features explain, or a b beside the range of K.
    TypeError
        Where neither Z and Y nor K and b were given.

    Notes
    -----
    Ours. The bound is Jensen's inequality: :math:`\max(0, 1 - 2\lambda/\sigma_1)^{2t}` is convex in
    :math:`\lambda`, and rho is the mean of :math:`\lambda/\sigma_1` under the spectral measure of
    the labels.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> Z = np.vstack([np.diag([10.0, 1.0]), -np.diag([10.0, 1.0])])
    >>> fast, slow = np.array([1.0, 0.0, -1.0, 0.0]), np.array([0.0, 1.0, 0.0, -1.0])
    >>> round(ic.linear.alignment(Z, fast).rho, 12), round(ic.linear.alignment(Z, slow).rho, 12)
    (1.0, 0.01)
    >>> int(ic.linear.alignment(Z, slow).steps(0.5))  # at least, whatever the step lengths
    17
    """

    def task(centre: bool) -> LabelledTask:
        (only,) = tasks_of(
            _one(Z, "Z"), Y, _one(K, "K"), b, energy,
            names=("Z", "Y", "K", "b", "energy"), center=centre, computed_in=computed_in,
            rank=rank if centre == bool(center) else None,
        )  # fmt: skip
        return only

    seen = task(bool(center))
    uncentred = task(False).rho() if center and Z is not None else math.nan
    explained = float(np.minimum(1.0, seen.reached / seen.energy))  # by rounding more; NaN stays
    return Alignment(seen.rho(), uncentred, explained, seen.rank)


def _one(value: npt.ArrayLike | None, name: str) -> npt.ArrayLike | None:
    """Return an array, which is one task, where a sequence of matrices would be several."""
    return converted(value, name) if isinstance(value, (list, tuple)) else value
