"""The spectral regularizers as operators: one for the whole family."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal, SupportsIndex

import torch
from torch import Tensor

from .._pairs import explaining
from .._rank import largest_negative, largest_skew, rank_rule
from .._validate import check_real
from ._arguments import Given, given
from ._curvature import hessian_product
from ._distributed import spread
from ._family import FAMILY
from ._kernels import kernels_for
from ._operator import Function, Operator, nestable, wide
from ._pairs import ExtremePairs, pairs_operator
from ._warn import warn_accuracy, warn_half, warn_tied


class _Spectral(Function):
    """``immucond::spectral``: the value of a regularizer and its gradient, both differentiable.

    The gradient is an output, so that what the forward pass computed serves the backward pass, and
    the derivative of that is this operator's own: a product with the Hessian. It is empty where
    nobody seems to want it, and then made up for in the backward pass.
    """

    outputs: ClassVar[int] = 2

    @staticmethod
    def forward(X: Tensor, *options: Any) -> Any:
        if X.is_cpu and _is_plain(X):
            return _kernel(X, *options)  # what the dispatcher would come to, ten microseconds later
        return spectral.entry(X, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        X, ctx.name, *options, ctx.p_is_rank, ctx.gradient = inputs
        ctx.options = tuple(options)
        ctx.save_for_backward(X, output[1])
        ctx.save_for_forward(X, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def _gradient(ctx: Any, X: Tensor, gradient: Tensor) -> Tensor:
        if not ctx.gradient:
            gradient = spectral(X, ctx.name, *ctx.options, ctx.p_is_rank, True)[1]
        result: Tensor = gradient
        return result

    @staticmethod
    def backward(ctx: Any, by_value: Tensor | None, by_gradient: Tensor | None) -> Any:
        X, gradient = ctx.saved_tensors
        result = None
        if by_value is not None:
            result = by_value[..., None, None] * _Spectral._gradient(ctx, X, gradient)
        if by_gradient is not None and ctx.gradient:
            more = hessian_product(X, by_gradient, ctx.name, ctx.options, ctx.p_is_rank)
            result = more if result is None else result + more
        return None if result is None else result.to(X.dtype), *_NOTHING

    @staticmethod
    @nestable
    def jvp(saved: Any, ctx: Any, tangent: Tensor, *_: Any) -> Any:
        X, empty = saved
        gradient = _Spectral._gradient(ctx, X, empty)
        change = (gradient * tangent).sum((-2, -1))
        if not ctx.gradient:
            return change, torch.zeros_like(empty)
        moved = hessian_product(X, tangent, ctx.name, ctx.options, ctx.p_is_rank)
        # As the gradient lies in memory, which may be a view.
        return change, moved.to(gradient.dtype).contiguous()

    @staticmethod
    def batched(apply: Callable[..., Any], X: Tensor, *options: Any) -> Any:
        # Below vmap the tensor tells better than before whether a gradient will be asked for.
        return apply(X, *options[:-1], options[-1] or X.requires_grad)


_NOTHING = (None,) * 7


def _is_plain(X: Tensor) -> bool:
    """Whether nothing but the dispatcher's kernels will look at it."""
    return type(X) in (Tensor, torch.nn.Parameter) and torch._C._len_torch_dispatch_stack() == 0


_SCHEMA = (
    "spectral(Tensor X, str name, bool features, int? rank, float? rtol, str? computed_in, "
    "bool p_is_rank, bool gradient) -> (Tensor, Tensor)"
)


def _kernel(
    X: Tensor,
    name: str,
    features: bool,
    rank: int | None,
    rtol: float | None,
    computed_in: str | None,
    p_is_rank: bool,
    gradient: bool,
) -> tuple[Tensor, Tensor]:
    regularizer, shape, dtype = FAMILY[name].regularizer, X.shape, wide(X.dtype)
    what: Given = "features" if features else "matrix"
    rule = rank_rule(
        shape[-2:],
        X.dtype,  # type: ignore[arg-type]
        rank=rank,
        rtol=rtol,
        computed_in=computed_in,
        given=what,
    )
    stacked = X.ndim > 2
    with explaining(rule):
        found, gradients, tied, determined, k = kernels_for(X).evaluate(
            regularizer,
            X.reshape(-1, *shape[-2:]) if stacked else X,
            features=features,
            rule=rule,
            p_is_rank=p_is_rank,
            gradient=gradient,
        )
    warn_half("Z^T Z" if features else "S", k, min(shape[-2:]), rule)
    if not determined:
        warn_accuracy("Z^T Z" if features else "S")
    if gradient and tied:
        warn_tied("Z^T Z" if features else "S", name)
    value = torch.as_tensor(found, dtype=dtype, device=X.device)
    _check_finite(value, f"the value of {name}")
    if stacked:
        value = value.reshape(shape[:-2])
    if not gradient:
        return value, torch.empty(0, dtype=dtype, device=X.device)
    by_X = gradients.to(dtype)
    _check_finite(by_X, f"the gradient of {name}")
    return value, by_X.reshape(shape) if stacked else by_X


