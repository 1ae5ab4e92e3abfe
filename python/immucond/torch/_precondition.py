"""The identity layer whose backward multiplies by ``K^-1`` (Zheng et al., 2025, Sec. 4.4)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from .._rank import default_rtol, largest_negative, largest_skew
from .._validate import check_real
from ._operator import (
    Function,
    Operator,
    at_hand,
    check_device,
    check_tensor,
    nestable,
    symmetric_part,
    wide,
)

_factors = WeakTensorKeyDictionary()  # of K, where it has not changed since


def _eigh(K: Tensor) -> tuple[Tensor, Tensor, float]:
    """Return eigenpairs of K and what counts as zero; kept while K lives and stays as it is."""
    kept = _factors.get(K)
    if kept is None or not _is_still(K, *kept[0]):
        precise = K.detach().double()
        if not bool(precise.isfinite().all()):
            raise ValueError("K must be finite, and holds NaN or infinity")
        tolerance = default_rtol(tuple(K.shape), K.dtype)
        largest = float(precise.abs().amax())
        skew = largest_skew(len(K), K.dtype)
        if float((precise - precise.mT).abs().amax()) > skew * largest:
            raise ValueError("K must be symmetric")
        values, vectors = torch.linalg.eigh(symmetric_part(precise))  # it reads one triangle
        negative = largest_negative(len(K), K.dtype)
        if float(values[0]) < -negative * float(values[-1]) or float(values[-1]) <= 0.0:
            raise ValueError(
                f"K must be positive semidefinite and not zero, and has eigenvalues from "
                f"{float(values[0]):.3g} to {float(values[-1]):.3g}"
            )
        before = K._version, K.detach().clone()
        kept = (before, values, vectors, tolerance * float(values[-1]))
        _factors[K] = kept
    return kept[1:]  # type: ignore[no-any-return]


def _is_still(K: Tensor, version: int, numbers: Tensor) -> bool:
    """Whether K holds these numbers: what ``K.data`` or NumPy writes has no version."""
    if K._version != version or (K.dtype, K.device) != (numbers.dtype, numbers.device):
        return False
    # A graph that is being captured has no numbers yet.
    return (K.is_cuda and torch.cuda.is_current_stream_capturing()) or torch.equal(K, numbers)


class _BySolving(Function):
    """A function of (X, K, ridge) whose backward is a solve with K."""

    tensors: ClassVar[int] = 2

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004
        _, K, ctx.ridge = inputs
        ctx.save_for_backward(K)
        ctx.save_for_forward(K)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        (K,) = ctx.saved_tensors
        return solve(upstream, K, ctx.ridge), None, None


class _Solve(_BySolving):
    """``(K + ridge I)^-1 g``; without a ridge and for singular K its pseudo-inverse."""

    @staticmethod
    @nestable
    def jvp(saved: Any, ctx: Any, tangent: Tensor, *_: Any) -> Any:
        return solve(tangent, saved[0], ctx.ridge)


def _solve(g: Tensor, K: Tensor, ridge: float) -> Tensor:
    if K.ndim > 2:  # a stack made by vmap
        return torch.stack([_solve(x, k, ridge) for x, k in zip(g, K, strict=True)])
    values, vectors, zero = _eigh(K)
    if ridge > 0.0:
        values, zero = values.clamp(min=0.0) + ridge, 0.0
    along = vectors.mT @ g.double()
    along = torch.where((values > zero)[:, None], along / values[:, None], 0.0)
    result = (vectors @ along).to(g.dtype).contiguous()
    # In half precision infinity tells a loss scaler to take less.
    if at_hand(g) and g.dtype == wide(g.dtype) and bool((g.isfinite() & ~result.isfinite()).any()):
        raise OverflowError(
            f"K^-1 times the gradient is not representable in {str(g.dtype).removeprefix('torch.')}"
            ": scale the inputs up, or take a ridge"
        )
    return result


class _Precondition(_BySolving):
    """``immucond::precondition``: theta itself, with a gradient that is `gram_solve`'s."""


solve = Operator(
    _Solve,
    "gram_solve(Tensor g, Tensor K, float ridge) -> Tensor",
    fake=lambda g, *_: g.new_empty(g.shape),
    kernel=_solve,
)
precondition_operator = Operator(
    _Precondition,
    "precondition(Tensor theta, Tensor K, float ridge) -> Tensor",
    fake=lambda theta, *_: theta.new_empty(theta.shape),
    kernel=lambda theta, *_: theta.clone(memory_format=torch.contiguous_format),
)


def precondition(theta: Tensor, K: Tensor, *, ridge: float = 0.0) -> Tensor:
    """Return `theta` itself; in the backward pass its gradient is multiplied by ``K^-1``.

    Zheng et al. (2025), Sec. 4.4 and Algorithm 1. For a regularizer at ``H = theta^T K theta`` the
    gradient ``2 K theta G`` becomes ``2 theta G``; where that is all that is wanted,
    `immucond.SpectralRegularizer.value_and_grad_theta` with ``preconditioned=True`` gives it
    without an inverse.

    Parameters
    ----------
    theta : Tensor, shape (d, m)
        Linear feature extractor.
    K : Tensor, shape (d, d)
        Gram matrix of the inputs, symmetric positive semidefinite. It is a constant: no gradient
        flows into it. Its eigendecomposition is kept while the tensor lives and is not modified;
        of one that was made in inference mode it is found anew each time.
    ridge : float
        Multiply by ``(K + ridge I)^-1`` instead, as the published code does. Without a ridge a
        singular K, to the rounding of its dtype, is inverted on its range.

    Returns
    -------
    Tensor, shape (d, m)

    Raises
    ------
    ValueError, TypeError
        Where shapes or devices do not match or `ridge` is negative; in the backward pass where K is
        not finite, symmetric and positive semidefinite.
    OverflowError
        In the backward pass, where the result is not representable in the dtype of `theta`.

    Notes
    -----
    This is no gradient of any function: forward-mode differentiation raises.

    Examples
    --------
    >>> import torch
    >>> import immucond.torch as ict
    >>> theta = torch.eye(2, requires_grad=True)
    >>> K = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    >>> ict.precondition(theta, K).sum().backward()
    >>> theta.grad
    tensor([[0.2500, 0.2500],
            [1.0000, 1.0000]])
    """
    check_tensor(theta, "theta")
    check_tensor(K, "K")
    if K.ndim != 2 or theta.ndim != 2 or K.shape != (theta.shape[0], theta.shape[0]):
        raise ValueError(
            f"theta must have shape (d, m) and K shape (d, d), got shapes {tuple(theta.shape)} and "
            f"{tuple(K.shape)}"
        )
    check_device(K, "K", theta, "theta")
    if at_hand(K) and K.is_inference():  # which autograd would not keep
        K = K.clone()
    result: Tensor = precondition_operator(theta, K, check_real(ridge, "ridge", low=0.0))
    return result
