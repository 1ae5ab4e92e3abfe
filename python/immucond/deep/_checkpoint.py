"""A run's state in a file, and what tells its network, tasks and functions from other ones."""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map_only

from .._files import Checkpoint, whole
from .._validate import plain
from ._sharded import gathered

_SCALARS = (bool, int, float, str)
_COLLECTIONS = (tuple, list, dict, set, frozenset)
# Variables of a file by which functions in it that name them are told apart.
_NAMED = (*_SCALARS, *_COLLECTIONS, np.generic, np.ndarray, Tensor, nn.Module, partial)
_COLUMNS = 8 * 1009  # bytes of a row that is summed: a prime, which no layer's width divides
_DEPTH = 12  # of what holds what
# In what a network says of itself: places in memory, and that its weights are spread over ranks.
_CHANGING = re.compile(r" at 0x[0-9a-fA-F]+|\bFSDP(?=[A-Z])")


def fingerprint(model: nn.Module, *about: Any, without: str | None = None) -> str:
    """Return a hash of all parameters and buffers, and of what else its outputs depend on.

    Those of the module `without` are left out.
    """
    digest = hashlib.sha256(repr(about).encode())
    for name, value in model.state_dict().items():
        if without is not None and name.startswith(f"{without}."):
            continue
        digest.update(name.encode())
        digest.update(_bytes(value) if isinstance(value, Tensor) else _told(value))
    return digest.hexdigest()[:16]


def unsaved(model: nn.Module) -> str:
    """Return what a network computes with besides its state, alike in each process.

    That is what stands in it, such as its activations, and buffers that are not saved.
    """
    kept = model.state_dict()
    others = {name: x for name, x in model.named_buffers() if name not in kept}
    told = "".join(f"\n{name} {fingerprint_of(x)}" for name, x in others.items())
    return _CHANGING.sub("", repr(model)) + told


def _told(extra: Any) -> bytes:
    """Return what tells the extra state of a module, which is no tensor, from another."""
    return fingerprint_of(extra).encode()