def _check_finite(x: Tensor, what: str) -> None:
    """Refuse what was finite in float64, and no longer is; mostly the sum tells."""
    if x.dtype == torch.float64 or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
        return  # a graph that is being captured has no numbers yet
    if not math.isfinite(x.sum()) and not x.isfinite().all():
        raise OverflowError(f"{what} is not representable in {str(x.dtype).removeprefix('torch.')}")


def _fake(X: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    dtype = wide(X.dtype)
    return (
        X.new_empty(X.shape[:-2], dtype=dtype),
        X.new_empty(X.shape if options[-1] else (0,), dtype=dtype),
    )


spectral = Operator(_Spectral, _SCHEMA, fake=_fake, kernel=_kernel)


def _value(
    name: str,
    S: Tensor | None,
    features: Tensor | None,
    rank: SupportsIndex | None,
    rtol: float | None,
    computed_in: Any,
    p: Literal["rank"] | None,
    group: Any,
) -> Tensor:
    X, options = given(S, features, rank, rtol, computed_in, empty=group is not None)
    if p not in (None, "rank"):
        raise ValueError(f"p must be None or 'rank', and is {p!r}")
    result: Tensor
    if group is None:
        wanted = X.requires_grad and torch.is_grad_enabled()
        result = spectral(X, name, *options, p == "rank", wanted)[0]
        return result
    dtype = wide(X.dtype)
    X, options, rule = spread(X, options, group)
    wanted = X.requires_grad and torch.is_grad_enabled()
    inner = rule if not options[0] else rule._replace(rounded=0.0)  # features tell by themselves
    with explaining(inner):
        result = spectral(X, name, *options, p == "rank", wanted)[0]
    return result.to(dtype)


def r_well(
    S: Tensor | None = None,
    *,
    features: Tensor | None = None,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
    p: Literal["rank"] | None = None,
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
    rank, rtol, computed_in
        As in `immucond.extreme_pairs` and `immucond.feature_extreme_pairs`: the default `rtol`
        follows `computed_in`, and that the dtype of the tensor.
    p : None or "rank"
        Count all singular values (default), or the k nonzero ones, which batches with fewer
        samples than features want.
    group : torch.distributed.ProcessGroup, optional
        The ranks that hold rows of `features`; each gets the value at all rows, and the gradient
        by its own. For ``torch.distributed.group.WORLD`` that is every rank.

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
    """
    return _value("r_well", S, features, rank, rtol, computed_in, p, group)


def r_ill(
    S: Tensor | None = None,
    *,
    features: Tensor | None = None,
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
    return _value("r_ill", S, features, rank, rtol, computed_in, None, group)


def condition_number(
    S: Tensor | None = None,
    *,
    features: Tensor | None = None,
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
        none is too small to be told.

    Raises
    ------
    ValueError
        Where there is a ridge and `S` is not symmetric positive semidefinite; traced programs do
        not look.

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
        return _value("kappa", S, features, rank, rtol, computed_in, None, group)
    X, options = given(S, features, rank, rtol, computed_in, empty=group is not None)
    dtype, definite = wide(X.dtype), None
    if group is not None:
        X, options, _ = spread(X, options, group)
    elif features is None:
        definite = _definite(X, options[3] or X.dtype)
    of_features, rank, _, precision = options
    precision = precision or str(X.dtype).removeprefix("torch.")
    pairs = ExtremePairs(
        *pairs_operator(X.double(), of_features, rank, rtol or 0.0, precision, False)
    )
    size = X.shape[-1] if of_features else min(X.shape[-2:])
    singular = pairs.rank < size
    if definite is not None:  # what rounding moved below zero is zero
        singular = singular | ~definite
    smallest = torch.where(singular, 0.0, pairs.sigma_min)
    return ((pairs.sigma_max + shift) / (smallest + shift)).to(dtype)


def _definite(S: Tensor, computed_in: Any) -> Tensor | None:
    """Return which matrices are positive definite; refuse what is not semidefinite to rounding."""
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if traced or not _is_plain(S):
        return None
    H = S.detach().double()
    size = H.abs().amax((-2, -1), keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    n = S.shape[-1]
    skew, noise = largest_skew(n, computed_in), largest_negative(n, computed_in)
    if S.shape[-2] == n and bool(((H - H.mT).abs() <= skew * size).all()):
        H = (H + H.mT) / (2 * size)
        shifted = H + noise * torch.eye(n, dtype=H.dtype, device=H.device)
        if not bool(torch.linalg.cholesky_ex(shifted).info.any()):
            definite: Tensor = torch.linalg.cholesky_ex(H).info == 0
            return definite
    raise ValueError("S must be symmetric positive semidefinite where there is a ridge")


def log_kappa(
    S: Tensor | None = None,
    *,
    features: Tensor | None = None,
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
    return _value("log_kappa", S, features, rank, rtol, computed_in, None, group)
