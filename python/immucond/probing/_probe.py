"""What the attackers do to frozen features, step by step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .._display import Columns, Curves, Line, Plotted
from .._errors import underflow_is_zero
from .._validate import FloatArray, as_count, check_choice, check_real
from ._attackers import LABELS, METHODS, STEP_LENGTHS, Method
from ._curve import predicted
from ._problem import Problem

_MOST = 2**62  # steps beyond which nobody goes


@dataclass(frozen=True, eq=False, repr=False)
class ProbeTrace(Plotted):
    """Loss and distance to the minimizer of a linear probe, step by step.

    Attributes
    ----------
    method : str
        The attacker.
    loss : (T + 1,) array
        ``||Z w_t - y||^2 + weight_decay ||w_t||^2``, summed over samples and heads; t = 0 is
        w = 0.
    norm_ratio : (T + 1,) array
        ``||w_t - w*||^2 / ||w_0 - w*||^2`` with w* the minimizer nearest to w_0.
    best_loss : float
        The smallest loss there is.
    above : (T + 1,) array
        How far `loss` is above the best, relative to it: with digits that the difference of the two
        would lose, and at any scale of y. Where the features fit y exactly, so that the best is 0
        (to rounding), it is relative to the loss at w = 0.
    kappa : float
        Condition number of the Hessian (with weight decay) over the directions that features use.
    rank : int
        Number of those directions.
    slow_share : float
        Share of the reducible loss that lies along eigenvalues below a hundredth of the largest.
        Where it is small, the loss falls fast whatever kappa is.
    curvature : (k,) array
        Eigenvalues of the Hessian relative to the largest, descending.
    energy : (k,) array
        Share of the reducible loss along each: the label energy. Zeros where the features do not
        see the targets, and nothing is reducible.
    predicted_loss : (T + 1,) array or None
        What theory says of `loss`. For ``"gd-constant"`` it is exact; for ``"gd"``, ``"nesterov"``
        and ``"cg"`` an upper bound; nothing is known for the others.
    predicted_norm_ratio : (T + 1,) array or None
        The same of `norm_ratio`: an upper bound for these four (for ``"gd"`` the paper's Eq. 2);
        for the solvers an order of magnitude, from the digits that kappa costs.
    """

    method: str
    loss: FloatArray
    norm_ratio: FloatArray
    best_loss: float
    above: FloatArray
    kappa: float
    rank: int
    slow_share: float
    curvature: FloatArray
    energy: FloatArray
    predicted_loss: FloatArray | None
    predicted_norm_ratio: FloatArray | None

    def slow_energy(self, below: float = 0.01) -> float:
        """Share of the reducible loss along eigenvalues below this share of the largest.

        Examples
        --------
        >>> import numpy as np, immucond as ic
        >>> trace = ic.probing.probe(np.diag([1.0, 0.5, 0.1]), np.array([1.0, 1.0, 1.0]))
        >>> round(trace.slow_energy(0.3), 3), round(trace.slow_energy(0.02), 3)
        (0.667, 0.333)
        """
        limit = check_real(below, "below", low=0.0)
        return float(self.energy[self.curvature < limit].sum())

    def steps_to(self, tolerance: float) -> int | None:
        """First step that is `above` the best loss by at most the tolerance, or None.

        Examples
        --------
        >>> import immucond as ic
        >>> ic.probing.probe([[1, 0], [0, 1], [1, 1]], [1, 0, 2], method="cg").steps_to(0.01)
        2
        """
        hits = np.flatnonzero(self.above <= check_real(tolerance, "tolerance", low=0.0))
        return int(hits[0]) if hits.size else None

    def __repr__(self) -> str:
        return (
            f"ProbeTrace(method={self.method!r}, {self.loss.size - 1} steps, "
            f"loss={self.loss[0]:.4g} -> {self.loss[-1]:.4g}, best_loss={self.best_loss:.4g}, "
            f"kappa={self.kappa:.4g}, rank={self.rank}, slow_share={self.slow_share:.3g})"
        )

    def __str__(self) -> str:
        return self._as_text()

    def _columns(self) -> Columns:
        known = {
            "loss": self.loss, "above": self.above, "norm_ratio": self.norm_ratio,
            "predicted_loss": self.predicted_loss,
            "predicted_norm_ratio": self.predicted_norm_ratio,
        }  # fmt: skip
        step = {"step": np.arange(self.loss.size)}
        return step | {name: values for name, values in known.items() if values is not None}

    def _curves(self) -> Curves:
        step = np.arange(self.loss.size)
        lines = [
            Line("loss above the best", step, self.above),
            Line(r"$\|w_t-w^*\|^2 / \|w_0-w^*\|^2$", step, self.norm_ratio),
        ]
        if self.predicted_norm_ratio is not None:
            lines.append(Line("the latter by theory", step, self.predicted_norm_ratio))
        where = f"steps of the attacker ({LABELS[self.method]})"
        return Curves(where, "relative to the best loss, to the start", lines,
                      scales=("symlog", "log"))  # fmt: skip


@underflow_is_zero
def probe(
    Z: npt.ArrayLike, y: npt.ArrayLike, *, method: Method = "gd", steps: int = 1000,
    weight_decay: float = 0.0, tolerance: float | None = None, lr: float | None = None,
    rank: int | None = None, computed_in: Any = None,
) -> ProbeTrace:  # fmt: skip
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
        ``sqrt(kappa)/2 ln(2/eps)`` steps to eps^2 of the excess loss. ``"lbfgs"``: with exact line
        search and ten pairs.
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
        tolerance = check_real(tolerance, "tolerance", low=0.0)
    length = step_length(method, lr)
    return traced(
        Problem.of(Z, y, weight_decay, rank, computed_in), method, length, most, tolerance
    )


def traced(
    problem: Problem, method: str, length: float, most: int, tolerance: float | None
) -> ProbeTrace:
    """Run an attacker, as `probe` does."""
    unit = problem.curvature_unit
    stop = 0.0 if tolerance is None else tolerance * problem.measure_of_loss * unit
    excess, distance = METHODS[method](problem, length, min(most, _MOST), stop)
    above = excess / unit / (problem.measure_of_loss or 1.0)
    h, start = problem.curvature, problem.excess
    energy = h * problem.error**2 / (start or 1.0)
    of_loss, of_norm = predicted(problem, method, length, np.arange(excess.size, dtype=np.float64))
    return ProbeTrace(
        method=method, loss=problem.loss_of(excess), norm_ratio=distance / (distance[0] or 1.0),
        best_loss=problem.best_loss * problem.loss_unit, above=above,
        kappa=float(h[0] / h[-1]), rank=h.size, slow_share=float(energy[h < 0.01 * h[0]].sum()),
        curvature=h, energy=energy,
        predicted_loss=None if of_loss is None else problem.loss_of(of_loss * start),
        predicted_norm_ratio=of_norm,
    )  # fmt: skip


def step_length(method: str, lr: float | None) -> float:
    """Return the step length that a method takes; refuse one that it has no use for."""
    if method not in STEP_LENGTHS:
        if lr is not None:
            raise TypeError(f"lr is for {' and '.join(STEP_LENGTHS)}, {method} has no use for it")
        return 1.0
    length = check_real(STEP_LENGTHS[method] if lr is None else lr, "lr", low=0.0)
    if length == 0.0 or (method == "gd-constant" and length >= 2.0):
        above = " and below 2, where it diverges" if method == "gd-constant" else ""
        raise ValueError(f"lr must be above 0{above}, and is {length:g}")
    return length
