"""The spectral regularizers as functions that PyTorch differentiates."""

from __future__ import annotations

from typing import Any, SupportsIndex

import torch
from torch import Tensor

from .. import _regularizers as built_in
from .._rank import largest_negative, largest_skew
from .._regularizers import Counted, SpectralRegularizer, counted
from .._validate import check_real
from ._distributed import local_rows, spread
from ._operator import (
    at_hand,
    check_finite,
    exponent_of,
    given,
    shifted,
    symmetric_part,
    times_power,
    wide,
    widened,
)
from ._pairs import ExtremePairs, pairs_operator
from ._spectral import mean_at_ties, name_of, spectral
from ._tokens import kept_rows

# Beside a ridge, an eigenvalue below 1e-307 of the largest, the square of this, is zero.
_LEAST = 2.0**-510


def _value(
    r: SpectralRegularizer, S: Tensor | None, features: Tensor | None, mask: Tensor | None,
    p: Counted, group: Any, *of_rank: Any,
) -> Tensor:  # fmt: skip
    features, group = local_rows(features, group)
    features = kept_rows(features, mask, empty=group is not None)
    X, options = given(S, features, *of_rank, empty=group is not None)
    name, number, dtype = name_of(r), counted(p, r), wide(X.dtype)
    if group is not None:
        X, options = spread(X, options, group)
    wanted = X.requires_grad and torch.is_grad_enabled()
    result: Tensor = spectral(X, name, *options, number, wanted)[0]
    if result.dtype != dtype:  # of what stands for all ranks' rows
        result = result.to(dtype)
        check_finite(result.detach(), f"the value of {r.name}")
    return result


def r_well(
    S: Tensor | None = None,
    *,
    features: Tensor | None = None,
    mask: Tensor | None = None,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    p: Counted = None,
    group: Any = None,
) -> Tensor:
    """Return ``sigma_1^2 / 2 - F / (2 p)``, which descent lowers together with kappa.

    Nenov, Haider, Balazs (2024); Zheng et al. (2025), Eq. 11. The value and the gradient of
    `immucond.r_well`, for any program that PyTorch differentiates.

    Parameters
    ----------
    S : Tensor, shape (..., p_r, p_c), optional
        Any finite real matrix, or a stack. Give either `S` or `features`.
    features : Tensor, shape (..., N, m), optional
        Features Z, one row a sample: r at ``H = Z^T Z``. The cost is that of the smaller of
        ``Z^T Z`` and ``Z Z^T``.
    mask : Tensor, shape (B, T), optional
        1 for tokens and 0 for padding, of bool, integers or floats: features (B, T, m) are then
        the rows of *one* matrix, those of the tokens that are kept, and not a stack of B. Padding
        may hold anything, NaN too; its gradient is exactly zero.
    rank, rtol, computed_in
        As in `immucond.extreme_pairs` and `immucond.feature_extreme_pairs`: the default `rtol`
        follows `computed_in`, and that the dtype of the tensor.
    p : None, "rank" or int
        Count all singular values (default), the k nonzero ones, which batches with fewer samples
        than features want, or so many.
    group : torch.distributed.ProcessGroup or DeviceMesh, optional
        The ranks that hold rows of `features`; each gets the value at all rows, and the gradient
        by its own, whose own derivatives are refused. For ``torch.distributed.group.WORLD`` that is
        every rank; a DTensor with ``Shard(0)`` brings its own. Rows in float64 meet in a tree of QR
        factors (`immucond.TriangleAccumulator.all_reduce`), coarser ones in one sum of Gram
        matrices, which holds all that they tell, unless `rank` or a small `rtol` asks for more.

    Returns
    -------
    Tensor, shape (...)
        Computed in float64; of the dtype of the input, at least float32.

    Raises
    ------
    ValueError, TypeError, OverflowError
        As in `immucond.SpectralRegularizer.value_and_grad`.
    DegenerateSpectrumError
        In second derivatives, where an extreme singular value that they use is not simple.

    Warns
    -----
    DegenerateSpectrumWarning
        Where such an end is not simple: the gradient takes the mean over the tied group, a valid
        subgradient.
    AccuracyWarning
        Where a smallest singular value that it uses is not determined; in second derivatives, where
        near neighbours leave them fewer than three digits.

    Examples
    --------
    >>> import torch
    >>> import immucond.torch as ict
    >>> Z = torch.tensor([[2.0, 0.0], [0.0, 1.0]], requires_grad=True)
    >>> value = ict.r_well(features=Z)
    >>> value.backward()
    >>> round(value.item(), 6), Z.grad.diagonal().tolist()
    (3.75, [8.0, -1.0])

    Two texts of two tokens and of one, whose padding does not count:

    >>> tokens = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[1.0, 1.0], [torch.nan, 9.0]]])
    >>> mask = torch.tensor([[1, 1], [1, 0]])
    >>> bool(ict.r_well(features=tokens, mask=mask) == ict.r_well(features=tokens[mask.bool()]))
    True
    """
    return _value(built_in.r_well, S, features, mask, p, group, rank, rtol, computed_in)


