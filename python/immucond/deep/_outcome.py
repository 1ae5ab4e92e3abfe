"""What the model makes of a batch, row by row: of its samples, or of the tokens that count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..torch.parts import IGNORED, token_mask
from ._network import SplitModel

MASKS = ("attention_mask", "decoder_attention_mask")
_DECODED = ("decoder_input_ids", "decoder_inputs_embeds")
# They generate, and compare logits with the labels of the same token.
_UNSHIFTED = frozenset({"xlm", "flaubert", "xlnet", "cpmant"})


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


def outcome_of(model: SplitModel, inputs: Any, labels: Any) -> Outcome:
    """Run the model; of a head that runs on tokens (B, T, m), return those that count.

    These are the tokens that the batch's attention mask keeps, less those whose label is -100; a
    causal language model's labels are moved by one token, as transformers moves them. Of logits
    that are the head's at one token of each sample, such as the last one, it is that token.
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
        return _by_token(_shifts(model.model), features, logits, labels, kept)
    chosen = _one_token(output, logits, kept)
    if chosen is None:
        raise ValueError(
            f"the features that enter {model.split!r} have shape {tuple(features.shape)}, and its "
            f"outputs {tuple(output.shape)} make logits of shape {tuple(logits.shape)}: neither "
            "one row a token, nor those of one token, the same in each sample. Pool the tokens or "
            "places before the head, by their mean or by the first one, in the network's forward"
        )
    rows = features[torch.arange(len(chosen), device=chosen.device), chosen]
    return Outcome(rows, logits, labels, features)


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
        if not isinstance(labels, Tensor) or labels.shape[:1] != kept.shape[:1]:
            shape = getattr(labels, "shape", None)
            told = f"a {type(labels).__name__}" if shape is None else f"of shape {tuple(shape)}"
            raise ValueError(
                f"labels must be one a token, {tuple(kept.shape)}, or one a sample, and are {told}"
            )
        classes = not labels.is_floating_point()
        if labels.shape[:2] != kept.shape or (labels.ndim == 2 and not classes):
            labels = labels[:, None].expand(*kept.shape, *labels.shape[1:])  # of their sample
        elif shifts:
            features, logits, labels = features[:, :-1], logits[:, :-1], labels[:, 1:]
            kept = kept[:, :-1] & kept[:, 1:]
        if classes and labels.shape == kept.shape:
            kept = kept & (labels.long() != IGNORED)
    if not bool(kept.any()):
        raise ValueError(f"no token of a batch counts: all are padding, or labelled {IGNORED}")
    whole_batch = bool(kept.all())

    def rows(x: Tensor) -> Tensor:
        return x.flatten(0, 1) if whole_batch else x[kept]  # no copy where none is needed

    of_rows = None if labels is None else rows(labels)
    return Outcome(rows(features), rows(logits), of_rows, whole, by_token=True)


def _attended(model: nn.Module, inputs: Any, features: Tensor) -> Tensor:
    """Return which tokens are no padding, (B, T): all, where the batch has no mask of them."""
    given = inputs if isinstance(inputs, Mapping) else {}
    decoded = any(given.get(name) is not None for name in _DECODED)
    if _generates(model) and _encodes_and_decodes(model) and not decoded:
        raise ValueError(
            f"a batch must hold {_DECODED[0]} for a {type(model).__name__}, which would make them "
            "of labels that it is not given: DataCollatorForSeq2Seq(tokenizer, model=model) does"
        )
    name = MASKS[decoded]
    samples, tokens, _ = features.shape
    if given.get(name) is None:
        return torch.ones(samples, tokens, dtype=torch.bool, device=features.device)
    found = token_mask(given[name], f"the batch's {name}", samples=samples, tokens=tokens)
    return found.to(features.device)


def runs_on_tokens(model: nn.Module) -> bool:
    """Whether a network of transformers' classes has its head run on every token."""
    return _generates(model) or type(model).__name__.endswith("ForTokenClassification")


def _generates(model: nn.Module) -> bool:
    asked = getattr(model, "can_generate", None)
    return callable(asked) and bool(asked())


def _encodes_and_decodes(model: nn.Module) -> bool:
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _shifts(model: nn.Module) -> bool:
    """Whether transformers compares a token's logits with the label of the next one."""
    kind = getattr(getattr(model, "config", None), "model_type", None)
    return _generates(model) and not _encodes_and_decodes(model) and kind not in _UNSHIFTED
