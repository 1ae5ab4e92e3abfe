"""What the directions of every layer's output are worth to the logits, and to the harmful task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from ..._validate import FloatArray
from ...linear import ErasurePath, erasure_path
from ...torch.parts import IGNORED
from .._batches import Loaded, first_of
from .._head import SplitModel
from .._loaders import parse_batch
from .._reading import mask_of_batch
from .._record import record
from .._recording import Recording
from ._layers import Layer

Metric = Literal["fisher", "gram", "variance"]
METRICS = ("fisher", "gram", "variance")

_MEANS = 10.0  # by how much the means of harmful classes weigh more than what is within a class


@dataclass(frozen=True)
class Worth:
    """The erasures of a layer's output, and its mean on the primary rows."""

    path: ErasurePath
    mean: FloatArray


def worth_of(
    model: nn.Module,
    layers: Mapping[str, Layer],
    head: str,
    primary: Any,
    harmful: Any,
    metric: Metric,
    mask: Any,
    seed: int,
) -> dict[str, Worth]:
    """Measure all layers in one pass over each task, and one with gradients.

    Rows are tokens, or places of an image. No direction is worth anything where the output is
    constant on the primary rows: what harmful rows may vary there goes first.
    """
    y = _labels_of(primary, "primary", seed)
    if metric == "fisher" and isinstance(y, Tensor) and y.is_floating_point():
        raise ValueError(
            f"the labels of primary are numbers, of {y.dtype}, and metric='fisher' is of classes: "
            "give metric='gram'"
        )
    names = list(layers)
    settings: dict[str, Any] = {"mask": mask, "seed": seed, "repeated": "sum"}
    K = record(model, primary, names, of="output", **settings)
    moments = {
        name: K.gram(name, center=layer.shifts) / K.count(name) for name, layer in layers.items()
    }
    means = {
        name: K.mean(name) if layer.shifts else np.zeros(len(moments[name]))
        for name, layer in layers.items()
    }
    computed_in = {name: K.computed_in(name) for name in names}
    del K  # one matrix a layer is left of each recording: a network may have gigabytes of them
    G = None
    if metric != "variance":
        used = [name for name in names if layers[name].used]
        G = gains_of(model, used, head, primary, metric, **settings)
    harms: dict[str, FloatArray] = {}
    if harmful is not None:
        cross: Any = "labels" if _are_classes(harmful, seed) else None
        H = record(model, harmful, names, of="output", cross=cross, **settings)
        harms = {name: _harm(H, name, layer.shifts) for name, layer in layers.items()}
        del H
    found = {}
    for name in names:
        second, harm = moments.pop(name), harms.pop(name, None)
        size = float(np.trace(second))
        if size == 0.0:
            none = erasure_path(np.eye(len(second)), np.zeros_like(second))
            found[name] = Worth(none, means[name])
            continue
        gain = np.eye(len(second)) / size
        if G is not None:
            gain = G.pop(name, np.zeros_like(second))
        path = erasure_path(second, gain, K_H=harm, computed_in=computed_in[name])
        found[name] = Worth(path, means[name])
    return found


def gains_of(
    model: nn.Module, names: Sequence[str], head: str, primary: Any, metric: Metric, *,
    mask: Any, seed: int, repeated: Any,
) -> dict[str, FloatArray]:  # fmt: skip
    """Return the second moment of the logits' gradient by each layer's output, a sample's mean."""
    loss = _Drawn(metric)
    marked = Marked(primary, mask, SplitModel(model, head).shifts, seed)
    G = record(
        model, marked, names, of="gradient", loss=loss, mask=Marked.mask_of, seed=seed,
        repeated=repeated,
    )  # fmt: skip
    return {name: G.gram(name) / loss.samples for name in names}


def _harm(H: Recording, name: str, centred: bool) -> FloatArray:
    """Return the second moment of harmful rows, with more weight on the means of their classes."""
    count = H.count(name)
    second: FloatArray = H.gram(name, center=centred) / count
    if H.settings["cross"] is None:
        return second
    b = H.cross(name, center=True) / count
    # Each class's share times its mean; as if classes had as many rows each.
    return np.asarray(second + _MEANS * b.shape[1] * b @ b.T)


