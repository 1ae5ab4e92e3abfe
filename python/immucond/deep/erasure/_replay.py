"""Blocks of a network that run by themselves, on what entered them when the whole network ran."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from .._batches import Loaded
from .._checkpoint import fingerprint_of
from .._cuts import blocks_in
from .._loaders import parse_batch
from .._network import device_of
from .._reading import Reading, summed
from .._record import record
from .._recording import Recording
from .._rows import Layout, dimensions_of
from .._watch import Watch
from ._bench import Bench

_MOST = 2**30  # bytes that are kept of a task; where there are more, the whole network runs


class Run(NamedTuple):
    """A task's batches, what runs on them, and which of their tokens are no padding."""

    model: nn.Module
    loader: Any
    mask: Any
    seed: int

    def record(self, name: str, **keywords: Any) -> Recording:
        """Record the output of a layer, by the name that it has in the network."""
        return record(
            self.model, self.loader, [name], of="output", repeated="sum", mask=self.mask,
            seed=self.seed, **keywords,
        )  # fmt: skip


def runs_to(bench: Bench, names: Sequence[str]) -> Iterator[tuple[str, dict[str, Run]]]:
    """Yield layers as they are ordered, and how each task runs to them; a caller may change them.

    The whole network runs once for the layers of a block, and then the block alone for each.
    """
    whole = {
        task: Run(bench.work, of, bench.mask, bench.seed) for task, of in bench.loaders.items()
    }
    blocks = list(blocks_in(bench.work))

    def block_of(name: str) -> str:
        return next((block for block in blocks if name.startswith(f"{block}.")), "")

    for block, group in groupby(names, block_of):
        within = list(group)
        replayed = _replayed(bench, block, within) if block and len(within) > 1 else None
        for name in within:
            yield name, replayed or whole
        if replayed:
            replayed.clear()  # the caller holds it until there is the next one


def _replayed(bench: Bench, block: str, within: Sequence[str]) -> dict[str, Run] | None:
    """Return how both tasks run through a block alone, where that can be done."""
    found = {}
    for task in bench.loaders:
        run = _kept(bench, block, within, task)
        if run is None:
            return None
        found[task] = run
    return found


def _kept(bench: Bench, block: str, within: Sequence[str], task: str) -> Run | None:
    """Run the network over a task and keep what enters a block, or find that it will not do."""
    data = Loaded(bench.loaders[task], device_of(bench.work), bench.seed)
    reading = Reading(bench.work, data, bench.mask, None, summed, bench.seed)
    watch = _Entering(bench.work, block, within)
    batches: list[Any] = []
    masks: list[Tensor | None] = []
    with watch.hooked(bench.work), closing(data.in_order()) as read:
        for number, batch in enumerate(read, 1):
            samples = reading.samples(batch, number, False)
            reading.run(batch, number, watch, task)
            if not watch.enough or len(watch.entered) != number or not samples.count:
                return None
            rows, labels = torch.full((samples.count,), number - 1), parse_batch(batch)[1]
            batches.append(rows if labels is None else (rows, labels))
            masks.append(samples.mask)
        model = _Alone(block, bench.work.get_submodule(block), watch.entered)
        if not _alike(model, batches, watch.left):
            return None
    return Run(model, batches, lambda batch: masks[_number(parse_batch(batch)[0])], bench.seed)


def _number(rows: Tensor) -> int:
    return int(rows[0])


@torch.no_grad()
def _alike(model: nn.Module, batches: Sequence[Any], left: Sequence[str]) -> bool:
    """Whether the block puts out the same bits again: nothing but what enters it tells."""
    found = [fingerprint_of(model(parse_batch(batch)[0])) for batch in batches]
    return found == list(left)


class _Alone(nn.Module):
    """A block under the name that it has in its network, run on what entered it in a batch."""

    def __init__(self, name: str, block: nn.Module, entered: Sequence[Any]) -> None:
        super().__init__()
        *path, last = name.split(".")
        holder: nn.Module = self
        for part in path:
            holder.add_module(part, inner := nn.Module())
            holder = inner
        holder.add_module(last, block)
        self._name, self._entered = name, entered

    def forward(self, rows: Tensor) -> Any:
        args, keywords = copy.deepcopy(self._entered[_number(rows)])  # it may write into them
        return self.get_submodule(self._name)(*args, **keywords)


class _Entering(Watch):
    """What enters a block, batch by batch.

    Attributes
    ----------
    entered : list of tuple
        Arguments and keywords, of each batch.
    left : list of str
        Fingerprints of what the block then put out.
    enough : bool
        Whether layers of the block can be had from it: they run nowhere else, and what is kept is
        not too much.
    """

    def __init__(self, model: nn.Module, block: str, within: Sequence[str]) -> None:
        modules: Mapping[str, nn.Module] = {
            name: model.get_submodule(name) for name in (block, *within)
        }
        layout = Layout("token", False, None, dimensions_of(model))
        super().__init__(modules, "input", "gram", layout, True, None)
        self.entered: list[Any] = []
        self.left: list[str] = []
        self.enough = True
        self._block, self._bytes, self._inside = block, 0, False

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        """Watch the block and the layers."""
        with super().hooked(model):
            leaving = self.modules[self._block].register_forward_hook(self._leave)
            try:
                yield
            finally:
                leaving.remove()

    def _enters(self, name: str, _: nn.Module, args: Any, keywords: Any) -> None:
        if not self._called(name) or not self.enough:
            return
        if name != self._block:
            self.enough = self._inside
            return
        self._inside = True
        held = [x.nbytes for x in tree_leaves((args, keywords)) if isinstance(x, Tensor)]
        self._bytes += sum(held)
        self.enough = self._bytes <= _MOST
        try:
            self.entered.append(copy.deepcopy((args, keywords)))
        except Exception:  # whatever a network hands to its blocks
            self.enough = False

    def _leave(self, *passed: Any) -> None:
        self._inside = False
        if self._listening:
            self.left.append(fingerprint_of(passed[-1]))
