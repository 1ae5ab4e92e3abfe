"""Powers of two: into units in which no square leaves the range of float64, and out of them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ._operator import Function, Operator, nestable


class _TimesPower(Function):
    """``2^e X`` of each matrix of a stack; what leaves the range is an error."""

    tensors: ClassVar[int] = 2

    @staticmethod
    def forward(X: Tensor, exponent: Tensor, single: bool) -> Tensor:
        result: Tensor = times_power.entry(X, exponent, single)
        return result

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004
        ctx.single = inputs[2]
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        (exponent,) = ctx.saved_tensors
        return times_power(upstream.double(), exponent, False), None, None

    @staticmethod
    @nestable
    def jvp(saved: Any, ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        result: Tensor = times_power(tangent, saved[0], ctx.single)
        return result


def exponent_of(X: Tensor) -> Tensor:
    """Return for each matrix of a stack the e with ``max |X| in [2^e, 2^(e + 1))``, or 0."""
    with torch.no_grad():
        largest = X.abs().amax((-2, -1))
        usable = largest.isfinite() & (largest > 0.0)
        return torch.where(usable, torch.floor(torch.log2(largest)), 0.0)


def shifted(X: Tensor, exponent: Tensor | float) -> Tensor:
    """Return ``2^e X``: in three factors, since one alone may leave the range."""
    exponent = torch.as_tensor(exponent, dtype=X.dtype, device=X.device)
    third = torch.floor(exponent.clamp(-3000.0, 3000.0) / 3.0)
    rest = exponent.clamp(-3000.0, 3000.0) - 2.0 * third
    power, last = torch.exp2(third)[..., None, None], torch.exp2(rest)[..., None, None]
    return X * power * power * last


def _kernel(X: Tensor, exponent: Tensor, single: bool) -> Tensor:
    result = shifted(X, exponent).to(torch.float32 if single else torch.float64)
    if X.is_cuda and torch.cuda.is_current_stream_capturing():
        return result  # a graph that is being captured has no numbers yet
    lost = X.isfinite() & ~result.isfinite()
    if bool(lost.any()):
        entry = X[lost][0].item()
        power = exponent[..., None, None].expand_as(X)[lost][0].item()
        raise OverflowError(
            f"a result is not representable in float{32 if single else 64}: an entry is {entry:g} "
            f"* 2^{power:g}"
        )
    return result


times_power = Operator(
    _TimesPower,
    "times_power(Tensor X, Tensor exponent, bool single) -> Tensor",
    fake=lambda X, _, single: X.new_empty(
        X.shape, dtype=torch.float32 if single else torch.float64
    ),
    kernel=_kernel,
)
