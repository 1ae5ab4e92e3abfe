"""The bordered resolvent of an eigenpair: what its vector's derivatives are made of."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from .._errors import DegenerateSpectrumError
from ._operator import Function, Operator, nestable


class _Resolvent(Function):
    """``y = M^+ g`` for symmetric ``M = A - lambda I`` with the unit null vector v.

    From one bordered system, nonsingular where lambda is simple, and no other eigenpair:

        [ M    v ] [ y  ]   [ g ]
        [ v^T  0 ] [ mu ] = [ 0 ].
    """

    tensors: ClassVar[int] = 4

    @staticmethod
    def forward(M: Tensor, v: Tensor, g: Tensor, simple: Tensor) -> Tensor:
        result: Tensor = resolvent.entry(M, v, g, simple)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        M, v, g, simple = inputs
        ctx.save_for_backward(M, v, g, simple, output)
        ctx.save_for_forward(M, v, g, simple, output)

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        M, v, g, simple, y = ctx.saved_tensors
        h = resolvent(M, v, upstream, simple)
        by_v = -_dot(v, g) * h - y * _dot(v, upstream)
        return -h[..., :, None] * y[..., None, :], by_v, h, None

    @staticmethod
    @nestable
    def jvp(
        saved: Any, _: Any, dM: Tensor | None, dv: Tensor | None, dg: Tensor | None, *__: Any
    ) -> Tensor:
        M, v, g, simple, y = saved
        right, along = torch.zeros_like(y), torch.zeros_like(y)
        if dg is not None:
            right = right + dg
        if dM is not None:
            right = right - apply(dM, y)
        if dv is not None:
            right, along = right - _dot(v, g) * dv, v * _dot(dv, y)
        result: Tensor = resolvent(M, v, right, simple) - along
        return result


def _dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)


def apply(A: Tensor, x: Tensor) -> Tensor:
    """Return ``A x`` for each matrix and vector of two stacks."""
    return (A @ x[..., None])[..., 0]


def _kernel(M: Tensor, v: Tensor, g: Tensor, simple: Tensor) -> Tensor:
    if not bool(simple.all()):
        raise DegenerateSpectrumError(
            "derivatives of singular vectors, and second derivatives of the regularizers, exist at "
            "simple singular values only, and an extreme one is not simple to rounding"
        )
    column = v[..., None]
    corner = torch.zeros_like(column[..., :1, :])
    top = torch.cat([M, column], dim=-1)
    bottom = torch.cat([column.mT, corner], dim=-1)
    right = torch.cat([g[..., None], corner], dim=-2)
    solution = torch.linalg.solve(torch.cat([top, bottom], dim=-2), right)
    y: Tensor = solution[..., :-1, 0].contiguous()
    return y


resolvent = Operator(
    _Resolvent,
    "resolvent(Tensor M, Tensor v, Tensor g, Tensor simple) -> Tensor",
    fake=lambda *tensors: tensors[2].new_empty(tensors[2].shape),
    kernel=_kernel,
)
