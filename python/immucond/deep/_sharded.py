"""Weights spread over ranks (DTensors of FSDP2, ``fully_shard``), read and edited whole."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gathered(x: Tensor) -> Tensor:
    """Return a tensor whole; of a DTensor all ranks of its mesh must call."""
    whole: Tensor = x.full_tensor() if hasattr(x, "full_tensor") else x
    return whole


@torch.no_grad()
def edit_weight(weight: Tensor, edit: Callable[[Tensor], Tensor]) -> None:
    """Replace a parameter by what `edit` makes of it, where it may be spread over ranks.

    Of a DTensor, such as FSDP2's ``fully_shard`` makes of all parameters, the whole matrix is
    gathered, edited, and spread again as it was: one matrix at a time is whole, so that a network
    which no rank could hold can be edited. A parameter that several layers share, such as that of a
    head that is tied to its embedding, changes for all of them. `torch.distributed.checkpoint`
    saves it as before.

    Parameters
    ----------
    weight : Tensor
        A parameter; of a DTensor all ranks of its mesh must call.
    edit : callable
        Gets a copy of the whole parameter, and returns what it becomes, of its shape. On every rank
        it is called alike, and the first rank's result goes to all.

    Raises
    ------
    ValueError
        Where the result has another shape, or is not finite in the parameter's dtype. On every
        rank, where every rank's result is such; the parameter is as it was.
    TypeError
        Where it is no tensor.

    Examples
    --------
    A scaling of the features, undone by the head:

    >>> import torch
    >>> import immucond.deep as icd
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    >>> x, scale = torch.ones(1, 4), torch.tensor([1.0, 2.0, 4.0])
    >>> before = net(x)
    >>> icd.edit_weight(net[0].weight, lambda W: W * scale[:, None])
    >>> icd.edit_weight(net[0].bias, lambda b: b * scale)
    >>> icd.edit_weight(net[1].weight, lambda W: W / scale)
    >>> bool(torch.allclose(net(x), before))
    True
    """
    edited = edit(gathered(weight.detach()).clone())
    if not isinstance(edited, Tensor):
        raise TypeError(f"edit must return a tensor, and returned a {type(edited).__name__}")
    if edited.shape != weight.shape:
        raise ValueError(
            f"edit must return the weight's shape {tuple(weight.shape)}, and returned "
            f"{tuple(edited.shape)}"
        )
    edited = edited.to(weight.dtype)
    if not edited.isfinite().all():
        raise ValueError(f"edit must return what is finite in {weight.dtype}, and did not")
    if hasattr(weight, "full_tensor"):
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(weight, DTensor)
        edited = distribute_tensor(edited.to(weight.device), weight.device_mesh, weight.placements)
    weight.copy_(edited)