def r_ill(
    S: Tensor | None = None,
    *,
    features: Tensor | None = None,
    mask: Tensor | None = None,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    group: Any = None,
) -> Tensor:
    """Return ``1 / (F / (2 k) - sigma_k^2 / 2)``, which descent lowers while it raises kappa.

    Zheng et al. (2025), Theorem 4.1. See `r_well` for the parameters.

    Raises
    ------
    DegenerateSpectrumError
        Where all nonzero singular values are equal: the value is infinite there.

    Examples
    --------
    >>> import torch
    >>> import immucond.torch as ict
    >>> ict.r_ill(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    tensor(1.3333)
    """
    return _value(built_in.r_ill, S, features, mask, None, group, rank, rtol, computed_in)


def condition_number(
    S: Tensor | None = None,
    *,
    features: Tensor | None = None,
    mask: Tensor | None = None,
    ridge: float = 0.0,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    group: Any = None,
) -> Tensor:
    """Return ``sigma_1 / sigma_k`` over the nonzero singular values.

    Zheng et al. (2025), Eq. 1. See `r_well` for the parameters.

    Parameters
    ----------
    ridge : float
        Of ``S + ridge I`` (or ``H + ridge I``), for symmetric positive semidefinite `S`: the
        convention of the published tables. With a ridge above zero every eigenvalue counts, and
        none is too small to be told: where all are zero it is 1, with a gradient of zero.

    Raises
    ------
    ValueError
        Where there is a ridge and `S` is not symmetric positive semidefinite, of which traced
        programs look at the shape alone.
    OverflowError
        Where it is not representable in the dtype of the result.

    Warns
    -----
    DegenerateSpectrumWarning
        As in `r_well`; but under a ridge traced and transformed programs do not look, and take the
        gradient of one pair.
    AccuracyWarning
        As in `r_well`, without a ridge.

    Examples
    --------
    >>> import torch
    >>> import immucond.torch as ict
    >>> ict.condition_number(features=torch.tensor([[3.0, 0.0], [0.0, 1.0]]))
    tensor(9.)
    >>> ict.condition_number(features=torch.tensor([[2.0, 0.0]]), ridge=1.0)
    tensor(5.)
    """
    shift = check_real(ridge, "ridge", low=0.0)
    if shift == 0.0:
        return _value(built_in.kappa, S, features, mask, None, group, rank, rtol, computed_in)
    features, group = local_rows(features, group)
    features = kept_rows(features, mask, empty=group is not None)
    X, options = given(S, features, rank, rtol, computed_in, empty=group is not None)
    dtype, definite = wide(X.dtype), None
    # Every eigenvalue counts, unless a tolerance says otherwise.
    options = (*options[:2], rtol or (_LEAST if options[0] else 0.0), options[3])
    if group is not None:
        X, options = spread(X, options, group)
    elif features is None:
        if X.shape[-2] != X.shape[-1]:
            raise ValueError(
                "S must be symmetric positive semidefinite where there is a ridge, and has shape "
                f"{tuple(X.shape)}"
            )
        definite = _definite(X, options[3] or X.dtype)
    nothing = (X == 0.0).flatten(-2).all(-1) & (rank is None)
    # What is zero has no pairs, and needs none: one that is sure of both ends stands in.
    X = torch.where(
        nothing[..., None, None], torch.eye(*X.shape[-2:], dtype=X.dtype, device=X.device), X
    )
    of_pairs = (*options[:3], options[3] or str(X.dtype).removeprefix("torch."))
    wide_X, size = widened(X), X.shape[-1]
    if not options[0]:
        wide_X = symmetric_part(wide_X)  # whose eigenvalues a ridge shifts
    pairs = ExtremePairs(*pairs_operator(wide_X, *of_pairs, False))
    singular = pairs.rank < size
    if definite is not None:  # what rounding moved below zero is zero
        singular = singular | ~definite
    largest = mean_at_ties(pairs, "max", torch.ones_like(singular), wide_X, of_pairs)
    smallest = mean_at_ties(pairs, "min", ~singular, wide_X, of_pairs)
    smallest = torch.where(singular, 0.0, smallest)
    (top, of_top), (bottom, of_bottom) = (_plus(x, shift) for x in (largest, smallest))
    single = dtype != torch.float64
    ratio = times_power(top / bottom, of_top - of_bottom, single)[..., 0, 0]
    result: Tensor = torch.where(nothing, 1.0, ratio)  # of 0 + ridge I
    return result


