"""Hooks on a network's modules, which add what passes through them to their moments."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .._validate import Array, FloatArray
from ._moments import MOMENTS, Factor, Moments
from ._rows import (
    Layout,
    Of,
    RefusedError,
    Samples,
    chunks,
    entering,
    first_tensor,
    started,
    with_first,
)


class Watch:
    """Moments of modules, filled batch by batch; those beyond the budget wait for another pass.

    Attributes
    ----------
    modules : dict of str to nn.Module
        What is watched.
    moments : dict of str to Moments
        Of the modules that were recorded, or are in this pass.
    waiting : dict of str to int
        Widths of those whose turn comes later.
    passes : list of tuple of str
        What the passes that are done recorded.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        of: Of,
        factor: Factor,
        layout: Layout,
        summed: bool,
        budget: int | None,
    ) -> None:
        self.of = of
        self.moments: dict[str, Moments] = {}
        self.waiting: dict[str, int] = {}
        self.passes: list[tuple[str, ...]] = []
        self.ran: set[str] = set()
        self.modules, self._kind, self._layout = dict(modules), MOMENTS[factor], layout
        self._summed, self._budget = summed, budget
        self._active: dict[str, int] = {}  # bytes
        self._listening = False
        self._targets: FloatArray | None = None

    # ---- passes ----

    @property
    def done(self) -> bool:
        """Whether all that was seen has been recorded."""
        return bool(self.passes) and not self._active

    def planned(self) -> list[tuple[str, ...]]:
        """Return the passes: done, this one, and what is known to come."""
        found = [*self.passes, tuple(self._active)] if self._active else [*self.passes]
        rest = dict(self.waiting)
        while rest:
            group = self._fitting(rest)
            found.append(group)
            rest = {name: width for name, width in rest.items() if name not in group}
        return found

    def end_pass(self) -> None:
        """Close what this pass recorded, and take up what waits, as much as fits."""
        for name in self._active:
            with _naming(name):
                self.moments[name].close()
        self.passes.append(tuple(self._active))
        self._active = {}
        for name in self._fitting(self.waiting):
            self._take_up(name, self.waiting.pop(name))

    def share(self, name: str, width: int) -> None:
        """Take up a module that ran on another rank, of this width or of no rows."""
        self.ran.add(name)
        if width and name not in self.moments:
            self.moments[name] = self._kind(width)

    def _fitting(self, widths: Mapping[str, int]) -> tuple[str, ...]:
        free, group = self._budget or 0, []
        for name, width in widths.items():
            free -= self._kind.bytes_of(width)
            if free < 0:
                break
            group.append(name)
        return tuple(group)

    def _take_up(self, name: str, width: int) -> None:
        self._active[name] = self._kind.bytes_of(width)
        self.moments[name] = self._kind(width)

    def _recorded(self, name: str, width: int, what: str) -> Moments | None:
        """Return where a module's rows go; None where it has had, or will have, its turn."""
        if name not in self.moments and name not in self.waiting:
            needed = self._kind.bytes_of(width)
            if self._budget is not None and needed > self._budget:
                raise RefusedError(
                    f"{what} has {width} features, whose moments take {needed:,} bytes, more than "
                    f"max_bytes={self._budget:,}"
                )
            if self._budget is None or sum(self._active.values()) + needed <= self._budget:
                self._take_up(name, width)
            else:
                self.waiting[name] = width
        return self.moments[name] if name in self._active else None

    @property
    def rows(self) -> int:
        """Rows of the modules of this pass."""
        return sum(self.moments[name].count for name in self._active)

    # ---- one batch ----

    def begin(self, number: int, samples: Samples, targets: FloatArray | None) -> None:
        """Take up a batch."""
        self._number, self._samples, self._targets = number, samples, targets
        self._calls: dict[str, int] = {}
        self._attached: set[str] = set()
        self._backward, self._listening = False, True

    def end(self) -> None:
        """Hear no more of this batch: a callback may run the model too."""
        self._listening = False

    def backward(self, loss: Tensor) -> None:
        """Send gradients back through the batch."""
        if loss.numel() != 1:
            raise RefusedError(f"the loss must be one number, and has shape {tuple(loss.shape)}")
        self._backward = True
        if loss.requires_grad:
            loss.backward()

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        """Watch the modules meanwhile, of a model in evaluation mode, and put all back."""
        training = [module for module in model.modules() if module.training]
        trained = [p for p in model.parameters() if p.requires_grad and not p.is_inference()]
        with ExitStack() as stack:
            if "torch._dynamo" in sys.modules:  # what is compiled would not see hooks that are new
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            stack.callback(_restore, training, trained)
            model.eval()
            if self.of == "gradient":
                for p in trained:
                    p.requires_grad_(False)
                for module in model.modules():
                    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
                        stack.callback(module.register_forward_hook(_begin_graph).remove)
            for name, module in self.modules.items():
                stack.callback(self._hook(name, module).remove)
            yield

    def _hook(self, name: str, module: nn.Module) -> Any:
        if self.of == "input":
            return module.register_forward_pre_hook(partial(self._enters, name), with_kwargs=True)
        if self.of == "output":
            return module.register_forward_hook(partial(self._leaves, name))
        return module.register_forward_hook(partial(self._attach, name), with_kwargs=True)

    def _enters(self, name: str, module: nn.Module, args: Any, keywords: Any) -> None:
        if not self._called(name):
            return
        what = f"what enters {name!r}"
        self._add(name, module, entering(args, keywords, what), what)

    def _leaves(self, name: str, module: nn.Module, _: Any, output: Any) -> None:
        if not self._called(name):
            return
        what = f"the output of {name!r}"
        self._add(name, module, first_tensor(output, what), what)

    def _attach(self, name: str, module: nn.Module, args: Any, keywords: Any, output: Any) -> Any:
        """Wait for the gradient; a block that runs again in the backward pass has one already.

        But not one that ran without a graph, as blocks checkpointed with ``use_reentrant=True`` do.
        """
        again = self._backward and name in self._attached
        if not again and not self._backward and not self._called(name):
            return None
        what = f"the gradient of {name!r}"
        x = first_tensor(output, what)
        told = x
        if torch.is_grad_enabled():
            if not x.requires_grad:
                told = started(x)
            # An operation in a view's place would leave the hook behind, and what a module hands
            # on as it came, such as a dropout, has the gradients of all that read it before.
            elif x._is_view() or any(x is given for given in tree_leaves((args, keywords))):
                told = x.clone()
        if told.requires_grad and not again:
            self._attached.add(name)
            told.register_hook(lambda gradient: self._add(name, module, gradient, what))
        return None if told is x else with_first(output, told)

    def _called(self, name: str) -> bool:
        if not self._listening:
            return False
        self.ran.add(name)
        self._calls[name] = self._calls.get(name, 0) + 1
        if self._calls[name] > 1 and not self._summed:
            raise RefusedError(
                f"{name!r} runs more than once in a forward pass: repeated='sum' adds its rows up"
            )
        return True

    def _add(self, name: str, module: nn.Module, x: Tensor, what: str) -> None:
        if name in self.waiting or (name in self.moments and name not in self._active):
            return
        for chunk in chunks(x, module, self._layout, self._samples, what):
            moments = self._recorded(name, chunk.rows.shape[1], what)
            if moments is None:
                return
            with _naming(name):
                moments.add(chunk, self._targets, what)

    # ---- in a file ----

    def state(self) -> dict[str, Any]:
        """Return tensors and numbers, from which it goes on to the same bits."""
        held = {}
        for name, moments in self.moments.items():
            arrays, about = moments.state()
            # A copy: the block of rows is written over.
            tensors = {key: torch.from_numpy(array.copy()) for key, array in arrays.items()}
            held[name] = {"arrays": tensors, "about": about}
        return {
            "moments": held, "active": dict(self._active), "waiting": dict(self.waiting),
            "passes": list(self.passes), "ran": sorted(self.ran),
        }  # fmt: skip

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""
        for name, held in state["moments"].items():
            arrays: dict[str, Array] = {key: x.numpy() for key, x in held["arrays"].items()}
            self.moments[name] = self._kind(held["about"]["width"])
            self.moments[name].restore(arrays, held["about"])
        self._active, self.waiting = dict(state["active"]), dict(state["waiting"])
        self.passes, self.ran = [tuple(names) for names in state["passes"]], set(state["ran"])


@contextmanager
def _naming(name: str) -> Iterator[None]:
    try:
        yield
    except OverflowError as error:
        raise OverflowError(f"{name!r}: {error}") from error


def _restore(training: list[nn.Module], trained: list[nn.Parameter]) -> None:
    for module in training:
        module.training = True
    for p in trained:
        p.requires_grad_(True)


def _begin_graph(_: nn.Module, __: Any, output: Any) -> Any:
    """Let gradients be told from an embedding on, of which no parameter has one."""
    return started(output) if isinstance(output, Tensor) and torch.is_grad_enabled() else None
