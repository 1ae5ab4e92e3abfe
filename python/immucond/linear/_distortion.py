"""What an extractor's own condition number allows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .._errors import underflow_is_zero
from .._rank import default_rtol
from .._validate import as_float64, check_real


@dataclass(frozen=True)
class Distortion:
    """How far a square invertible theta can move eigenvalues, whatever the Gram matrix.

    Attributes
    ----------
    lowest, highest : float
        ``sigma_min(theta)^2 <= lambda_i(H) / lambda_i(K) <= sigma_max(theta)^2``, for every K and i
        (both sorted).
    kappa : float
        Condition number of theta.
    rir : float
        ``kappa^4``, a bound of the RIR for every pair of tasks. Sharp: some pair reaches it.
    """

    lowest: float
    highest: float
    kappa: float
    rir: float

    def kappa_range(self, kappa: float) -> tuple[float, float]:
        """Least and largest condition number of H(theta) for a K of condition number `kappa`.

        Examples
        --------
        >>> import numpy as np, immucond as ic
        >>> ic.linear.distortion(np.diag([3.0, 1.0])).kappa_range(100.0)
        (11.11111111111111, 900.0)
        """
        square, given = self.kappa**2, check_real(kappa, "kappa", low=1.0)
        return max(1.0, given / square), square * given


@underflow_is_zero
def distortion(theta: npt.ArrayLike) -> Distortion:
    """Bound what theta does to any two tasks by its singular values alone.

    Parameters
    ----------
    theta : (d, d) array_like
        Invertible extractor.

    Returns
    -------
    Distortion

    Raises
    ------
    ValueError
        For NaN, or a theta that is not square and invertible: the bound does not hold there.
    OverflowError
        Where a bound is beyond the float range.

    Notes
    -----
    Ostrowski's theorem on congruences (Horn & Johnson, Matrix Analysis, Theorem 4.5.9); the
    consequence for the RIR is ours.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> theta = np.diag([0.1, 1.0])
    >>> round(ic.linear.distortion(theta).rir)
    10000
    >>> round(ic.linear.immunity(theta, K_P=np.diag([100, 1]), K_H=np.diag([1, 1])).rir)
    10000
    """
    A = as_float64(theta, "theta")
    if A.shape[0] != A.shape[1]:
        raise ValueError(f"theta must be square, for the bound holds for no other, got {A.shape}")
    size = float(np.max(np.abs(A))) or 1.0
    s = np.linalg.svd(A / size, compute_uv=False)
    if s[-1] <= default_rtol(A.shape, np.float64) * s[0]:
        raise ValueError(
            f"theta must be invertible, and its singular values span {s[0] * size:.3g} to "
            f"{s[-1] * size:.3g}"
        )
    kappa = float(s[0] / s[-1])
    with np.errstate(over="ignore", under="ignore"):
        lowest, highest = ((s[[-1, 0]] * size) ** 2).tolist()
    if np.isinf(highest):
        raise OverflowError(
            f"sigma_max(theta)^2 is beyond the float range: theta holds entries of {size:.3g}"
        )
    return Distortion(lowest=lowest, highest=highest, kappa=kappa, rir=kappa**4)
