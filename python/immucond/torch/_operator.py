"""Operators, which PyTorch knows twice: in its dispatcher, and as an ``autograd.Function``.

The dispatcher's entry (fake kernel, autograd, vmap rule) is what ``torch.compile`` and
``torch.library.opcheck`` see; autograd that is registered there does not support the transforms of
``torch.func``, which a ``Function`` with `setup_context` and `vmap` does. Both share a derivative.

With what all operators share: the checks of their arguments, and scaling by powers of two.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, ClassVar, SupportsIndex

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from .._rank import Rule, epsilon, rank_rule
from .._validate import as_integer, check_real

_LIBRARY = torch.library.Library("immucond", "DEF")  # lives as long as the registrations


class Function(torch.autograd.Function):
    """A function of tensors, of which each may be a stack: that is its vmap rule."""

    tensors: ClassVar[int] = 1  # so many leading arguments are tensors
    outputs: ClassVar[int] = 1

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004
        """Save what is given, tensors alone."""
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """`Function.apply` without its look at the signature, which takes longer than all else."""
        if torch._C._are_functorch_transforms_active():
            return super().apply(*args)  # type: ignore[no-untyped-call]
        return super(torch.autograd.Function, cls).apply(*args)  # type: ignore[misc]

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> Any:
        """As a `Function`."""
        return cls.mapped(cls.apply, info, in_dims, *args)

    @classmethod
    def mapped(
        cls, apply: Callable[..., Any], info: Any, in_dims: tuple[int | None, ...], *args: Any
    ) -> Any:
        """Make the mapped dimension the first one of a stack."""
        tensors = [
            x.unsqueeze(0).expand(info.batch_size, *x.shape) if at is None else x.movedim(at, 0)
            for x, at in zip(args[: cls.tensors], in_dims, strict=False)
        ]
        result = cls.batched(apply, *tensors, *args[cls.tensors :])
        return result, (0,) * cls.outputs if cls.outputs > 1 else 0

    @staticmethod
    def batched(apply: Callable[..., Any], *args: Any) -> Any:
        """Apply it to a stack."""
        return apply(*args)


class Constant(Function):
    """A function without derivatives, such as one that looks at its argument's numbers."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.inputs = len(inputs)
        ctx.mark_non_differentiable(output)

    @staticmethod
    def backward(ctx: Any, _: Any) -> Any:
        return (None,) * ctx.inputs


class Operator:
    """A `Function` and its entry ``torch.ops.immucond.NAME`` in the dispatcher.

    The function's `setup_context` and `backward` serve both; its `forward` is by default the entry.
    `fake` gives shapes, dtypes and strides of the outputs, `kernel` the outputs on any device.
    """

    def __init__(
        self,
        function: type[Function],
        schema: str,
        *,
        fake: Callable[..., Any],
        kernel: Callable[..., Any],
    ) -> None:
        name = schema.split("(", 1)[0]
        qualified = f"immucond::{name}"

        _LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
        checked = _refusing_tangents(kernel, name, function.tensors)
        _LIBRARY.impl(name, checked, "CompositeExplicitAutograd")
        torch.library.register_fake(qualified, _refusing_tangents(fake, name), lib=_LIBRARY)
        torch.library.register_autograd(
            qualified, function.backward, setup_context=function.setup_context, lib=_LIBRARY
        )
        self.function = function
        self.entry: Callable[..., Any] = getattr(torch.ops.immucond, name).default
        if "forward" not in vars(function):
            function.forward = staticmethod(self.entry)  # type: ignore[method-assign]
        vmap = partial(function.mapped, self.entry)
        torch.library.register_vmap(qualified, vmap, lib=_LIBRARY)

    def __call__(self, *args: Any) -> Any:
        """Apply it: by its entry in a traced program, as a Function everywhere else."""
        if torch.compiler.is_compiling():
            return self.entry(*args)
        return self.function.apply(*args)