def _plus(sigma: Tensor, shift: float) -> tuple[Tensor, Tensor]:
    """Return ``sigma + shift > 0`` as matrices in units of powers of two, and their exponents."""
    x = sigma[..., None, None]
    more = torch.full_like(x, shift)
    exponent = exponent_of(torch.maximum(x, more))
    return shifted(x, -exponent) + shifted(more, -exponent), exponent


def _definite(S: Tensor, computed_in: Any) -> Tensor | None:
    """Return which matrices are positive definite; refuse what is not semidefinite to rounding."""
    if not (at_hand(S) and bool(S.isfinite().all())):  # what finds the pairs says where
        return None
    H = S.detach().double()
    size = H.abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    n = S.shape[-1]
    skew, noise = largest_skew(n, computed_in), largest_negative(n, computed_in)
    H = H / size
    if bool(((H - H.mT).abs() <= skew).all()):
        H = (H + H.mT) / 2
        raised = H + noise * torch.eye(n, dtype=H.dtype, device=H.device)
        if not bool(torch.linalg.cholesky_ex(raised).info.any()):
            definite: Tensor = torch.linalg.cholesky_ex(H).info == 0
            return definite
    raise ValueError("S must be symmetric positive semidefinite where there is a ridge")


def log_kappa(
    S: Tensor | None = None,
    *,
    features: Tensor | None = None,
    mask: Tensor | None = None,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    group: Any = None,
) -> Tensor:
    """Return ``log sigma_1 - log sigma_k`` over the nonzero singular values.

    See `r_well` for the parameters.

    Examples
    --------
    >>> import torch
    >>> import immucond.torch as ict
    >>> ict.log_kappa(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    tensor(0.)
    """
    return _value(built_in.log_kappa, S, features, mask, None, group, rank, rtol, computed_in)


def evaluate(
    regularizer: SpectralRegularizer,
    S: Tensor | None = None,
    *,
    features: Tensor | None = None,
    mask: Tensor | None = None,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    p: Counted = None,
    group: Any = None,
) -> Tensor:
    """Return any regularizer, such as one of one's own, at a matrix or at features.

    Parameters
    ----------
    regularizer : SpectralRegularizer
        For second derivatives its coefficients must be arithmetic, NumPy's functions (``np.log``,
        not ``math.log``) and branches; they are differentiated as they stand.
    S, features, mask, rank, rtol, computed_in, p, group
        As in `r_well`.

    Returns
    -------
    Tensor, shape (...)
        As in `r_well`.

    Raises
    ------
    TypeError
        For what is no regularizer; in second derivatives, for coefficients that take a float.

    Examples
    --------
    >>> import torch
    >>> import immucond as ic
    >>> import immucond.torch as ict
    >>> norm = ic.SpectralRegularizer("norm", 1, lambda s: (s.sigma_max, 1.0, 0.0, 0.0))
    >>> S = torch.tensor([[2.0, 0.0], [0.0, 1.0]], requires_grad=True)
    >>> ict.evaluate(norm, S).backward()
    >>> S.grad.diagonal()
    tensor([1., 0.])
    """
    if not isinstance(regularizer, SpectralRegularizer):
        raise TypeError(
            f"regularizer must be a SpectralRegularizer, and is a {type(regularizer).__name__}"
        )
    return _value(regularizer, S, features, mask, p, group, rank, rtol, computed_in)
