"""What the primary task has lost, on rows that were not used to erase."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import closing
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ...torch.parts import IGNORED
from .._batches import Loaded, NotFiniteError, everything, gathered
from .._head import SplitModel
from .._loaders import parse_batch
from .._rows import rows_at


class Utility:
    """A network's worth on held-out primary rows, and what a changed copy of it has lost.

    One that puts all rows in one class has no worth, whatever the share of that class.

    Attributes
    ----------
    measure : {"accuracy", "logits"}
        Share of the rows that are put in their class; or, where labels are no classes, 1 less the
        change of the logits, squared, relative to their variance.
    before : float
        Of the network that was given.
    rows : int
    """

    def __init__(self, model: nn.Module, head: str, held_out: Loaded) -> None:
        self._head, self._data = head, _Counting(held_out)
        found = gathered(SplitModel(model, head), self._data, "held_out", 10**12)
        self.rows = len(found.features)
        self.measure: Literal["accuracy", "logits"] = "logits"
        self._logits = torch.empty(0)
        if found.labels is not None and found.guesses is not None:
            self.measure = "accuracy"
            self._right = found.guesses == found.labels
            self.before = float(self._right.double().mean())
            if _constant(found.guesses):
                raise ValueError(
                    "the network puts all held-out rows of the primary task in one class: nothing "
                    "of it is needed for that"
                )
            if self.before == 0.0:
                raise ValueError(
                    "the network puts no held-out row of the primary task in its class, so that "
                    "nothing can be lost: the labels are not those that it tells"
                )
        else:
            found_all = everything(SplitModel(model, head), self._data, "held_out")
            self._logits = found_all.logits.double()
            self.before = 1.0

    def of(self, model: nn.Module) -> float:
        """Return a network's worth; 0 where it puts out NaN."""
        split = SplitModel(model, self._head)
        if self.measure == "accuracy":
            try:
                found = gathered(split, self._data, "held_out", 10**12)
            except NotFiniteError:
                return 0.0
            assert found.guesses is not None
            assert found.labels is not None
            right = found.guesses == found.labels
            return 0.0 if _constant(found.guesses) else float(right.double().mean())
        now = everything(split, self._data, "held_out").logits.double()
        moved = (now - self._logits).square().sum()
        size = (self._logits - self._logits.mean(0)).square().sum()
        left = 1.0 - float(moved / size) if float(size) > 0.0 else 1.0 - float(moved > 0.0)
        return left if math.isfinite(left) else 0.0

    def lost(self, model: nn.Module) -> float:
        """Return how much of its worth the network has lost."""
        return self.lost_at(self.of(model))

    def lost_at(self, worth: float) -> float:
        """Return how much is lost where so much is left."""
        return lost_of(self.before, worth, self.rows, self.measure)

    def error(self, model: nn.Module) -> float | None:
        """Return the standard error of what is lost, of each row beside itself; None of logits."""
        if self.measure == "logits":
            return None
        found = gathered(SplitModel(model, self._head), self._data, "held_out", 10**12)
        assert found.guesses is not None
        assert found.labels is not None
        lost = self._right.double() - (found.guesses == found.labels).double()
        return float(lost.std() / len(lost) ** 0.5)


def lost_of(before: float, after: float, rows: int, measure: str) -> float:
    """Return what is lost between two worths; of accuracies the number nearest to so many rows.

    3 rows of 1000 are no more than 0.003, and 1 - 0.997 is.
    """
    lost = before - after
    return round(lost * rows) / rows if measure == "accuracy" else lost


class _Counting(Loaded):
    """A loader's samples but those labelled -100, with the numbers of their classes."""

    def __init__(self, loaded: Loaded) -> None:
        self.__dict__.update(vars(loaded))

    def in_order(self) -> Generator[Any, None, None]:
        """Yield batches; refuse a task of whose samples none has a label that counts."""
        some = counted = False
        with closing(super().in_order()) as batches:
            for batch in batches:
                some, found = True, _counting(batch)
                if found is not None:
                    counted = True
                    yield found
        if some and not counted:
            raise ValueError(f"held_out has no label that counts: all are {IGNORED}")


def _counting(batch: Any) -> Any:
    inputs, labels = parse_batch(batch)
    of_samples = isinstance(labels, Tensor) and labels.ndim == 1
    if not of_samples or labels.is_floating_point() or labels.is_complex():
        return batch
    classes = labels.long()
    counts = classes != IGNORED
    if bool(counts.all()):
        return inputs, classes
    return (rows_at(counts, inputs, len(counts)), classes[counts]) if bool(counts.any()) else None


def _constant(guesses: Tensor) -> bool:
    return bool((guesses == guesses[:1]).all())
