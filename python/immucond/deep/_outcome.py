"""What the model makes of a batch, row by row: of its samples, or of the tokens that count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..torch.parts import token_mask
from ._network import SplitModel

IGNORED = -100  # the label that PyTorch's and transformers' losses do not count


class Outcome(NamedTuple):
    """Features (N, m), their logits and labels: one row a sample, or a token that counts.

    Of tokens, `whole` are the features (B, T, m) that entered the head, on which both depend.
    """

    features: Tensor
    logits: Tensor
    labels: Any
    whole: Tensor | None = None

    @property
    def root(self) -> Tensor:
        """What all terms are differentiated by: what entered the head."""
        return self.features if self.whole is None else self.whole


def outcome_of(model: SplitModel, inputs: Any, labels: Any) -> Outcome:
    """Run the model; of a head that runs on tokens (B, T, m), return those that count.

    These are the tokens that the batch's attention mask keeps, less those whose label is -100; in a
    causal language model the labels are those of the tokens behind, as transformers shifts them. Of
    logits that are the head's at one token of each sample, such as the last one, it is that token.
    """
    features, output, logits = model(inputs)
    return rows_of_tokens(model, inputs, (features, output), logits, labels)


def rows_of_tokens(
    model: SplitModel, inputs: Any, seen: tuple[Tensor, Tensor], logits: Tensor, labels: Any
) -> Outcome:
    """Return the same of a forward pass whose features, head's output and logits were seen."""
    features, output = seen
    if features.ndim == 2:
        return Outcome(features, logits, labels)
    kept = _attended(model.model, inputs, features)
    if logits.shape[:-1] == kept.shape:
        return _by_token(_generates(model.model), features, logits, labels, kept)
    same = torch.zeros_like(kept)
    if logits.shape == output[:, 0].shape:
        # The very numbers: they were taken from the head's output, and not made of several.
        same = kept & (output == logits[:, None]).all(-1)
    if not bool(same.any(1).all()):
        raise ValueError(
            f"the features that enter {model.split!r} have shape {tuple(features.shape)}, and its "
            f"outputs {tuple(output.shape)} make logits of shape {tuple(logits.shape)}: neither "
            "one row a token, nor those of one token. Pool the tokens or places before the head, "
            "by their mean or by the first one, in the network's forward"
        )
    last = same.shape[1] - 1 - same.flip(1).int().argmax(1)
    rows = features[torch.arange(len(last), device=last.device), last]
    return Outcome(rows, logits, labels, features)


def _by_token(causal: bool, whole: Tensor, logits: Tensor, labels: Any, kept: Tensor) -> Outcome:
    features = whole
    if labels is not None:
        if not isinstance(labels, Tensor) or labels.shape[:1] != kept.shape[:1]:
            shape = getattr(labels, "shape", None)
            told = f"a {type(labels).__name__}" if shape is None else f"of shape {tuple(shape)}"
            raise ValueError(
                f"labels must be one a token, {tuple(kept.shape)}, or one a sample, and are {told}"
            )
        named = labels.shape == kept.shape and not labels.is_floating_point()
        if not named and labels.shape[:2] != kept.shape:  # of samples: each of its tokens has them
            labels = labels[:, None].expand(*kept.shape, *labels.shape[1:])
        elif causal:
            features, logits, labels = features[:, :-1], logits[:, :-1], labels[:, 1:]
            kept = kept[:, :-1] & kept[:, 1:]
        kept = kept & (labels != IGNORED) if named else kept
    if not bool(kept.any()):
        raise ValueError(f"no token of a batch counts: all are padding, or labelled {IGNORED}")
    whole_batch = bool(kept.all())

    def rows(x: Tensor) -> Tensor:
        return x.flatten(0, 1) if whole_batch else x[kept]  # no copy where none is needed

    return Outcome(rows(features), rows(logits), None if labels is None else rows(labels), whole)


def _attended(model: nn.Module, inputs: Any, features: Tensor) -> Tensor:
    """Return which tokens are no padding, (B, T): all, where the batch has no mask of them."""
    config = getattr(model, "config", None)
    decodes = getattr(config, "is_encoder_decoder", False)
    name = "decoder_attention_mask" if decodes else "attention_mask"
    mask = inputs.get(name) if isinstance(inputs, Mapping) else None
    samples, tokens, _ = features.shape
    if mask is None:
        return torch.ones(samples, tokens, dtype=torch.bool, device=features.device)
    found = token_mask(mask, f"the batch's {name}", samples=samples, tokens=tokens)
    return found.to(features.device)


def runs_on_tokens(model: nn.Module) -> bool:
    """Whether a network of transformers' classes has its head run on every token."""
    return _generates(model) or type(model).__name__.endswith("ForTokenClassification")


def _generates(model: nn.Module) -> bool:
    """Whether logits are those of the token behind, to which transformers moves the labels."""
    asked = getattr(model, "can_generate", None)
    causal = callable(asked) and bool(asked())
    return causal and not getattr(getattr(model, "config", None), "is_encoder_decoder", False)
