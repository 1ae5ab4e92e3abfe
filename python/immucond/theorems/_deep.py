"""Deep nets: a linear map after the features, folded into the head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .._validate import FloatArray
from ..linear import immunity_limit
from ._instances import extractor, gaussian, kappa, pencil, rir, rounding
from ._parameters import ANGLES, SEED, Reals, Whole
from ._theorem import OURS, Theorem
from ._verdict import Verdict, at_most, equal


@dataclass(frozen=True)
class Net:
    """Features of a net on both tasks, its head, and a map to put after the features.

    Attributes
    ----------
    Z_P, Z_H : (N, m) arrays
        Features of the primary and the harmful samples.
    omega : (m, c) array
        Primary head.
    A : (m, m) array
        Invertible map.
    """

    Z_P: FloatArray
    Z_H: FloatArray
    omega: FloatArray
    A: FloatArray


def _net(
    seed: int, features: int, gaps: Sequence[float], left: Sequence[float], right: Sequence[float]
) -> Net:
    """Two-layer ReLU net with Gaussian weights, on Gaussian inputs of two tasks."""
    hidden, inputs, rows = 16, 8, 24
    W, V = gaussian(seed, inputs, hidden), gaussian(seed + 1, hidden, features)
    scale = np.geomspace(1.0, 0.1, inputs)
    Z_P, Z_H = (
        np.maximum(gaussian(seed + i, rows, inputs) * s @ W, 0.0) @ V
        for i, s in ((2, scale), (3, scale[::-1]))
    )
    A = extractor(gaps, left, right, features, features, features)
    return Net(Z_P, Z_H, gaussian(seed + 4, features, 2), A)


def _fold(case: Net) -> Verdict:
    m = case.A.shape[0]
    spread = float(np.linalg.cond(case.A))
    own_P, own_H = kappa(case.Z_P) ** 0.5, kappa(case.Z_H) ** 0.5
    lost = rounding(m, max(own_P, own_H), spread) + rounding(m, own_P, own_H)
    before = case.Z_P @ case.omega
    served_P, served_H = case.Z_P @ case.A, case.Z_H @ case.A
    folded = np.linalg.solve(case.A, case.omega)
    size = float(np.linalg.norm(case.Z_P, 2) * np.linalg.norm(case.omega, 2))
    limit = immunity_limit(X_P=case.Z_P, X_H=case.Z_H, ranks=(m, m))
    # The same limit with K := H(theta_0), attained by whitening the primary features.
    _, values = pencil(case.Z_P, case.Z_H)
    _, s, vt = np.linalg.svd(case.Z_P, full_matrices=False)
    white = vt.T / s
    # Whitening what is served undoes A, whatever A is.
    _, t, wt = np.linalg.svd(served_H, full_matrices=False)
    return Verdict.of(
        equal("predictions", served_P @ folded, before, rounding(m, spread**2), scale=size),
        at_most(
            "kappa_H <= kappa(M) kappa_P",
            kappa(served_H),
            float(values[0] / values[-1]) * kappa(served_P),
            lost,
        ),
        equal("RIR* attained", rir(case.Z_P, case.Z_H, white), limit.rir, lost),
        equal("whitening removes it", kappa(served_H @ (wt.T / t)), 1.0, lost),
        kappa_P=kappa(served_P),
        kappa_H=kappa(served_H),
        rir_limit=limit.rir,
    )


DEEP = (
    Theorem(
        name="fold",
        statement="A linear map A after the features, its inverse folded into the head, leaves "
        "every primary prediction as it was and maps both Hessians; the same limit holds. "
        "Whitening the served features removes it.",
        formula="Z A (A^-1 omega) = Z omega; (H_P, H_H) -> (A^T H_P A, A^T H_H A)",
        hypotheses="A invertible, features of full column rank on both tasks",
        source=OURS,
        section="theory/limit#deep-nets",
        parameters={
            "seed": SEED,
            "features": Whole(2, 6),
            "gaps": Reals(-8.0, 3.0, 0, 5),
            "left": ANGLES,
            "right": ANGLES,
        },
        build=_net,
        verify=_fold,
    ),
)
