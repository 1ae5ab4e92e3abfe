"""A network of the same architecture whose weights are drawn anew."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ._network import copied

_APART = 1_000_003  # a network that was itself drawn by this seed would be the same
_MARK = "_is_hf_initialized"  # with which transformers spare what was loaded


@torch.random.fork_rng(devices=[])
def untrained_like(
    model: nn.Module, device: torch.device, seed: int, *, argument: str
) -> nn.Module:
    """Return a copy in which every weight is as its modules start it.

    By transformers' own ``_init_weights`` within one of its models, and by ``reset_parameters``
    elsewhere, or PyTorch's ``_reset_parameters`` of attention. `argument` is the one that asked for
    it, for messages.

    Raises
    ------
    ValueError
        For a parameter that neither of them draws anew.
    """
    torch.manual_seed(_APART + seed)
    found = copied(model, device)
    with torch.no_grad():
        for p in found.parameters():
            if not _whole(p):
                p.fill_(torch.nan)  # what stays so was not drawn
    started = dict(_starters(found))
    for module in found.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset) and any(True for _ in _own(module)):
            _refuse_failing(reset, module, argument)
    for module, parent in started.items():
        for x in (module, *_own(module)):
            if hasattr(x, _MARK):
                delattr(x, _MARK)
        _refuse_failing(lambda at=module, of=parent: of._init_weights(at), module, argument)
    for module in found.modules():
        if isinstance(module, nn.MultiheadAttention) and not all(map(_drawn, _own(module))):
            _refuse_failing(module._reset_parameters, module, argument)
    kept = [name for name, p in found.named_parameters() if _whole(p) or not _drawn(p)]
    if kept:
        raise ValueError(
            f"weights that cannot be drawn anew: {', '.join(map(repr, kept[:5]))}"
            f"{', ...' if kept[5:] else ''}, whose modules have no reset_parameters: give "
            f"{argument}=False, or a network of this architecture that is not trained"
        )
    return found.eval()


def _starters(model: nn.Module) -> Iterator[tuple[nn.Module, Any]]:
    """Yield modules within transformers' models, innermost first, each with the one that it is in.

    A model within another starts its own.
    """

    def within(module: nn.Module, parent: Any) -> Iterator[tuple[nn.Module, Any]]:
        parent = module if callable(getattr(module, "_init_weights", None)) else parent
        for child in module.children():
            yield from within(child, parent)
        if parent is not None:
            yield module, parent

    yield from within(model, None)


def _whole(p: Tensor) -> bool:
    """Whether a parameter holds whole numbers, of which nothing tells that they were drawn."""
    return not (p.is_floating_point() or p.is_complex())


def _drawn(x: Tensor) -> bool:
    return not bool(x.isnan().any())


def _own(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(recurse=False), module.buffers(recurse=False))


def _refuse_failing(start: Any, module: nn.Module, argument: str) -> None:
    try:
        with torch.no_grad():
            start()
    except Exception as error:
        raise ValueError(
            f"a {type(module).__name__} cannot be drawn anew ({error}): give {argument}=False, or "
            "a network of this architecture that is not trained"
        ) from error
