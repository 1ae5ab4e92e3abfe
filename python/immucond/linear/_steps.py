"""Sharp step-size intervals of the spectral regularizers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .._errors import DegenerateSpectrumError, underflow_is_zero
from .._rank import largest_skew, numerical_rank, rank_rule, refuse_more
from .._regularizers import SpectralRegularizer, r_ill, r_well
from .._task import Root, root_of_gram, span_of, warn_if_lost
from .._validate import FloatArray, as_float64, as_matrix, as_theta


@underflow_is_zero
def step_interval(
    regularizer: SpectralRegularizer,
    S: npt.ArrayLike | None = None,
    *,
    theta: npt.ArrayLike | None = None,
    gram: npt.ArrayLike | None = None,
    rank: int | None = None,
) -> float:
    """Sharp upper end of the steps for which a regularizer moves kappa the way it promises.

    For every step eta strictly between 0 and the end, ``S - eta grad r(S)``, or
    ``theta - eta K^-1 grad_theta r(H(theta))``, has a smaller condition number for ``r_well``, a
    larger one for ``r_ill`` (at the one step that makes sigma_k vanish the rank falls instead).
    Just beyond the end it has not. Where the end that the regularizer uses is repeated, the mean
    over the tied pairs stands for the gradient, as in the library's gradients.

    Parameters
    ----------
    regularizer : SpectralRegularizer
        ``ic.r_well`` or ``ic.r_ill``.
    S : (p_r, p_c) array_like
        The matrix itself, for the update of S.
    theta, gram : (d, m) and (d, d) array_like
        Extractor and Gram matrix, for the preconditioned update of theta.
    rank : int, optional
        Known rank of S, or of the Gram matrix.

    Returns
    -------
    float
        The end; ``inf`` where every step does, 0 where none does (R_well where all nonzero values
        are equal) and where the end is below the float range.

    Raises
    ------
    DegenerateSpectrumError
        R_ill where all nonzero singular values are equal: it is infinite there.
    OverflowError
        Where the end itself is beyond the float range.
    TypeError, ValueError
        For another regularizer, bad input, or not exactly one of S and (theta, gram).

    Warns
    -----
    AccuracyWarning
        Where rounding in `gram` is as large as half its smallest eigenvalue.

    Notes
    -----
    The ends are sharp, and differ from the intervals of Theorems 4.1 to 4.4 in arXiv 2505.23760:
    inside the one printed for R_well by theta (Theorem 4.3), kappa can rise.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> round(ic.linear.step_interval(ic.r_well, np.diag([4.0, 2.0, 1.0])), 6)
    1.235294
    """
    if not isinstance(regularizer, SpectralRegularizer):
        raise TypeError(f"regularizer must be ic.r_well or ic.r_ill, got {regularizer!r}")
    if regularizer not in (r_well, r_ill):
        raise ValueError(
            "regularizer must be ic.r_well or ic.r_ill, whose intervals are proved, got "
            f"{regularizer!r}"
        )
    if S is not None and theta is None and gram is None:
        given = as_matrix(S, "S")
        rule = rank_rule(given.shape, given.dtype, rank=rank, rtol=None, computed_in=None)
        A = as_float64(given, "S")
        size = float(np.max(np.abs(A)))
        if size == 0.0:
            raise ValueError("S is zero: a matrix of rank 0 has no condition number")
        sigma = np.linalg.svd(A / size, compute_uv=False)
        k = numerical_rank(sigma, rule)
        refuse_more(k, sigma, "S")
        return _end(
            regularizer, sigma[:k], min(A.shape), float(sigma[0]) * size, of_theta=False,
            precision=rule.precision,
        )  # fmt: skip
    if S is None and theta is not None and gram is not None:
        root = root_of_gram(gram, "gram", rank=rank)
        warn_if_lost(root)
        return interval_by_theta(regularizer, as_theta(theta, root.dim), root)
    raise TypeError("give either S or both theta and gram")


def interval_by_theta(regularizer: SpectralRegularizer, theta: FloatArray, root: Root) -> float:
    """`step_interval` of the preconditioned update of theta, from a root of the Gram matrix."""
    size = float(np.max(np.abs(theta)))
    k = root.rank_within(span_of(theta))
    if k == 0:
        raise ValueError("theta maps the inputs to 0: H has rank 0 and no condition number")
    sigma = np.linalg.svd(root.matrix @ (theta / size), compute_uv=False)
    scale = float(sigma[0]) * root.scale * size
    return _end(regularizer, sigma[:k] ** 2, theta.shape[1], scale, of_theta=True)


def _end(
    regularizer: SpectralRegularizer,
    nonzero: npt.NDArray[np.floating[Any]],
    p: int,
    scale: float,
    *,
    of_theta: bool,
    precision: float = float(np.finfo(np.float64).eps),
) -> float:
    """End of the interval from the nonzero singular values of S or of H, in any unit.

    `scale` is the largest of S, or of the features whose square H is of.
    """
    k = nonzero.size
    sigma: FloatArray = np.asarray(nonzero / nonzero[0], dtype=np.float64)
    # What the kernels take for tied: the entries' rounding, and that of a reduction.
    tie = 4.0 * precision + largest_skew(p, np.float64)

    if regularizer is r_well:
        tied = int(np.count_nonzero(sigma >= 1.0 - tie))
        if tied == k:
            return 0.0
        # Gradients of R_well are of the order sigma on S, and of order sigma^1 * theta by theta.
        if of_theta:
            return _scaled(_theta_well(sigma, p, tied), scale, -2)
        r = float(sigma[tied] * sigma[-1])
        return (1 - r) / (1 / tied - 1 / p + r / p)
    tied = int(np.count_nonzero(sigma <= sigma[-1] + tie))
    gap = (sigma - sigma[-1]) * (sigma + sigma[-1])
    D = float(gap.sum()) / (2 * k)
    if tied == k or tie >= D:
        raise DegenerateSpectrumError(
            f"R_ill is infinite where all {k} nonzero singular values are equal: no step"
        )
    if of_theta:
        return _scaled(_theta_ill(sigma, D, tied), scale, 6)
    return _scaled(2 * k / (k / tied - 2) * D**2 if k > 2 * tied else math.inf, scale, 4)


def _theta_well(sigma: FloatArray, p: int, tied: int) -> float:
    second, last = float(sigma[tied]), float(sigma[-1])
    q = math.sqrt(second * last)
    A = (1 - q) / (2 * (q * second / p + 1 / tied - 1 / p))
    slope = second**1.5 - last
    B = p * (1 - math.sqrt(second)) / (2 * slope) if slope > 0 else math.inf
    return min(A, B)


def _theta_ill(sigma: FloatArray, D: float, tied: int) -> float:
    k = sigma.size
    last, before = float(sigma[-1]), float(sigma[-1 - tied])
    den = last * (1 / tied - 1 / k) - 1 / k
    if den <= 0:
        return math.inf
    E = D**2 / den
    growth = 2 * E / (k * D**2)
    if before * (1 + growth * before) ** 2 < last * (1 + growth) ** 2:
        return math.inf
    return E


def _scaled(end: float, scale: float, power: int) -> float:
    """``end * scale^power``, refused where it is not representable."""
    if math.isinf(end):  # of a scale that underflows too
        return end
    value = end
    with np.errstate(over="ignore", divide="ignore"):
        factor = scale if power > 0 else float(1.0 / np.float64(scale))
    for _ in range(abs(power)):
        value *= factor
    if math.isinf(value):
        raise OverflowError(
            f"the end of the interval is {end:.3g} * {scale:.3g}^{power}, beyond the float range: "
            f"scale the input"
        )
    return value