def _refusing_tangents(
    kernel: Callable[..., Any], name: str, tensors: int | None = None
) -> Callable[..., Any]:
    """Below autograd a forward-mode tangent would be dropped without a word.

    Fake tensors do not tell whether they have one: without `tensors` any may.
    """

    def checked(*args: Any) -> Any:
        if (
            forward_ad._current_level >= 0
            and torch._C._is_fwd_grad_enabled()
            and (
                tensors is None
                or any(forward_ad.unpack_dual(x).tangent is not None for x in args[:tensors])
            )
        ):
            raise NotImplementedError(
                f"torch.ops.immucond.{name} has no forward-mode derivative of its own; call the "
                "function of immucond.torch, outside torch.compile"
            )
        return kernel(*args)

    return checked


def nestable(jvp: Callable[..., Any]) -> Callable[..., Any]:
    """Let an outer forward mode differentiate a forward-mode rule in turn.

    PyTorch runs these rules with forward mode switched off, so that a second derivative would be
    a silent zero, and hands them saved tensors that still carry the tangents. The rule gets the
    saved tensors without these as its first argument.
    """

    @wraps(jvp)
    def rule(ctx: Any, *tangents: Any) -> Any:
        saved = [forward_ad.unpack_dual(x, level=0).primal for x in ctx.saved_tensors]
        with forward_ad._set_fwd_grad_enabled(True):
            return jvp(saved, ctx, *tangents)

    return rule


def is_plain(X: Tensor) -> bool:
    """Whether nothing but the dispatcher's kernels will look at it."""
    return type(X) in (Tensor, torch.nn.Parameter) and torch._C._len_torch_dispatch_stack() == 0


def at_hand(X: Tensor) -> bool:
    """Whether a program may look at its numbers: it is neither traced, transformed nor captured."""
    traced = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
    if traced or not is_plain(X) or X.is_meta:
        return False
    return not (X.is_cuda and torch.cuda.is_current_stream_capturing())


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of values and stored gradients: at least float32."""
    return dtype if dtype == torch.float64 else torch.float32


# ---- the arguments that operators share: a matrix or features, and what decides the rank ----

Options = tuple[bool, int | None, float | None, str | None]
"""Whether features are given; and rank, rtol and computed_in."""

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def given(
    S: Tensor | None,
    features: Tensor | None,
    rank: SupportsIndex | None,
    rtol: float | None,
    computed_in: Any,
    *,
    empty: bool = False,
) -> tuple[Tensor, Options]:
    """Return the matrix or the features (`empty`: maybe of no rows), and the kernels' options."""
    if (S is None) == (features is None):
        found = "neither" if S is None else "both"
        raise ValueError(f"give a matrix, S, or features, features=Z: got {found}")
    X = S if features is None else features
    check_tensor(X, "S" if features is None else "features", empty=empty)
    if rank is not None:
        rank = as_integer(rank, "rank")
    if rtol is not None:
        rtol = check_real(rtol, "rtol", low=0.0, high=1.0)
    if computed_in is not None:
        epsilon(computed_in)  # refuses what is no dtype
        if isinstance(computed_in, torch.dtype):
            computed_in = str(computed_in).removeprefix("torch.")
        elif computed_in != "bfloat16":  # which NumPy does not know
            computed_in = np.dtype(computed_in).name
    return X, (features is not None, rank, rtol, computed_in)  # type: ignore[return-value]


def rule_of(
    X: Tensor, features: bool, rank: int | None, rtol: float | None, computed_in: str | None
) -> Rule:
    """Return the rule that decides the rank, by the options of `given`."""
    options = {"rank": rank, "rtol": rtol, "computed_in": computed_in}
    of = "features" if features else "matrix"
    return rank_rule(tuple(X.shape[-2:]), X.dtype, **options, given=of)  # type: ignore[arg-type]


