"""Cuts of a network: what its blocks put out and what enters its head, one row a sample."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .._validate import Array, converted
from ..torch.parts import IGNORED
from ._loaders import parse_batch
from ._network import logits_of, modules_matching
from ._reading import Reading
from ._rows import (
    Channels,
    Layout,
    RefusedError,
    Samples,
    chunks,
    dimensions_of,
    first_tensor,
    is_typed,
    last_typed,
    rows_at,
    size_of,
)
from ._watch import Watch

INPUT = " (input)"  # of a head, behind its name
_SAME = ("dropout", "pooling", "flatten")  # modules of torch.nn that add nothing to read


class Cut(NamedTuple):
    """A module, and whether what enters it is meant, or what it puts out."""

    module: nn.Module
    entered: bool


class Cuts(Watch):
    """Rows of the cuts of a network, each sample's mean over its tokens or places.

    Attributes
    ----------
    blocks : dict of str to list of (B, m) array
        By cut, in float32, or float64 where they are that.
    dtypes : dict of str to str
        In which they were computed.
    samples : int
        Of the batch that came last, by what was kept of it.
    """

    def __init__(
        self, cuts: Mapping[str, Cut], channels: Channels | None, model: nn.Module
    ) -> None:
        layout = Layout("mean", False, channels, dimensions_of(model))
        modules = {name: cut.module for name, cut in cuts.items()}
        super().__init__(modules, "output", "gram", layout, False, None)
        self._cuts = dict(cuts)
        self.blocks: dict[str, list[Array]] = {name: [] for name in cuts}
        self.dtypes: dict[str, str] = {}
        self.samples = 0
        self.counted: Array | None = None  # rows that have a label that counts

    def drop(self, name: str) -> None:
        """Keep no more of a cut."""
        self.blocks.pop(name)

    def taken(self, name: str) -> Array:
        """Return all rows of a cut that count, and hold them no more."""
        rows = np.concatenate(self.blocks.pop(name))
        return rows if self.counted is None or self.counted.all() else rows[self.counted]

    def refuse_unseen(self) -> None:
        """Refuse cuts of modules that never ran."""
        missing = [name for name in self.modules if name not in self.ran]
        if missing:
            raise ValueError(f"modules that never ran: {', '.join(map(repr, missing))}")

    @property
    def bytes(self) -> int:
        """What is held."""
        return sum(block.nbytes for blocks in self.blocks.values() for block in blocks)

    def _hook(self, name: str, module: nn.Module) -> Any:
        if self._cuts[name].entered:
            return module.register_forward_pre_hook(partial(self._enters, name), with_kwargs=True)
        return super()._hook(name, module)

    def _add(self, name: str, module: nn.Module, x: Tensor, what: str) -> None:
        if name not in self.blocks:
            return
        self._keep(name, x, module, told_by(module, x, self._layout), what)

    def add_logits(self, name: str, output: Any) -> None:
        """Keep what the network itself put out for the batch."""
        what = "the logits"
        try:
            self._keep(name, logits_of(output), nn.Identity(), _TOKENS, what)
        except RefusedError as refused:
            raise ValueError(f"{refused} (batch {self._number})") from None

    def _keep(self, name: str, x: Tensor, module: nn.Module, layout: Layout, what: str) -> None:
        samples = Samples(self._samples.count, self._samples.mask, True)
        for chunk in chunks(x, module, layout, samples, what):
            dtype = np.float64 if chunk.computed_in == "float64" else np.float32
            block = chunk.rows.cpu().numpy().astype(dtype)
            if not np.isfinite(block).all():
                raise RefusedError(f"{what} must be finite, and holds NaN or infinity")
            held = self.blocks.setdefault(name, [])
            if held and held[0].shape[1] != block.shape[1]:
                raise RefusedError(
                    f"{what} must have {held[0].shape[1]} features in all batches, and has "
                    f"{block.shape[1]}"
                )
            held.append(block)
            self.dtypes[name] = chunk.computed_in
            self.samples = int(chunk.samples[-1]) + 1


_TOKENS = Layout("mean", False, "last", frozenset())


def told_by(module: nn.Module, x: Tensor, layout: Layout) -> Layout:
    """Return a layout that knows where the channels of a block's output stand."""
    if layout.channels is None and not is_typed(module) and x.ndim - 2 in layout.dimensions:
        return replace(layout, channels=_channels(module, x))
    return layout


