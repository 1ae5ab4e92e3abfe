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
    kappa : float
        Condition number of the Hessian (with weight decay) over the directions that features use.
    rank : int
        Number of those directions.
    slow_share : float
        Share of the reducible loss that lies along eigenvalues below a hundredth of the largest.
        Where it is small, the loss falls fast whatever kappa is.
    """

    method: str
    loss: FloatArray
    norm_ratio: FloatArray
    best_loss: float
    kappa: float
    rank: int
    slow_share: float

    def steps_to(self, tolerance: float) -> int | None:
        """First step whose loss is at most ``(1 + tolerance)`` times the best, or None.

        Examples
        --------
        >>> import immucond as ic
        >>> ic.probing.probe([[1, 0], [0, 1], [1, 1]], [1, 0, 2], method="cg").steps_to(0.01)
        2
        """
        allowed = (1.0 + check_real(tolerance, "tolerance", low=0.0)) * self.best_loss
        hits = np.flatnonzero(self.loss <= allowed)
        return int(hits[0]) if hits.size else None
