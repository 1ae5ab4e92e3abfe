"""Blocks of a network that run by themselves, on what entered them when the whole network ran."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._batches import Loaded
from .._cuts import blocks_in
from .._loaders import parse_batch
from .._network import device_of
from .._reading import Reading, summed
from .._record import record
from .._recording import Recording
from ._bench import Bench
from ._flow import Alone, Flow


class Run(NamedTuple):
    """A task's batches, what runs on them, and which of their tokens are no padding."""

    model: nn.Module
    loader: Any
    mask: Any
    seed: int

    @property
    def alone(self) -> Alone:
        """The block that runs by itself."""
        assert isinstance(self.model, Alone)
        return self.model

    def record(self, name: str, **keywords: Any) -> Recording:
        """Record the output of a layer, by the name that it has in the network."""
        if isinstance(self.model, Alone):
            self.model.until = name
        return record(
            self.model, self.loader, [name], of="output", repeated="sum", mask=self.mask,
            seed=self.seed, **keywords,
        )  # fmt: skip


class Replay:
    """Layers as they are ordered, and how each task runs to them; a caller may change them.

    The whole network runs once for the layers of a block, and then the block alone for each. A
    block that is handed what the one before puts out, and all else as that one was, `follows` it
    without another run of the network: whether it would have been the same, `holds` tells at last.
    """

    def __init__(self, bench: Bench, names: Sequence[str], *, follows: bool = True) -> None:
        self._bench, self._follows = bench, follows
        self._whole = {
            task: Run(bench.work, of, bench.mask, bench.seed) for task, of in bench.loaders.items()
        }
        blocks = list(blocks_in(bench.work))

        def block_of(name: str) -> str:
            return next((block for block in blocks if name.startswith(f"{block}.")), "")

        self._groups = [(block, list(group)) for block, group in groupby(names, block_of)]
        self._told: dict[str, dict[str, list[str]]] = {task: {} for task in bench.loaders}

    def __iter__(self) -> Iterator[tuple[str, dict[str, Run]]]:
        alone: dict[str, Run] = {}  # always this one: the caller holds it until there is the next
        for at, (block, within) in enumerate(self._groups):
            if not self._followed(alone, block):
                self._left(alone)
                if block and len(within) > 1:
                    alone.update(self._replayed(at, block))
            for name in within:
                yield name, alone or self._whole
        self._left(alone)

    def holds(self) -> bool:
        """Whether blocks that followed others put out the same bits within the whole network."""
        for task, told in self._told.items():
            flow = Flow(self._bench.work, dict.fromkeys(told, ()), told)
            if told and (not self._run(task, flow) or flow.told != told):
                return False
        return True

    def _run(self, task: str, flow: Flow) -> list[tuple[Any, Tensor | None]]:
        """Run the network over a task; return batches of numbers, with their masks.

        Empty where a batch has no samples, or more is to be kept than may be.
        """
        bench = self._bench
        data = Loaded(bench.loaders[task], device_of(bench.work), bench.seed)
        reading = Reading(bench.work, data, bench.mask, None, summed, bench.seed)
        found: list[tuple[Any, Tensor | None]] = []
        with flow.hooked(bench.work), closing(data.in_order()) as batches:
            for number, batch in enumerate(batches, 1):
                samples = reading.samples(batch, number, False)
                reading.run(batch, number, flow, task)
                if not samples.count or not flow.kept:
                    return []
                rows, labels = torch.full((samples.count,), number - 1), parse_batch(batch)[1]
                found.append((rows if labels is None else (rows, labels), samples.mask))
        return found

    def _replayed(self, at: int, block: str) -> dict[str, Run]:
        """Return how both tasks run through a block alone, where that can be done."""
        groups: dict[str, list[str]] = {}
        for later, within in self._groups[at:]:
            if later:
                groups.setdefault(later, []).extend(within)
        found = {}
        for task in self._bench.loaders:
            flow = Flow(self._bench.work, groups, [block], keeps=block)
            batches = self._run(task, flow)
            if not batches or not flow.apart(block):
                return {}
            model = Alone(block, self._bench.work, flow)
            if not model.alike(flow.told[block]):
                return {}
            rows, masks = zip(*batches, strict=True)
            found[task] = Run(model, rows, partial(_mask_of, masks), self._bench.seed)
        return found

    def _followed(self, alone: dict[str, Run], block: str) -> bool:
        """Go on to the next block, where that one follows."""
        if not (
            self._follows and alone and all(run.alone.leads_to(block) for run in alone.values())
        ):
            return False
        for task, run in alone.items():
            self._told[task][run.alone.name] = run.alone.told(onward=True)
            alone[task] = run._replace(model=run.alone.then(block, self._bench.work))
        return True

    def _left(self, alone: dict[str, Run]) -> None:
        """Keep nothing more of a block, but what it puts out at last where it followed another."""
        for task, run in alone.items():
            if run.alone.followed:
                self._told[task][run.alone.name] = run.alone.told()
        alone.clear()


def _mask_of(masks: Sequence[Tensor | None], batch: Any) -> Tensor | None:
    return masks[int(parse_batch(batch)[0][0])]
