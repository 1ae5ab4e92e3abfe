"""What a user's loader gives: batches, drawn as a run wants them, and samples that can be kept."""

from __future__ import annotations

import copy
import inspect
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sized
from contextlib import ExitStack, contextmanager
from functools import partial
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

# Their order follows from a generator alone.
_SAMPLERS = (SequentialSampler, RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_FEW, _MANY = 64, 10_000  # items of a container, and objects, that are searched for generators
_SEEDS = 2**32  # of NumPy's older generators
_TWICE = 24  # samples that are drawn twice: a flip would come out alike in each once in 2^24


def parse_batch(batch: Any) -> tuple[Any, Any]:
    """Return the inputs of a batch and its labels: of a pair, or of a mapping with "labels"."""
    if isinstance(batch, Mapping):
        inputs = dict(batch)
        labels = inputs.pop("labels", inputs.pop("label", None))
        return inputs, labels
    if isinstance(batch, (tuple, list)):
        if len(batch) == 2:
            return batch[0], batch[1]
        raise ValueError(
            "a batch must be (inputs, labels), a mapping with 'labels', or a tensor of inputs, and "
            f"is a {type(batch).__name__} of {len(batch)}"
        )
    return batch, None


def moved(tree: Any, device: Any) -> Any:
    """Return nested tensors on a device."""
    if isinstance(tree, Tensor):
        return tree.to(device, non_blocking=True)
    if isinstance(tree, Mapping):
        return {key: moved(value, device) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        values = [moved(value, device) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    return tree


def on_cpu(batch: Any) -> Any:
    """Return inputs and labels, with mappings of whatever type as dictionaries."""
    return moved(parse_batch(batch), "cpu")


# ---- what a loader draws and counts: seeded in a run, and left as it was found after it ----


def least_batch(loader: Any) -> int | None:
    """Return the size of the smallest batch, where it is known: of a list, or by a sampler."""
    if isinstance(loader, (list, tuple)):
        leaves = (tree_flatten(parse_batch(batch)[0])[0] for batch in loader)
        rows = ([len(x) for x in of if isinstance(x, Tensor) and x.ndim] for of in leaves)
        return min((lengths[0] for lengths in rows if lengths), default=None)
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return None
    size, batches = loader.batch_size, loader.batch_sampler
    if size is None:
        listed = isinstance(batches, (list, tuple)) and all(isinstance(b, Sized) for b in batches)
        return min(map(len, batches), default=None) if listed else None  # type: ignore[arg-type]
    if loader.drop_last:
        return size
    count = len(loader.sampler) if isinstance(loader.sampler, Sized) else 0
    return None if count == 0 else count % size or size


def draws_alike(loader: Any) -> bool:
    """Whether an epoch follows from generators alone, so that none needs those before it."""
    if isinstance(loader, (list, tuple)):
        return True
    if type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
        return False
    batches = loader.batch_sampler
    if type(batches) is BatchSampler:
        return type(batches.sampler) in _SAMPLERS
    return type(loader.sampler) in _SAMPLERS if batches is None else type(batches) in (list, tuple)


def starting_anew(loader: Any) -> Any:
    """Return a loader whose workers start in each pass, where theirs would go on as they were."""
    if not isinstance(loader, DataLoader) or not loader.persistent_workers:
        return loader
    fresh = copy.copy(loader)
    vars(fresh)["persistent_workers"] = False  # DataLoader refuses the assignment
    return fresh


def seed_pass(loader: Any, seed: int, number: int) -> None:
    """Seed whatever a loader draws from, and tell its samplers the number of the pass."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % _SEEDS)  # noqa: NPY002 (what the user's own code draws from)
    for own, generator in enumerate(_generators(loader), seed + 1):  # each one another stream
        if isinstance(generator, torch.Generator):
            generator.manual_seed(own)
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = type(generator.bit_generator)(own).state
        else:
            generator.seed(own % _SEEDS)
    for sampler in _samplers(loader):
        if callable(getattr(sampler, "set_epoch", None)):
            sampler.set_epoch(number)


@contextmanager
def left_as_found(*loaders: Any) -> Iterator[None]:
    """Put back, afterwards, the state of generators and samplers, and of Python's and NumPy's."""
    with ExitStack() as stack:
        stack.callback(random.setstate, random.getstate())
        stack.callback(np.random.set_state, np.random.get_state())  # noqa: NPY002
        for loader in loaders:
            for generator in _generators(loader):
                _keep(stack, generator)
            for part in _samplers(loader):
                saved = {key: _copied(x) for key, x in vars(part).items()}
                stack.callback(vars(part).update, saved)
        yield


def _copied(x: Any) -> Any:
    """Copy what may be shuffled in place: indices, and no data."""
    indices = isinstance(x, (np.ndarray, Tensor)) and x.ndim == 1
    return copy.copy(x) if indices or isinstance(x, (list, dict, set, deque)) else x


def _keep(stack: ExitStack, generator: Any) -> None:
    if isinstance(generator, torch.Generator):
        stack.callback(generator.set_state, generator.get_state())
    elif isinstance(generator, np.random.Generator):
        stack.callback(setattr, generator.bit_generator, "state", generator.bit_generator.state)
    elif isinstance(generator, np.random.RandomState):
        stack.callback(generator.set_state, generator.get_state())
    else:
        stack.callback(generator.setstate, generator.getstate())


def _samplers(loader: Any) -> list[Any]:
    """Return what may count: samplers, with those that they hold, or the user's own iterable."""
    if not isinstance(loader, DataLoader):
        return [loader] if hasattr(loader, "__dict__") else []
    if isinstance(loader.dataset, IterableDataset):
        return [loader.dataset]
    found: list[Any] = []
    waiting: list[Any] = [loader.batch_sampler, loader.sampler]
    while waiting:
        x = waiting.pop()
        if hasattr(x, "__dict__") and not any(x is other for other in found):
            found.append(x)
            waiting += [
                y
                for name, y in vars(x).items()
                if isinstance(y, Sampler) or name.strip("_") in ("sampler", "batch_sampler")
            ]
    return found


def _generators(loader: Any) -> list[Any]:
    """Return the generators that attributes, closures and small containers lead to."""
    seen: set[int] = set()
    found, waiting = [], [loader]
    while waiting and len(seen) < _MANY:
        x = waiting.pop()
        if id(x) in seen or isinstance(x, (Tensor, nn.Module, ModuleType, type, str, bytes)):
            continue
        seen.add(id(x))
        if isinstance(x, _GENERATORS):
            found.append(x)
        elif isinstance(x, DataLoader):
            waiting += [x.dataset, x.sampler, x.batch_sampler, x.generator, x.collate_fn]
        elif isinstance(x, (list, tuple, dict)):
            waiting += list(x.values() if isinstance(x, dict) else x) if len(x) <= _FEW else []
        elif isinstance(x, FunctionType):
            waiting += inspect.getclosurevars(x).nonlocals.values()
        elif isinstance(x, MethodType):
            waiting.append(x.__self__)
        elif isinstance(x, partial):
            waiting += [x.func, *x.args, *x.keywords.values()]
        else:
            waiting += getattr(x, "__dict__", {}).values()
    return [x for x in found if not isinstance(x, random.SystemRandom)]


# ---- whether samples are the same each time, each by itself, so that they can be kept ----


class CannotKeepError(Exception):
    """Why activations cannot be kept."""


def indexed(loader: Any) -> Any:
    """Return the data set, of which an epoch takes every sample once."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        raise CannotKeepError("it is no DataLoader over a data set with a length")
    sampler, dataset = loader.sampler, loader.dataset
    once = type(sampler) is SequentialSampler or (
        type(sampler) is RandomSampler and not sampler.replacement
    )
    batched = loader.batch_size is not None and type(loader.batch_sampler) is BatchSampler
    if not once or not batched or len(sampler) != len(dataset):  # type: ignore[arg-type]
        raise CannotKeepError("it has a sampler of its own")
    return dataset


def plain(loader: DataLoader[Any]) -> bool:
    """Whether samples are tensors and numbers in memory, which are stacked and nothing else."""
    return (
        type(loader) is DataLoader
        and loader.collate_fn is default_collate
        and loader.worker_init_fn is None
        and _plain(loader.dataset)
    )


def _plain(data: Any) -> bool:
    if type(data) in (Tensor, np.ndarray):
        return bool(data.dtype != object)
    if type(data) is TensorDataset:
        return all(type(x) in (Tensor, nn.Parameter) for x in data.tensors)
    if type(data) is Subset:
        return _plain(data.dataset)
    if type(data) in (ConcatDataset, StackDataset):
        parts = data.datasets
        return all(map(_plain, parts.values() if isinstance(parts, dict) else parts))
    if type(data) not in (list, tuple):
        return False
    leaves = (leaf for sample in data for leaf in tree_flatten(sample)[0])
    values = (Tensor, np.ndarray, np.generic, int, float, bool, str, bytes)
    return all(type(x) in values or isinstance(x, np.generic) for x in leaves)


def refuse_random(loader: DataLoader[Any], deterministic: bool) -> None:
    """Refuse samples that come out otherwise the second time, or that nobody vouches for."""
    data: Any = loader.dataset
    at = sorted({*np.linspace(0, len(data) - 1, _TWICE).round().astype(int).tolist()})
    try:
        twice = [on_cpu(loader.collate_fn([data[i] for i in at])) for _ in range(2)]
    except Exception as error:  # such as need a worker's preparation
        raise CannotKeepError(f"its samples cannot be read twice ({error})") from error
    if not equal(*twice):
        raise CannotKeepError("its samples are drawn at random anew each time")
    if not deterministic:
        raise CannotKeepError(
            "it is not known to give the same samples each time, as tensors in memory do; "
            "deterministic=True says so"
        )


def refuse_mixed(loader: DataLoader[Any], batch: Any) -> None:
    """Refuse batches that are not their samples one by one: mixed, or padded to the longest."""
    data: Any = loader.dataset
    size = min(loader.batch_size or 1, len(data))
    half = size // 2
    again = loader.collate_fn([data[at] for at in range(half, size)])
    (there, spec), (whole, whole_spec) = (tree_flatten(on_cpu(x)) for x in (again, batch))
    rows = [x[half:] if isinstance(x, Tensor) and x.shape[:1] == (size,) else x for x in whole]
    if spec != whole_spec or not equal(there, rows):
        raise CannotKeepError("a sample depends on the others in its batch")


def equal(a: Any, b: Any) -> bool:
    """Whether two trees are the same to the bit; NaN is NaN."""
    (a, a_spec), (b, b_spec) = tree_flatten(a), tree_flatten(b)
    return a_spec == b_spec and all(_same(x, y) for x, y in zip(a, b, strict=True))


def _same(x: Any, y: Any) -> bool:
    if type(x) is not type(y) or np.shape(x) != np.shape(y):
        return False
    if isinstance(x, Tensor) and x.dtype != y.dtype:
        return False
    alike = (x == y) | ((x != x) & (y != y))
    return bool(alike.all() if isinstance(x, Tensor) else np.all(alike))
