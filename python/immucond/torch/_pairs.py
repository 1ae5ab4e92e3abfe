"""Extreme pairs as differentiable tensors."""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple, SupportsIndex

import torch
from torch import Tensor

from .._errors import DegenerateSpectrumWarning, warn, warn_accuracy
from .._pairs import warn_half
from ._kernels import kernels_for
from ._operator import (
    Function,
    Operator,
    exponent_of,
    given,
    nestable,
    rule_of,
    shifted,
    times_power,
    wide,
)
from ._resolvent import apply, halves, outer, resolvent
from ._tokens import kept_rows

_LEAST = 2.0**-960  # of a square with all its digits, and those of what is a little smaller


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


class Triplet:
    """The triplet (s, u, v) of A: an eigenpair (s, (u, v)) of ``[0 A; A^T 0]``."""

    def __init__(self, A: Tensor, end: End) -> None:
        self.A, self.end = A, end

    @property
    def triplet(self) -> Triplet:
        """Itself."""
        return self

    def _resolve(self, by_u: Tensor, by_v: Tensor) -> tuple[Tensor, Tensor]:
        s, u, v, simple = self.end
        z = torch.cat([u, v], dim=-1) / math.sqrt(2.0)
        return halves(self.A, resolvent(self.A, s, z, torch.cat([by_u, by_v], dim=-1), simple))

    def vector_gradient(self, by_u: Tensor, by_v: Tensor) -> Tensor:
        """Return the gradient by A of a function with these gradients by u and v."""
        y_u, y_v = self._resolve(by_u, by_v)
        return -outer(y_u, self.end.v) - outer(self.end.u, y_v)

    def moved(self, W: Tensor) -> Moved:
        """Return what the change W of A does to the triplet."""
        _, u, v, _ = self.end
        Wv, Wu = apply(W, v), apply(W.mT, u)
        return Moved((u * Wv).sum(-1), *self._resolve(-Wv, -Wu))

    def value_gradient(self) -> Tensor:
        """Return the gradient of s by A."""
        return outer(self.end.u, self.end.v)


class FeatureEnd:
    """The eigenpair (lambda, v) of ``H = Z^T Z``, by the triplet (sqrt lambda, u, v) of Z."""

    def __init__(self, Z: Tensor, end: End) -> None:
        s = end.sigma.sqrt()
        self._rough = Triplet(Z, End(s, apply(Z, end.v) / s[..., None], end.v, end.simple))

    @property
    def triplet(self) -> Triplet:
        """The triplet, to the last digits of u too, which Z v does not have at large kappa.

        ``M z`` is the residual of z, and ``z - M^+ M z`` in the null space of M.
        """
        Z, (s, u, v, simple) = self._rough.A, self._rough.end
        border = Triplet(Z, End(s, _unit(u), v, simple))
        u = border.end.u
        du, dv = border._resolve(apply(Z, v) - s[..., None] * u, apply(Z.mT, u) - s[..., None] * v)
        return Triplet(Z, End(s, _unit(u - du), _unit(v - dv), simple))

    def vector_gradient(self, by_u: Tensor, by_v: Tensor) -> Tensor:
        """Return the gradient by Z of a function with these gradients by u = v."""
        triplet = self.triplet
        return triplet.vector_gradient(torch.zeros_like(triplet.end.u), by_u + by_v)

    def moved(self, W: Tensor) -> Moved:
        """Return what the change W of Z does to lambda and v."""
        triplet = self.triplet
        ds, _, dv = triplet.moved(W)
        return Moved(2.0 * triplet.end.sigma * ds, dv, dv)

    def value_gradient(self) -> Tensor:
        """Return the gradient of lambda by Z."""
        s, u, v, _ = self._rough.end
        return 2.0 * outer(s[..., None] * u, v)


def _unit(x: Tensor) -> Tensor:
    unit: Tensor = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return unit


def end_of(X: Tensor, features: bool, end: End) -> Triplet | FeatureEnd:
    """Return the derivatives of one end, of a matrix or of features."""
    return FeatureEnd(X, end) if features else Triplet(X, end)


