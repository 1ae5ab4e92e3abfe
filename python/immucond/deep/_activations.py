"""The frozen part of a network, run once over a task.

What enters the first trainable block is kept for every sample, in memory or in a mapped file. Then
the model's own forward runs on that: whatever it does between its modules is done, a frozen module
before that block returns zeros of the right shape, and the block is handed the rows that were kept.
Whether this gives the features that the whole model gives is checked on the first batch.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import DataLoader

from .._validate import as_path
from ._batches import Batches, Loaded, refuse_rows
from ._checkpoint import fingerprint_of, identity
from ._frozen import (
    Trace,
    gradients_agree,
    refuse_dependent,
    replaced,
    requiring_alone,
    rows_of,
    run_without_a_graph,
    tied_to,
    traced,
)
from ._head import Pass, SplitModel
from ._loaders import (
    CannotKeepError,
    equal,
    indexed,
    least_batch,
    left_as_found,
    moved,
    parse_batch,
    plain,
    refuse_mixed,
    refuse_random,
)
from ._network import blocks_named, device_of, in_evaluation
from ._outcome import Outcome, outcome_of

_log = logging.getLogger("immucond")

_IN_MEMORY = 2**30  # bytes; what is larger is mapped
# Of a loader whose samples are read in their order.
_AS_THEY_ARE = (
    "collate_fn",
    "num_workers",
    "worker_init_fn",
    "timeout",
    "multiprocessing_context",
    "prefetch_factor",
)


class Kept:
    """Samples by their kept activations, through the trainable part alone."""

    alike = True

    def __init__(
        self,
        model: SplitModel,
        blocks: Sequence[nn.Module],
        loader: Any,
        device: torch.device,
        folder: Path | None,
        deterministic: bool = False,
    ) -> None:
        dataset = indexed(loader)
        self._device, self._batch_size = device, loader.batch_size
        self._drop_last, self.least = loader.drop_last, least_batch(loader)
        self._count = len(dataset)
        whole, rest = divmod(self._count, self._batch_size)
        self.count: int | None = whole + (rest > 0 and not self._drop_last)
        self._folder = folder
        self._rows: list[_Rows | Any] = []
        with left_as_found(loader):
            if not plain(loader):
                refuse_random(loader, deterministic)
            inputs, self._trace = self._run(model, blocks, loader)
        self._size = rows_of(self._trace.arguments)
        self._frozen = self._identities(model)
        self._check(model, blocks, inputs)

    def _run(self, model: SplitModel, blocks: Sequence[nn.Module], loader: Any) -> Any:
        """Run what is frozen over the samples, in their order; return the first batch's trace."""
        tied = tied_to(model.model, [*blocks, model.head])
        if tied is not None:
            raise CannotKeepError(f"{tied!r} has a weight of what is trained")
        in_order: DataLoader[Any] = DataLoader(
            loader.dataset,
            batch_size=self._batch_size,
            **{name: getattr(loader, name) for name in _AS_THEY_ARE},
        )
        first = None
        for batch in in_order:
            if first is None:
                refuse_mixed(loader, batch)
            inputs, labels = parse_batch(batch)
            inputs = moved(inputs, self._device)
            trace = traced(model, blocks, inputs)
            if first is None:
                first = inputs, trace
                refuse_dependent(model, blocks, inputs, trace)
            self._append(inputs, trace, labels)
        assert first is not None
        return first

    def _check(self, model: SplitModel, blocks: Sequence[nn.Module], inputs: Any) -> None:
        """Compare with the whole model, on a batch of another size at that.

        Gradients too: a checkpointed block that runs again in the backward pass is not handed what
        was kept.
        """
        few = slice(self._size // 2, None)
        with requiring_alone(model.model, blocks) as parameters, torch.enable_grad():
            wanted = model(inputs).features[few]
            try:
                with run_without_a_graph(model, parameters) as cut:
                    shown, _ = self._passed(model, torch.arange(self._size)[few])
                    got = shown.features
            except Exception as error:
                raise CannotKeepError(f"the model does not run on them ({error})") from error
            near = 1e-5 * float(wanted.detach().abs().max())
            if got.shape != wanted.shape or not torch.allclose(wanted, got, rtol=1e-4, atol=near):
                raise CannotKeepError("what runs before the trainable blocks reaches past them")
            through = wanted.requires_grad and got.requires_grad and not cut
            if not through or not gradients_agree(wanted, got, parameters):
                raise CannotKeepError(
                    "a backward pass on them gives other gradients (checkpoints?)"
                )

    def _append(self, inputs: Any, trace: Trace, labels: Any) -> None:
        """Keep a batch: what enters the block, labels, and such inputs as are read beside it.

        And which tokens are no padding: what makes the mask may not run again, or on zeros.
        """
        kept = trace.shown.kept
        leaves, spec = tree_flatten((inputs, trace.arguments, labels, kept))
        size = rows_of(trace.arguments)
        fresh = not self._rows
        if fresh:
            self._spec = spec
        elif spec != self._spec:
            raise CannotKeepError("its batches differ in what they hold")
        of_inputs = len(tree_flatten(inputs)[0])
        for at, leaf in enumerate(leaves):
            by_sample = isinstance(leaf, Tensor) and leaf.ndim > 0 and leaf.shape[0] == size
            if fresh and not by_sample:
                self._rows.append(leaf)
            elif (
                fresh
                and at < of_inputs
                and leaf.is_floating_point()
                and not any(leaf is mask for mask in trace.shown.masks)  # which later blocks read
            ):
                self._rows.append(_Zeros(leaf))
            elif fresh:
                self._rows.append(_Rows(self._count, leaf, self._folder))
            row = self._rows[at]
            if isinstance(row, _Rows) and by_sample:
                row.append(leaf)
            elif by_sample != isinstance(row, (_Rows, _Zeros)) or not (
                by_sample or equal(row, leaf)
            ):
                raise CannotKeepError("its batches differ in more than their samples")

    def refuse_trained(self, model: SplitModel, name: str) -> None:
        """Refuse to train what ran before what was kept, and a network of other weights there."""
        for frozen, _ in self._trace.skipped:
            if any(p.requires_grad for p in model.model.get_submodule(frozen).parameters()):
                raise ValueError(
                    f"{frozen!r} is to be trained, and what was kept of {name} lies behind it: "
                    "keep_activations must be given the same trainable"
                )

        if self._identities(model) != self._frozen:
            raise ValueError(
                f"what was kept of {name} is of other weights before the trainable blocks: give "
                "keep_activations this network"
            )

    def _identities(self, model: SplitModel) -> list[str]:
        """Return what tells the weights of the modules that ran, once and for all, from others."""
        names = dict.fromkeys(name for name, _ in self._trace.skipped)
        return [identity(model.model.get_submodule(name)) for name in names]

    def epoch(self, generator: torch.Generator) -> Iterator[Any]:
        """Yield the indices of batches, in a random order."""
        order = torch.randperm(self._count, generator=generator)
        for batch in order.split(self._batch_size):
            if len(batch) == self._batch_size or not self._drop_last:
                yield batch

    def in_order(self) -> Generator[Any, None, None]:
        """Yield the indices of batches, in the order of the data set."""
        yield from torch.arange(self._count).split(self._batch_size)

    def drawn(self) -> Generator[Any, None, None]:
        """Yield the indices of batches, in a random order that is the same each time."""
        yield from self.epoch(torch.Generator().manual_seed(0))

    def fingerprint(self) -> str:
        """Of the activations and labels of the first batch."""
        first = next(self.in_order())
        rows = [row[first] if isinstance(row, _Rows) else row for row in self._rows
                if not isinstance(row, _Zeros)]  # fmt: skip
        return f"{self._count} samples in batches of {self._batch_size}, {fingerprint_of(rows)}"

    def run(self, model: SplitModel, batch: Tensor) -> Outcome:
        """Return what the model makes of the samples with these indices."""
        return outcome_of(model, *self._passed(model, batch))

    def _passed(self, model: SplitModel, batch: Tensor) -> tuple[Pass, Any]:
        """Run on them; return what that shows, and the labels."""
        leaves = [
            row[batch].to(self._device) if isinstance(row, (_Rows, _Zeros)) else row
            for row in self._rows
        ]
        inputs, arguments, labels, kept = tree_unflatten(leaves, self._spec)
        with replaced(model, self._trace, arguments, self._size, len(batch)):
            return model(inputs, kept), moved(labels, self._device)


class _Rows:
    """Rows of many batches in one tensor: in memory, or in a file that is mapped."""

    def __init__(self, count: int, like: Tensor, folder: Path | None) -> None:
        shape, dtype = (count, *like.shape[1:]), like.dtype
        size = int(np.prod(shape)) * like.element_size()
        if folder is None or size < _IN_MEMORY:
            self._rows = torch.empty(shape, dtype=dtype)
        else:
            # As bytes: NumPy does not know bfloat16.
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
            if size > free:
                raise CannotKeepError(
                    f"they take {size / 2**30:.3g} GiB, and {folder} has {free / 2**30:.3g}"
                )
            with tempfile.TemporaryFile(dir=folder) as file:  # gone with the last who maps it
                data = np.memmap(file, dtype=np.uint8, mode="w+", shape=(size,))
            self._rows = torch.from_numpy(data).view(dtype).reshape(shape)
        self._filled = 0

    def append(self, rows: Tensor) -> None:
        """Add the rows of one batch."""
        if rows.shape[1:] != self._rows.shape[1:] or rows.dtype != self._rows.dtype:
            raise CannotKeepError("its batches differ in shape or dtype")
        self._rows[self._filled : self._filled + len(rows)] = rows.detach().cpu()
        self._filled += len(rows)

    def __getitem__(self, index: Tensor) -> Tensor:
        return self._rows[index]


class _Zeros:
    """Inputs that nobody reads any more, but for their shape."""

    def __init__(self, like: Tensor) -> None:
        self._like = like

    def __getitem__(self, index: Tensor) -> Tensor:
        return self._like.new_zeros(()).expand(len(index), *self._like.shape[1:])


@torch.random.fork_rng(devices=[])
def keep_activations(
    model: nn.Module,
    loader: DataLoader[Any],
    *,
    split: str,
    trainable: str | Sequence[str],
    device: Any = None,
    cache: str | Path | None = None,
    deterministic: bool = False,
) -> Kept:
    """Run the frozen part of a network once over a task, for any number of runs on it.

    Parameters
    ----------
    model : nn.Module
        The network; what comes before its trainable blocks must stay as it is.
    loader : DataLoader
        The task, over a data set with a length and without random augmentation.
    split, trainable, device, cache, deterministic
        As in `immunize`.

    Returns
    -------
    Kept
        To be given to `immunize` or `rir` in place of the loader, with this network or copies of
        it in which what comes before the trainable blocks is the same.

    Raises
    ------
    ValueError
        Where activations cannot be kept, and why.

    Examples
    --------
    >>> import torch
    >>> import immucond.deep as icd
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    >>> data = torch.utils.data.TensorDataset(torch.randn(64, 6), torch.arange(64) % 3)
    >>> loader = torch.utils.data.DataLoader(data, batch_size=32)
    >>> kept = icd.keep_activations(net, loader, split="2", trainable="0")
    >>> done = icd.immunize(net, split="2", primary=kept, harmful=kept, trainable="0")
    """
    where = device_of(model, device)
    blocks = blocks_named(model, trainable)
    folder = None if cache is None else as_path(cache, "cache")
    try:
        with in_evaluation(model):
            split_model = SplitModel(model, split)
            return Kept(split_model, blocks, loader, where, folder, deterministic)
    except (CannotKeepError, IndexError, RuntimeError) as error:
        raise ValueError(f"activations cannot be kept: {error}") from error


def task_of(task: Any, device: torch.device, name: str, seed: int = 0) -> Batches:
    """Return a task's batches through the whole model, or those that were kept before."""
    if isinstance(task, Iterator):
        raise ValueError(f"{name} must be iterable any number of times, and is an iterator")
    refuse_rows(task, name)
    return task if isinstance(task, Kept) else Loaded(task, device, seed)


def batches_of(
    model: SplitModel,
    blocks: Sequence[nn.Module] | None,
    loader: Any,
    device: torch.device,
    folder: Path | None,
    name: str,
    deterministic: bool = False,
) -> Batches:
    """Return a task's batches, of kept activations where that can be done; else say why not."""
    if isinstance(loader, Kept):
        loader.refuse_trained(model, name)
    if blocks is None or isinstance(loader, Kept):
        return task_of(loader, device, name)
    try:
        return Kept(model, blocks, loader, device, folder, deterministic)
    except CannotKeepError as error:
        _log.warning("%s runs through the whole model in every epoch: %s", name, error)
        return Loaded(loader, device)
