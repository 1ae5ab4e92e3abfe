"""Inputs drawn at random for a network that says of which shape they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

_ROWS, _TOKENS, _SIDE = 2, 12, 64


def batch_for(model: nn.Module, seed: int) -> Any:
    """Return random inputs: by a network's configuration (transformers), or its first layer.

    Raises
    ------
    ValueError
        Where neither says enough.
    """
    generator = torch.Generator().manual_seed(seed)
    config: Any
    config, name = getattr(model, "config", None), getattr(model, "main_input_name", None)
    if name == "input_ids" and isinstance(getattr(config, "vocab_size", None), int):
        ids = torch.randint(0, config.vocab_size, (_ROWS, _TOKENS), generator=generator)
        return {"input_ids": ids}
    if name == "pixel_values" and isinstance(getattr(config, "num_channels", None), int):
        side = getattr(config, "image_size", None) or _SIDE
        height, width = (side, side) if isinstance(side, int) else tuple(side)
        shape = (_ROWS, config.num_channels, height, width)
        return {"pixel_values": torch.randn(shape, generator=generator)}
    first = next((m for m in model.modules() if next(m.children(), None) is None), None)
    if isinstance(first, nn.Linear):
        return torch.randn((8, first.in_features), generator=generator)
    raise ValueError(
        f"batch must be given: {type(model).__name__} does not say which inputs it takes (networks "
        "of transformers do, and those that start with a linear layer)"
    )
