"""The frozen part of a network, which hands its output to the first trainable block.

Here is what it hands over, how the network runs without it, and whether gradients reach what is
trained all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map

from ._head import Pass, SplitModel
from ._loaders import CannotKeepError, equal


class Trace(NamedTuple):
    """One forward pass: what enters the first trainable block, and what ran before it."""

    entry: str
    arguments: Any  # (args, kwargs) of the entry
    skipped: list[tuple[str, Any]]  # frozen modules, with their outputs
    shown: Pass


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
        shown = model(inputs)
    return Trace(*entered[0], skipped, shown)


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
            own = vars(model.model.get_submodule(name))
            if "forward" in own:  # such as a wrapper's around that of the class
                stack.callback(own.__setitem__, "forward", own["forward"])
            else:
                stack.callback(own.pop, "forward")
            rest = iter(stubs)  # a module may run several times
            own["forward"] = lambda *_, _rest=rest, **__: next(_rest)
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


def trained_parameters(model: SplitModel, blocks: list[nn.Module] | None) -> list[nn.Parameter]:
    """Leave only what is trained with a gradient."""
    if blocks is not None:
        model.model.requires_grad_(False)
        for block in (*blocks, model.head):
            block.requires_grad_()
    head = {id(module) for module in model.head.modules()}
    modules = (m for block in blocks or [model.model] for m in block.modules() if id(m) not in head)
    if not any(p.requires_grad for m in modules for p in m.parameters(recurse=False)):
        frozen = "the trainable blocks" if blocks is not None else "what comes before the head"
        raise ValueError(
            f"no parameter of {frozen} requires a gradient, so that the features cannot move: name "
            "blocks with parameters as trainable, or call requires_grad_() on them"
        )
    return [p for p in model.model.parameters() if p.requires_grad]


def let_gradients_through(
    model: SplitModel, parameters: Sequence[nn.Parameter], features: Callable[[], Tensor]
) -> None:
    """Have a graph recorded from the input on where it must be, for gradients of the parameters.

    A block that is checkpointed with ``use_reentrant=True`` has no gradient unless what enters it
    needs one, so what is frozen must be in the graph; no optimizer steps it.
    """
    with torch.enable_grad():
        with run_without_a_graph(model, parameters) as cut:
            Z = features()
        if cut and not _reached(model.model, cut, Z):
            model.whole_graph = True
            for parameter in model.model.parameters():
                parameter.requires_grad_(parameter.is_floating_point())
            Z = features()
    if not Z.requires_grad:
        raise ValueError(
            "no gradient reaches the features: they are detached or computed under no_grad, as "
            "where the head itself is checkpointed with use_reentrant=True"
        )


def _reached(model: nn.Module, modules: Sequence[nn.Module], Z: Tensor) -> bool:
    """Whether a backward pass gives each of the modules a gradient; there are none afterwards."""
    if not Z.requires_grad:
        return False
    torch.autograd.backward(Z, torch.ones_like(Z))  # autograd.grad refuses such checkpoints
    found = [any(p.grad is not None for p in m.parameters(recurse=False)) for m in modules]
    model.zero_grad()
    return all(found)


@contextmanager
def run_without_a_graph(
    model: SplitModel, parameters: Sequence[nn.Parameter]
) -> Iterator[list[nn.Module]]:
    """Collect the modules of the parameters, but the head, that run while no graph is recorded."""
    head = {id(module) for module in model.head.modules()}
    theirs = {id(p) for p in parameters}
    found: list[nn.Module] = []

    def see(module: nn.Module, _: Any) -> None:
        if not torch.is_grad_enabled():
            found.append(module)

    with ExitStack() as stack:
        for module in model.model.modules():
            trained = any(id(p) in theirs for p in module.parameters(recurse=False))
            if trained and id(module) not in head:
                stack.callback(module.register_forward_pre_hook(see).remove)
        yield found


@contextmanager
def requiring_alone(model: nn.Module, blocks: Sequence[nn.Module]) -> Iterator[list[nn.Parameter]]:
    """Let the blocks' parameters alone require gradients meanwhile, and give them."""
    before = [(p, p.requires_grad) for p in model.parameters()]
    try:
        model.requires_grad_(False)
        theirs = {id(p): p for m in blocks for p in m.parameters() if p.is_floating_point()}
        for parameter in theirs.values():
            parameter.requires_grad_()
        yield list(theirs.values())
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)


def gradients_agree(wanted: Tensor, got: Tensor, parameters: Sequence[nn.Parameter]) -> bool:
    """Whether two computations of the same features have the same gradients."""
    generator = torch.Generator().manual_seed(0)
    upstream = torch.randn(wanted.shape, generator=generator).to(wanted)

    def gradient(Z: Tensor) -> Tensor:
        parts = torch.autograd.grad(
            Z, parameters, upstream, allow_unused=True, materialize_grads=True
        )
        return torch.cat([part.flatten() for part in parts]).double()

    by_wanted, by_got = gradient(wanted), gradient(got)
    rounding = float(torch.finfo(wanted.dtype).eps) ** 0.5
    return bool((by_got - by_wanted).norm() <= rounding * by_wanted.norm())


def tied_to(model: nn.Module, trained: Sequence[nn.Module]) -> str | None:
    """Return the name of a module elsewhere that has a parameter of these modules, if any."""
    inside = {id(m) for root in trained for m in root.modules()}
    theirs = {id(p) for root in trained for p in root.parameters()}
    elsewhere = (
        name
        for name, module in model.named_modules()
        if id(module) not in inside
        and any(id(p) in theirs for p in module.parameters(recurse=False))
    )
    return next(elsewhere, None)


@contextmanager
def with_other_values(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Let parameters have random values meanwhile; no graph that is alive notices."""
    generator = torch.Generator().manual_seed(0)
    before = [(p, p.detach().clone()) for p in parameters if p.is_floating_point()]
    try:
        for p, _ in before:
            p.data.copy_(torch.randn(p.shape, generator=generator))
        yield
    finally:
        for p, value in before:
            p.data.copy_(value)
