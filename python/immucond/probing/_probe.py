"""One entry to all attackers on frozen features."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._errors import underflow_is_zero
from .._validate import as_count, check_choice, check_real
from ._attackers import METHODS, STEP_LENGTHS, Method, drive
from ._curve import predicted
from ._problem import Problem
from ._trace import ProbeTrace


@underflow_is_zero
def probe(
    Z: npt.ArrayLike,
    y: npt.ArrayLike,
    *,
    method: Method = "gd",
    steps: int = 1000,
    weight_decay: float = 0.0,
    tolerance: float | None = None,
    lr: float | None = None,
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
    method : str
        ``"gd"``: gradient descent with exact line search, one step length for all heads, the
        attacker of the paper: ``norm_ratio[t] <= (1 - 1/kappa)^t``. ``"gd-constant"``: with a
        constant step. ``"nesterov"``: accelerated, told kappa. ``"cg"``: conjugate gradients, about
        ``sqrt(kappa)/2 ln(2/eps)`` steps. ``"lbfgs"``: with exact line search and ten pairs.
        ``"adam"``: full batch, constant step. ``"whitening"``: gradient descent on whitened
        features. ``"lstsq"``, ``"lstsq-float32"``: one least-squares solve, which kappa does not
        slow and only robs of digits.
    steps : int, default 1000
        Most steps taken.
    weight_decay : float, default 0
        mu in ``||Z w - y||^2 + mu ||w||^2``; caps kappa at ``(sigma_1 + mu) / mu``.
    tolerance : float, optional
        Stop as soon as the loss is within this factor of the best: ``(1 + tolerance)`` times; see
        `ProbeTrace.above`.
    lr : float, optional
        Step length of ``"gd-constant"`` in units of 1 / sigma_max, below 2 (default 1), or of
        ``"adam"`` in units of the root mean square entry of a head that fits y along the top
        eigenvector (default 0.01). It is for these two alone.
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
        For an unknown method, NaN, mismatched sizes, a negative weight decay, an lr out of range,
        or rank 0.
    TypeError
        For an lr that the method has no use for.
    OverflowError
        Where a loss, the condition number or the best head is not representable, or the weight
        decay is not beside the scale of Z.

    Notes
    -----
    Source: arXiv 2505.23760, Eq. 2 (the bound on the norm ratio). With feature rank below m the
    norm ratio is taken to the minimizer nearest to the start; it would stop falling otherwise. Adam
    leaves the range of ``Z^T`` and goes to another minimizer there. PyTorch's ``weight_decay=wd``
    is mu = wd / 2 for a summed loss, N wd / 2 for a mean one.

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
    length = _step_length(method, lr)
    problem = Problem.of(Z, y, weight_decay, rank, computed_in)
    unit = problem.curvature_unit
    stop = 0.0 if tolerance is None else tolerance * problem.measure_of_loss * unit
    excess, distance = drive(METHODS[method](problem, length), most, stop)
    h, start = problem.curvature, problem.excess
    energy = h * problem.error**2 / (start or 1.0)
    of_loss, of_norm = predicted(problem, method, length, np.arange(excess.size, dtype=np.float64))
    return ProbeTrace(
        method=method,
        loss=problem.loss_of(excess),
        norm_ratio=distance / (distance[0] or 1.0),
        best_loss=problem.best_loss * problem.loss_unit,
        above=problem.above_best(excess),
        kappa=float(h[0] / h[-1]),
        rank=h.size,
        slow_share=float(energy[h < 0.01 * h[0]].sum()),
        curvature=h,
        energy=energy,
        predicted_loss=None if of_loss is None else problem.loss_of(of_loss * start),
        predicted_norm_ratio=of_norm,
    )


def _step_length(method: str, lr: float | None) -> float:
    if method not in STEP_LENGTHS:
        if lr is not None:
            raise TypeError(f"lr is for {' and '.join(STEP_LENGTHS)}, {method} has no use for it")
        return 1.0
    length = check_real(STEP_LENGTHS[method] if lr is None else lr, "lr", low=0.0)
    if length == 0.0 or (method == "gd-constant" and length >= 2.0):
        above = " and below 2, where it diverges" if method == "gd-constant" else ""
        raise ValueError(f"lr must be above 0{above}, and is {length:g}")
    return length
