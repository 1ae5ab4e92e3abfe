"""Whether gradients reach what is trained, from the features backwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ._split import SplitModel


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

    handles = [
        module.register_forward_pre_hook(see)
        for module in model.model.modules()
        if id(module) not in head and any(id(p) in theirs for p in module.parameters(recurse=False))
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


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
    by_wanted, by_got = (
        torch.cat(
            [
                torch.zeros_like(p).flatten() if g is None else g.flatten()
                for p, g in zip(
                    parameters,
                    torch.autograd.grad(Z, parameters, upstream, allow_unused=True),
                    strict=True,
                )
            ]
        ).double()
        for Z in (wanted, got)
    )
    rounding = float(torch.finfo(wanted.dtype).eps) ** 0.5
    return bool((by_got - by_wanted).norm() <= rounding * by_wanted.norm())
