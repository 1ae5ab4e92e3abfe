"""Relative angles between an extractor and a Gram matrix, as in Proposition 3.2 of the paper."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .._floating import underflow_is_zero
from .._task import root_of_gram
from .._validate import FloatArray, as_theta


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
    the right singular vectors of theta. It equals the spectrum of H only where
    :math:`U^T K U` is diagonal; otherwise the spectrum majorizes it (Schur-Horn).

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
    s, angles, gamma = _decompose(theta, K)
    with np.errstate(over="ignore", under="ignore"):
        quotients: FloatArray = (s * np.sqrt(angles @ gamma)) ** 2
    if not np.isfinite(quotients).all():
        raise OverflowError(
            f"the Rayleigh quotients are beyond the float range: theta (largest singular value "
            f"{s[0]:.3g}) and K need a smaller scale"
        )
    return quotients


def _decompose(theta: npt.ArrayLike, K: npt.ArrayLike) -> tuple[FloatArray, FloatArray, FloatArray]:
    root = root_of_gram(K, "K")
    A = as_theta(theta, root.dim)
    u, s, _ = np.linalg.svd(A, full_matrices=False)
    angles = np.zeros((A.shape[1], root.dim))
    angles[: s.size] = (u.T @ root.vectors) ** 2
    padded = np.zeros(A.shape[1])
    padded[: s.size] = s
    return padded, angles, (root.scale * root.sigma) ** 2
