"""Both ends of the spectrum on the device."""

from __future__ import annotations

from typing import Any, NamedTuple, SupportsIndex

from .._rank import Given, rank_rule
from ._arrays import ingest
from ._evaluate import pairs


class Pairs(NamedTuple):
    """The largest and the smallest nonzero eigenpair, as arrays on the device.

    Attributes
    ----------
    sigma_max, sigma_min : array, shape () or (b,), float64
        Eigenvalues.
    v_max, v_min : array, shape (n,) or (b, n), float64
        Unit eigenvectors, the largest component of each positive.
    rank : array, shape () or (b,), int32
        Number of eigenvalues that count as nonzero.
    """

    sigma_max: Any
    v_max: Any
    sigma_min: Any
    v_min: Any
    rank: Any


def psd_extreme_pairs(
    H: Any,
    *,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
) -> Pairs:
    """Return the extreme eigenpairs of a symmetric positive semidefinite matrix, or of a stack.

    Parameters
    ----------
    H : array on a CUDA device, shape (n, n) or (b, n, n)
        Symmetric to the bit; up to n = 128 the stack is one launch, beyond that each takes Lanczos
        and a Cholesky factorization, or cuSOLVER's direct method where that does not converge.
    rank, rtol, computed_in
        As in `immucond.psd_extreme_pairs`.

    Returns
    -------
    Pairs

    Raises
    ------
    CudaUnavailableError
        Where the kernels, a device, or for large matrices cuBLAS and cuSOLVER are not there.
    ValueError, TypeError
        As in `immucond.psd_extreme_pairs`.

    Examples
    --------
    >>> import torch
    >>> import immucond.cuda as icc
    >>> if icc.available():
    ...     pairs = icc.psd_extreme_pairs(torch.tensor([[2.0, 1.0], [1.0, 2.0]], device="cuda"))
    ...     assert round(float(pairs.sigma_max / pairs.sigma_min), 12) == 3.0
    """
    return _pairs(H, "H", "matrix", rank, rtol, computed_in)


def feature_extreme_pairs(
    Z: Any,
    *,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
) -> Pairs:
    """Return the extreme eigenpairs of ``H = Z^T Z`` for features (N, m) or a stack of groups.

    See `psd_extreme_pairs`; `rtol` is on the singular values of Z.

    Examples
    --------
    >>> import torch
    >>> import immucond.cuda as icc
    >>> if icc.available():
    ...     groups = torch.randn(20, 100, 512, device="cuda")
    ...     assert icc.feature_extreme_pairs(groups).sigma_max.shape == (20,)
    """
    return _pairs(Z, "Z", "features", rank, rtol, computed_in)


def _pairs(
    x: Any,
    name: str,
    given: Given,
    rank: SupportsIndex | None,
    rtol: float | None,
    computed_in: Any,
) -> Pairs:
    library, x, array = ingest(x, name)
    square = given == "features" or array.shape[-1:] == array.shape[-2:-1]
    if len(array.shape) not in (2, 3) or 0 in array.shape or not square:
        what = "a matrix" if given == "features" else "a square matrix"
        raise ValueError(
            f"{name} must be {what} with at least one entry, or a stack of them, and has shape "
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
    found = pairs(
        x[None] if single else x,
        array.stacked(),
        library,
        features=given == "features",
        rule=rule,
    )
    fields = (getattr(found, field) for field in Pairs._fields)
    return Pairs(*(field[0] if single else field for field in fields))
