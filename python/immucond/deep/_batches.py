"""Batches of a task through the whole model, and the features of its samples."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only

from .._errors import DegenerateSpectrumWarning
from .._extreme import feature_extreme_pairs
from ..torch.parts import IGNORED
from ._checkpoint import fingerprint_of
from ._head import SplitModel
from ._loaders import (
    draws_alike,
    least_batch,
    left_as_found,
    moved,
    on_cpu,
    parse_batch,
    seed_pass,
    starting_anew,
)
from ._network import array
from ._outcome import Outcome, outcome_of
from ._rows import rows_at

# Called with the place of a batch or a trial, and a record of what it is of.
Callback = Callable[[int, Mapping[str, Any]], object]


def outcome(model: SplitModel, batch: Any, device: torch.device) -> Outcome:
    """Return what the whole model makes of a batch."""
    inputs, labels = parse_batch(batch)
    return outcome_of(model, model(moved(inputs, device)), moved(labels, device))


_LOGITS = 2**26  # numbers, of which no more than another batch are kept


class Batches(Protocol):
    """A task's batches, epoch after epoch."""

    least: int | None
    """Samples in the smallest batch, where that is known."""

    count: int | None
    """Batches of an epoch, where that is known."""

    alike: bool
    """Whether an epoch follows from the generator alone, whatever came before it."""

    def epoch(self, generator: torch.Generator) -> Iterator[Any]:
        """Yield the batches of one epoch."""

    def in_order(self) -> Generator[Any, None, None]:
        """Yield the batches once, in the order of the samples."""

    def drawn(self) -> Generator[Any, None, None]:
        """Yield the batches of an epoch as training draws them, alike each time."""

    def run(self, model: SplitModel, batch: Any) -> Outcome:
        """Return what the model makes of a batch."""

    def fingerprint(self) -> str:
        """Return what tells the task from another: how much it has, and a hash of some of it."""


class Loaded:
    """Batches as the loader yields them, through the whole model."""

    def __init__(self, loader: Any, device: torch.device, seed: int = 0) -> None:
        self._loader, self._device, self._passes = starting_anew(loader), device, 0
        self._seed = seed
        self.least, self.alike = least_batch(loader), draws_alike(loader)
        try:
            self.count: int | None = len(loader)
        except TypeError:
            self.count = None

    def epoch(self, generator: torch.Generator) -> Iterator[Any]:
        """Yield the loader's batches; all that they are drawn from gets a seed drawn here."""
        seed_pass(self._loader, int(torch.randint(2**31, (), generator=generator)), self._passes)
        self._passes += 1
        yield from self._loader

    @contextmanager
    def anew(self) -> Iterator[None]:
        """Count passes from 0 within; what is drawn from is as it was found afterwards."""
        self._passes = 0
        with left_as_found(self._loader):
            yield

    def in_order(self) -> Generator[Any, None, None]:
        """Yield the loader's batches; one that shuffles does so alike each time."""
        with left_as_found(self._loader):
            seed_pass(self._loader, self._seed, 0)
            yield from self._loader

    drawn = in_order

    def fingerprint(self) -> str:
        """Of the first batch, where it is the same twice, and of its shapes where it is not."""
        count = "?" if self.count is None else str(self.count)
        first = self._first()
        if not self.repeats():
            first = tree_map_only(Tensor, lambda x: (str(x.dtype), *x.shape), first)
        return f"{count} batches, {fingerprint_of(first)}"

    def repeats(self) -> bool:
        """Whether the first batch is the same twice; not where samples are drawn or changed."""
        first, again = (fingerprint_of(self._first()) for _ in range(2))
        return first == again

    def _first(self) -> Any:
        with closing(self.in_order()) as batches:
            return on_cpu(next(batches, None))

    def run(self, model: SplitModel, batch: Any) -> Outcome:
        """Return what the whole model makes of a batch."""
        return outcome(model, batch, self._device)


