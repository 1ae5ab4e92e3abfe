"""Tensors that share memory, and networks in another dtype in which they share it still."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import torch
from torch import Tensor, nn


def storage(x: Tensor) -> int:
    """Return where a dense tensor's memory begins, 0 for others."""
    return x.untyped_storage().data_ptr() if x.layout == torch.strided else 0


def in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Convert a network's floating-point numbers in place, and return it.

    `nn.Module.to` would give each tensor memory of its own, so that weights are tied no more. Nor
    is it the model's own method: transformers refuses that where weights came from a quantized
    file.
    """
    tensors = {id(x): x for x in chain(model.parameters(), model.buffers())}
    users = Counter(map(storage, tensors.values()))
    whole: dict[tuple[int, torch.dtype], tuple[Tensor, Tensor]] = {}

    def converted(x: Tensor) -> Tensor:
        if not x.is_floating_point() or x.dtype == dtype:
            return x
        place = storage(x)
        if not place or users[place] < 2:
            return x.to(dtype)
        if (place, x.dtype) not in whole:
            flat = x.new_empty(0).set_(x.untyped_storage())
            # With the old memory, lest it be another tensor's meanwhile.
            whole[place, x.dtype] = flat.to(dtype), flat
        return whole[place, x.dtype][0].as_strided(x.shape, x.stride(), x.storage_offset())

    nn.Module._apply(model, converted)
    return model
