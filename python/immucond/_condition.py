"""The condition number over the nonzero singular values."""

from __future__ import annotations

import math
from typing import Any, SupportsIndex, cast

import numpy as np
import numpy.typing as npt

from . import _core
from ._errors import warn_accuracy
from ._pairs import Search, condition_of, warn_half
from ._rank import default_rtol, epsilon, rank_rule
from ._validate import as_matrix, check_real


def condition_number(
    S: npt.ArrayLike | None = None,
    *,
    features: npt.ArrayLike | None = None,
    ridge: float = 0.0,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
) -> float:
    """Return ``kappa = sigma_max / sigma_min`` over the *nonzero* singular values.

    Zheng et al. (2025), Eq. 1: ``||S|| ||S^+||``. For an invertible matrix the same as
    ``numpy.linalg.cond``, which returns infinity or noise for a singular one.

    Parameters
    ----------
    S : array_like, shape (p_r, p_c), optional
        Any finite real matrix. Give either `S` or `features`.
    features : array_like, shape (N, m), optional
        Features Z: the condition number of ``H = Z^T Z``, found without squaring it.
    ridge : float
        Of ``S + ridge I`` (or ``H + ridge I``), for symmetric positive semidefinite `S`: the
        convention of the published tables. With a ridge above zero every eigenvalue counts, and of
        zeros alone it is 1. It is not invariant to the scale of `S`.
    rank, rtol, computed_in
        As in `extreme_pairs` and `feature_extreme_pairs`.

    Returns
    -------
    float
        At least 1.

    Raises
    ------
    ValueError
        Where not exactly one of `S` and `features` is given, an entry is not finite, the rank is 0
        without a ridge, `ridge` is negative, or there is one and `S` is not symmetric positive
        semidefinite.
    OverflowError
        Where it passes 1.8e308.

    Warns
    -----
    AccuracyWarning
        Where the smallest nonzero singular value is not determined, or with a ridge the sum.

    Examples
    --------
    >>> import immucond as ic
    >>> round(ic.condition_number([[4.0, 0.0], [0.0, 0.0]]), 12)
    1.0
    >>> round(ic.condition_number([[4.0, 0.0], [0.0, 0.0]], ridge=1.0), 12)
    5.0
    """
    if (S is None) == (features is None):
        raise ValueError(
            "give a matrix, condition_number(S), or features, condition_number(features=Z): got "
            + ("neither" if S is None else "both")
        )
    shift = check_real(ridge, "ridge", low=0.0)
    # Under a ridge every eigenvalue counts, so none is cut off.
    tolerance = 0.0 if shift > 0.0 and rtol is None else rtol
    fields: dict[str, Any]
    name, given = ("S", S) if features is None else ("features", features)
    array = as_matrix(cast(npt.ArrayLike, given), name)
    square = features is not None or array.shape[0] == array.shape[1]
    if shift > 0.0 and rank is None and square and not array.any():
        return 1.0  # of 0 + ridge I
    if features is not None:
        rule = rank_rule(
            array.shape, array.dtype, rank=rank, rtol=tolerance, computed_in=computed_in,
            given="features",
        )  # fmt: skip
        try:
            fields = _core.feature_extreme_pairs(array, rule=rule, search=Search(), name="features")
        except OverflowError:
            if shift == 0.0:
                raise
            # Beside a ridge, an eigenvalue below 1e-308 of the largest is what the Gram matrix
            # makes of it: zero.
            fields = _core.feature_extreme_pairs(
                array,
                rule=rule._replace(rtol=default_rtol(array.shape, np.float64)),
                search=Search(method="gram"),
                name="features",
            )
        size = array.shape[1]
    else:
        rule = rank_rule(
            array.shape, array.dtype, rank=rank, rtol=tolerance, computed_in=computed_in
        )
        kernel = _core.psd_extreme_pairs if shift > 0.0 else _core.extreme_pairs
        fields = kernel(array, rule=rule, search=Search(), name="S")
        size = min(array.shape)
    name = "S" if features is None else "Z^T Z"
    largest, smallest = fields["unit_max"], fields["unit_min"]
    if shift == 0.0:
        warn_half(name, fields["rank"], min(array.shape), rule)
        if not fields["determined"]:
            warn_accuracy(name)
        return float(condition_of(largest, smallest, name))
    least, noise = fields["sigma_min"], fields["bound_min"]
    if fields["rank"] < size:
        # A zero of a matrix that nobody vouched for may be anything up to its entries' rounding.
        vouched = rule.rank or features is not None
        share = max(size * epsilon(np.float64), 0.0 if vouched else rule.precision)
        smallest, least, noise = 0.0, 0.0, share * fields["sigma_max"]
    with np.errstate(over="ignore", under="ignore", divide="ignore", invalid="ignore"):
        unit_shift = np.ldexp(shift, -fields["exponent"])  # infinite beside a vanishing matrix
        kappa = float((largest + unit_shift) / (smallest + unit_shift))
    if math.isnan(kappa):
        return 1.0
    if math.isinf(kappa):
        raise OverflowError(f"the condition number of {name} + {shift:g} I passes 1.8e308")
    if noise > (least + shift) / 2:
        warn_accuracy(f"{name} + {shift:g} I")
    return kappa