class _Pairs(Function):
    """``immucond::extreme_pairs``: the nine fields of `ExtremePairs`, in float64."""

    outputs: ClassVar[int] = 9

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.features = inputs[1]
        ctx.options = len(inputs) - 1
        ctx.mark_non_differentiable(*output[6:])
        ctx.save_for_backward(inputs[0], *output)
        ctx.save_for_forward(inputs[0], *output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def _ends(ctx: Any, saved: Any) -> tuple[list[Triplet | FeatureEnd], tuple[Tensor, Tensor]]:
        """Return the ends' derivatives in units of X, and the exponents that undo it.

        Those are of the derivatives of the values, and of the vectors.
        """
        X, *fields = saved
        exponent = exponent_of(X.double())
        A, by_unit = shifted(X.double(), -exponent), -2.0 * exponent if ctx.features else -exponent
        ends = []
        for s, u, v, simple in ((*fields[:3], fields[7]), (*fields[3:6], fields[8])):
            sigma = shifted(s[..., None, None], by_unit)[..., 0, 0]
            if ctx.features:  # the square may be lost in float64, or have few digits
                sigma = torch.where(s > _LEAST, sigma, apply(A, v).square().sum(-1))
            ends.append(end_of(A, ctx.features, End(sigma, u, v, simple)))
        return ends, (exponent if ctx.features else 0.0 * exponent, -exponent)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor | None) -> Any:
        ends, (of_values, of_vectors) = _Pairs._ends(ctx, ctx.saved_tensors)
        X = ctx.saved_tensors[0]
        single = X.dtype != torch.float64
        result = torch.zeros_like(X, dtype=torch.float32 if single else torch.float64)
        for end, at in zip(ends, (0, 3), strict=True):
            by_sigma, by_u, by_v = upstream[at : at + 3]
            if by_sigma is not None:
                gradient = by_sigma.double()[..., None, None] * end.value_gradient()
                result = result + times_power(gradient, of_values, single)
            if by_u is not None or by_v is not None:
                zero = torch.zeros_like
                gradient = end.vector_gradient(
                    zero(ctx.saved_tensors[at + 2]) if by_u is None else by_u.double(),
                    zero(ctx.saved_tensors[at + 3]) if by_v is None else by_v.double(),
                )
                result = result + times_power(gradient, of_vectors, single)
        return result.to(X.dtype), *([None] * ctx.options)

    @staticmethod
    @nestable
    def jvp(saved: Any, ctx: Any, tangent: Tensor, *_: Any) -> Any:
        ends, (of_values, of_vectors) = _Pairs._ends(ctx, saved)
        changes = []
        for end in ends:
            sigma, u, v = end.moved(tangent.double())
            changes.append(times_power(sigma[..., None, None], of_values, False)[..., 0, 0])
            changes += [times_power(x[..., None], of_vectors, False)[..., 0] for x in (u, v)]
        return (*changes, None, None, None)


_SCHEMA = (
    "extreme_pairs(Tensor X, bool features, int? rank, float? rtol, str? computed_in, bool warn) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _kernel(X: Tensor, features: bool, *options: Any) -> tuple[Tensor, ...]:
    *of_rank, telling = options
    shape, rule = tuple(X.shape), rule_of(X, features, *of_rank)
    stack = X if X.ndim == 2 else X.reshape(-1, *shape[-2:])
    found = kernels_for(X).pairs(stack, features=features, rule=rule)

    def tensor(field: Tensor, dtype: torch.dtype) -> Tensor:
        field = field.to(X.device, dtype)
        return field.reshape(shape[:-2] + field.shape[stack.ndim - 2 :]).clone()

    simple = [tensor(x, torch.bool) for x in (found.simple_max, found.simple_min)]
    if telling:
        name = "Z^T Z" if features else "S"
        warn_half(name, int(tensor(found.rank, torch.int64).min()), min(shape[-2:]), rule)
        if not tensor(found.determined_min, torch.bool).all():
            warn_accuracy(name)
        if not (simple[0].all() and simple[1].all()):
            warn(
                f"an extreme singular value of {name} is not simple to rounding: its vectors are "
                "one choice among many",
                DegenerateSpectrumWarning,
            )
    return (
        *(tensor(field, torch.float64) for field in found[:6]),
        tensor(found.rank, torch.int64),
        *simple,
    )


def _fake(X: Tensor, features: bool, *_: Any) -> tuple[Tensor, ...]:
    *stack, rows, columns = X.shape
    value = X.new_empty(stack, dtype=torch.float64)
    u, v = (
        X.new_empty((*stack, size), dtype=torch.float64)
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
    mask: Tensor | None = None,
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
    mask : Tensor, shape (B, T), optional
        Of features (B, T, m): as in `r_well`.
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
    features = kept_rows(features, mask)
    X, options = given(S, features, rank, rtol, computed_in)
    pairs = ExtremePairs(*pairs_operator(X, *options, True))
    if wide(X.dtype) == torch.float64:
        return pairs
    narrow = {name: getattr(pairs, name).float() for name in ("u_max", "v_max", "u_min", "v_min")}
    for name in ("sigma_max", "sigma_min"):
        sigma = getattr(pairs, name)[..., None, None]
        narrow[name] = times_power(sigma, torch.zeros_like(sigma[..., 0, 0]), True)[..., 0, 0]
    return pairs._replace(**narrow)
