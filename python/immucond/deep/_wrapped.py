"""Networks that something else has wrapped: torch.compile, and weight_norm of old."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def refuse_compiled(model: nn.Module) -> None:
    """Refuse a network whose features are computed in one graph with its logits.

    The gradient of the loss by the features is not to be had from such a graph.
    """
    if hasattr(model, "_orig_mod") or model._compiled_call_impl is not None:
        raise TypeError(
            "the model is compiled (torch.compile), which hides the features from autograd: give "
            "the module that was compiled (the attribute _orig_mod, or one on which compile() was "
            "not called), and compile what comes of it"
        )


def without_graphs(model: nn.Module) -> dict[int, Any]:
    """Return a memo for `copy.deepcopy`, which refuses tensors that are no leaves of a graph.

    `torch.nn.utils.weight_norm` and its like leave one in place of a weight, and compute it anew in
    each forward pass.
    """
    return {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