def _channels(module: nn.Module, x: Tensor) -> Channels:
    """Tell where the channels of a block's output stand: as many as its last layer of a type has.

    Where both ends of the shape are of that size, the type of that layer says.
    """
    kind, width = last_typed(module)
    first, last = x.shape[1] == width, x.shape[-1] == width
    return kind if first == last else "first" if first else "last"


# ---- which ones ----


def cuts_of(
    model: nn.Module, chosen: str | Sequence[str], reading: Reading, batch: Any, head: str | None
) -> dict[str, Cut]:
    """Return the cuts by name, in the order of the network: those named, or found in its tree."""
    if chosen != "auto":
        found, _ = modules_matching(model, chosen)
        return {name: Cut(module, False) for name, module in found.items()}
    named = dict(model.named_modules())
    if head is not None and head not in named:
        raise ValueError(f"split must name a module of the model, and is {head!r}")
    candidates = {name: named[name] for name in blocks_in(model)}
    linear = {name: m for name, m in named.items() if isinstance(m, nn.Linear)}
    wanted = candidates | linear | ({} if head is None else {head: named[head]})
    scout = _Scout(wanted, model)
    with scout.hooked(model):
        logits = logits_of(reading.run(batch, 1, scout, "harmful"))
    if head is None:
        last = [n for n in scout.order if n in linear and scout.shapes[n][-1] == logits.shape[-1]]
        # Another linear layer as wide may make an output that is no logits.
        last = [n for n in last if scout.left[n]() is logits] or last
        head = last[-1] if last else None
    usable = _by_sample(scout, model, reading, batch)
    found_cuts = {
        name: Cut(module, False)
        for name, module in candidates.items()
        if name in usable and not (head is not None and f"{head}.".startswith(f"{name}."))
    }
    if head is not None:
        found_cuts[head + INPUT] = Cut(named[head], True)
    if not found_cuts:
        raise ValueError("no block of the network gives a row a sample: name modules (cuts=)")
    return found_cuts


def _by_sample(scout: _Scout, model: nn.Module, reading: Reading, batch: Any) -> set[str]:
    """Return modules that give a row a sample, of another number of samples too.

    One that has time first, as PyTorch's recurrent layers, puts out as many rows as samples where
    there are as many of both.
    """
    size = size_of(parse_batch(batch)[0])
    if not size:
        return scout.usable
    rows = torch.arange(size - 1 if size > 1 else 2) % size
    other = _Scout(scout.modules, model)
    try:
        with other.hooked(model):
            reading.run(rows_at(rows, batch, size), 1, other, "harmful")
    except ValueError:  # a network of one size of batches
        return scout.usable
    return scout.usable & other.usable


class _Scout(Watch):
    """What modules put out for one batch: which ones ran once, and gave a row a sample."""

    def __init__(self, modules: Mapping[str, nn.Module], model: nn.Module) -> None:
        layout = Layout("mean", False, None, dimensions_of(model))
        super().__init__(modules, "output", "gram", layout, True, None)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.left: dict[str, weakref.ref[Tensor]] = {}
        self._usable: set[str] = set()

    @property
    def order(self) -> list[str]:
        """Modules in the order in which they ran."""
        return list(self.shapes)

    @property
    def usable(self) -> set[str]:
        """Those of which there is a row a sample."""
        return {name for name in self._usable if self._calls[name] == 1}

    def _hook(self, name: str, module: nn.Module) -> Any:
        return module.register_forward_hook(lambda *passed: self._see(name, passed[-1]))

    def _see(self, name: str, output: Any) -> None:
        self._called(name)
        try:
            x = first_tensor(output, name)
        except RefusedError:
            return
        self.shapes.pop(name, None)
        self.shapes[name], self.left[name] = tuple(x.shape), weakref.ref(x)
        count = self._samples.count
        if x.is_floating_point() and x.ndim > 1 and count in (None, len(x)):
            self._usable.add(name)


