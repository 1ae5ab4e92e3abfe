"""The bordered resolvent of a singular triplet: what its vectors' derivatives are made of."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from .._errors import AccuracyWarning, DegenerateSpectrumError, warn
from ._operator import Function, Operator, nestable

_EPS = 2.0**-52
_DIGITS_LEFT = 1e-3  # of a derivative: a larger relative error is told


class _Resolvent(Function):
    """``y = M^+ g`` for ``M = [-s I, A; A^T, -s I]`` with the unit null vector z.

    The triplet (s, u, v) of A is the eigenpair (s, z) of ``[0 A; A^T 0]``, ``z = (u, v) / sqrt 2``.
    From one bordered system, nonsingular where s is simple, and no other triplet:

        [ M    z ] [ y  ]   [ g ]
        [ z^T  0 ] [ mu ] = [ 0 ].

    A is not squared, so that the error is of the order of eps s_1 over the distance from s to its
    neighbours and to zero.
    """

    tensors: ClassVar[int] = 5

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs, output)
        ctx.save_for_forward(*inputs, output)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        A, s, z, g, simple, y = ctx.saved_tensors
        h = resolvent(A, s, z, upstream, simple)
        (h_u, h_v), (y_u, y_v) = halves(A, h), halves(A, y)
        by_z = -_dot(z, g) * h - y * _dot(z, upstream)
        return -outer(h_u, y_v) - outer(y_u, h_v), (h * y).sum(-1), by_z, h, None

    @staticmethod
    @nestable
    def jvp(saved: Any, _: Any, *tangents: Tensor | None) -> Any:
        (A, s, z, g, simple, y), (dA, ds, dz, dg) = saved, tangents[:4]
        right, along = torch.zeros_like(y), torch.zeros_like(y)
        if dg is not None:
            right = right + dg
        if dA is not None:
            y_u, y_v = halves(A, y)
            right = right - torch.cat([apply(dA, y_v), apply(dA.mT, y_u)], dim=-1)
        if ds is not None:
            right = right + ds[..., None] * y
        if dz is not None:
            right, along = right - _dot(z, g) * dz, z * _dot(dz, y)
        return resolvent(A, s, z, right, simple) - along


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)


def outer(x: Tensor, y: Tensor) -> Tensor:
    """Return ``x y^T`` for each pair of vectors of two stacks."""
    return x[..., :, None] * y[..., None, :]


def apply(A: Tensor, x: Tensor) -> Tensor:
    """Return ``A x`` for each matrix and vector of two stacks."""
    return (A @ x[..., None])[..., 0]


def halves(A: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the parts of a vector for the rows and for the columns of A."""
    rows = A.shape[-2]
    return y[..., :rows], y[..., rows:]


def _kernel(A: Tensor, s: Tensor, z: Tensor, g: Tensor, simple: Tensor) -> Tensor:
    if not bool(simple.all()):
        raise DegenerateSpectrumError(
            "derivatives of singular vectors, and second derivatives of the regularizers, exist at "
            "simple singular values only, and an extreme one is not simple to rounding"
        )
    (z_u, z_v), (g_u, g_v) = halves(A, z), halves(A, g)
    if A.shape[-2] < A.shape[-1]:
        y_v, y_u = _solve(A.mT, s[..., None], z_v, z_u, g_v, g_u)
    else:
        y_u, y_v = _solve(A, s[..., None], z_u, z_v, g_u, g_v)
    return torch.cat([y_u, y_v], dim=-1)


def _solve(
    A: Tensor, s: Tensor, z_u: Tensor, z_v: Tensor, g_u: Tensor, g_v: Tensor
) -> tuple[Tensor, Tensor]:
    """Of a tall A: through the triangle of ``A = Q R``, and by ``-1/s`` beyond the range of Q."""
    if A.shape[-2] == A.shape[-1]:
        return _bordered(A, s, z_u, z_v, g_u, g_v)
    Q, R = torch.linalg.qr(A)
    inside = apply(Q.mT, g_u)
    y_u, y_v = _bordered(R, s, apply(Q.mT, z_u), z_v, inside, g_v)
    outside = g_u - apply(Q, inside)
    outside = outside - apply(Q, apply(Q.mT, outside))  # rounding, which 1 / s would magnify
    return apply(Q, y_u) - outside / s, y_v


def _bordered(
    R: Tensor, s: Tensor, z_u: Tensor, z_v: Tensor, g_u: Tensor, g_v: Tensor
) -> tuple[Tensor, Tensor]:
    n = R.shape[-1]
    # In units of about s_1, of which the border's is one.
    unit = R.abs().amax((-2, -1))[..., None]
    scaled, minus_s = R / unit[..., None], torch.diag_embed((-s / unit).expand(*s.shape[:-1], n))
    border = torch.cat([z_u, z_v], dim=-1)[..., None]
    rows = torch.cat(
        [
            torch.cat([minus_s, scaled], dim=-1),
            torch.cat([scaled.mT, minus_s], dim=-1),
            border.mT,
        ],
        dim=-2,
    )
    column = torch.cat([border, torch.zeros_like(border[..., :1, :])], dim=-2)
    LU, pivots = torch.linalg.lu_factor(torch.cat([rows, column], dim=-1))
    right = torch.cat([g_u, g_v, torch.zeros_like(s)], dim=-1)[..., None]
    _tell_lost_digits(LU, pivots)
    y = torch.linalg.lu_solve(LU, pivots, right)[..., 0] / unit
    return y[..., :n], y[..., n : 2 * n]


def _tell_lost_digits(LU: Tensor, pivots: Tensor) -> None:
    """Estimate ``eps ||M|| ||M^+||`` by three steps of inverse iteration."""
    n = LU.shape[-1]
    x = torch.cos(torch.arange(n, dtype=LU.dtype, device=LU.device)).expand(*LU.shape[:-1])
    growth = x[..., 0]
    for _ in range(3):
        x = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        x = torch.linalg.lu_solve(LU, pivots, x[..., None])[..., 0]
        growth = torch.linalg.vector_norm(x, dim=-1)
    if bool((_EPS * math.sqrt(n) * growth > _DIGITS_LEFT).any()):
        warn(
            "derivatives of singular vectors, and second derivatives of the regularizers, have "
            "lost all but three digits or fewer: an extreme singular value lies too close to a "
            "neighbour or to zero, by the measure of sigma_max",
            AccuracyWarning,
        )


resolvent = Operator(
    _Resolvent,
    "resolvent(Tensor A, Tensor s, Tensor z, Tensor g, Tensor simple) -> Tensor",
    fake=lambda *tensors: tensors[3].new_empty(tensors[3].shape),
    kernel=_kernel,
)