def identity(model: nn.Module) -> str:
    """Return a hash of all parameters, buffers and layers at the speed of memory.

    No guard against malice: bits of weights are summed by columns, so that any one that differs, or
    stands elsewhere, tells.
    """
    digest = hashlib.sha256(unsaved(model).encode())
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            digest.update(name.encode() + _told(value))
            continue
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = gathered(value.detach()).cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        whole = flat.size - flat.size % _COLUMNS
        columns = flat[:whole].view(np.uint64).reshape(-1, _COLUMNS // 8)
        digest.update(np.add.reduce(columns, axis=0).tobytes())
        digest.update(flat[whole:].tobytes())
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


def name_of(function: Any, *, without: tuple[str, ...] = ()) -> str:
    """Return what a function or an object is called, with a hash of all that it holds.

    That is code, defaults, the variables of a closure and module that code names, and attributes;
    functions of PyTorch go by their names.
    """
    if isinstance(function, partial):
        given = [f"{_said(x)}" for x in function.args]
        given += [f"{key}={_said(x)}" for key, x in sorted(function.keywords.items())]
        return f"{name_of(function.func)}({', '.join(given)})"
    name = repr(function) if isinstance(function, nn.Module) else _called(function)
    if _of_torch(function):
        return name
    digest = hashlib.sha256()
    _update(digest, function, [], without)
    return f"{name} {digest.hexdigest()[:16]}"


def settings_of(optimizer: torch.optim.Optimizer) -> list[Any]:
    """Return an optimizer's type and what its groups of parameters are set to."""
    groups = optimizer.state_dict()["param_groups"]
    given = [{key: _said(x) for key, x in g.items() if key != "params"} for g in groups]
    return [_called(type(optimizer)), *given]


def _said(value: Any) -> Any:
    """Return a setting as text and numbers that are the same in another process."""
    return name_of(value) if callable(value) and not isinstance(value, type) else plain(value)


def _called(function: Any) -> str:
    named = function if hasattr(function, "__qualname__") else type(function)
    return f"{named.__module__}.{named.__qualname__}"


def _of_torch(function: Any) -> bool:
    module = str(getattr(function, "__module__", ""))
    return hasattr(function, "__qualname__") and module.split(".")[0] in ("torch", "immucond")


def _update(digest: Any, x: Any, within: list[int], without: tuple[str, ...] = ()) -> None:
    """Hash a value by all that it holds; what holds itself goes by its type there."""
    digest.update(type(x).__qualname__.encode())
    if x is None or isinstance(x, (*_SCALARS, bytes, complex)):
        digest.update(repr(x).encode())
        return
    if isinstance(x, (Tensor, np.ndarray, np.generic)):
        digest.update(fingerprint_of(x).encode())
        return
    if id(x) in within or len(within) > _DEPTH:
        return
    parts: list[Any]
    if isinstance(x, Mapping):
        parts = [part for item in x.items() for part in item]
    elif isinstance(x, (set, frozenset)):
        parts = sorted(map(repr, x))  # their order differs between processes
    elif isinstance(x, (list, tuple)):
        parts = list(x)
    elif isinstance(x, (ModuleType, type)) or _of_torch(x):
        parts = [getattr(x, "__qualname__", x.__name__)]
    elif isinstance(x, CodeType):
        parts = [x.co_code, x.co_names, *x.co_consts]
    elif isinstance(x, FunctionType):
        parts = [x.__code__, x.__defaults__, x.__kwdefaults__, _closed_over(x), _globals(x)]
    elif isinstance(x, MethodType):
        parts = [x.__func__, x.__self__]
    elif isinstance(x, partial):
        parts = [x.func, x.args, x.keywords]
    else:
        state = object.__getstate__(x)  # attributes, or a pair of these and of slots
        held = state if isinstance(state, tuple) else (state,)
        own = {key: value for some in held if some for key, value in some.items()}
        parts = [(key, own[key]) for key in sorted(own)
                 if key not in without and not key.endswith("_hooks")]  # fmt: skip
        parts += [f for f in vars(type(x)).values() if isinstance(f, FunctionType)]
    for part in parts:
        _update(digest, part, [*within, id(x)])


def _closed_over(function: FunctionType) -> list[Any]:
    cells = []
    for cell in function.__closure__ or ():
        try:
            cells.append(cell.cell_contents)
        except ValueError:  # not yet bound
            cells.append(None)
    return cells


def _globals(function: FunctionType) -> dict[str, Any]:
    """Return the values, modules of PyTorch and own functions of its file that a function names."""
    names: set[str] = set()
    codes = [function.__code__]
    while codes:
        code = codes.pop()
        names |= set(code.co_names)
        codes += [c for c in code.co_consts if isinstance(c, CodeType)]
    there = function.__globals__
    found = {name: there[name] for name in sorted(names) if name in there}
    return {
        name: x
        for name, x in found.items()
        if isinstance(x, _NAMED)
        or (isinstance(x, FunctionType) and x.__module__ == function.__module__)
    }


def _bytes(value: Tensor) -> bytes:
    flat = gathered(value.detach()).cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()


class NetworkCheckpoint(Checkpoint[dict[str, Any]]):
    """A run's state in a file of ``torch.save``, which ``torch.load(weights_only=True)`` reads."""

    _readable = False

    def save(self, state: dict[str, Any]) -> None:
        """Write the state, whole or not at all; the first time, see that it can be read."""
        # NumPy's numbers, such as a learning rate in an optimizer's state, would not load.
        state = tree_map_only(np.generic, lambda x: x.item(), state | {"settings": self.settings})
        if not self._readable:
            buffer = io.BytesIO()
            torch.save(state, buffer)
            buffer.seek(0)
            try:
                torch.load(buffer, weights_only=True)
            except Exception as error:
                raise TypeError(
                    f"checkpoint {self.path} could not be read again: the state of the optimizer "
                    f"or of the objective holds more than tensors and numbers ({_brief(error)})"
                ) from error
            self._readable = True
        with whole(self.path) as file:
            torch.save(state, file)

    def read(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return settings and state, on the CPU."""
        try:
            state: dict[str, Any] = loaded(self.path)
            return state["settings"], state
        except Exception as error:
            reason = "it has no settings of a run" if isinstance(error, KeyError) else _brief(error)
            raise ValueError(
                f"checkpoint {self.path} is not one of immucond; name another ({reason})"
            ) from error


def loaded(path: Path) -> Any:
    """Return what ``torch.save`` wrote, on the CPU; refused where its bytes have changed since.

    PyTorch writes checksums, and does not look at them: a flipped bit would be another weight.
    """
    with zipfile.ZipFile(path) as file:
        changed = file.testzip()
    if changed is not None:
        raise ValueError(f"{changed} has changed since it was written")
    return torch.load(path, map_location="cpu", weights_only=True)


def _brief(error: Exception) -> str:
    """Return the beginning of PyTorch's long messages."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