def blocks_in(model: nn.Module) -> Iterator[str]:
    """Yield names of blocks: the items of lists of modules, and what stands beside such lists.

    Without lists the children of the network; of a network with one child, that one's.
    """
    lists = {id(m) for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) > 1}

    def holds(module: nn.Module) -> bool:
        return any(id(m) in lists for m in module.modules())

    def within(module: nn.Module, prefix: str) -> Iterator[str]:
        children = list(module.named_children())
        for name, child in children:
            if id(module) not in lists and (holds(child) or (not lists and len(children) == 1)):
                yield from within(child, f"{prefix}{name}.")
            elif not type(child).__module__.endswith(_SAME) and not isinstance(child, nn.Identity):
                yield prefix + name

    yield from within(model, "")


# ---- one pass ----


def read(
    reading: Reading, cuts: Cuts, name: str, tell: Callable[[int, int], object], logits: str = ""
) -> tuple[int, Array | None]:
    """Run the network over a task's batches; return how many rows, and the labels if all have some.

    Its logits are a cut of the name that is given.
    """
    labels: list[Array | None] = []
    count = 0
    with cuts.hooked(reading.model), closing(reading.data.in_order()) as batches:
        for number, batch in enumerate(batches, 1):
            cuts.samples = 0  # of a batch without any, nothing is kept
            output = reading.run(batch, number, cuts, name)
            size = cuts.samples
            if logits:
                cuts.add_logits(logits, output)
            labels.append(_labels(parse_batch(batch)[1], size, f"batch {number} of {name}"))
            count += size
            tell(number, reading.data.count or 0)
    if not count:
        raise ValueError(f"{name} has no batches")
    known = [y for y in labels if y is not None]
    return count, np.concatenate(known) if len(known) == len(labels) else None


def _labels(y: Any, size: int, what: str) -> Array | None:
    """Return a batch's labels; None where it has none."""
    if y is None:
        return None
    if isinstance(y, Tensor):
        y = y.detach().cpu()
        y = y.float() if y.dtype == torch.bfloat16 else y  # which NumPy lacks
    found = converted(y, what)
    if found.shape[:1] != (size,):
        raise ValueError(f"{what} must have {size} labels, one a sample, and has {found.shape}")
    return found


def classes_of(labels: Array | None, name: str) -> Array:
    """Return labels that are a class a sample, or refuse them."""
    if labels is None:
        raise ValueError(f"{name} must have labels in every batch")
    if labels.ndim != 1 or labels.dtype.kind not in "iubUS":
        raise ValueError(
            f"the labels of {name} must be classes, a whole number a sample, and have shape "
            f"{labels.shape} and dtype {labels.dtype}"
        )
    return labels


def counting(labels: Array, name: str) -> Array:
    """Return which labels count; refuse a task of which none does."""
    counted: Array = labels != IGNORED if labels.dtype.kind in "iu" else np.ones(len(labels), bool)
    if not counted.any():
        raise ValueError(f"{name} has no label that counts: all are {IGNORED}")
    return counted


def refuse_unlike(train: Array, test: Array) -> None:
    """Refuse harmful tasks that nothing can be learned of, or measured."""
    known, seen = np.unique(train), np.unique(test)
    if known.size < 2:
        raise ValueError(f"harmful must have two classes at least, and all labels are {known[0]}")
    if known.size == train.size:
        raise ValueError(f"harmful has {known.size} classes in as many rows: nothing to learn")
    for missing, told in (
        (np.setdiff1d(known, seen), "held_out has no row of"),
        (np.setdiff1d(seen, known), "harmful has no row of held_out's"),
    ):
        if missing.size:
            more = ", ..." if missing.size > 5 else ""
            raise ValueError(f"{told} class {', '.join(map(str, missing[:5]))}{more}")


def name_of(cut: str) -> str:
    """Return the name of a cut's module."""
    return cut.removesuffix(INPUT)
