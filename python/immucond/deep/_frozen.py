"""The frozen part of a network: what it hands to the first trainable block, and doing without."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from ._split import SplitModel
from ._ties import with_other_values


class CannotKeepError(Exception):
    """Why activations cannot be kept."""


class Trace(NamedTuple):
    """One forward pass: what enters the first trainable block, and what ran before it."""

    entry: str
    arguments: Any  # (args, kwargs) of the entry
    skipped: list[tuple[str, Any]]  # frozen modules, with their outputs


def traced(model: SplitModel, blocks: Sequence[nn.Module], inputs: Any) -> Trace:
    """Run the whole model and watch what enters the first trainable block."""
    starts = {id(model.head)} | {id(m) for block in blocks for m in block.modules()}
    holding = {id(m) for m in model.model.modules() if any(id(c) in starts for c in m.modules())}
    names = {id(module): name for name, module in model.model.named_modules()}
    entered: list[tuple[str, Any]] = []
    skipped: list[tuple[str, Any]] = []
    inside: list[nn.Module] = []  # of a frozen module, the outermost

    def before(module: nn.Module, args: Any, kwargs: Any) -> None:
        if entered:
            return
        if id(module) in starts:
            entered.append((names[id(module)], (args, dict(kwargs))))
        elif not inside and id(module) not in holding:
            inside.append(module)

    def after(module: nn.Module, _: Any, __: Any, output: Any) -> None:
        if inside and inside[0] is module:
            skipped.append((names[id(inside.pop())], output))

    with ExitStack() as stack, torch.no_grad():
        for module in model.model.modules():
            for handle in (
                module.register_forward_pre_hook(before, with_kwargs=True),
                module.register_forward_hook(after, with_kwargs=True),
            ):
                stack.callback(handle.remove)
        model(inputs)
    return Trace(*entered[0], skipped)


def refuse_dependent(
    model: SplitModel, blocks: Sequence[nn.Module], inputs: Any, trace: Trace
) -> None:
    """Refuse a network in which the blocks' own weights change what enters the first of them."""
    parameters = {id(p): p for m in (*blocks, model.head) for p in m.parameters()}
    with with_other_values(parameters.values()):
        try:
            other = traced(model, blocks, inputs)
        except Exception as error:
            raise CannotKeepError(f"with other weights the model does not run ({error})") from error
    if not equal(trace.arguments, other.arguments):
        raise CannotKeepError(
            "what enters the trainable blocks is random, or changes with their weights or the "
            "head's"
        )


@contextmanager
def replaced(
    model: SplitModel, trace: Trace, arguments: Any, size: int, count: int
) -> Iterator[None]:
    """Hand the arguments to the entry, and let what ran before it return zeros for `count` rows."""

    def zeros(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor) or leaf.ndim == 0 or leaf.shape[0] != size:
            return leaf
        return leaf.new_zeros(()).expand(count, *leaf.shape[1:])

    with ExitStack() as stack:
        outputs: dict[str, list[Any]] = {}
        for name, output in trace.skipped:
            outputs.setdefault(name, []).append(tree_map(zeros, output))
        for name, stubs in outputs.items():
            module = model.model.get_submodule(name)
            rest = iter(stubs)  # a module may run several times
            module.forward = lambda *_, _rest=rest, **__: next(_rest)
            stack.callback(module.__dict__.pop, "forward")
        entry = model.model.get_submodule(trace.entry)
        handle = entry.register_forward_pre_hook(lambda *_: arguments, with_kwargs=True)
        stack.callback(handle.remove)
        yield


def rows_of(arguments: Any) -> int:
    """Return the number of samples in what enters a block."""
    for leaf in tree_flatten(arguments)[0]:
        if isinstance(leaf, Tensor) and leaf.ndim:
            return int(leaf.shape[0])
    raise CannotKeepError("no tensor enters the first trainable block")


def equal(a: Any, b: Any) -> bool:
    """Whether two trees are the same to the bit; NaN is NaN."""
    (a, a_spec), (b, b_spec) = tree_flatten(a), tree_flatten(b)
    return a_spec == b_spec and all(_same(x, y) for x, y in zip(a, b, strict=True))


def _same(x: Any, y: Any) -> bool:
    if type(x) is not type(y) or np.shape(x) != np.shape(y):
        return False
    if isinstance(x, Tensor) and x.dtype != y.dtype:
        return False
    alike = (x == y) | ((x != x) & (y != y))
    return bool(alike.all() if isinstance(x, Tensor) else np.all(alike))
