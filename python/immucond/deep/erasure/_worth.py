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
from .._loaders import parse_batch
from .._record import record
from .._recording import Recording
from .._rows import size_of
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
    names = list(layers)
    settings: dict[str, Any] = {"mask": mask, "seed": seed, "repeated": "sum"}
    K = record(model, primary, names, of="output", **settings)
    G = None
    if metric != "variance":
        used = [name for name in names if layers[name].used]
        G = gains_of(model, used, primary, metric, **settings)
    H = None
    if harmful is not None:
        y = _labels_of(harmful)
        classes = isinstance(y, Tensor) and y.ndim == 1 and not y.is_floating_point()
        cross: Any = "labels" if classes else None
        H = record(model, harmful, names, of="output", cross=cross, **settings)
    found = {}
    for name, layer in layers.items():
        centred = layer.shifts
        second = K.gram(name, center=centred) / K.count(name)
        mean = K.mean(name) if centred else np.zeros(len(second))
        size = float(np.trace(second))
        if size == 0.0:
            none = erasure_path(np.eye(len(second)), np.zeros_like(second))
            found[name] = Worth(none, mean)
            continue
        gain = np.eye(len(second)) / size
        if G is not None:
            gain = G.get(name, np.zeros_like(second))
        path = erasure_path(
            second, gain, K_H=None if H is None else _harm(H, name, centred),
            computed_in=K.computed_in(name),
        )  # fmt: skip
        found[name] = Worth(path, mean)
    return found


def gains_of(
    model: nn.Module, names: Sequence[str], primary: Any, metric: Metric, **settings: Any
) -> dict[str, FloatArray]:
    """Return the second moment of the logits' gradient by each layer's output, a sample's mean."""
    loss = _Drawn(metric)
    labelled = primary if _labels_of(primary) is not None else _Labelled(primary)
    G = record(model, labelled, names, of="gradient", loss=loss, **settings)
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


def _labels_of(loader: Any) -> Any:
    return parse_batch(next(iter(loader)))[1]


class _Labelled:
    """Batches with labels where they have none: a recording of gradients wants some."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            inputs, _ = parse_batch(batch)
            yield inputs, torch.zeros(size_of(inputs) or 0, dtype=torch.long)


# ---- the losses whose gradients are of the outputs' Jacobian ----


class _Drawn:
    """A loss whose gradient is drawn anew for each sample, and how many samples there were.

    "fisher": the cross-entropy of a class drawn from the network's own probabilities; "gram": the
    logits times random signs, so that E[g g^T] is J^T J.
    """

    def __init__(self, metric: Metric) -> None:
        self._metric, self.samples = metric, 0

    def __call__(self, logits: Tensor, labels: Any) -> Tensor:
        self.samples += len(logits)
        return (_fisher if self._metric == "fisher" else _gram)(_rows(logits, labels))


def _rows(logits: Tensor, labels: Any) -> Tensor:
    """Return logits one row an answer: of tokens those whose label counts."""
    logits = logits.float()
    if logits.ndim == 3:
        counts = isinstance(labels, Tensor) and labels.shape == logits.shape[:2]
        return logits[labels != -100] if counts else logits.flatten(0, 1)
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
