"""Immunization of what the harmful probe feels: its labels faded out, primary predictions kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._errors import underflow_is_zero
from .._task import Ranks, roots
from .._validate import FloatArray, as_float64, as_targets, check_real, plain
from ..linear import fade as fade_map
from ..linear.of_roots import report_of
from ._result import ImmunizationResult
from ._setup import described


@underflow_is_zero
def fade(
    X_P: npt.ArrayLike,
    y_P: npt.ArrayLike,
    X_H: npt.ArrayLike,
    y_H: npt.ArrayLike,
    *,
    tau: float = 1e4,
    form: str = "near",
    protect: bool = False,
    delta: float = 0.0,
    center: bool = True,
    ranks: Ranks | None = None,
    computed_in: Any = None,
) -> ImmunizationResult:
    """Immunize by fading the harmful labels out of the features, without iterating.

    The extractor is the map A of :func:`immucond.linear.fade`, the head ``A^-1 omega_0`` with
    omega_0 the least-squares head of least norm on the inputs: every primary prediction, on any
    row, is what it was before, and primary features change as little as they can. What it slows is
    descent on the harmful labels (:meth:`ImmunizationResult.alignment`), whatever it does to the
    condition numbers of the report.

    Parameters
    ----------
    X_P : (N_P, d) array_like
        Primary inputs, one row a sample.
    y_P : (N_P,) or (N_P, c) array_like
        Primary targets.
    X_H : (N_H, d) array_like
        Harmful inputs.
    y_H : (N_H,) or (N_H, c) array_like
        Harmful targets, or one label a row (integers, bools, strings).
    tau : float, default 1e4
        How much slower descent along the labels shall be; finite, so that predictions can be kept.
    form, protect, delta, center, ranks, computed_in
        As in :func:`immucond.linear.fade`; primary targets are what `protect` keeps fast.

    Returns
    -------
    ImmunizationResult
        With an empty history: there are no steps.

    Raises
    ------
    ValueError
        As :func:`immucond.linear.fade`; for an infinite tau, which no head undoes.

    Warns
    -----
    ImmunityWarning
        Where the features do not see the harmful labels.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> rng = np.random.default_rng(0)
    >>> X_P, X_H = rng.normal(size=(2, 200, 4)) * [4, 3, 2, 1]
    >>> y_P, y_H = X_P @ np.ones(4), X_H[:, 0] > 0
    >>> result = ic.immunize.fade(X_P, y_P, X_H, y_H)
    >>> bool(np.allclose(result.features(X_P) @ result.omega, y_P))
    True
    >>> result.alignment(X_H, y_H).rho < 1e-3 < ic.linear.alignment(X_H, y_H).rho
    True
    """
    strength = check_real(tau, "tau", low=1.0)
    targets = as_float64(y_P, "y_P", ndim=np.ndim(y_P))
    faded = fade_map(
        X_P,
        X_H,
        y_H,
        tau=strength,
        form=form,  # type: ignore[arg-type]
        Y_P=targets if protect else None,
        protect=protect,
        delta=delta,
        center=center,
        ranks=ranks,
        computed_in=computed_in,
    )
    P, H = roots(X_P, X_H, None, None, ranks=ranks, computed_in=computed_in)
    X = as_float64(X_P, "X_P")
    omega: FloatArray = faded.solve(
        P.least_squares(X, as_targets(targets, X.shape[0], "y_P", "X_P"))
    )
    theta = faded.theta
    return ImmunizationResult(
        theta=theta,
        omega=omega[:, 0] if np.ndim(y_P) == 1 else omega,
        history={},
        report=report_of(P, H, theta),
        method="fade",
        parameters=plain(
            {
                "tau": strength,
                "form": form,
                "protect": bool(protect),
                "delta": float(delta),
                "center": bool(center),
                "ranks": described(ranks),
                "computed_in": computed_in,
            }
        ),
    )
