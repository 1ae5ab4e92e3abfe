"""The rotation of features that no per-feature scaling can profit from."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from .._errors import underflow_is_zero
from .._extreme import psd_ends
from .._rank import rank_rule
from .._validate import FloatArray, as_float64, as_matrix


@underflow_is_zero
def leveling_rotation(H: npt.ArrayLike) -> FloatArray:
    r"""Orthogonal Q for which ``diag(Q^T H Q)`` is constant, by at most m - 1 Givens rotations.

    Standardized features, a Jacobi preconditioner and, roughly, Adam rescale one feature at a time:
    ``D H D`` with a positive diagonal D. Where H is diagonal that brings kappa down to 1. After the
    rotation no D gains more than a factor m:

    .. math:: \kappa(D H D) \ge \frac{\operatorname{tr} H / m}{\lambda_{\min}(H)}
              \ge \frac{\kappa(H)}{m}.

    Parameters
    ----------
    H : (m, m) array_like
        Hessian of the features, symmetric positive semidefinite.

    Returns
    -------
    (m, m) array
        Q. Serve ``theta Q`` in place of theta: every condition number stays as it is, and with the
        head ``Q^T omega`` every prediction does.

    Raises
    ------
    ValueError
        Where H is not symmetric, positive semidefinite, finite and nonzero.

    Notes
    -----
    Ours. That a rotation can make the diagonal of a symmetric matrix constant goes back to
    Schur and Horn; :func:`optimal_extractor` applies this one by default.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> H = np.diag([100.0, 1.0, 1.0])
    >>> Q = ic.linear.leveling_rotation(H)
    >>> (Q.T @ H @ Q).diagonal().round(12)
    array([34., 34., 34.])
    """
    given = as_matrix(H, "H")
    rule = rank_rule(given.shape, given.dtype, rank=None, rtol=None, computed_in=None)
    psd_ends(given, rule, "H")  # refuses what is not symmetric positive semidefinite
    A = as_float64(given, "H")
    rows = np.eye(A.shape[0])
    level(rows, A / np.max(np.abs(A)))
    return rows.T


def level(rows: FloatArray, H: FloatArray) -> None:
    """Rotate pairs of rows, in place, until the Hessian of these features is level.

    A row leaves once its diagonal entry is the mean; the other one carries the surplus into the
    next rotation. So of the rotated Hessian only the carrier's row is ever needed.
    """
    diagonal = H.diagonal()
    mean = float(diagonal.mean())
    above = [i for i in np.argsort(diagonal) if diagonal[i] > mean]
    below = [i for i in np.argsort(-diagonal) if diagonal[i] <= mean]
    if not above:
        return
    carry = above.pop()
    value, met = float(diagonal[carry]), H[carry].copy()
    while below or above:
        fresh = below.pop() if value > mean and below else (above or below).pop()
        p, q, b = value - mean, float(diagonal[fresh]) - mean, float(met[fresh])
        if p == 0.0:
            carry, value, met = fresh, float(diagonal[fresh]), H[fresh].copy()
            continue
        # (c x + s y)^T H (c x + s y) = mean:  p + 2 b t + q t^2 = 0,  t = s / c = -p / r. Where
        # r = 0, y is level, to the rounding of the mean, and leaves in place of x.
        r = b + math.copysign(math.sqrt(max(0.0, b * b - p * q)), b)
        length = math.hypot(r, p)
        c, s = abs(r) / length, -math.copysign(p, p * r) / length
        rows[carry], rows[fresh] = (
            c * rows[carry] + s * rows[fresh],
            c * rows[fresh] - s * rows[carry],
        )
        met = c * H[fresh] - s * met
        carry, value = fresh, value + q
