"""Values and gradients of the spectral regularizers on the device."""

from __future__ import annotations

from typing import Any, SupportsIndex

from .._errors import DegenerateSpectrumWarning
from .._pairs import explaining, warn_half
from .._rank import Given, rank_rule
from .._regularizers import Counted, SpectralRegularizer, counted
from .._warn import warn, warn_accuracy
from ._arrays import ingest
from ._evaluate import NAMES, evaluate


def value_and_grad(
    regularizer: SpectralRegularizer,
    S: Any,
    *,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    p: Counted = None,
) -> tuple[Any, Any]:
    """Return value and gradient at a symmetric positive semidefinite matrix, or a stack of them.

    Other matrices are copied to the host and computed there.

    Parameters
    ----------
    regularizer : SpectralRegularizer
        `immucond.r_well`, `immucond.r_ill`, `immucond.kappa` or `immucond.log_kappa`.
    S : array on a CUDA device, shape (p_r, p_c) or (b, p_r, p_c)
        Of PyTorch, CuPy, or anything with DLPack or ``__cuda_array_interface__``.
    rank, rtol, computed_in, p
        As in `immucond.SpectralRegularizer.value_and_grad`.

    Returns
    -------
    value : array, shape () or (b,), float64
    gradient : array of the shape of S, float64 for float64 and float32 for narrower entries

    Raises
    ------
    CudaUnavailableError
        Where the kernels or a device are not there.
    ValueError, TypeError, OverflowError, DegenerateSpectrumError
        As in `immucond.SpectralRegularizer.value_and_grad`.

    Warns
    -----
    DegenerateSpectrumWarning, AccuracyWarning
        As there.

    Examples
    --------
    >>> import torch
    >>> import immucond as ic
    >>> import immucond.cuda as icc
    >>> if icc.available():
    ...     value, grad = icc.value_and_grad(ic.kappa, torch.tensor([[3.0, 0], [0, 1]]).cuda())
    ...     assert round(float(value), 12) == 3.0
    """
    return _value_and_grad(regularizer, S, "S", "matrix", rank, rtol, computed_in, p)


def value_and_grad_features(
    regularizer: SpectralRegularizer,
    Z: Any,
    *,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    p: Counted = None,
) -> tuple[Any, Any]:
    """Return value at ``H = Z^T Z`` and gradient by Z, for features (N, m) or a stack of groups.

    A stack with the smaller of N and m up to 128 is one launch. See `value_and_grad` for the
    parameters, results and errors.

    Examples
    --------
    >>> import torch
    >>> import immucond as ic
    >>> import immucond.cuda as icc
    >>> if icc.available():
    ...     groups = torch.randn(20, 100, 512, device="cuda", dtype=torch.float64)
    ...     value, grad = icc.value_and_grad_features(ic.r_ill, groups)
    ...     assert (value.shape, grad.shape) == ((20,), groups.shape)
    """
    return _value_and_grad(regularizer, Z, "Z", "features", rank, rtol, computed_in, p)


def _value_and_grad(
    regularizer: SpectralRegularizer,
    x: Any,
    name: str,
    given: Given,
    rank: SupportsIndex | None,
    rtol: float | None,
    computed_in: Any,
    p: Counted,
) -> tuple[Any, Any]:
    if getattr(regularizer, "name", None) not in NAMES:
        raise ValueError(f"regularizer must be one of {', '.join(NAMES)}, and is {regularizer!r}")
    values = counted(p, regularizer)
    library, x, array = ingest(x, name)
    if len(array.shape) not in (2, 3) or 0 in array.shape:
        raise ValueError(
            f"{name} must be a matrix with at least one entry, or a stack of them, and has shape "
            f"{array.shape}"
        )
    rule = rank_rule(
        array.shape[-2:],
        array.dtype,  # type: ignore[arg-type]
        rank=rank,
        rtol=rtol,
        computed_in=computed_in,
        given=given,
    )
    single = len(array.shape) == 2
    with explaining(rule):
        found = evaluate(
            regularizer,
            x[None] if single else x,
            array.stacked(),
            library,
            features=given == "features",
            rule=rule,
            p=values,
            gradient=True,
        )
    what = "Z^T Z" if given == "features" else "S"
    warn_half(what, found.rank, min(array.shape[-2:]), rule)
    if not found.determined:
        warn_accuracy(what)
    if found.tied:
        warn(
            f"an extreme singular value of {what} that {regularizer.name} uses is not simple to "
            "rounding: the gradient takes the mean over the tied group",
            DegenerateSpectrumWarning,
        )
    return (found.value[0], found.gradient[0]) if single else (found.value, found.gradient)
