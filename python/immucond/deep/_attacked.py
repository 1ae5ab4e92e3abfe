"""What an attacker trains: a network with a head of its own, whole, by LoRA, or the head alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from .._errors import extra
from ._network import replace_module

PARAMS = ("full", "lora", "head")


def with_new_head(
    model: nn.Module,
    split: str,
    classes: int,
    *,
    params: str,
    seed: int,
    blocks: Sequence[str] = ("",),
    rank: int = 8,
) -> nn.Linear:
    """Put a new head in a network's place for it, and let an attacker's parameters be trained.

    The network is changed. Of its blocks "full" trains all, "lora" adapters of that rank, and
    "head" nothing but the new head, which is drawn as `nn.Linear` draws it, by the seed.
    """
    head = model.get_submodule(split)
    assert isinstance(head, nn.Linear)
    model.requires_grad_(False)
    like = head.weight
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = nn.Linear(head.in_features, classes).to(like.device, like.dtype)
        if params == "lora":
            _add_lora(model, blocks, rank, split)
        elif params == "full":
            for name in blocks:
                model.get_submodule(name).requires_grad_(True)
    replace_module(model, split, new)
    return new


def _add_lora(model: nn.Module, blocks: Sequence[str], rank: int, split: str) -> None:
    """Put adapters of low rank beside the linear and convolutional layers of the blocks."""
    with extra("lora"):
        from peft import LoraConfig, inject_adapter_in_model
    names = [
        f"{block}.{name}" if block else name
        for block in blocks
        for name, layer in model.get_submodule(block).named_modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    ]
    names = [name for name in names if name != split]
    if not names:
        raise ValueError(
            "LoRA needs a linear or convolutional layer before the head; none is there"
        )
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=names), model)
