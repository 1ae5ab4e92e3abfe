"""Attackers who hold the network: BatchNorm on their own images, fine-tuning, LoRA.

They train or measure the last blocks alone, on kept activations of what comes before.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..._errors import extra

with extra("deep"):
    import torch
    from torch import nn
    from torch.nn.functional import cross_entropy
    from torch.nn.modules.batchnorm import _BatchNorm

from ...deep.parts import Kept, SplitModel, layer_by_layer, with_new_head

TUNED = {"last-block": "last blocks fine-tuned", "lora": "LoRA in the last blocks"}
RATES = (3e-4, 1e-3)
TUNED_EPOCHS = 3  # at most


def batch_norms(model: nn.Module, blocks: Sequence[str]) -> list[_BatchNorm]:
    """BatchNorm layers of these blocks."""
    return [
        layer
        for name in blocks
        for layer in model.get_submodule(name).modules()
        if isinstance(layer, _BatchNorm)
    ]


@torch.no_grad()
def reestimated(model: nn.Module, split: str, blocks: Sequence[str], task: Kept) -> nn.Module:
    """Return a copy whose BatchNorm layers have the statistics of a task's batches."""
    other = copy.deepcopy(model).eval()
    for layer in batch_norms(other, blocks):
        layer.reset_running_stats()
        layer.momentum = None  # means over all batches alike
        layer.train()
    network = SplitModel(other, split)
    for batch in task.epoch(torch.Generator().manual_seed(0)):
        task.run(network, batch)
    return other.eval()


def fine_tune(
    model: nn.Module,
    split: str,
    blocks: Sequence[str],
    train: Kept,
    test: Kept,
    *,
    classes: int,
    epochs: int,
    seed: int = 0,
    lora: bool = False,
) -> dict[str, Any]:
    """Train the last blocks, or LoRA in them, with a new head, by Adam at its best step length."""
    found = [
        {"lr": lr, **_tuned(model, split, blocks, train, test, classes, epochs, seed, lora, lr)}
        for lr in RATES
    ]
    return max(found, key=lambda curve: curve["accuracy"][-1])


@layer_by_layer()
def _tuned(
    model: nn.Module, split: str, blocks: Sequence[str], train: Kept, test: Kept, classes: int,
    epochs: int, seed: int, lora: bool, lr: float,
) -> dict[str, Any]:  # fmt: skip
    other = copy.deepcopy(model).eval()
    new = with_new_head(
        other, split, classes, params="lora" if lora else "full", seed=seed, blocks=blocks
    )
    nn.init.zeros_(new.weight)
    nn.init.zeros_(new.bias)
    network = SplitModel(other, split)
    optimizer = torch.optim.Adam([p for p in other.parameters() if p.requires_grad], lr=lr)
    order = torch.Generator().manual_seed(seed)
    accuracy, losses = [], []
    for _ in range(epochs):
        seen = []
        for batch in train.epoch(order):
            optimizer.zero_grad()
            done = train.run(network, batch)
            loss = cross_entropy(done.logits, done.labels)
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
        with torch.no_grad():
            tested = [test.run(network, batch) for batch in test.in_order()]
        right = torch.cat([found.logits.argmax(1) == found.labels for found in tested])
        accuracy.append(float(right.double().mean()))
        losses.append(float(np.mean(seen)))
    return {"accuracy": accuracy, "loss": losses}
