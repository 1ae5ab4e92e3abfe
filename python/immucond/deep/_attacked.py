"""What an attacker trains: a network with a head of its own, whole, by LoRA, or the head alone."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, SupportsIndex

import torch
from torch import nn

from .._errors import extra
from .._validate import as_count
from ._network import replace_module
from ._rows import is_conv1d

PARAMS = ("full", "lora", "head")
ADAPTERS = ("lora", "dora", "loha", "lokr")
MOST_RANK = 2**16  # of adapters: no layer is wider, and PyTorch says nothing that helps of more
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d)


def as_rank(rank: SupportsIndex, name: str) -> int:
    """Check the rank of adapters."""
    count = as_count(rank, name, least=1)
    if count > MOST_RANK:
        raise ValueError(f"{name} must be at most {MOST_RANK}, and is {count}")
    return count


def with_new_head(
    model: nn.Module,
    split: str,
    classes: int,
    *,
    params: str,
    seed: int,
    blocks: Sequence[str] = ("",),
    rank: int = 8,
    frozen: Collection[str] = (),
) -> nn.Linear:
    """Put a new head in a network's place for it, and let an attacker's parameters be trained.

    The network is changed. Of its blocks "full" trains all, a kind of `ADAPTERS` adapters of that
    rank, and "head" nothing but the new head, which is drawn as `nn.Linear` draws it, by the seed.
    Modules that are frozen are not trained, and have no adapters.
    """
    head = model.get_submodule(split)
    assert isinstance(head, nn.Linear)
    model.requires_grad_(False)
    like = head.weight
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = nn.Linear(head.in_features, classes).to(like.device, like.dtype)
        if params in ADAPTERS:
            _add_adapters(model, params, blocks, rank, {split, *frozen})
        elif params == "full":
            for p in (p for name in blocks for p in model.get_submodule(name).parameters()):
                p.requires_grad_(p.is_floating_point())
            for name in frozen:
                model.get_submodule(name).requires_grad_(False)
    replace_module(model, split, new)
    return new


@contextmanager
def layer_by_layer() -> Iterator[None]:
    """Let PyTorch's encoder layers run all that stands in them.

    In evaluation mode they would run in one kernel where none of their own weights needs a
    gradient: it takes these and no adapters beside them, and has no forward derivative.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _add_adapters(
    model: nn.Module, kind: str, blocks: Sequence[str], rank: int, without: Collection[str]
) -> None:
    """Put adapters of low rank beside the linear and convolutional layers of the blocks.

    As PEFT knows them: in groups that do not divide the rank it has no LoRA, and GPT-2's linear
    layer is known to LoRA alone.
    """
    with extra("lora"):
        from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model
    lora = kind in ("lora", "dora")

    def fits(layer: nn.Module) -> bool:
        if isinstance(layer, _CONVOLUTIONS):
            return not lora or rank % layer.groups == 0
        return isinstance(layer, nn.Linear) or (lora and is_conv1d(layer))

    names = [
        f"{block}.{name}" if block else name
        for block in blocks
        for name, layer in model.get_submodule(block).named_modules()
        if fits(layer)
    ]
    wanted = [re.escape(name) for name in names if name not in without]
    if not wanted:
        raise ValueError(
            "adapters need a linear or convolutional layer before the head; none is there"
        )
    config: Any
    targets = f"(?:{'|'.join(wanted)})"  # a list would match names that end so, too
    if lora:
        config = LoraConfig(
            r=rank, lora_alpha=2 * rank, use_dora=kind == "dora", target_modules=targets
        )
    else:
        made = LoHaConfig if kind == "loha" else LoKrConfig
        config = made(r=rank, alpha=2 * rank, target_modules=targets)
    with warnings.catch_warnings():
        for told in ("LoRA adapter added to ConvNd layer with groups", "fan_in_fan_out is set to"):
            warnings.filterwarnings("ignore", told)  # nothing is merged; and it sets that itself
        inject_adapter_in_model(config, model)
