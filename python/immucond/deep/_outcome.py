"""What the model makes of a batch, row by row: of its samples, or of the tokens that count."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..torch.parts import IGNORED
from ._head import Pass, SplitModel


class Outcome(NamedTuple):
    """Features (N, m), their logits and labels: one row a sample, or a token that counts.

    Where the head ran on tokens, `whole` are the features (B, T, m) that entered it, on which the
    rows and the logits depend; `by_token`: whether each token that counts is a row.
    """

    features: Tensor
    logits: Tensor
    labels: Any
    whole: Tensor | None = None
    by_token: bool = False

    @property
    def root(self) -> Tensor:
        """What all terms are differentiated by: what entered the head."""
        return self.features if self.whole is None else self.whole


def outcome_of(model: SplitModel, shown: Pass, labels: Any) -> Outcome:
    """Return what a forward pass showed, row by row: of tokens (B, T, m), those that count.

    These are the tokens that the network's attention mask keeps, less those whose label is -100; a
    causal language model's labels are moved by one token, as transformers moves them. Of logits
    that are the head's at one token of each sample, such as the last one, it is that token.
    """
    features, output, logits, kept, _ = shown
    if kept is None:
        return Outcome(features, logits, labels)
    transposed = (
        logits.ndim == 3 and logits.shape[:-1] == kept.shape and _transposed(output, logits)
    )
    if logits.shape[:-1] == kept.shape and not transposed:
        return _by_token(model.shifts, features, logits, labels, kept)
    chosen = None if transposed else _one_token(output, logits, kept)
    if chosen is None:
        raise ValueError(
            f"the features that enter {model.split!r} have shape {tuple(features.shape)}, and its "
            f"outputs {tuple(output.shape)} make logits of shape {tuple(logits.shape)}: neither "
            "one row a token, nor those of one token, the same in each sample. Pool the tokens or "
            "places before the head, by their mean or by the first one, in the network's forward; "
            "logits with classes first are those of tokens once their classes are last"
        )
    rows = features[torch.arange(len(chosen), device=chosen.device), chosen]
    return Outcome(rows, logits, labels, features)


def answered(model: SplitModel, shown: Pass, labels: Any) -> tuple[Tensor, Any]:
    """Return logits and labels, row by row as `outcome_of` does, of whatever head.

    One of zeros, which attackers start from, puts out the same at all tokens, and does not tell of
    which of them the logits are.
    """
    if shown.kept is not None and shown.logits.shape == shown.output[:, 0].shape:
        return shown.logits, labels
    found = outcome_of(model, shown, labels)
    return found.logits, found.labels


def _transposed(output: Tensor, logits: Tensor) -> bool:
    """Whether logits are (B, C, T), which with as many classes as tokens no shape tells."""
    square = output.shape == logits.shape and logits.shape[1:2] == logits.shape[2:]
    return square and not torch.equal(output, logits) and torch.equal(output.mT, logits)


def _one_token(output: Tensor, logits: Tensor, kept: Tensor) -> Tensor | None:
    """Return at which token of each sample the logits are the head's output, where that is told.

    By the very numbers: they were taken from the output, and not made of several. Where others are
    alike, it is the first token in all samples, or the last one.
    """
    if logits.shape != output[:, 0].shape:
        return None
    one = logits[:, None]
    same = kept & ((output == one) | (output.isnan() & one.isnan())).all(-1)
    ends = kept.int().argmax(1), kept.shape[1] - 1 - kept.flip(1).int().argmax(1)
    fits = [at for at in ends if bool(same.gather(1, at[:, None]).all())]
    if bool((same.sum(1) == 1).all()):
        return same.int().argmax(1)
    # Numbers that are not finite are all alike; whoever trains on them refuses them.
    told = len(fits) == 1 or (len(fits) == 2 and torch.equal(*fits)) or not logits.isfinite().all()
    return fits[-1] if fits and told else None


def _by_token(shifts: bool, whole: Tensor, logits: Tensor, labels: Any, kept: Tensor) -> Outcome:
    features = whole
    if labels is not None:
        if not _of_tokens(labels, logits, kept):
            labels = labels[:, None].expand(*kept.shape, *labels.shape[1:])  # of their sample
        elif shifts:
            features, logits, labels = features[:, :-1], logits[:, :-1], labels[:, 1:]
            kept = kept[:, :-1] & kept[:, 1:]
        if not labels.is_floating_point() and labels.shape == kept.shape:
            kept = kept & (labels.long() != IGNORED)
    if not bool(kept.any()):
        raise ValueError(f"no token of a batch counts: all are padding, or labelled {IGNORED}")
    whole_batch = bool(kept.all())

    def rows(x: Tensor) -> Tensor:
        return x.flatten(0, 1) if whole_batch else x[kept]  # no copy where none is needed

    of_rows = None if labels is None else rows(labels)
    return Outcome(rows(features), rows(logits), of_rows, whole, by_token=True)


def _of_tokens(labels: Any, logits: Tensor, kept: Tensor) -> bool:
    """Whether labels are one a token, and not one a sample; refuse what is neither.

    Whole numbers (B, T) are tokens' classes. Numbers (B, C) are a sample's targets for C logits,
    also where it has C tokens; for one logit they are its tokens' targets.
    """
    samples, tokens = kept.shape
    if isinstance(labels, Tensor) and labels.shape[:1] == (samples,):
        if labels.ndim == 2 and labels.is_floating_point():
            return labels.shape == kept.shape and logits.shape[-1] == 1
        if labels.ndim != 2 or labels.shape[1] == tokens:
            return labels.shape[:2] == kept.shape
    shape = getattr(labels, "shape", None)
    told = f"a {type(labels).__name__}" if shape is None else f"of shape {tuple(shape)}"
    raise ValueError(
        f"labels must be one a token, {tuple(kept.shape)}, or one a sample, ({samples},) or "
        f"floating-point targets, and are {told}"
    )
