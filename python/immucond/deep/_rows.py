"""What a module's tensor is made of: rows of samples, tokens, positions or patches, and masks."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from ..torch.parts import token_mask

Of = Literal["input", "output", "gradient"]
Rows = Literal["token", "sample", "mean"]
Channels = Literal["first", "last"]

_CHUNK = 2**22  # entries that are taken at once: patches and copies stay small
_LAST = (nn.Linear, nn.LayerNorm, nn.Embedding, nn.EmbeddingBag)
_FIRST = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
DTYPES = ("float64", "float32", "float16", "bfloat16")
_POOLING = "torch.nn.modules.pooling"


class RefusedError(Exception):
    """Why a tensor is refused, raised within a model's forward or backward pass."""


class Chunk(NamedTuple):
    """Rows (n, m), of which sample each of them is, and the dtype that they were computed in."""

    rows: Tensor
    samples: Tensor
    computed_in: str


@dataclass(frozen=True)
class Layout:
    """How a module's tensor becomes rows."""

    rows: Rows
    patches: bool
    channels: Channels | None
    dimensions: frozenset[int]
    """Of the places that the model's convolutions run over."""


@dataclass(frozen=True)
class Samples:
    """What a batch says of its rows.

    Attributes
    ----------
    count : int or None
        Samples of the batch, where its inputs tell.
    mask : (B, T) tensor of bool or None
        Which tokens are no padding.
    needed : bool
        Whether it must be known of which sample a row is.
    """

    count: int | None
    mask: Tensor | None
    needed: bool


def dimensions_of(model: nn.Module) -> frozenset[int]:
    """Return over how many dimensions of places the convolutions of a model run."""
    found = (m for m in model.modules() if isinstance(m, nn.modules.conv._ConvNd))
    return frozenset(len(m.kernel_size) for m in found)


def is_typed(module: nn.Module) -> bool:
    """Whether a module's type tells where its channels are."""
    return _tells(module) or type(module).__module__ == _POOLING


def _tells(module: nn.Module) -> bool:
    """Whether it tells how many there are, too; a norm over places as well as channels does not."""
    several = len(getattr(module, "normalized_shape", ())) > 1
    return isinstance(module, (*_FIRST, *_LAST)) and not several


def is_conv1d(module: nn.Module) -> bool:
    """Whether a module is transformers' linear layer whose weight is (in, out), without import."""
    weight = module._parameters.get("weight")
    return type(module).__name__ == "Conv1D" and weight is not None and weight.ndim == 2


def last_typed(module: nn.Module) -> tuple[Channels, int]:
    """Return where the last layer of a type within a block has its channels, and how many.

    Of a block without such a layer it is where PyTorch's convolutions have them, of no number.
    """
    names = ("out_channels", "num_features", "num_channels", "out_features", "embedding_dim")
    for layer in reversed([m for m in module.modules() if _tells(m)]):
        shape = getattr(layer, "normalized_shape", ())
        width = next((getattr(layer, name) for name in names if hasattr(layer, name)), 0)
        return "first" if isinstance(layer, _FIRST) else "last", shape[-1] if shape else width
    return "first", 0


def refuse_patches(modules: Mapping[str, nn.Module], of: Of) -> None:
    """Refuse patches of what is no input of a convolution."""
    if of != "input":
        raise ValueError(f"patches are those of inputs, and of is {of!r}")
    others = [
        f"{name!r} is a {type(m).__name__}"
        for name, m in modules.items()
        if not isinstance(m, nn.modules.conv._ConvNd) or m.transposed
    ]
    if others:
        raise ValueError(
            f"patches are those that a convolution reads, and {'; '.join(others[:5])}: record "
            "other modules by a call of their own"
        )


def first_tensor(value: Any, what: str) -> Tensor:
    """Return a tensor, or the first one of a tuple, a list or a mapping."""
    held = value
    if isinstance(value, Mapping):
        held = next(iter(value.values()), None)
    elif isinstance(value, (tuple, list)):
        held = value[0] if value else None
    if isinstance(held, Tensor):
        return held
    kind = type(value).__name__
    told = kind if held is value else f"{kind} whose first item is a {type(held).__name__}"
    raise RefusedError(f"{what} must be a tensor, or hold one first, and is a {told}")


def with_first(value: Any, x: Tensor) -> Any:
    """Return what `first_tensor` was given, with another tensor in the place of its first."""
    if isinstance(value, Mapping):
        found = copy.copy(value)
        found[next(iter(value))] = x  # type: ignore[index]
        return found
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(x, *value[1:])
    return type(value)((x, *value[1:])) if isinstance(value, (tuple, list)) else x


def started(x: Tensor) -> Tensor:
    """Return a tensor from which on gradients are told."""
    if x.requires_grad or not x.is_floating_point():
        return x
    return x.detach().requires_grad_().clone()  # no leaf, which nothing may change in place


def entering(args: tuple[Any, ...], keywords: Mapping[str, Any], what: str) -> Tensor:
    """Return the first tensor among a module's arguments."""
    for value in (*args, *keywords.values()):
        if isinstance(value, Tensor):
            return value
    raise RefusedError(f"{what} must be a tensor, and no argument is one")


