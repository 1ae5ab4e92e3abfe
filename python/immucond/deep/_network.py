"""A network's modules by their names, a head that a map stands before, and copies of networks."""

from __future__ import annotations

import copy
import difflib
import fnmatch
from collections import Counter, OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from types import MethodType
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from .._validate import FloatArray
from ._memory import in_dtype, storage

_CONTAINERS = (list, tuple, dict, OrderedDict)
_SHARED = vars(nn.Module()).keys() - {"_modules"}  # parameters, buffers, hooks
_COMPILED = "_orig_mod."  # what torch.compile puts into the names of modules within
_DEPTH = 3  # of containers in an attribute that are searched for modules


def module_named(model: nn.Module, name: str, what: str) -> nn.Module:
    """Return a submodule by its dotted name."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if name not in modules or name == "":
        listed = ", ".join(repr(known) for known in modules if known)
        raise ValueError(
            f"{what} must name a module of the model, and is {name!r}; there are {listed or 'none'}"
        )
    found: nn.Module = modules[name]
    return found


def modules_matching(
    model: nn.Module, patterns: str | Sequence[str]
) -> tuple[dict[str, nn.Module], dict[str, tuple[str, ...]]]:
    """Return the modules that patterns match, by their first names, and their further ones."""
    several = hasattr(patterns, "__iter__") and not isinstance(patterns, str)
    given: list[Any] = list(patterns) if several else [patterns]
    if not given or not all(isinstance(x, str) for x in given):
        raise TypeError(f"modules must be names of modules or patterns, and is {patterns!r}")
    named: dict[str, nn.Module] = {
        name.replace(_COMPILED, ""): module
        for name, module in model.named_modules(remove_duplicate=False)
        if name and not name.endswith(_COMPILED[:-1])
    }
    chosen: set[int] = set()
    for pattern in given:
        hits = [name for name in named if fnmatch.fnmatchcase(name, pattern)]
        if not hits:
            near = difflib.get_close_matches(pattern, named, n=5, cutoff=0.4) or list(named)[:5]
            raise ValueError(
                f"modules must name modules of the model, and {pattern!r} matches none; near are "
                + ", ".join(map(repr, near))
            )
        chosen |= {id(named[name]) for name in hits}
    names: dict[int, list[str]] = {}
    for name, module in named.items():
        if id(module) in chosen:
            names.setdefault(id(module), []).append(name)
    found = {first: named[first] for first, *_ in names.values()}
    return found, {first: tuple(more) for first, *more in names.values() if more}


def names_of(trainable: str | Sequence[str]) -> list[str]:
    """Return the names of the trainable blocks as a list."""
    return [trainable] if isinstance(trainable, str) else list(trainable)


def blocks_named(model: nn.Module, trainable: str | Sequence[str]) -> list[nn.Module]:
    """Return the trainable blocks by their names."""
    return [module_named(model, name, "trainable") for name in names_of(trainable)]


def heads_named(split: Any) -> tuple[str, str]:
    """Return the names of the heads of two networks, from one of both or one of each."""
    names = (split, split) if isinstance(split, str) else split
    listed = isinstance(names, (tuple, list)) and all(isinstance(x, str) for x in names)
    if not listed or len(names) != 2:
        raise ValueError(f"split must be one name or that of each network, and is {split!r}")
    return names[0], names[1]


def call(model: nn.Module, inputs: Any) -> Any:
    """Run the model on one tensor, positional ones, or a mapping of keywords."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


def logits_of(output: Any) -> Tensor:
    """Return the logits of what a model returned: a tensor, or what holds one as "logits"."""
    if isinstance(output, Mapping):
        output = output.get("logits", output)
    elif hasattr(output, "logits"):
        output = output.logits
    if not isinstance(output, Tensor):
        raise TypeError(
            "the model must return logits, a tensor or what holds one as 'logits', and returned a "
            f"{type(output).__name__}"
        )
    return output


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


