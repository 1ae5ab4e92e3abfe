"""Extreme pairs as differentiable tensors."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple, SupportsIndex

import torch
from torch import Tensor

from .._rank import rank_rule
from ._arguments import Given, given
from ._kernels import kernels_for
from ._operator import Function, Operator, nestable, wide
from ._resolvent import apply, resolvent
from ._warn import warn_accuracy, warn_not_simple


class ExtremePairs(NamedTuple):
    """The largest and the smallest nonzero singular triplet of each matrix of a stack.

    Attributes
    ----------
    sigma_max, sigma_min : Tensor, shape (...)
        The largest and the smallest *nonzero* singular value.
    u_max, u_min : Tensor, shape (..., p_r)
        Left singular vectors; of features the same as the right ones, shape (..., m).
    v_max, v_min : Tensor, shape (..., p_c)
        Right singular vectors. The largest component of each is positive.
    rank : Tensor, shape (...), int64
        Number of singular values that count as nonzero.
    simple_max, simple_min : Tensor, shape (...), bool
        False where neighbours agree to rounding: the vectors are then one choice among many.
    """

    sigma_max: Tensor
    u_max: Tensor
    v_max: Tensor
    sigma_min: Tensor
    u_min: Tensor
    v_min: Tensor
    rank: Tensor
    simple_max: Tensor
    simple_min: Tensor


class End(NamedTuple):
    """One singular triplet, and whether it is simple."""

    sigma: Tensor
    u: Tensor
    v: Tensor
    simple: Tensor


class Moved(NamedTuple):
    """By how much a triplet moves, to first order."""

    sigma: Tensor
    u: Tensor
    v: Tensor


def outer(x: Tensor, y: Tensor) -> Tensor:
    """Return ``x y^T`` for each pair of vectors of two stacks."""
    return x[..., :, None] * y[..., None, :]


def _shifted(A: Tensor, sigma: Tensor) -> Tensor:
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    return A - sigma[..., None, None] * identity


class MatrixEnd:
    """The triplet (sigma, u, v) of S: an eigenpair (sigma, (u, v)) of ``[0 S; S^T 0]``."""

    def __init__(self, S: Tensor, end: End) -> None:
        self._end = end
        rows, columns = S.shape[-2:]
        top = torch.cat([S.new_zeros(*S.shape[:-2], rows, rows), S], dim=-1)
        bottom = torch.cat([S.mT, S.new_zeros(*S.shape[:-2], columns, columns)], dim=-1)
        self._M = _shifted(torch.cat([top, bottom], dim=-2), end.sigma)

    def _resolve(self, by_u: Tensor, by_v: Tensor) -> tuple[Tensor, Tensor]:
        z = torch.cat([self._end.u, self._end.v], dim=-1) / math.sqrt(2.0)
        y = resolvent(self._M, z, torch.cat([by_u, by_v], dim=-1), self._end.simple)
        return y[..., : by_u.shape[-1]], y[..., by_u.shape[-1] :]

    def vector_gradient(self, by_u: Tensor, by_v: Tensor) -> Tensor:
        """Return the gradient by S of a function with these gradients by u and v."""
        y_u, y_v = self._resolve(by_u, by_v)
        return -outer(y_u, self._end.v) - outer(self._end.u, y_v)

    def moved(self, W: Tensor) -> Moved:
        """Return what the change W of S does to the triplet."""
        u, v = self._end.u, self._end.v
        Wv, Wu = apply(W, v), apply(W.mT, u)
        return Moved((u * Wv).sum(-1), *self._resolve(-Wv, -Wu))

    def value_gradient(self) -> Tensor:
        """Return the gradient of sigma by S."""
        return outer(self._end.u, self._end.v)


class FeatureEnd:
    """The eigenpair (lambda, v) of ``H = Z^T Z``, by the smaller of ``Z^T Z`` and ``Z Z^T``."""

    def __init__(self, Z: Tensor, end: End) -> None:
        self._Z, self._lambda, self._v, self._simple = Z, end.sigma, end.v, end.simple
        self._Zv = apply(Z, end.v)
        self.dual = Z.shape[-2] < Z.shape[-1]
        self.T = Z.mT if self.dual else Z
        self.x = self._Zv / self._lambda.sqrt()[..., None] if self.dual else self._v
        self._M = _shifted(self.T.mT @ self.T, self._lambda)

    def _resolve(self, g: Tensor) -> Tensor:
        result: Tensor = resolvent(self._M, self.x, g, self._simple)
        return result

    def vector_gradient(self, by_u: Tensor, by_v: Tensor) -> Tensor:
        """Return the gradient by Z of a function with these gradients by u = v."""
        g, v = by_u + by_v, self._v
        if self.dual:
            # (Z^T Z - lambda)^+ by (Z Z^T - lambda)^+, and -1 / lambda on the null space of Z.
            g = g - (g * v).sum(-1, keepdim=True) * v
            inside = apply(self._Z.mT, self._resolve(apply(self._Z, g)))
            y = (inside - g) / self._lambda[..., None]
        else:
            y = self._resolve(g)
        return -outer(apply(self._Z, y), v) - outer(self._Zv, y)

    def moved_small(self, dH: Tensor) -> Moved:
        """Return what the change dH of the smaller Gram matrix does to lambda and its vector x."""
        dHx = apply(dH, self.x)
        dx = self._resolve(-dHx)
        return Moved((self.x * dHx).sum(-1), dx, dx)

    def moved(self, W: Tensor) -> Moved:
        """Return what the change W of Z does to lambda and v."""
        v, Z = self._v, self._Z
        dv_right = apply(W.mT, self._Zv) + apply(Z.mT, apply(W, v))  # dH v
        change = (v * dv_right).sum(-1)
        if self.dual:
            g = -(dv_right - change[..., None] * v)
            y = (apply(Z.mT, self._resolve(apply(Z, g))) - g) / self._lambda[..., None]
        else:
            y = self._resolve(-dv_right)
        return Moved(change, y, y)

    def value_gradient(self) -> Tensor:
        """Return the gradient of lambda by Z."""
        return 2.0 * outer(self._Zv, self._v)


def end_of(X: Tensor, features: bool, end: End) -> MatrixEnd | FeatureEnd:
    """Return the derivatives of one end, of a matrix or of features."""
    return FeatureEnd(X, end) if features else MatrixEnd(X, end)


class _Pairs(Function):
    """``immucond::extreme_pairs``: the nine fields of `ExtremePairs`."""

    outputs: ClassVar[int] = 9

    @staticmethod
    def forward(X: Tensor, *options: Any) -> Any:
        return pairs_operator.entry(X, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.features = inputs[1]
        ctx.options = len(inputs) - 1
        ctx.mark_non_differentiable(*output[6:])
        ctx.save_for_backward(inputs[0], *output)
        ctx.save_for_forward(inputs[0], *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def _ends(saved: Any) -> tuple[Tensor, tuple[End, End]]:
        X, *fields = saved
        s1, u1, v1, sk, uk, vk = (field.double() for field in fields[:6])
        return X.double(), (End(s1, u1, v1, fields[7]), End(sk, uk, vk, fields[8]))

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        X, ends = _Pairs._ends(ctx.saved_tensors)
        result = torch.zeros_like(X)
        for end, at in zip(ends, (0, 3), strict=True):
            by_sigma, by_u, by_v = upstream[at : at + 3]
            derivatives = end_of(X, ctx.features, end)
            if by_sigma is not None:
                result = result + by_sigma[..., None, None] * derivatives.value_gradient()
            if by_u is not None or by_v is not None:
                zero = torch.zeros_like
                result = result + derivatives.vector_gradient(
                    zero(end.u) if by_u is None else by_u.double(),
                    zero(end.v) if by_v is None else by_v.double(),
                )
        dtype = ctx.saved_tensors[0].dtype
        return result.to(dtype), *([None] * ctx.options)

    @staticmethod
    @nestable
    def jvp(saved: Any, ctx: Any, tangent: Tensor, *_: Any) -> Any:
        X, ends = _Pairs._ends(saved)
        dtype = saved[1].dtype
        moved = (end_of(X, ctx.features, end).moved(tangent.double()) for end in ends)
        return (*(part.to(dtype) for end in moved for part in end), None, None, None)


_SCHEMA = (
    "extreme_pairs(Tensor X, bool features, int? rank, float? rtol, str? computed_in, bool warn) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _kernel(
    X: Tensor,
    features: bool,
    rank: int | None,
    rtol: float | None,
    computed_in: str | None,
    warn: bool,
) -> tuple[Tensor, ...]:
    shape = tuple(X.shape)
    what: Given = "features" if features else "matrix"
    rule = rank_rule(
        shape[-2:],
        X.dtype,  # type: ignore[arg-type]
        rank=rank,
        rtol=rtol,
        computed_in=computed_in,
        given=what,
    )
    stack = X if X.ndim == 2 else X.reshape(-1, *shape[-2:])
    found = kernels_for(X).pairs(stack, features=features, rule=rule)

    def tensor(value: Any, dtype: torch.dtype) -> Tensor:
        field = torch.as_tensor(value, dtype=dtype, device=X.device)
        return field.reshape(shape[:-2] + field.shape[stack.ndim - 2 :]).clone()

    simple = [tensor(x, torch.bool) for x in (found.simple_max, found.simple_min)]
    if warn:
        name = "Z^T Z" if features else "S"
        if not tensor(found.determined_min, torch.bool).all():
            warn_accuracy(name)
        if not (simple[0].all() and simple[1].all()):
            warn_not_simple(name)
    fields = (getattr(found, name) for name in ExtremePairs._fields[:6])
    return (
        *(tensor(field, wide(X.dtype)) for field in fields),
        tensor(found.rank, torch.int64),
        *simple,
    )


def _fake(X: Tensor, features: bool, *_: Any) -> tuple[Tensor, ...]:
    *stack, rows, columns = X.shape
    value = X.new_empty(stack, dtype=wide(X.dtype))
    u, v = (
        X.new_empty((*stack, size), dtype=wide(X.dtype))
        for size in (columns if features else rows, columns)
    )
    triplet = (value, u, v)
    counts = (X.new_empty(stack, dtype=t) for t in (torch.int64, torch.bool, torch.bool))
    return (*triplet, *(torch.empty_like(t) for t in triplet), *counts)


pairs_operator = Operator(_Pairs, _SCHEMA, fake=_fake, kernel=_kernel)


def extreme_pairs(
    S: Tensor | None = None,
    *,
    features: Tensor | None = None,
    rank: SupportsIndex | None = None,
    rtol: float | None = None,
    computed_in: Any = None,
) -> ExtremePairs:
    """Return the extreme singular triplets as differentiable tensors.

    Derivatives of the vectors come from the bordered resolvent of their own pair, not from a full
    decomposition, and exist where the singular value is simple.

    Parameters
    ----------
    S : Tensor, shape (..., p_r, p_c), optional
        Any finite real matrix, or a stack. Give either `S` or `features`.
    features : Tensor, shape (..., N, m), optional
        Features Z: the eigenpairs of ``H = Z^T Z``.
    rank, rtol, computed_in
        As in `immucond.extreme_pairs` and `immucond.feature_extreme_pairs`.

    Returns
    -------
    ExtremePairs
        Tensors of the dtype of the input, at least float32.

    Raises
    ------
    ValueError, TypeError
        As in `immucond.extreme_pairs`.
    DegenerateSpectrumError
        In the backward pass, for derivatives of vectors at a singular value that is not simple.

    Warns
    -----
    DegenerateSpectrumWarning, AccuracyWarning
        As in `immucond.extreme_pairs`.

    Examples
    --------
    >>> import torch
    >>> import immucond.torch as ict
    >>> S = torch.tensor([[3.0, 0.0], [0.0, 4.0]], requires_grad=True)
    >>> pairs = ict.extreme_pairs(S)
    >>> pairs.sigma_max.backward()
    >>> S.grad
    tensor([[0., 0.],
            [0., 1.]])
    """
    X, options = given(S, features, rank, rtol, computed_in)
    return ExtremePairs(*pairs_operator(X, *options, True))