def chunks(
    x: Tensor, module: nn.Module, layout: Layout, samples: Samples, what: str
) -> Iterator[Chunk]:
    """Yield a module's tensor as rows, some samples at once; `what` is for messages."""
    if _dtype(x) not in DTYPES:
        raise RefusedError(
            f"{what} must be of floating-point numbers, and is of {_dtype(x)}: of numbers of "
            "tokens, say, record what their embedding puts out"
        )
    if x.layout != torch.strided or x.ndim < 2:
        kind = f"shape {tuple(x.shape)}" if x.layout == torch.strided else str(x.layout)
        raise RefusedError(f"{what} must be dense, with samples first and features, and has {kind}")
    x, mask, computed_in = x.detach(), samples.mask, _dtype(x)
    width = 1
    if layout.rows != "sample":
        x, width = features_last(x, module, layout, what)
    if mask is not None:
        x, mask = _masked(x, width, mask, layout.rows, what)
    if (samples.needed or layout.rows == "mean") and samples.count not in (None, len(x)):
        raise RefusedError(
            f"{what} must have its {samples.count} samples first, and has shape {tuple(x.shape)}"
        )
    if not x.numel():
        return
    step = max(1, _CHUNK // x[0].numel())
    for start in range(0, len(x), step):
        part = x[start : start + step]
        kept = None if mask is None else mask[start : start + step].to(x.device)
        rows, of = _rows(part, width, kept, layout.rows, what)
        yield Chunk(rows, of + start, computed_in)


def _rows(
    part: Tensor, width: int, kept: Tensor | None, rows: Rows, what: str
) -> tuple[Tensor, Tensor]:
    """Rows of some samples, and which of these they are of."""
    of = torch.arange(len(part), device=part.device)
    if rows == "sample":
        return part.flatten(1), of
    part = part.reshape(len(part), -1, width)
    if rows == "token":
        if kept is None:
            return part.flatten(0, 1), of.repeat_interleave(part.shape[1])
        return part[kept], of[:, None].expand_as(kept)[kept]
    if kept is None:
        return part.mean(1, dtype=torch.float64), of
    counts = kept.sum(1)
    if not bool(counts.all()):
        raise RefusedError(f"{what} has a sample all of whose tokens are padding: it has no mean")
    total = torch.where(kept[..., None], part, 0.0).sum(1, dtype=torch.float64)
    return total / counts[:, None], of


def features_last(x: Tensor, module: nn.Module, layout: Layout, what: str) -> tuple[Tensor, int]:
    """Return samples first, then places where there are any, and features last; and their number.

    Patches take several axes: flattened, they would be a copy.
    """
    places, shape = x.ndim - 2, tuple(x.shape)
    if isinstance(module, nn.modules.conv._ConvNd):
        if places != len(module.kernel_size):
            raise RefusedError(f"{what} must have samples first, and has shape {shape}")
        if layout.patches:
            return _patches(x, module), shape[1] * math.prod(module.kernel_size)
    if not places:
        return x, shape[-1]
    first = isinstance(module, _FIRST) or type(module).__module__ == _POOLING
    if not is_typed(module):
        if layout.channels is None and places in layout.dimensions:
            raise RefusedError(
                f"{what} has shape {shape}, and a {type(module).__name__} does not tell where its "
                "channels are: give channels='first' or 'last'"
            )
        first = layout.channels == "first"
    return (x.movedim(1, -1), shape[1]) if first else (x, shape[-1])


def _patches(x: Tensor, module: nn.modules.conv._ConvNd) -> Tensor:
    """Return what a convolution multiplies at each place, in its weight's order: a view."""
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    x = nn.functional.pad(x, module._reversed_padding_repeated_twice, mode=mode)
    places = x.ndim - 2
    steps = zip(module.kernel_size, module.stride, module.dilation, strict=True)
    for axis, (size, stride, dilation) in enumerate(steps, 2):
        x = x.unfold(axis, (size - 1) * dilation + 1, stride)[..., ::dilation]
    return x.movedim(1, 1 + places)


def _masked(
    x: Tensor, width: int, mask: Tensor, rows: Rows, what: str
) -> tuple[Tensor, Tensor | None]:
    """Return a tensor with its samples first, and its mask; None where it has no tokens."""
    if x.ndim == 2 and len(x) == len(mask) and mask.shape[1] > 1:
        return x, None
    if rows == "sample":
        if bool(mask.all()):
            return x, None
        raise RefusedError(
            f"{what} has padding, and rows='sample' makes one row of a sample's tokens: give "
            "rows='mean' or 'token', or mask=None"
        )
    if x.ndim == 2 and len(x) == mask.numel():
        return x.unflatten(0, tuple(mask.shape)), mask
    if len(x) != len(mask) or x.numel() != mask.numel() * width:
        raise RefusedError(
            f"{what} must have samples and tokens as the mask has, {tuple(mask.shape)}, and has "
            f"shape {tuple(x.shape)}: mask=None takes all of them"
        )
    return x, mask


def _dtype(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def size_of(inputs: Any) -> int | None:
    """Return the number of samples in a batch's inputs, where they tell."""
    values = [inputs]
    if isinstance(inputs, Mapping):
        values = list(inputs.values())
    elif isinstance(inputs, (tuple, list)):
        values = list(inputs)
    return next((len(x) for x in values if isinstance(x, Tensor) and x.ndim), None)


def mean_of_kept(x: Tensor, mask: Tensor) -> Tensor:
    """Return each sample's mean (B, m) over the tokens of (B, T, m) that a mask keeps.

    What is left out may be NaN.
    """
    kept = (mask != 0)[..., None]
    total: Tensor = torch.where(kept, x, 0.0).sum(1)
    return total / kept.sum(1)


def rows_at(at: Tensor | slice, inputs: Any, size: int | None) -> Any:
    """Return inputs of some samples: of tensors that have one row a sample, those rows."""
    return tree_map_only(Tensor, lambda x: x[at] if x.ndim and len(x) == size else x, inputs)


def mask_of(value: Any, size: int | None, number: int) -> Tensor:
    """Return a batch's mask as (B, T) of bool, or refuse it."""
    return token_mask(value, f"the mask of batch {number}", samples=size)