def device_of(model: nn.Module, given: Any = None) -> torch.device:
    """Return where a network computes: the device that is given, or where it is."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"a network must be a torch.nn.Module, and is a {type(model).__name__}")
    first = next(chain(model.parameters(), model.buffers()), None)
    if first is not None and first.is_meta:
        raise ValueError("the weights of a network must be there, and are on the device meta")
    own = torch.device("cpu") if first is None else first.device
    return own if given is None else torch.device(given)


def array(Z: Tensor) -> FloatArray:
    """Return a tensor, such as features, as a float64 array."""
    found: FloatArray = Z.detach().double().cpu().numpy()
    return found


# ---- a linear layer as two: behind a lock, or a head that a map stands before ----


class TwoLayers(nn.Sequential):
    """A linear layer as two, which the network's own code does not know."""


class Inserted(TwoLayers):
    """Of a lock; `weight` and `bias` are of both layers, for who reads them off the one."""

    @property
    def weight(self) -> Tensor:
        """The product."""
        first, second = (cast(Tensor, layer.weight) for layer in self)
        axis = 0 if second.shape[1] == first.shape[0] else 1  # 1: GPT-2's Conv1D
        first = first.movedim(axis, 0)
        product: Tensor = second.flatten(1) @ first.flatten(1)
        return product.reshape(len(product), *first.shape[1:]).movedim(0, axis)

    @property
    def bias(self) -> Tensor | None:
        """Of the last."""
        return cast("Tensor | None", self[-1].bias)


class FoldedHead(TwoLayers):
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
    """Let no network that holds an inserted layer write itself for Hugging Face's classes.

    They know of one layer in its place: they would read all but that, and give it random weights.
    What holds none any more may write itself again.
    """
    for module in model.modules():
        refused = vars(module).get("save_pretrained") in _REFUSALS
        kinds = {type(part) for part in module.modules() if isinstance(part, TwoLayers)}
        if kinds and hasattr(module, "save_pretrained"):
            vars(module)["save_pretrained"] = _refuse_map if FoldedHead in kinds else _refuse_lock
        elif refused:
            del vars(module)["save_pretrained"]


def _refuse_map(*_: Any, **__: Any) -> None:
    raise TypeError(
        "save_pretrained does not know the closed form's map, or fade's: whoever loads the files "
        "gets the unprotected features and a random head. immucond.deep.save writes the network, "
        "load_saved reads it. Only who runs it behind its map, from head.1 on, sees that map: "
        "hidden states, and the network without its head, are the unprotected ones"
    )


def _refuse_lock(*_: Any, **__: Any) -> None:
    raise TypeError(
        "save_pretrained does not know the layers that gauge.lock inserted: whoever loads the "
        "files gets random weights in their places. immucond lock writes such a network for the "
        "commands; gauge.equalize(model, merge=True).model has ordinary layers"
    )


_REFUSALS = (_refuse_map, _refuse_lock)


# ---- copies: to be changed, with what shares memory; and to be run in evaluation mode ----


