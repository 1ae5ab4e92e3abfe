"""The closed form for a network: the optimal map after its features, its inverse in the head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from .._validate import FloatArray
from ..linear import optimal_extractor
from ._batches import Batches, all_features, array
from ._network import SplitModel


def closed_form(
    model: SplitModel,
    tasks: Mapping[str, Batches],
    kappa_P: float | None,
    delta: float | tuple[float, float],
    computed_in: Any,
) -> str:
    """Put the map and the folded head in the place of the head; return the last layer's name."""
    Z_P, Z_H = (all_features(model, task, name) for name, task in tasks.items())
    A = optimal_extractor(
        X_P=array(Z_P),
        X_H=array(Z_H),
        kappa_P=kappa_P,
        delta=delta,
        computed_in=Z_P.dtype if computed_in is None else computed_in,
    )
    return put_before_head(model, A, tasks["primary"], "the closed form")


def put_before_head(
    model: SplitModel, A: FloatArray, primary: Batches, method: str, omega: FloatArray | None = None
) -> str:
    """Put a map and a folded head in the place of the head; return the last layer's name.

    `omega` is what the folded head multiplies by, ``A^-1`` times the head, where it is known.
    """
    replace_module(model.model, model.split, FoldedHead(model.head, A, omega))
    done = f"{model.split}.1"
    try:
        with torch.no_grad():
            primary.run(SplitModel(model.model, done), next(iter(primary.in_order())))
    except Exception as error:
        raise ValueError(
            f"{method} puts two layers in the place of {model.split!r}, and the model does "
            f"not run with them: it reads the head elsewhere too ({error})"
        ) from error
    refuse_saving(model.model)
    return done


class FoldedHead(nn.Sequential):
    """``features -> features A -> logits``, with the logits of the head that it replaces."""

    def __init__(self, head: nn.Linear, A: FloatArray, omega: FloatArray | None = None) -> None:
        like = head.weight
        mapping = nn.Linear(A.shape[0], A.shape[1], bias=False).to(like)
        folded = nn.Linear(A.shape[1], head.out_features, bias=head.bias is not None).to(like)
        weight = np.linalg.solve(A, array(head.weight).T) if omega is None else omega
        with torch.no_grad():
            mapping.weight.copy_(torch.from_numpy(A.T.copy()))
            folded.weight.copy_(torch.from_numpy(weight.T.copy()))
            if head.bias is not None:
                folded.bias.copy_(head.bias)
        super().__init__(mapping, folded)


def replace_module(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one with this dotted name, under all its names."""
    old = model.get_submodule(name)
    for each, found in list(model.named_modules(remove_duplicate=False)):
        if found is old:
            parent, _, last = each.rpartition(".")
            setattr(model.get_submodule(parent), last, module)


def refuse_saving(model: nn.Module) -> None:
    """Let no network that holds a folded head write itself for Hugging Face's classes.

    They know of one layer in its place: they would read all but the head, and give it random
    weights.
    """
    for module in model.modules():
        folded = any(isinstance(part, FoldedHead) for part in module.modules())
        if folded and hasattr(module, "save_pretrained"):
            vars(module)["save_pretrained"] = _refuse


def _refuse(*_: Any, **__: Any) -> None:
    raise TypeError(
        "save_pretrained does not know the closed form's map, or fade's: whoever loads the files "
        "gets the unprotected features and a random head. immucond.torch.save writes the network, "
        "load_saved reads it. Only who runs it behind its map, from head.1 on, sees that map: "
        "hidden states, and the network without its head, are the unprotected ones"
    )
