"""Immunization without iterating: at the limit of the condition numbers, or by fading labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .._errors import ToleranceError, underflow_is_zero
from .._format import warn_if_easier
from .._labels import labels_of
from .._task import warn_if_lost
from .._two_tasks import Ranks, roots
from .._validate import (
    FloatArray,
    as_delta,
    as_float64,
    as_matrix,
    as_targets,
    as_theta,
    check_real,
    plain,
)
from ..linear import fade as fade_map
from ..linear.of_roots import extractor_of, nearest_of, report_of
from ._problem import described
from ._result import ImmunizationResult

# Of the primary predictions' size, what rounding may change of them.
_TOLERANCE = 0.01


@underflow_is_zero
def closed_form(
    X_P: npt.ArrayLike, y_P: npt.ArrayLike, X_H: npt.ArrayLike, *, kappa_P: float | None = None,
    delta: float | tuple[float, float] = 0.0, rotate: bool = True,
    nearest_to: npt.ArrayLike | None = None, norm: float | None = None, ranks: Ranks | None = None,
    computed_in: Any = None,
) -> ImmunizationResult:  # fmt: skip
    """Immunize by an extractor at the limit, without iterating.

    It is that of :func:`immucond.linear.optimal_extractor`, or with `nearest_to` that of
    :func:`immucond.linear.nearest_extractor`.

    The head is ``theta^-1 omega_0`` with omega_0 the least-squares head of least norm on the
    inputs, so every primary prediction, on any row, is what it was before.

    Parameters
    ----------
    X_P : (N_P, d) array_like
        Primary inputs, one row a sample.
    y_P : (N_P,) or (N_P, c) array_like
        Primary targets.
    X_H : (N_H, d) array_like
        Harmful inputs; at ``kappa_P = 1`` they do not change theta beyond a rotation.
    kappa_P : float, optional
        Condition number that the primary Hessian shall have. By default it keeps its own, so that
        the harmful one can only grow: ``kappa_M * kappa_P`` is at least ``kappa(K_H)``. At 1 the
        ratio of both is the same, and the harmful task may be easier than it was.
    delta : float or (float, float), default 0
        Added to the diagonals of the Gram matrices; needed where the supremum is infinite.
    rotate : bool, default True
        Rotate so that rescaling the features does not undo the immunization. Nearness leaves no
        rotation to choose: with `nearest_to` it plays no part.
    nearest_to : (d, m) array_like, optional
        Of all optimal extractors take one whose primary features are near to those of this one.
    norm : float, optional
        Frobenius norm that theta shall have; that of the identity is sqrt(d). By default the
        primary features keep their own norm, or are near to those of `nearest_to`. Predictions, and
        condition numbers in the exact convention, do not depend on it; those in the ridge
        convention do, and a norm far from sqrt(d) games them.
    ranks : (int or None, int or None), optional
        Known ranks of (X_P, X_H).
    computed_in : dtype, optional
        Precision in which the inputs were computed; sets the tolerance that decides the ranks.

    Returns
    -------
    ImmunizationResult
        With an empty history: there are no steps.

    Raises
    ------
    ValueError
        As :func:`immucond.linear.optimal_extractor`; for a norm that is not above 0.
    ToleranceError
        Where rounding would change the primary predictions by more than a hundredth; a ValueError.
    OverflowError
        Where the head is not representable.

    Warns
    -----
    ImmunityWarning
        Where the harmful Hessian is better conditioned than it was, (i) below 1.
    AccuracyWarning
        Where rounding to half precision has cut off some of a rank.

    Examples
    --------
    >>> import numpy as np, immucond as ic
    >>> rng = np.random.default_rng(0)
    >>> X_P, X_H = rng.normal(size=(50, 4)) * [4, 3, 2, 1], rng.normal(size=(50, 4))
    >>> result = ic.immunize.closed_form(X_P, X_P @ np.ones(4), X_H)
    >>> bool(np.isclose(result.report.rir, result.report.limit.rir))
    True
    >>> bool(np.allclose(X_P @ result.theta @ result.omega, X_P @ np.ones(4)))
    True
    """
    delta_P, delta_H = as_delta(delta)
    P, H = roots(X_P, X_H, None, None, ranks=ranks, computed_in=computed_in)
    warn_if_lost(P, H)
    noisy = P.plus(delta_P), H.plus(delta_H)
    if nearest_to is None:
        theta = extractor_of(*noisy, kappa_P=kappa_P, rotate=rotate)
    else:
        given = as_theta(nearest_to, P.dim, "nearest_to")
        theta = nearest_of(*noisy, given, kappa_P=kappa_P, name="nearest_to")
    if norm is not None:
        size = check_real(norm, "norm", low=0.0)
        if size == 0.0:
            raise ValueError("norm must be above 0, and is 0")
        theta /= np.max(np.abs(theta))  # the square of no other scale need be a number
        theta *= size / np.linalg.norm(theta)
    X = as_float64(X_P, "X_P")
    omega_0 = P.least_squares(X, as_targets(y_P, X.shape[0], "y_P", "X_P"))
    omega: FloatArray = np.linalg.lstsq(theta, omega_0, rcond=0.0)[0]  # type: ignore[assignment]
    asked = P.kappa if kappa_P is None else float(kappa_P)
    _refuse_changed(X, theta, omega, omega_0, f"kappa_P is {asked:.3g}: ask for less")
    report = report_of(P, H, theta)
    warn_if_easier(report.i, report.rir, "A larger kappa_P raises both condition numbers")
    own = {
        "kappa_P": kappa_P, "delta": [delta_P, delta_H], "rotate": bool(rotate),
        "nearest_to": described(nearest_to), "norm": norm, "ranks": ranks,
        "computed_in": computed_in,
    }  # fmt: skip
    head = omega[:, 0] if np.ndim(y_P) == 1 else omega
    return ImmunizationResult(theta, head, {}, report, "closed_form", plain(own))


@underflow_is_zero
def fade(
    X_P: npt.ArrayLike, y_P: npt.ArrayLike, X_H: npt.ArrayLike, y_H: npt.ArrayLike, *,
    tau: float = 1e4, form: str = "near", protect: bool = False, delta: float = 0.0,
    center: bool = True, ranks: Ranks | None = None, computed_in: Any = None,
) -> ImmunizationResult:  # fmt: skip
    """Immunize by fading the harmful labels out of the features, without iterating.

    The extractor is the map A of :func:`immucond.linear.fade`, the head ``A^-1 omega_0`` with
    omega_0 the least-squares head of least norm on the inputs: every primary prediction, on any
    row, is what it was before, to about the map's kappa times the rounding of float64, and primary
    features change as little as they can. What it slows is
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
    ToleranceError
        Where rounding would change the primary predictions by more than a hundredth; a ValueError.
    OverflowError
        Where the head is not representable.

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
    X = as_float64(X_P, "X_P")
    targets = as_targets(y_P, X.shape[0], "y_P", "X_P")
    labels = labels_of(y_H, as_matrix(X_H, "X_H").shape[0], "y_H", "X_H")
    faded = fade_map(
        X_P, X_H, labels, tau=strength,
        form=form,  # type: ignore[arg-type]
        Y_P=targets if protect else None, protect=protect, delta=delta, center=center, ranks=ranks,
        computed_in=computed_in,
    )  # fmt: skip
    P, H = roots(X_P, X_H, None, None, ranks=ranks, computed_in=computed_in)
    omega_0, theta = P.least_squares(X, targets), faded.theta
    omega: FloatArray = faded.solve(omega_0)
    _refuse_changed(X, theta, omega, omega_0, f"tau is {strength:.3g}: give a smaller one")
    own = {
        "tau": strength, "form": form, "protect": bool(protect), "delta": float(delta),
        "center": bool(center), "ranks": described(ranks), "computed_in": computed_in,
    }  # fmt: skip
    head = omega[:, 0] if np.ndim(y_P) == 1 else omega
    return ImmunizationResult(theta, head, {}, report_of(P, H, theta), "fade", plain(own))


def _refuse_changed(
    X: FloatArray, theta: FloatArray, omega: FloatArray, omega_0: FloatArray, otherwise: str
) -> None:
    """Refuse an extractor so ill-conditioned that its head changes the primary predictions."""
    if not np.isfinite(omega).all():
        raise OverflowError(
            f"the primary head is beyond the float range: theta has entries of up to "
            f"{np.max(np.abs(theta)):.3g}, and the head on the inputs of up to "
            f"{np.max(np.abs(omega_0)):.3g}"
        )
    before = X @ omega_0
    size = np.max(np.abs(before), axis=0)  # of each head, whatever the units of others
    with np.errstate(over="ignore", invalid="ignore"):
        change = np.max(np.abs((X @ theta) @ omega - before) / np.where(size > 0.0, size, 1.0))
        if not change <= _TOLERANCE:
            raise ToleranceError(
                f"rounding would change the primary predictions by {change:.2g} of their size, "
                f"more than {_TOLERANCE:g}: the extractor's condition number is "
                f"{np.linalg.cond(theta):.2g}. Here {otherwise}, or delta > 0"
            )
