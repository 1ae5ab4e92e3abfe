"""What the values of R_well and R_ill say of kappa."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from .._regularizers import r_ill, r_well
from .._validate import FloatArray, as_float64
from ._instances import EPS, rotation, rounding, spectrum
from ._parameters import ANGLES, GAPS, Parameters, Real, Whole
from ._theorem import NENOV, OURS, PAPER, Claim, Theorem, Verdict, at_most, equal


@dataclass(frozen=True)
class Matrix:
    """A matrix with a known spectrum.

    Attributes
    ----------
    S : (p, p) array
        The matrix.
    sigma : (k,) array
        Its nonzero singular values, descending.
    """

    S: FloatArray
    sigma: FloatArray

    def __post_init__(self) -> None:
        sigma = as_float64(self.sigma, "sigma", ndim=1)
        if sigma[-1] <= 0.0 or np.any(np.diff(sigma) > 0.0):
            raise ValueError(f"sigma must hold positive numbers, descending, got {sigma}")
        object.__setattr__(self, "S", as_float64(self.S, "S"))
        object.__setattr__(self, "sigma", sigma)

    @property
    def log_kappa(self) -> float:
        """log(sigma_1/sigma_k), accurate also where kappa is near 1."""
        first, last = float(self.sigma[0]), float(self.sigma[-1])
        return math.log1p((first - last) / last)


def _matrix(
    gaps: Sequence[float], zeros: int, scale: float, left: Sequence[float], right: Sequence[float]
) -> Matrix:
    k = len(gaps) + 1
    p = k + zeros
    sigma = spectrum(gaps, k) * 10.0**scale
    return Matrix((rotation(left, p)[:, :k] * sigma) @ rotation(right, p)[:, :k].T, sigma)


def ill(case: Matrix) -> float:
    """R_ill of the known spectrum, without cancellation."""
    k, s = case.sigma.size, case.sigma
    return 2 * k / float(np.sum((s - s[-1]) * (s + s[-1])))


def well(case: Matrix, p: int) -> float:
    """R_well of the known spectrum, without cancellation."""
    s = case.sigma
    missing = (p - s.size) * float(s[0]) ** 2
    return (float(np.sum((s[0] - s) * (s[0] + s))) + missing) / (2 * p)


def _digits(case: Matrix, change: float) -> float:
    """Bound rounding in a value: singular values move by eps times the largest."""
    return rounding(case.S.shape[0], float(case.sigma[0]) ** 2 / change)


def _library_ill(case: Matrix) -> Claim:
    value = ill(case)
    found = r_ill(case.S, rank=case.sigma.size)
    return equal("library's R_ill", found, value, _digits(case, 1 / value))


def _library_well(case: Matrix, p: int) -> Claim:
    value, k = well(case, p), case.sigma.size
    found = r_well(case.S, rank=k, p="rank" if p == k < case.S.shape[0] else None)
    return equal("library's R_well", found, value, _digits(case, value))


def _ill_positive(case: Matrix) -> Verdict:
    value = ill(case)
    s, k = case.sigma, case.sigma.size
    share = 2 * k / (value * float(s @ s))  # D of its largest possible value, in (0, 1)
    return Verdict.of(
        Claim("R_ill > 0", share, 0.0, 0.0 < share < math.inf),
        _library_ill(case),
        sigma=s,
        r_ill=value,
    )


def _ill_bound(sharper: bool) -> Callable[[Matrix], Verdict]:
    def verify(case: Matrix) -> Verdict:
        k, value = case.sigma.size, ill(case)
        factor = (k - 1) / k if sharper else 1.0
        bound = factor * float(case.sigma[0]) ** 2 * value
        return Verdict.of(
            at_most("1/log kappa <= bound", 1 / case.log_kappa, bound, rounding(k, 1.0)),
            _library_ill(case),
            sigma=case.sigma,
            log_kappa=case.log_kappa,
            bound=bound,
        )

    return verify


def _well_nonnegative(case: Matrix) -> Verdict:
    p = case.S.shape[0]
    value, top = well(case, p), float(case.sigma[0])
    return Verdict.of(
        Claim("R_well > 0 unless all are equal", value / top**2, 0.0, value > 0.0),
        equal("R_well = 0 where all are", r_well(top * np.eye(p)), 0.0, p * EPS, scale=top**2),
        _library_well(case, p), sigma=case.sigma, p=p, r_well=value,
    )  # fmt: skip


def _well_bound(by_rank: bool) -> Callable[[Matrix], Verdict]:
    def verify(case: Matrix) -> Verdict:
        p = case.sigma.size if by_rank else case.S.shape[0]
        bound = p * well(case, p) / float(case.sigma[-1]) ** 2
        return Verdict.of(
            at_most("log kappa <= bound", case.log_kappa, bound, rounding(p, 1.0)),
            _library_well(case, p), sigma=case.sigma, p=p, log_kappa=case.log_kappa, bound=bound,
        )  # fmt: skip

    return verify


_PARAMETERS: Parameters = {
    "gaps": GAPS, "zeros": Whole(0, 2), "scale": Real(-3.0, 3.0), "left": ANGLES, "right": ANGLES,
}  # fmt: skip
_NOT_EQUAL = "k >= 2 nonzero singular values, not all equal"

_theorem = partial(
    Theorem, section="theory/steps#what-the-values-bound", parameters=_PARAMETERS, build=_matrix
)

BOUNDS = (
    _theorem(
        name="theorem-4.1-1", source=f"{PAPER}, Theorem 4.1 (1)", verify=_ill_positive,
        statement="R_ill is positive.",
        formula="R_ill(S) = 1/(||S||_F^2/(2k) - sigma_k^2/2) > 0",
        hypotheses=_NOT_EQUAL,
    ),
    _theorem(
        name="theorem-4.1-2", source=f"{PAPER}, Theorem 4.1 (2)", verify=_ill_bound(sharper=False),
        statement="Small R_ill means a large condition number.",
        formula="1/log kappa <= sigma_1^2 R_ill",
        hypotheses=_NOT_EQUAL,
    ),
    _theorem(
        name="r-ill-bound", source=OURS, verify=_ill_bound(sharper=True),
        statement="Small R_ill means a large condition number, with the best constant.",
        formula="1/log kappa <= ((k-1)/k) sigma_1^2 R_ill",
        hypotheses=_NOT_EQUAL,
    ),
    _theorem(
        name="theorem-a.1-1", source=f"{PAPER}, Theorem A.1 (1), after {NENOV}",
        verify=_well_nonnegative,
        statement="R_well is never negative, and 0 exactly where all p singular values are equal.",
        formula="R_well(S) = sigma_1^2/2 - ||S||_F^2/(2p) >= 0",
        hypotheses=_NOT_EQUAL + "; and p equal ones",
    ),
    _theorem(
        name="theorem-a.1-2", source=f"{PAPER}, Theorem A.1 (2), after {NENOV}",
        verify=_well_bound(by_rank=False),
        statement="Small R_well means a small condition number.",
        formula="log kappa <= (p/sigma_k^2) R_well",
        hypotheses="any rank k >= 2, also k < p",
    ),
    _theorem(
        name="r-well-bound", source=OURS, verify=_well_bound(by_rank=True),
        statement="Small R_well means a small condition number, also with the rank k in place of "
        "p.",
        formula="log kappa <= (k/sigma_k^2) R_well with p := k",
        hypotheses="any rank k >= 2",
    ),
)  # fmt: skip