def held(
    loader: Any, name: str, device: torch.device, seed: int = 0, *, targets: bool = False
) -> list[tuple[Any, Tensor]]:
    """Return a task's batches, inputs and labels, on a device: classes, or perhaps targets.

    Samples labelled -100 are left out, as losses do, and so are batches of which no label counts.
    """
    refuse_rows(loader, name)
    found, number = [], 0
    for number, batch in enumerate(Loaded(loader, device, seed).in_order(), 1):
        refuse_arrays(batch, name)
        batch = tree_map_only(Tensor, _trainable, moved(batch, device))
        inputs, labels = parse_batch(batch)
        known = isinstance(labels, Tensor) and not labels.is_complex()
        if not known or (labels.is_floating_point() and not targets):
            told = "none" if labels is None else f"a {type(labels).__name__}"
            told = f"numbers ({labels.dtype})" if isinstance(labels, Tensor) else told
            wanted = "classes as labels, a tensor of whole numbers"
            wanted = "labels, tensors of classes or targets" if targets else wanted
            raise TypeError(
                f"the batches of {name} must have {wanted}, and batch {number} has {told}"
            )
        counts = torch.ones_like(labels, dtype=torch.bool)
        if not labels.is_floating_point():
            counts = labels.long() != IGNORED
        if counts.ndim == 1 and not bool(counts.all()):
            inputs, labels = rows_at(counts, inputs, len(counts)), labels[counts]
        if bool(counts.any()):
            found.append((inputs, labels))
    if not found:
        raise ValueError(f"{name} has no {'label that counts' if number else 'batches'}")
    return found


def _trainable(x: Tensor) -> Tensor:
    """Return a tensor that autograd can keep, as none that inference mode has made."""
    return x.clone() if x.is_inference() else x


def endless(epoch: Callable[[], Iterator[Any]], name: str) -> Iterator[Any]:
    """Yield the batches of epoch after epoch."""
    while True:
        none = True
        for batch in epoch():
            none = False
            yield batch
        if none:
            raise ValueError(f"{name} has no batches")


def refuse_few(count: int, name: str) -> None:
    """Refuse a batch of one sample, which has no condition number."""
    if count < 2:
        raise ValueError(
            f"a batch of {name} must have at least two samples, and one has {count} (of a last "
            "batch that is short, drop_last=True rids a DataLoader)"
        )


def first_of(task: Batches, name: str) -> Any:
    """Return a task's first batch; refuse a task that has none, and a batch of NumPy arrays."""
    batch = next(iter(task.in_order()), None)
    if batch is None:
        raise ValueError(f"{name} has no batches")
    refuse_arrays(batch, name)
    return batch


def refuse_arrays(batch: Any, name: str) -> None:
    """Refuse a batch with NumPy arrays among its inputs or labels."""
    if any(isinstance(leaf, np.ndarray) for leaf in tree_flatten(batch)[0]):
        raise TypeError(
            f"a batch of {name} must hold tensors, and holds NumPy arrays: give "
            "torch.from_numpy(array), of the dtype of the network's weights"
        )


def refuse_rows(task: Any, name: str) -> None:
    """Refuse data in the place of a loader: (X, y), or X."""
    data = (Tensor, np.ndarray)
    pair = isinstance(task, tuple) and len(task) == 2 and isinstance(task[0], data)
    pair = pair and isinstance(task[1], (*data, list)) and len(task[0]) == len(task[1])
    if pair and np.ndim(task[1]) == np.ndim(task[0]) and not isinstance(task[1], list):
        pair = not all(isinstance(x, Tensor) for x in task)  # two batches of inputs
    table = hasattr(task, "to_numpy") or isinstance(task, (str, Mapping))  # iterate over names
    iterable = hasattr(task, "__iter__") or hasattr(task, "__getitem__") or hasattr(task, "run")
    if pair or table or not iterable or isinstance(task, data):
        what = "a pair (X, y)" if pair else f"a {type(task).__name__}"
        what = "None" if task is None else what
        raise TypeError(
            f"{name} must be a loader or an iterable of batches, and is {what}: give "
            "DataLoader(TensorDataset(X, y), batch_size=64, shuffle=True) of tensors"
        )


