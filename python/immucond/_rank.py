"""Numerical rank: how many singular values count as nonzero.

The rank is the number of singular values *of what was given* above ``rtol`` times the largest. The
tolerance follows the precision in which the data were computed, not the one they are stored in:
float32 features carry rounding noise of about ``eps(float32) sqrt(m)`` relative to their largest
singular value, whatever array they stand in now. A known rank always wins.

Entries in half precision (bfloat16, float16) are a case of their own. Networks that give such
features compute them in float32 (products accumulate there) and round each entry once, at the end:
``|E_ij| <= u |Z_ij|`` with the unit roundoff u = eps / 2, so ``||E|| <= u ||Z||_F``, and by Weyl no
singular value that was zero before is larger. Only what stands above that norm counts; it follows
the data, and for features with a large mean it is far below ``u sqrt(m)`` of the largest.

The numbers themselves are those of the C++ core (spectrum.hpp), which the kernels use.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, SupportsIndex

import numpy as np
import numpy.typing as npt

from . import _core
from ._validate import as_integer, check_real

Given = Literal["matrix", "features", "gram", "product"]

_EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_HALF = ("float16", "bfloat16")
# A dtype's name takes NumPy longer than a small kernel takes.
_EPS_OF_DTYPE = {np.dtype(name): eps for name, eps in _EPS.items() if name != "bfloat16"}


def epsilon(computed_in: Any) -> float:
    """Return the spacing of floating-point numbers at 1 in `computed_in`.

    Parameters
    ----------
    computed_in : dtype_like or str
        float64, float32, float16 or bfloat16, as a NumPy or torch dtype or a name. Integers and
        bools are exact, and count as float64.
    """
    if isinstance(computed_in, np.dtype) and computed_in in _EPS_OF_DTYPE:
        return _EPS_OF_DTYPE[computed_in]
    name = str(computed_in).removeprefix("torch.")
    if name not in _EPS:
        try:
            dtype = np.dtype(computed_in)
        except TypeError as error:
            raise TypeError(f"computed_in must be a dtype, and is {computed_in!r}") from error
        name = "float64" if dtype.kind in "biu" else dtype.name
    if name not in _EPS:
        raise ValueError(f"computed_in must be one of {', '.join(_EPS)}, and is {computed_in!r}")
    return _EPS[name]


def default_rtol(shape: tuple[int, ...], computed_in: Any, given: Given = "matrix") -> float:
    """Return the relative tolerance on singular values that decides rank.

    Parameters
    ----------
    shape : tuple of int
        Of the matrix or of the features.
    computed_in : dtype_like or str
        The precision in which the entries were computed.
    given : {"matrix", "features", "gram", "product"}
        ``max(shape) eps`` for a matrix, as in `numpy.linalg.matrix_rank`; ``4 sqrt(m) eps`` for
        features (N x m), whose noise does not grow with N, and no less than what a QR in float64
        leaves of a column that depends on others (for fewer than 16 columns as for these, for 129
        to 1023 as for 1024); for the Gram matrix of such features, summed in float64 by
        `immucond.gram`, its square, and no less than what a block of that sum leaves. In half
        precision, where each entry was rounded once, the most that this comes to, with
        ``||Z||_F <= sqrt(min(shape)) sigma_1``; but
        ``max(shape) eps`` for a "product", a matrix made of such a one.

    Examples
    --------
    >>> import numpy as np
    >>> default_rtol((15000, 384), np.float32, "features") < 1e-5
    True
    """
    return _core.default_rtol(
        rows=shape[0], columns=shape[1], eps=epsilon(computed_in), given=given
    )


def largest_skew(n: int, computed_in: Any) -> float:
    """Return the skew, relative to the largest entry, that rounding explains."""
    return _core.largest_skew(n, epsilon(computed_in))


def largest_negative(n: int, computed_in: Any) -> float:
    """Return how far below zero, relative to the largest, rounding moves an eigenvalue."""
    return _core.largest_negative(n, epsilon(computed_in))


class Rule(NamedTuple):
    """What the kernels are told of the data.

    The known rank or 0, rtol, a quarter of what the entries' rounding comes to in norm, relative to
    the largest singular value (eps; where each entry was rounded once eps / 8), and the relative
    norm of that rounding once: singular values must also exceed ``rounded ||Z||_F``.
    """

    rank: int
    rtol: float
    precision: float
    rounded: float = 0.0


def rank_rule(
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    *,
    rank: SupportsIndex | None,
    rtol: float | None,
    computed_in: Any,
    given: Given = "matrix",
    rank_name: str = "rank",
) -> Rule:
    """Return the rule that decides rank and ties.

    `shape` and `dtype` are those of what was given; the other arguments are the user's.
    """
    tolerance = -1.0 if rtol is None else check_real(rtol, "rtol", low=0.0, high=1.0)
    known = 0 if rank is None else as_integer(rank, rank_name)
    if rank is not None and not 1 <= known <= min(shape):
        raise ValueError(
            f"{rank_name} must be between 1 and {min(shape)} for shape {shape}, and is {known}"
        )
    eps = epsilon(dtype if computed_in is None else computed_in)
    rows, columns = shape
    return Rule(
        *_core.rank_rule(
            rows=rows, columns=columns, eps=eps, given=given, rank=known, rtol=tolerance
        )
    )


def gram_rule(
    K: npt.NDArray[Any],
    *,
    rank: SupportsIndex | None,
    rtol: float | None,
    computed_in: Any,
    rank_name: str = "rank",
) -> Rule:
    """Return the rule for a Gram matrix; `computed_in` is the precision of its features.

    Their rounding is squared in sums in float64; that of sums in less is larger than it.
    """
    if computed_in is not None and epsilon(K.dtype) == epsilon(np.float64):
        if rtol is None:
            squared = default_rtol(K.shape, computed_in, "gram")
            rtol = min(0.5, max(squared, default_rtol(K.shape, K.dtype)))
        computed_in = None
    return rank_rule(
        K.shape, K.dtype, rank=rank, rtol=rtol, computed_in=computed_in, rank_name=rank_name
    )


def tolerance_at(sigma: npt.NDArray[np.floating[Any]], rule: Rule) -> float:
    """Return the relative tolerance that the rule comes to at all these singular values."""
    if rule.rounded == 0.0:
        return rule.rtol
    floor = rule.rounded * float(np.linalg.norm(sigma / sigma[0]))
    return _core.cut(rtol=rule.rtol, sigma_max=1.0, floor=floor)


def numerical_rank(sigma: npt.NDArray[np.floating[Any]], rule: Rule) -> int:
    """Return the known rank, or how many of the descending singular values count as nonzero."""
    return rule.rank or int(np.count_nonzero(sigma > tolerance_at(sigma, rule) * sigma[0]))


def refuse_more(
    rank: int, sigma: npt.NDArray[np.floating[Any]], name: str, rank_name: str = "rank"
) -> None:
    """Refuse a known rank beyond the descending singular values that are not 0."""
    nonzero = int(np.count_nonzero(sigma))
    if rank > nonzero:
        raise ValueError(f"{rank_name} is given as {rank}, and {name} has at most {nonzero}")


def cut_off(name: str, rank: int, size: int, rule: Rule) -> str:
    """Return what the rounding of half precision has left of a rank; empty if all of it."""
    if rule.rounded == 0.0 or rank == size:
        return ""
    return f"the rank of {name} is {rank} of {size}: {half_told(rule)}"


def half_told(rule: Rule) -> str:
    """Return how the rank of entries in half precision was decided, and what to do about it."""
    name = next(name for name in _HALF if _EPS[name] * _core.ROUNDED_ONCE == rule.precision)
    return (
        f"entries in {name} were rounded by up to {_EPS[name] / 2:.1g} of their size, and "
        "singular values up to that share of the Frobenius norm count as zero. Give the rank "
        "where it is known (rank=), a tolerance (rtol=), computed_in='float32' to take the "
        "entries as they stand, or features that stay in float32"
    )


def seen_labels(
    labels: npt.NDArray[np.float64], s: npt.NDArray[np.float64], size: float, shape: tuple[int, int]
) -> npt.NDArray[np.float64]:
    """Labels ``U^T y`` along the left singular vectors of features, of singular values s; or zeros.

    Zeros where ``Z^T y`` is no more than rounding makes of it for labels of norm `size` that the
    features do not see: it turns the vectors of small values by as much as these are smaller. Never
    where s, by a known rank, goes below rounding and the labels may all lie there.
    """
    cross = float(np.linalg.norm(s[:, None] * labels))
    rounding = default_rtol(shape, np.float64, "features") * float(s[0])
    return np.zeros_like(labels) if cross <= min(rounding, s[-1] / 2.0) * size else labels
