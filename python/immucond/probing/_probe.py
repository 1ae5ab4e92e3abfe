"""One entry to all attackers on frozen features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .._validate import FloatArray, as_count, check_choice, check_real
from ._cg import cg
from ._gd import gd
from ._lstsq import lstsq
from ._problem import Problem
from ._trace import ProbeTrace

Method = Literal["gd", "cg", "lstsq"]

METHODS: dict[str, Callable[[Problem, int, float], tuple[FloatArray, FloatArray]]] = {
    "gd": gd,
    "cg": cg,
    "lstsq": lstsq,
}


def probe(
    Z: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    method: Method = "gd",
    steps: int = 1000,
    weight_decay: float = 0.0,
    tolerance: float | None = None,
    rank: int | None = None,
    computed_in: Any = None,
) -> ProbeTrace:
    """Fit linear heads to frozen features from w = 0, under the squared loss.

    Parameters
    ----------
    Z : (N, m) array_like
        Features, one row a sample.
    y : (N,) or (N, c) array_like
        Targets of one head, or of c heads.
    method : {"gd", "cg", "lstsq"}
        ``"gd"``: gradient descent with exact line search, one step length for all heads, the
        attacker of the paper: ``norm_ratio[t] <= (1 - 1/kappa)^t``. ``"cg"``: conjugate gradients,
        about ``sqrt(kappa)/2 ln(2/eps)`` steps. ``"lstsq"``: one least-squares solve, which kappa
        does not slow and only robs of digits.
    steps : int, default 1000
        Most steps taken.
    weight_decay : float, default 0
        mu in ``||Z w - y||^2 + mu ||w||^2``; caps kappa at ``(sigma_1 + mu) / mu``.
    tolerance : float, optional
        Stop as soon as the loss is within this factor of the best: ``(1 + tolerance)`` times.
    rank : int, optional
        Known rank of Z.
    computed_in : dtype, optional
        Precision in which Z was computed; sets the tolerance that decides the rank.

    Returns
    -------
    ProbeTrace

    Raises
    ------
    ValueError
        For an unknown method, NaN, mismatched sizes, a negative weight decay, or rank 0.
    OverflowError
        Where a loss is not representable, or the weight decay is not beside the scale of Z.

    Notes
    -----
    Source: arXiv 2505.23760, Eq. 2 (the bound on the norm ratio). With feature rank below m the
    norm ratio is taken to the minimizer nearest to the start; it would stop falling otherwise.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> Z, y = np.diag([1.0, 0.1]), np.array([1.0, 0.1])
    >>> trace = ic.probing.probe(Z, y, method="gd", steps=100)
    >>> bool(np.all(trace.norm_ratio <= (1 - 1 / trace.kappa) ** np.arange(101)))
    True
    """
    check_choice(method, "method", tuple(METHODS))
    most = as_count(steps, "steps", least=1)
    if tolerance is not None:
        check_real(tolerance, "tolerance", low=0.0)
    problem = Problem.of(Z, y, weight_decay, rank, computed_in)
    unit = problem.curvature_unit
    stop = 0.0 if tolerance is None else tolerance * problem.best_loss * unit
    excess, distance = METHODS[method](problem, most, stop)
    h, reducible = problem.curvature, problem.curvature * problem.error**2
    slow = float(reducible[h < 0.01 * h[0]].sum())
    if not np.isfinite(loss_unit := problem.loss_unit):
        raise OverflowError("the loss of y is beyond the float range: scale y")
    return ProbeTrace(
        method=method,
        loss=(problem.best_loss + excess / unit) * loss_unit,
        norm_ratio=distance / (distance[0] or 1.0),
        best_loss=problem.best_loss * loss_unit,
        kappa=float(h[0] / h[-1]),
        rank=h.size,
        slow_share=slow / (float(reducible.sum()) or 1.0),
    )