@contextmanager
def running_on(name: str) -> Iterator[None]:
    """Say on what the model does not run."""
    try:
        yield
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"the model does not run on a batch of {name}: {error}") from error


def all_features(model: SplitModel, batches: Batches, name: str) -> Tensor:
    """Return the features of a task's samples, on the CPU."""
    with running_on(name), torch.no_grad(), closing(batches.in_order()) as epoch:
        rows = [batches.run(model, batch).features.cpu() for batch in epoch]
    if not rows:
        raise ValueError(f"{name} has no batches")
    return torch.cat(rows)


def everything(
    model: SplitModel,
    batches: Batches,
    name: str,
    usable: Callable[[Outcome], bool] = lambda found: isinstance(found.labels, Tensor),
    most: float = math.inf,
    shown: Callable[[Tensor], Tensor] = lambda logits: logits,
) -> Outcome:
    """Return features, what is `shown` of logits, and labels of a task's first rows, on the CPU.

    Labels are None unless those of every batch are usable. Logits are those of the first rows
    alone, where all would be many: of every token, one for each word of a vocabulary.
    """
    rows: list[Outcome] = []
    count = held = 0
    with torch.no_grad(), closing(batches.in_order()) as epoch:
        for batch in epoch:
            refuse_arrays(batch, name)
            with running_on(name):
                found = batches.run(model, batch)
            labels = found.labels.cpu() if usable(found) else None
            logits = shown(found.logits if held < _LOGITS else found.logits[:0].clone())
            rows.append(Outcome(found.features.cpu(), logits.cpu(), labels))
            count, held = count + len(found.features), held + logits.numel()
            if count >= most:
                break
    if not rows:
        raise ValueError(f"{name} has no batches")
    features = torch.cat([row.features for row in rows])
    logits = torch.cat([row.logits for row in rows])
    known = all(row.labels is not None for row in rows)
    return Outcome(features, logits, torch.cat([row.labels for row in rows]) if known else None)


class Measured(NamedTuple):
    """Features (N, m) of some rows, with the class that each is taken for, and its own.

    `guesses` are None where there are no logits, one for each of `classes`; `labels` where they are
    no classes, one whole number a row.
    """

    features: Tensor
    guesses: Tensor | None
    classes: int
    labels: Tensor | None


class NotFiniteError(ValueError):
    """Features that are NaN or infinite."""


def gathered(model: SplitModel, batches: Batches, name: str, most: int) -> Measured:
    """Return at most so many rows of a task, at least two, whose features are finite."""
    shapes: set[torch.Size] = set()

    def guessed(logits: Tensor) -> Tensor:
        """Return a class for each row: of many logits nothing else is kept."""
        shapes.add(logits.shape[1:])
        if logits.ndim != 2:
            return logits.new_zeros(len(logits))
        return logits.argmax(1) if logits.shape[1] > 1 else (logits[:, 0] > 0.0).long()

    found = everything(model, batches, name, _classes, most, guessed)
    refuse_few(len(found.features), name)
    features, labels = found.features[:most], found.labels
    if not bool(features.isfinite().all()):
        raise NotFiniteError(f"the features of {name} must be finite, and are not")
    (shape,) = shapes if len(shapes) == 1 else ((),)
    classes = shape[0] if len(shape) == 1 else 0
    guesses = found.logits[:most] if classes else None
    return Measured(features, guesses, classes, None if labels is None else labels[:most])


def _classes(found: Outcome) -> bool:
    labels = found.labels
    if not isinstance(labels, Tensor) or labels.shape != (len(found.features),):
        return False
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    return whole and bool((labels >= 0).all())


def kappa_and_rank(Z: Tensor, computed_in: Any = None) -> tuple[float, int]:
    """Return the condition number of the Hessian of features, and the rank that it is taken over.

    The precision in which they were computed is by default that of their dtype.
    """
    precision = Z.dtype if computed_in is None else computed_in
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateSpectrumWarning)  # vectors are not asked for
        pairs = feature_extreme_pairs(array(Z), computed_in=precision)
    return pairs.condition_number, pairs.rank
