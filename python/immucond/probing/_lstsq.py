"""A least-squares solve: the attacker whom no condition number slows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import scipy.linalg

from .._rank import default_rtol
from ._driver import Step
from ._problem import Problem


def lstsq(problem: Problem, dtype: npt.DTypeLike = np.float64) -> Iterator[Step]:
    """One solve on the features by ``scipy.linalg.lstsq`` (pivoted QR), in a precision of choice.

    It runs on the features themselves, so that what kappa costs in digits shows.
    """
    Z, y, mu = problem.Z, problem.y, problem.weight_decay
    A, b = Z, y
    if mu > 0.0:
        m = Z.shape[1]
        A = np.vstack([Z, np.sqrt(mu) * np.eye(m)])
        b = np.vstack([y, np.zeros((m, y.shape[1]))])
    root = np.sqrt(problem.curvature_unit)  # the weight decay may put it anywhere
    A = A / root
    yield problem.measure(np.zeros_like(problem.minimizer))
    cut = max(problem.rtol, default_rtol(Z.shape, dtype, "features"))
    A, b = A.astype(dtype), b.astype(dtype)
    w = scipy.linalg.lstsq(A, b, cond=cut, lapack_driver="gelsy")[0]
    yield problem.measure(w.astype(np.float64) * root)
