"""Tokens with a mask: which of a batch (B, T, m) are the rows of one matrix.

Where the numbers are at hand the rows are gathered, and nothing tells them from rows that were
given so. In programs that are traced or transformed (``torch.compile``, ``vmap``) no shape may
depend on numbers: there a token that does not count becomes a row of zeros, which changes neither
``Z^T Z`` nor a sum. Either way padding is selected away, never multiplied by zero, so that NaN in
it stays out of values and gradients.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ._operator import Constant, Operator, at_hand, check_device, check_tensor

IGNORED = -100  # the label that PyTorch's losses do not count (ignore_index)


class _Kept(Constant):
    """``immucond::kept_tokens``: a mask as bool. It looks at the numbers, in traced programs too.

    Refused is what holds others than 0 and 1, and with `some` what keeps no token at all.
    """


def _kernel(mask: Tensor, name: str, some: bool) -> Tensor:
    kept = mask != 0
    if mask.is_cuda and torch.cuda.is_current_stream_capturing():
        return kept  # a graph that is being captured has no numbers yet
    if not bool((kept == mask).all()):
        raise ValueError(f"{name} must hold 0 for padding and 1 for tokens, and holds other values")
    if some and not bool(kept.flatten(-2).any(-1).all()):
        raise ValueError(f"{name} must keep at least one token, and keeps none")
    return kept


_kept = Operator(
    _Kept,
    "kept_tokens(Tensor mask, str name, bool some) -> Tensor",
    fake=lambda mask, *_: torch.empty_like(mask, dtype=torch.bool),
    kernel=_kernel,
)


def token_mask(
    value: Any,
    name: str,
    *,
    samples: int | None = None,
    tokens: int | None = None,
    some: bool = False,
) -> Tensor:
    """Return a mask of 0 and 1, of any dtype, as bool (samples, tokens), or refuse it.

    With `some` it must keep a token.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a tensor, and is a {type(value).__name__}")
    if hasattr(value, "full_tensor") or value.is_nested or value.layout != torch.strided:
        kind = "nested" if value.is_nested else f"sparse ({value.layout})"
        kind = "a DTensor" if hasattr(value, "full_tensor") else kind
        raise TypeError(f"{name} must be a plain dense tensor, and is {kind}")
    if value.requires_grad:
        raise TypeError(f"{name} requires a gradient, which would end here: detach it")
    needed = zip((samples, tokens), value.shape, strict=False)
    if value.ndim != 2 or any(size not in (None, found) for size, found in needed):
        rows = "" if samples is None else f", with {samples} rows"
        rows += "" if tokens is None else f" of {tokens}"
        raise ValueError(
            f"{name} must have shape (samples, tokens){rows}, and has shape {tuple(value.shape)}"
        )
    kept: Tensor = _kept(value, name, some)
    return kept


def check_tokens(Z: Any, name: str, *, empty: bool = False) -> None:
    """Refuse what is not (B, T, m); `empty`: or has no tokens."""
    check_tensor(Z, name, empty=empty)
    if Z.ndim != 3:
        raise ValueError(
            f"{name} must have 3 dimensions with a mask, (samples, tokens, features), and has "
            f"shape {tuple(Z.shape)}"
        )


class Tokens:
    """The tokens of features (B, T, m) that count: those a mask keeps, less labels that do not.

    With `empty`, none need to.
    """

    def __init__(
        self,
        mask: Any,
        Z: Tensor,
        name: str,
        *,
        labels: Tensor | None = None,
        empty: bool = False,
    ) -> None:
        check_tokens(Z, name, empty=empty)
        samples, tokens, _ = Z.shape
        kept = token_mask(mask, "mask", samples=samples, tokens=tokens, some=not empty)
        check_device(kept, "mask", Z, name)
        if labels is not None:
            counted = kept & (labels != IGNORED)
            kept = _kept(counted, f"mask, less the labels {IGNORED} of Y,", not empty)
        self._kept = kept.flatten()
        gathered = at_hand(Z) and at_hand(mask)
        self._index = self._kept.nonzero()[:, 0] if gathered else None

    def only(self, x: Tensor) -> Tensor:
        """Return rows with zeros where a token does not count, unless those are gone already."""
        if self._index is not None:
            return x
        return torch.where(self._kept.reshape(-1, *[1] * (x.ndim - 1)), x, 0)

    def rows(self, x: Tensor) -> Tensor:
        """Return (B, T, ...) as rows."""
        x = x.flatten(0, 1)
        return self.only(x) if self._index is None else x.index_select(0, self._index)

    def centred(self, x: Tensor) -> Tensor:
        """Return rows less the mean of those that count."""
        if self._index is not None:
            return less(x, x.mean(-2, keepdim=True))
        kept = self.only(x)
        return self.only(less(kept, kept.sum(-2, keepdim=True) / self._kept.sum()))


def less(x: Tensor, mean: Tensor) -> Tensor:
    """Return rows less a mean, but columns that are not finite as they are: to be told where."""
    return x - torch.where(x.isfinite().all(-2, keepdim=True), mean, 0.0)


def kept_rows(
    features: Tensor | None, mask: Any, name: str = "features", *, empty: bool = False
) -> Tensor | None:
    """Return the rows that a mask keeps of features (B, T, m); without a mask, what is given."""
    if mask is None:
        return features
    if features is None:
        raise ValueError(f"mask goes with {name}, (samples, tokens, features), and none are given")
    return Tokens(mask, features, name, empty=empty).rows(features)
