"""What `record` makes of a batch: its samples, its targets, and a run of the model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from .._labels import is_column, one_hot
from .._validate import FloatArray, as_targets, converted
from ._batches import Loaded, refuse_arrays, running_on
from ._loaders import moved, parse_batch
from ._masks import DECODED, ENCODED, Masks, MaskWatch
from ._network import call, device_of, logits_of
from ._objectives import Loss
from ._rows import RefusedError, Samples, mask_of, size_of, started
from ._watch import Watch


def summed(logits: Tensor, labels: Any) -> Tensor:
    """Cross-entropy summed over the samples, so that each row is of one sample's own loss."""
    if logits.ndim != 2:
        raise ValueError(
            f"logits of shape {tuple(logits.shape)} are no row a sample: give loss=, such as one "
            "that flattens tokens and moves the labels of a causal model by one"
        )
    return nn.functional.cross_entropy(logits, labels, reduction="sum")


def mask_of_batch(
    batch: Any, mask: str | Callable[[Any], Tensor] | None, number: int
) -> Tensor | None:
    """Return the mask of a batch, (B, T) of bool, where it has one."""
    inputs, _ = parse_batch(batch)
    value = None
    if callable(mask):
        value = mask(batch)
    elif mask is not None and isinstance(inputs, Mapping):
        value = inputs.get(mask)
    return None if value is None else mask_of(value, size_of(inputs), number)


@dataclass
class Reading:
    """Batches through the model: its mask, its targets, and the loss where there is one."""

    model: nn.Module
    data: Loaded
    mask: str | Callable[[Any], Tensor] | None
    cross: str | Callable[[Any], Any] | None
    loss: Loss
    seed: int
    targets_are: str | None = None  # classes or numbers

    def __post_init__(self) -> None:
        if not (self.mask is None or isinstance(self.mask, str) or callable(self.mask)):
            raise TypeError(
                f"mask must be a name, a function of a batch or None, not {self.mask!r}"
            )

    def samples(self, batch: Any, number: int, needed: bool) -> Samples:
        """Return what the batch says of its rows."""
        found = mask_of_batch(batch, self.mask, number)
        size = size_of(parse_batch(batch)[0])
        return Samples(size if found is None else len(found), found, needed)

    def targets(self, batch: Any, number: int, size: int | None) -> FloatArray | None:
        """Return the targets of the batch's samples, (B, c)."""
        if self.cross is None:
            return None
        if callable(self.cross):
            y, what = self.cross(batch), f"what cross makes of batch {number}"
        else:
            y, what = parse_batch(batch)[1], f"the labels of batch {number}"
            if y is None:
                raise ValueError(f"cross='labels' needs labels, and batch {number} has none")
        y = y.detach().cpu() if isinstance(y, Tensor) else y
        y = y.float() if isinstance(y, Tensor) and y.dtype == torch.bfloat16 else y
        array = converted(y, what)
        count = len(array) if size is None else size
        classes = self.cross == "labels" and array.dtype.kind in "iub" and is_column(array)
        kind = "classes" if classes else "numbers"
        if kind != (self.targets_are or kind):
            raise ValueError(f"{what} are {kind}, and those of batches before {self.targets_are}")
        self.targets_are = kind
        if classes:
            if array.size and int(array.min()) < 0:
                raise ValueError(f"{what} must count classes from 0, and hold {array.min()}")
            array = one_hot(array.ravel().astype(np.int64), int(array.max(initial=0)) + 1)
        return as_targets(array, count, what, "samples")

    def _refuse_decoders(self, samples: Samples, masks: Masks, watch: Watch) -> None:
        """Refuse modules of a decoder on as many tokens as the encoder's mask is of."""
        if samples.mask is None or self.mask != ENCODED:
            return
        theirs = masks.unlike(samples.mask)
        named = [name for name, module in watch.modules.items() if id(module) in theirs]
        if named:
            raise RefusedError(
                f"{named[0]!r} is of a decoder, whose tokens {ENCODED!r} does not mask: record "
                f"such by a call of their own, with mask={DECODED!r} or a function of the batch"
            )

    def run(self, batch: Any, number: int, watch: Watch, name: str = "loader") -> Any:
        """Run the model on one batch, as it would at any other time; return what it returns."""
        refuse_arrays(batch, name)
        inputs, labels = parse_batch(batch)
        samples = self.samples(batch, number, self.cross is not None)
        watch.begin(number, samples, self.targets(batch, number, samples.count))
        where = device_of(self.model)
        inputs, backward = moved(inputs, where), watch.of == "gradient"
        if backward and labels is None:
            raise ValueError(f"of='gradient' needs labels, and batch {number} has none")
        devices = [where] if where.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), torch.set_grad_enabled(backward):
            torch.manual_seed(self.seed + number)  # whatever ran before this batch
            inputs = tree_map_only(Tensor, started, inputs) if backward else inputs
            try:
                with running_on(name):
                    with MaskWatch(self.model).hooked() as masks:
                        output = call(self.model, inputs)
                    if samples.mask is None and isinstance(self.mask, str) and masks.pad():
                        raise RefusedError(
                            f"a module ran with a mask of padding, and the batch has no "
                            f"{self.mask!r} by name: give mask= a function of the batch, or "
                            "mask=None, which records the padding too"
                        )
                    self._refuse_decoders(samples, masks, watch)
                    value = self.loss(logits_of(output), moved(labels, where)) if backward else None
                if value is not None:
                    watch.backward(value)
            except RefusedError as refused:
                raise ValueError(f"{refused} (batch {number})") from None
            finally:
                watch.end()
        return output
