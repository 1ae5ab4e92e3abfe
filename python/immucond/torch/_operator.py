"""Operators that PyTorch knows twice: in its dispatcher, and as an ``autograd.Function``.

The dispatcher's entry (fake kernel, autograd, vmap rule) is what ``torch.compile`` and
``torch.library.opcheck`` see; autograd that is registered there does not support the transforms of
``torch.func``, which a ``Function`` with `setup_context` and `vmap` does. Both share a derivative.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, wraps
from typing import Any, ClassVar

import torch
from torch.autograd import forward_ad

_LIBRARY = torch.library.Library("immucond", "DEF")  # lives as long as the registrations


class Function(torch.autograd.Function):
    """A function of tensors, of which each may be a stack: that is its vmap rule."""

    tensors: ClassVar[int] = 1  # so many leading arguments are tensors
    outputs: ClassVar[int] = 1

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


class Operator:
    """A `Function` and its entry ``torch.ops.immucond.NAME`` in the dispatcher.

    Parameters
    ----------
    function : type
        With `setup_context` and `backward`, which serve both.
    schema : str
        Of the entry.
    fake : callable
        Shapes, dtypes and strides of the outputs.
    kernel : callable
        The implementation, for tensors on any device.
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


def wide(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype of values and stored gradients: at least float32."""
    return dtype if dtype == torch.float64 else torch.float32