def _are_classes(harmful: Any, seed: int) -> bool:
    """Whether each harmful sample has a class, whose means then weigh more."""
    y = _labels_of(harmful, "harmful", seed)
    if not isinstance(y, Tensor) or y.is_floating_point():
        return False
    if y.ndim == 2 and y.shape[1] == 1:
        raise ValueError(
            f"the labels of harmful have shape {tuple(y.shape)}: classes of samples must be one "
            "whole number each, of shape (N,)"
        )
    return y.ndim == 1


def _labels_of(loader: Any, name: str, seed: int) -> Any:
    """Return the labels of a loader's first batch."""
    return parse_batch(first_of(Loaded(loader, torch.device("cpu"), seed), name))[1]


class Marked:
    """A loader's inputs, and beside them their mask and which tokens' logits the task looks at.

    Those are the tokens that `immucond.deep` counts wherever it has a loss: no padding, none whose
    label is -100, and of a causal language model those whose next token's is not.
    """

    def __init__(self, loader: Any, mask: Any, shifts: bool, seed: int) -> None:
        self._loader = Loaded(loader, torch.device("cpu"), seed)
        self._mask, self._shifts = mask, shifts

    def __len__(self) -> int:
        return self._loader.count or 0

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self._loader.in_order(), 1):
            inputs, labels = parse_batch(batch)
            kept = mask_of_batch(batch, self._mask, number)
            yield inputs, (kept, _counting(labels, kept, self._shifts))

    @staticmethod
    def mask_of(batch: Any) -> Any:
        """Return the mask of one of these batches, as `record` asks for it."""
        return batch[1][0]


def _counting(labels: Any, kept: Tensor | None, shifts: bool) -> Tensor | None:
    """Return which tokens count, (B, T), where mask or labels tell."""
    of_tokens = isinstance(labels, Tensor) and labels.ndim == 2 and not labels.is_floating_point()
    if not of_tokens or (kept is not None and labels.shape != kept.shape):
        return kept
    kept = None if kept is None else kept.to(labels.device)
    counts: Tensor = labels.long() != IGNORED
    counts = counts if kept is None else counts & kept
    if not shifts:
        return counts
    asked = torch.zeros_like(counts)
    asked[:, :-1] = counts[:, 1:] if kept is None else counts[:, 1:] & kept[:, :-1]
    return asked


# ---- the losses whose gradients are of the outputs' Jacobian ----


class _Drawn:
    """A loss whose gradient is drawn anew for each sample, and how many samples there were.

    "fisher": the cross-entropy of a class drawn from the network's own probabilities; "gram": the
    logits times random signs, so that E[g g^T] is J^T J.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric, self.samples = metric, 0

    def __call__(self, logits: Tensor, marks: Any) -> Tensor:
        self.samples += len(logits)
        return (_fisher if self._metric == "fisher" else _gram)(_rows(logits, marks[1]))


def _rows(logits: Tensor, counts: Tensor | None) -> Tensor:
    """Return logits one row an answer: of tokens those that count."""
    logits = logits.float()
    if logits.ndim == 3:
        told = counts is not None and counts.shape == logits.shape[:2]
        return logits[counts] if told else logits.flatten(0, 1)
    return logits.reshape(len(logits), -1)


def _fisher(rows: Tensor) -> Tensor:
    if rows.shape[1] == 1:  # the logit of one class against none
        said = torch.bernoulli(rows.detach().sigmoid())
        return nn.functional.binary_cross_entropy_with_logits(rows, said, reduction="sum")
    said = torch.multinomial(rows.detach().softmax(1), 1)[:, 0]
    return nn.functional.cross_entropy(rows, said, reduction="sum")


def _gram(rows: Tensor) -> Tensor:
    signs = 2.0 * torch.randint(0, 2, rows.shape, device=rows.device) - 1.0
    return (signs * rows).sum()
