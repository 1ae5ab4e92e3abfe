"""What tells one network, one task or one function from another."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from .._validate import plain

_SCALARS = (bool, int, float, str)


def fingerprint(model: nn.Module, *about: Any) -> str:
    """Return a hash of all parameters and buffers, and of what else its outputs depend on."""
    digest = hashlib.sha256(repr(about).encode())
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(_bytes(value))
    return digest.hexdigest()[:16]


def fingerprint_of(tree: Any) -> str:
    """Return a hash of nested tensors, such as a batch, and of what else there is among them."""
    leaves, spec = tree_flatten(tree)
    digest = hashlib.sha256(str(spec).encode())
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            digest.update(f"{leaf.dtype} {tuple(leaf.shape)}".encode())
            digest.update(_bytes(leaf))
        elif hasattr(leaf, "tobytes"):
            digest.update(leaf.tobytes())
        else:
            digest.update(repr(leaf).encode() if isinstance(leaf, _SCALARS) else b"?")
    return digest.hexdigest()[:16]


def name_of(function: Any) -> str:
    """Return what a function or an object is called, with the settings that it holds."""
    if isinstance(function, partial):
        given = [f"{plain(x)}" for x in function.args]
        given += [f"{key}={plain(x)}" for key, x in sorted(function.keywords.items())]
        return f"{name_of(function.func)}({', '.join(given)})"
    if isinstance(function, nn.Module):
        return f"{function!r} {fingerprint(function)}"
    code = getattr(function, "__code__", None)
    if hasattr(function, "__qualname__"):
        name = f"{function.__module__}.{function.__qualname__}"
        if code is None or "<" not in name:
            return name
        return f"{name} {hashlib.sha256(code.co_code).hexdigest()[:8]}"  # many go by such a name
    settings = [f"{key}={x}" for key, x in sorted(vars(function).items())
                if isinstance(x, _SCALARS)] if hasattr(function, "__dict__") else []  # fmt: skip
    return f"{type(function).__module__}.{type(function).__qualname__}({', '.join(settings)})"


def _bytes(value: Tensor) -> bytes:
    flat = value.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
