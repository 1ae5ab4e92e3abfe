"""What a probe did, step by step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._validate import FloatArray, check_real


@dataclass(frozen=True)
class ProbeTrace:
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
        Share of the reducible loss along each: the label energy.
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