def check_dense(X: Any, name: str) -> None:
    """Refuse what is no tensor, or none whose entries lie here, each in its place."""
    if not isinstance(X, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, and is {type(X).__name__}")
    if hasattr(X, "full_tensor"):
        raise TypeError(
            f"{name} must be a plain tensor, and is a DTensor: give {name}.full_tensor(), or "
            f"{name}.to_local(), where that is this rank's rows, with group="
        )
    if X.is_nested:
        raise TypeError(
            f"{name} must be a dense tensor, and is nested: give the rows of its parts, "
            f"torch.cat({name}.unbind()), or its parts one by one"
        )
    if hasattr(X, "get_mask"):
        raise TypeError(
            f"{name} must be a dense tensor, and is a MaskedTensor: give {name}.get_data() without "
            "what its mask hides"
        )
    if X.layout != torch.strided:
        raise TypeError(
            f"{name} must be a dense tensor, and is sparse (layout {X.layout}): give "
            f"{name}.to_dense()"
        )


def check_device(X: Tensor, name: str, Y: Tensor, of: str) -> None:
    """Refuse a tensor that is elsewhere than the one it goes with."""
    if X.device != Y.device:
        raise ValueError(f"{name} must be on the device of {of}, {Y.device}, and is on {X.device}")


def check_tensor(X: Any, name: str, *, empty: bool = False) -> None:
    """Refuse what is not a stack of matrices of a floating-point dtype; `empty`: or has no rows."""
    check_dense(X, name)
    if X.dtype not in DTYPES:
        raise TypeError(
            f"{name} must hold float64, float32, bfloat16 or float16, and has dtype {X.dtype}"
        )
    if X.ndim < 2 or (X.numel() == 0 and not (empty and X.shape[-1] > 0)):
        raise ValueError(
            f"{name} must be a matrix with at least one entry, or a stack of them, and has shape "
            f"{tuple(X.shape)}"
        )


def symmetric_part(X: Tensor) -> Tensor:
    """Return ``(X + X^T) / 2`` of each matrix of a stack, at any scale: what is equal stays.

    And so does what is not finite, in its place.
    """
    other = torch.where(X.mT.isfinite(), X.mT, X)
    equal = torch.maximum(X, other)  # whose derivative is half that of each
    return torch.where(other != X, X / 2 + other / 2, equal)


# ---- results of the dtype that was given ----


def check_finite(x: Tensor, what: str) -> None:
    """Refuse what was finite in float64, and no longer is; mostly the sum tells."""
    if x.dtype == torch.float64 or (x.is_cuda and torch.cuda.is_current_stream_capturing()):
        return  # a graph that is being captured has no numbers yet
    if not math.isfinite(x.sum()) and not x.isfinite().all():
        raise OverflowError(f"{what} is not representable in {str(x.dtype).removeprefix('torch.')}")


# ---- powers of two: into units in which no square leaves the range of float64, and back ----


class _TimesPower(Function):
    """``2^e X`` of each matrix of a stack; what leaves the range is an error."""

    tensors: ClassVar[int] = 2

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
    def jvp(saved: Any, ctx: Any, tangent: Tensor, *_: Any) -> Any:
        return times_power(tangent, saved[0], ctx.single)


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


# ---- into float64, and gradients back ----


class _Widened(Function):
    """Entries in float64; a gradient that the dtype of the input does not hold is an error."""

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:  # noqa: ARG004
        ctx.dtype = inputs[0].dtype

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> Any:
        single = times_power(upstream, upstream.new_zeros(upstream.shape[:-2]), True)
        return single.to(ctx.dtype)

    @staticmethod
    @nestable
    def jvp(saved: Any, ctx: Any, tangent: Tensor) -> Any:  # noqa: ARG004
        return widened(tangent)


_widened = Operator(
    _Widened,
    "widened(Tensor X) -> Tensor",
    fake=lambda X: X.new_empty(X.shape, dtype=torch.float64),
    kernel=lambda X: X.to(torch.float64, memory_format=torch.contiguous_format),
)


def widened(X: Tensor) -> Tensor:
    """Return a stack of matrices in float64, as `Tensor.double`, but for gradients out of range."""
    result: Tensor = X if X.dtype == torch.float64 else _widened(X)
    return result
