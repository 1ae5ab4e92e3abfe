"""Whether a loader gives the same samples each time, each by itself, so that they can be kept."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    StackDataset,
    Subset,
    TensorDataset,
    default_collate,
)

from ._frozen import CannotKeepError, equal
from ._network import moved, parse_batch

_TWICE = 24  # samples that are drawn twice: a flip would come out alike in each once in 2^24


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
        twice = [_tree(loader.collate_fn([data[i] for i in at])) for _ in range(2)]
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
    (there, spec), (whole, whole_spec) = (tree_flatten(_tree(x)) for x in (again, batch))
    rows = [x[half:] if isinstance(x, Tensor) and x.shape[:1] == (size,) else x for x in whole]
    if spec != whole_spec or not equal(there, rows):
        raise CannotKeepError("a sample depends on the others in its batch")


def _tree(batch: Any) -> Any:
    """Return a batch with its mappings, of whatever type, as dictionaries."""
    return moved(parse_batch(batch), "cpu")