def copied(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy on a device in which what shared memory shares it still."""
    sharing = _sharing_memory(model)
    elsewhere = [
        name
        for name, p in sharing.items()
        if p.device.type != device.type or device.index not in (None, p.device.index)
    ]
    if elsewhere:
        raise ValueError(
            f"{' and '.join(map(repr, elsewhere))} share memory with other tensors of the model, "
            "which does not survive a move to another device: make them one Parameter, or move "
            "the model first"
        )
    memo = _without_graphs(model)
    for parameter in sharing.values():
        # A Parameter's own copy clones it; that of a plain tensor copies each storage once.
        alike = copy.deepcopy(parameter.detach(), memo)
        memo[id(parameter)] = nn.Parameter(alike, parameter.requires_grad)
    try:
        found = copy.deepcopy(model, memo)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError) as error:
        raise TypeError(f"the model cannot be copied (copy.deepcopy): {error}") from error
    return found.to(device)


def prepared(model: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy on a device in evaluation mode, in float32 or better, as are inputs then."""
    own = copied(model, device).eval()
    dtypes = (p.dtype for p in own.parameters() if p.is_floating_point())
    precise = next(dtypes, None) == torch.float64
    own.register_forward_pre_hook(
        partial(_widen, torch.float64 if precise else torch.float32), with_kwargs=True
    )
    return own if precise else in_dtype(own, torch.float32)


def _widen(dtype: torch.dtype, _: nn.Module, *entered: Any) -> Any:
    """Return what enters a network with tensors of half precision in another dtype."""
    return tree_map_only(
        Tensor, lambda x: x.to(dtype) if x.is_floating_point() and x.itemsize < 4 else x, entered
    )


@contextmanager
def whatever_modes() -> Iterator[None]:
    """Compute with gradients and without autocast, whatever is on; leave random numbers alone."""
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _sharing_memory(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters whose storage another parameter, or a buffer, has too."""
    tensors = {id(x): x for x in chain(model.parameters(), model.buffers())}
    storages = Counter(filter(None, map(storage, tensors.values())))
    return {
        name: p
        for name, p in model.named_parameters()
        if type(p) is nn.Parameter and storages[storage(p)] > 1
    }


def tied(model: nn.Module) -> set[str]:
    """Return the names of parameters that stand at several places, or share memory."""
    named = list(model.named_parameters(remove_duplicate=False))
    objects = Counter(id(p) for _, p in named)
    memory = Counter(storage(p) for p in {id(p): p for _, p in named}.values())
    return {n for n, p in named if objects[id(p)] > 1 or (storage(p) and memory[storage(p)] > 1)}


def repeated(model: nn.Module) -> set[str]:
    """Return the names of modules that stand at several places."""
    named = list(model.named_modules(remove_duplicate=False))
    count = Counter(id(module) for _, module in named)
    return {name for name, module in named if count[id(module)] > 1}


def _without_graphs(model: nn.Module) -> dict[int, Any]:
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


@contextmanager
def served(model: nn.Module, device: Any = None) -> Iterator[tuple[nn.Module, torch.device]]:
    """Give a network in evaluation mode, on a device if one is named; put it back afterwards."""
    before, where = device_of(model), device_of(model, device)
    with in_evaluation(model):
        try:
            yield model.to(where), where
        finally:
            model.to(before)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """Give a network in evaluation mode: its parameters, buffers and hooks, in other modules.

    A checkpointed block runs again in the backward pass, in whatever mode its modules are in by
    then: modules of their own, in evaluation mode for good, make that the mode in which it ran
    before. The model's own modules, which a closure may hold, are in evaluation mode meanwhile.
    """
    training = any(module.training for module in model.modules())
    with in_evaluation(model):
        yield _twin(model) if training else model


@contextmanager
def in_evaluation(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode; each module is in its own again afterwards."""
    training = [module for module in model.modules() if module.training]
    try:
        model.eval()  # which may be interrupted midway
        yield
    finally:
        for module in training:
            module.training = True


def _twin(model: nn.Module) -> nn.Module:
    originals = [m for m in model.modules() if not isinstance(m, torch.jit.ScriptModule)]
    twins: dict[int, nn.Module] = {id(m): object.__new__(type(m)) for m in originals}

    def turned(value: Any, depth: int = _DEPTH) -> Any:
        """Return a value with twins in the place of modules; itself where there are none."""
        if isinstance(value, nn.Module):
            return twins.get(id(value), value)
        if isinstance(value, MethodType) and id(value.__self__) in twins:
            return MethodType(value.__func__, twins[id(value.__self__)])
        if type(value) is partial:
            parts = (value.func, *value.args, *value.keywords.values())
            function, *rest = (turned(part, depth) for part in parts)
            count = len(value.args)
            keywords = dict(zip(value.keywords, rest[count:], strict=True))
            return partial(function, *rest[:count], **keywords)
        if type(value) not in _CONTAINERS or depth == 0:
            return value
        items = list(value.values()) if isinstance(value, dict) else list(value)
        new = [turned(item, depth - 1) for item in items]
        if all(a is b for a, b in zip(items, new, strict=True)):
            return value
        return type(value)(zip(value, new, strict=True) if isinstance(value, dict) else new)

    for module in originals:
        own = vars(module)
        new = {name: turned(value) for name, value in own.items() if name not in _SHARED}
        twins[id(module)].__dict__.update(own | new)
    return twins.get(id(model), model)
