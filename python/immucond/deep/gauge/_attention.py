"""Attention and gated layers, told by the names of their modules."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ._group import GaugeGroup, Kind, Side
from ._layers import Linear, linear, owners, places, run_of
from ._tape import Tape

_SEPARATE = (
    ("q_proj", "k_proj", "v_proj"), ("query", "key", "value"), ("q_lin", "k_lin", "v_lin"),
    ("q", "k", "v"), ("to_q", "to_k", "to_v"), ("wq", "wk", "wv"),
    ("query_proj", "key_proj", "value_proj"),
)  # fmt: skip
_FUSED = ("c_attn", "qkv", "qkv_proj", "Wqkv", "in_proj")
_HEADS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "heads")
_HEAD_SIZES = ("head_dim", "attention_head_size", "key_value_proj_dim")
_GATED = (("up_proj", "down_proj"), ("w3", "w2"), ("wi_1", "wo"), ("fc1_x", "fc2"))


def group_of(
    kind: Kind, writers: tuple[Side, ...], readers: tuple[Side, ...], **more: Any
) -> GaugeGroup:
    """Return a group that is to be checked yet."""
    variances = [side for side, _ in more.get("_variances", ())]
    names = owners([side.parameter for side in (*writers, *readers, *variances)])
    return GaugeGroup(kind, names, float("nan"), writers, readers, **more)


def attentions(model: nn.Module, tape: Tape) -> Iterator[list[GaugeGroup]]:
    """Give candidates of each attention: lists of alternatives, of which the first that passes."""
    rotary = any("rotary" in type(module).__name__.lower() for module in model.modules())
    for name, module in model.named_modules():
        found = _projections(name, module)
        if found is None:
            continue
        (q, q_at), (k, k_at), (v, v_at), (n_q, n_k, n_v) = found
        for d in _head_sizes(module, n_q):
            if n_q % d or n_k % d or n_q % n_k:
                continue
            heads = n_k // d
            queries, keys = _grouped(n_q, heads, d, q_at), places(heads, d, k_at)
            if not rotary:
                yield [_query_key("query-key", q, k, queries, keys)]
            half = d // 2
            turned = (
                torch.stack((torch.arange(half), torch.arange(half) + half), 1),  # Llama's
                torch.arange(2 * half).reshape(half, 2),  # neighbours: GPT-J's
            )
            if rotary and d % 2 == 0:
                yield [
                    _query_key(
                        "query-key-rope", q, k, queries[:, pairs].flatten(0, 1),
                        keys[:, pairs].flatten(0, 1),
                    )
                    for pairs in turned
                ]  # fmt: skip
            if n_v % heads == 0:
                size = n_v // heads
                o = _output(name, module, tape, (q, k, v), n_q // d * size)
                if o is not None:
                    read = _grouped(n_q // d * size, heads, size, 0)
                    yield [
                        group_of(
                            "value-output", v.writer(places(heads, size, v_at)), (o.reader(read),)
                        )
                    ]
            break


def _query_key(kind: Kind, q: Linear, k: Linear, queries: Tensor, keys: Tensor) -> GaugeGroup:
    read = tuple(replace(side, index=queries) for side in q.writer(queries[..., 0]))
    return group_of(kind, k.writer(keys), read)


def _grouped(width: int, groups: int, size: int, start: int) -> Tensor:
    """Return the places of heads, those of one group as copies: (groups, size, copies)."""
    heads = start + torch.arange(width).reshape(groups, -1, size)
    return heads.mT.contiguous()


def _head_sizes(module: nn.Module, width: int) -> list[int]:
    """Return what a head's size may be, by the attributes of its module or configuration."""
    found = []
    for holder in (module, getattr(module, "config", None)):
        sizes = [getattr(holder, name, None) for name in _HEAD_SIZES]
        counts = [getattr(holder, name, None) for name in _HEADS]
        found += [size for size in sizes if isinstance(size, int) and size > 0]
        found += [width // n for n in counts if isinstance(n, int) and n > 0 and width % n == 0]
    return found


def _projections(name: str, module: nn.Module) -> Any:
    """Return queries, keys and values of a module, each with its first place; and their widths."""
    prefix = f"{name}." if name else ""
    if isinstance(module, nn.MultiheadAttention):
        return _in_one(module, name)
    for names in _SEPARATE:
        q, k, v = (_within(module, prefix, each, -1) for each in names)
        if q is not None and k is not None and v is not None:
            return (q, 0), (k, 0), (v, 0), (q.outputs, k.outputs, v.outputs)
    for each in _FUSED:
        one = _within(module, prefix, each, -1)
        if one is not None and one.outputs % 3 == 0:
            n = one.outputs // 3
            return (one, 0), (one, n), (one, 2 * n), (n, n, n)
    return None


class _InProjection(Linear):
    """The rows of nn.MultiheadAttention's own parameters."""

    def writer(self, index: Tensor) -> tuple[Side, ...]:
        sides = super().writer(index)
        named = ("in_proj_weight", "in_proj_bias")
        return tuple(
            replace(side, parameter=f"{self.name}.{n}".lstrip("."))
            for side, n in zip(sides, named, strict=False)
        )


def _in_one(module: nn.MultiheadAttention, name: str) -> Any:
    weight, n = module.in_proj_weight, module.embed_dim
    if weight is None or module.bias_k is not None:
        return None
    bias = module.in_proj_bias is not None
    one = _InProjection(name, 0, 1, 3 * n, n, bias, channels=False, reads=True)
    return (one, 0), (one, n), (one, 2 * n), (n, n, n)


def _within(module: nn.Module, prefix: str, name: str, place: int) -> Linear | None:
    """Return a child that is linear: of a sequence in its place the last, or the first."""
    child = getattr(module, name, None) if name in module._modules else None
    if not isinstance(child, nn.Module):
        return None
    run = run_of(f"{prefix}{name}", child)
    found = linear(*run[place]) if run else None
    return found if found is not None and not found.channels else None


def _output(
    name: str, module: nn.Module, tape: Tape, projections: tuple[Linear, ...], width: int
) -> Linear | None:
    """Return the layer that reads the heads: the next one in the tape that is of their width."""
    if isinstance(module, nn.MultiheadAttention):
        return linear(f"{name}.out_proj".lstrip("."), module.out_proj)
    names = {layer.name for layer in projections}
    last = max((i for i, c in enumerate(tape.leaves) if c.name in names), default=None)
    if last is None:
        return None
    for call in tape.leaves[last + 1 :]:
        found = linear(call.name, call.module)
        if found is not None:
            return found if found.inputs == width and not tape.produced(call) else None
    return None


def gated(model: nn.Module) -> Iterator[list[GaugeGroup]]:
    """Give candidates of gated layers: the half without an activation, and what reads it."""
    for name, module in model.named_modules():
        prefix = f"{name}." if name else ""
        for up_name, down_name in _GATED:
            up, down = _within(module, prefix, up_name, -1), _within(module, prefix, down_name, 0)
            if up is not None and down is not None and up.outputs == down.inputs:
                index = places(up.outputs)
                yield [group_of("glu", up.writer(index), (down.reader(index[..., None]),))]
