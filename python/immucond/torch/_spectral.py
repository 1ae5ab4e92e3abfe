"""The spectral regularizers as operators: one for the whole family."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from .. import _core
from .._errors import warn_accuracy, warn_tied
from .._pairs import explaining, warn_half
from .._regularizers import SpectralRegularizer, kappa, log_kappa, r_ill, r_well
from ._curvature import hessian_product
from ._kernels import kernels_for
from ._operator import (
    Function,
    Operator,
    Options,
    at_hand,
    check_finite,
    is_plain,
    nestable,
    rule_of,
    wide,
)
from ._pairs import ExtremePairs

# By the names that stand for them in the dispatcher's entry. Those of users are kept for good once
# they have run: a graph that was compiled may run again at any time.
_REGULARIZERS: dict[str, SpectralRegularizer] = {
    regularizer.name: regularizer for regularizer in (r_well, r_ill, kappa, log_kappa)
}


def name_of(regularizer: SpectralRegularizer) -> str:
    """Return the name by which `spectral` takes a regularizer.

    Nothing is written down: a compiled program would do that after its graph, which looks it up.
    """
    name: str = regularizer.name
    if _REGULARIZERS.get(name) is regularizer:
        return name
    return f"{name} at {id(regularizer):x}"


def _named(name: str) -> SpectralRegularizer:
    if name not in _REGULARIZERS:
        _REGULARIZERS[name] = SpectralRegularizer.alive[int(name.rpartition(" ")[2], 16)]
    return _REGULARIZERS[name]


_ENDS = {
    "max": SpectralRegularizer("sigma_max", 1, lambda s: (s.sigma_max, 1.0, 0.0, 0.0)),
    "min": SpectralRegularizer("sigma_min", 1, lambda s: (s.sigma_min, 0.0, 1.0, 0.0)),
}


def mean_at_ties(
    pairs: ExtremePairs, end: Literal["max", "min"], used: Tensor, X: Tensor, options: Options
) -> Tensor:
    """Return an end of the spectrum, with the gradient of its group's mean where it is tied.

    That of one pair is no descent direction. What is not `used` or rounding has no group, and
    traced programs do not look.
    """
    at_end = pairs.sigma_max, pairs.simple_max
    sigma, simple = at_end if end == "max" else (pairs.sigma_min, pairs.simple_min)
    if not (X.requires_grad and torch.is_grad_enabled() and at_hand(X)):
        return sigma
    noise = 2.0 * _core.reduction_noise(min(X.shape[-2:])) * pairs.sigma_max
    if not bool((used & ~simple & (sigma > noise)).any()):
        return sigma
    result: Tensor = spectral(X, name_of(_ENDS[end]), *options, _core.ALL_VALUES, True)[0]
    return result


class _Spectral(Function):
    """``immucond::spectral``: the value of a regularizer and its gradient, both differentiable.

    The gradient is an output, so that what the forward pass computed serves the backward pass, and
    the derivative of that is this operator's own: a product with the Hessian. It is empty where
    nobody seems to want it, and then made up for in the backward pass.
    """

    outputs: ClassVar[int] = 2

    @staticmethod
    def forward(X: Tensor, *options: Any) -> Any:
        if X.is_cpu and is_plain(X):
            return _kernel(X, *options)  # what the dispatcher would come to, ten microseconds later
        return spectral.entry(X, *options)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        X, ctx.name, *options, ctx.p, ctx.gradient = inputs
        ctx.options = tuple(options)
        ctx.save_for_backward(X, output[1])
        ctx.save_for_forward(X, output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def _gradient(ctx: Any, X: Tensor, gradient: Tensor) -> Tensor:
        if not ctx.gradient:
            gradient = spectral(X, ctx.name, *ctx.options, ctx.p, True)[1]
        result: Tensor = gradient
        return result

    @staticmethod
    def _moved(ctx: Any, X: Tensor, along: Tensor) -> Tensor:
        """Return the derivative of the gradient along a direction."""
        return hessian_product(X, along, _named(ctx.name), ctx.options, ctx.p)

    @staticmethod
    def backward(ctx: Any, by_value: Tensor | None, by_gradient: Tensor | None) -> Any:
        X, gradient = ctx.saved_tensors
        result = None
        if by_value is not None:
            result = by_value[..., None, None] * _Spectral._gradient(ctx, X, gradient)
        if by_gradient is not None and ctx.gradient:
            more = _Spectral._moved(ctx, X, by_gradient)
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
        moved = _Spectral._moved(ctx, X, tangent)
        # As the gradient lies in memory, which may be a view.
        return change, moved.to(gradient.dtype).contiguous()

    @staticmethod
    def batched(apply: Callable[..., Any], X: Tensor, *options: Any) -> Any:
        # Below vmap the tensor tells better than before whether a gradient will be asked for.
        return apply(X, *options[:-1], options[-1] or X.requires_grad)


_NOTHING = (None,) * 7


_SCHEMA = (
    "spectral(Tensor X, str name, bool features, int? rank, float? rtol, str? computed_in, "
    "int p, bool gradient) -> (Tensor, Tensor)"
)


def _kernel(X: Tensor, name: str, *options: Any) -> tuple[Tensor, Tensor]:
    *of_rank, p, gradient = options
    features, rule = options[0], rule_of(X, *of_rank)
    regularizer, shape, dtype = _named(name), X.shape, wide(X.dtype)
    stacked = X.ndim > 2
    with explaining(rule):
        found = kernels_for(X).evaluate(
            regularizer,
            X.reshape(-1, *shape[-2:]) if stacked else X,
            features=features,
            rule=rule,
            p=p,
            gradient=gradient,
        )
    what = "Z^T Z" if features else "S"
    warn_half(what, found.rank, min(shape[-2:]), rule)
    if not found.determined:
        warn_accuracy(what)
    if gradient and found.tied:
        warn_tied(what, regularizer.name)
    value = torch.as_tensor(found.value, dtype=dtype, device=X.device)
    check_finite(value, f"the value of {regularizer.name}")
    if stacked:
        value = value.reshape(shape[:-2])
    if not gradient:
        return value, torch.empty(0, dtype=dtype, device=X.device)
    assert found.gradient is not None
    by_X = found.gradient.to(dtype)
    check_finite(by_X, f"the gradient of {regularizer.name}")
    return value, by_X.reshape(shape) if stacked else by_X


def _fake(X: Tensor, *options: Any) -> tuple[Tensor, Tensor]:
    dtype = wide(X.dtype)
    return (
        X.new_empty(X.shape[:-2], dtype=dtype),
        X.new_empty(X.shape if options[-1] else (0,), dtype=dtype),
    )


spectral = Operator(_Spectral, _SCHEMA, fake=_fake, kernel=_kernel)
