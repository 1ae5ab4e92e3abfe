"""What theta does to a spectrum: the formula of the paper, and the bound by its own extremes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .._display import Columns, Curves, Line, Plotted, Record
from .._errors import underflow_is_zero
from .._rank import default_rtol
from .._svd import svd
from .._task import Root, root_of_gram, span_of
from .._validate import FloatArray, as_float64, as_theta, check_real

# ---- Proposition 3.2 ----


@underflow_is_zero
def relative_angles(theta: npt.ArrayLike, K: npt.ArrayLike) -> FloatArray:
    """Squared cosines between the left singular vectors of theta and the eigenvectors of K.

    Parameters
    ----------
    theta : (d, m) array_like
        Linear extractor.
    K : (d, d) array_like
        Gram matrix of the inputs, symmetric positive semidefinite.

    Returns
    -------
    (m, d) array
        Entry (i, j) is ``(u_i . q_j)^2``, both in descending order of their singular values. Rows
        beyond the d-th (theta wider than tall) are 0: there are no more left singular vectors.

    Notes
    -----
    At repeated singular values of theta or K the vectors, and so the angles, depend on the basis
    that LAPACK happens to return. Source: arXiv 2505.23760, Proposition 3.2.

    Examples
    --------
    >>> import immucond as ic
    >>> ic.linear.relative_angles([[2, 0], [0, 1]], [[1, 0], [0, 3]])
    array([[0., 1.],
           [1., 0.]])
    """
    _, angles, _ = _decompose(theta, K)
    return angles


@underflow_is_zero
def rayleigh_spectrum(theta: npt.ArrayLike, K: npt.ArrayLike) -> FloatArray:
    r"""Evaluate the paper's formula for the spectrum of H(theta): really its Rayleigh quotients.

    :math:`\sum_j (\sigma_{\theta,i}\, (u_i^T q_j)\, \sqrt{\gamma_j})^2 = v_i^T H v_i`, with v_i
    the right singular vectors of theta. It equals the spectrum of H only where :math:`V^T H V` is
    diagonal (for invertible theta, where :math:`U^T K U` is), and the spectrum majorizes it
    (Schur-Horn).

    Parameters
    ----------
    theta : (d, m) array_like
        Linear extractor.
    K : (d, d) array_like
        Gram matrix of the inputs, symmetric positive semidefinite.

    Returns
    -------
    (m,) array
        Rayleigh quotients, in the order of theta's singular values.

    Raises
    ------
    OverflowError
        Where a quotient is beyond the float range.

    Notes
    -----
    Source: arXiv 2505.23760, Proposition 3.2 and its Eq. 10.

    Examples
    --------
    With K = b b^T, b = (1, 0.1), H has rank 1 and kappa 1; the formula says 100.

    >>> import immucond as ic
    >>> q = ic.linear.rayleigh_spectrum([[1.001, 0], [0, 1]], [[1, 0.1], [0.1, 0.01]])
    >>> round(q[0] / q[1])
    100
    """
    s, angles, root = _decompose(theta, K)
    with np.errstate(over="ignore", under="ignore"):
        quotients: FloatArray = (s * (root.scale * np.sqrt(angles @ root.sigma**2))) ** 2
    if not np.isfinite(quotients).all():
        raise OverflowError(
            f"the Rayleigh quotients are beyond the float range: theta (largest singular value "
            f"{s[0]:.3g}) and K need a smaller scale"
        )
    return quotients


@dataclass(frozen=True, eq=False, repr=False)
class Majorization(Plotted):
    """Rayleigh quotients of H(theta) and its spectrum, which majorizes them.

    Attributes
    ----------
    rayleigh : (m,) array
        Values of the paper's Eq. 10, descending.
    spectrum : (m,) array
        Eigenvalues of H(theta), descending.
    gap : (m,) array
        Sum of the j largest eigenvalues less that of the j largest quotients. Nonnegative, and 0 at
        the end, up to rounding (Schur-Horn); 0 throughout only where the formula is right.
    kappa_rayleigh, kappa : float
        Condition numbers that the two give, over what is nonzero.
    """

    rayleigh: FloatArray
    spectrum: FloatArray
    gap: FloatArray
    kappa_rayleigh: float
    kappa: float

    def __repr__(self) -> str:
        return (
            f"Majorization({self.spectrum.size} values, kappa_rayleigh={self.kappa_rayleigh:.4g}, "
            f"kappa={self.kappa:.4g})"
        )

    def __str__(self) -> str:
        return self._as_text()

    def _columns(self) -> Columns:
        return {
            "place": np.arange(1, self.spectrum.size + 1),
            "rayleigh": self.rayleigh,
            "spectrum": self.spectrum,
            "gap": self.gap,
        }

    def _curves(self) -> Curves:
        place = np.arange(1, self.spectrum.size + 1)
        lines = [
            Line("eigenvalues", place, self.spectrum, style={"marker": "o"}),
            Line("Rayleigh quotients", place, self.rayleigh, style={"marker": "s"}),
        ]
        return Curves(
            "place, from the largest down", r"value, in the units of $K$", lines,
            scales=("linear", "log"),
        )  # fmt: skip


@underflow_is_zero
def majorization(theta: npt.ArrayLike, K: npt.ArrayLike) -> Majorization:
    r"""Set the paper's formula for the spectrum of ``H = theta^T K theta`` beside the spectrum.

    Parameters
    ----------
    theta : (d, m) array_like
        Linear extractor.
    K : (d, d) array_like
        Gram matrix of the inputs, symmetric positive semidefinite.

    Returns
    -------
    Majorization

    Raises
    ------
    ValueError
        For NaN, mismatched sizes, a K that is not symmetric positive semidefinite, or H = 0.
    OverflowError
        Where a value is beyond the float range.

    Notes
    -----
    Source: arXiv 2505.23760, Proposition 3.2 and Eq. 10. That the formula gives the diagonal of
    :math:`V^T H V` and no more is ours; for definite H it never overstates kappa, for a singular
    one it can.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> theta, K = np.diag([2.0, 1.0]), np.array([[1.0, 0.5], [0.5, 1.0]])
    >>> seen = ic.linear.majorization(theta, K)
    >>> seen.rayleigh.round(3), seen.spectrum.round(3), seen.gap.round(3)
    (array([4., 1.]), array([4.303, 0.697]), array([0.303, 0.   ]))
    """
    root = root_of_gram(K, "K")
    A = as_theta(theta, root.dim)
    quotients = np.sort(rayleigh_spectrum(A, K))[::-1]
    rank = root.rank_within(span_of(A)) if A.any() else 0
    if rank == 0:
        raise ValueError("theta maps the inputs to 0: H has rank 0 and no kappa")
    size = float(np.max(np.abs(A)))
    s = np.linalg.svd(root.matrix @ (A / size), compute_uv=False)[:rank]
    spectrum = np.zeros(A.shape[1])
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        spectrum[:rank] = (s * (root.scale * size)) ** 2
        gap = np.cumsum(spectrum - quotients)
    if not np.isfinite([spectrum, gap]).all():
        raise OverflowError(
            f"the eigenvalues of H, or sums of them, are beyond the float range: theta (largest "
            f"entry {size:.3g}) and K need a smaller scale"
        )
    # At a scale that cannot underflow.
    sizes, angles = _angles(A / size, root)
    relative = np.sort(sizes**2 * (angles @ root.sigma**2))[::-1]
    nonzero = relative[relative > default_rtol(A.shape, np.float64) ** 2 * relative[0]]
    return Majorization(
        rayleigh=quotients,
        spectrum=spectrum,
        gap=gap,
        kappa_rayleigh=float(nonzero[0] / nonzero[-1]),
        kappa=float((s[0] / s[-1]) ** 2),
    )


def _decompose(theta: npt.ArrayLike, K: npt.ArrayLike) -> tuple[FloatArray, FloatArray, Root]:
    root = root_of_gram(K, "K")
    return *_angles(as_theta(theta, root.dim), root), root


def _angles(A: FloatArray, root: Root) -> tuple[FloatArray, FloatArray]:
    """Singular values of theta, and squared cosines of its left vectors with eigenvectors of K."""
    u, s, _ = svd(A, full_matrices=False)
    angles = np.zeros((A.shape[1], root.dim))
    angles[: s.size] = (u.T @ root.vectors) ** 2
    padded = np.zeros(A.shape[1])
    padded[: s.size] = s
    return padded, angles


# ---- by the singular values of theta alone ----


@dataclass(frozen=True)
class Distortion(Record):
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

        Raises
        ------
        OverflowError
            Where the largest is beyond the float range.

        Examples
        --------
        >>> import numpy as np, immucond as ic
        >>> ic.linear.distortion(np.diag([3.0, 1.0])).kappa_range(100.0)
        (11.11111111111111, 900.0)
        """
        square, given = self.kappa**2, check_real(kappa, "kappa", low=1.0)
        if math.isinf(square * given):
            raise OverflowError(
                f"the largest condition number passes 1.8e308: theta multiplies {given:.3g} by up "
                f"to {square:.3g}"
            )
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
