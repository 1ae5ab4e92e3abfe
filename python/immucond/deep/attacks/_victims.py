"""What is trained: a whole network with a head of the attacker's, or the head on kept features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from .._attacked import with_new_head
from .._head import SplitModel
from .._network import copied, replace_module
from .._outcome import answered, outcome_of
from .._rows import entering
from .._search import Settings
from ._attackers import Attacker
from ._rows import Batch, Task
from ._starts import RIDGES, AtCut, Start, pooled_at


@dataclass(frozen=True)
class Features:
    """What enters the head at a start, of the attacker's rows and of those that measure him.

    Attributes
    ----------
    start : Start
    task : Task
    train, held_out : list
        Features and classes, one row a sample or a token that counts.
    """

    start: Start
    task: Task
    train: list[Batch]
    held_out: list[Batch]

    @property
    def rows(self) -> int:
        """Of `train`."""
        return sum(len(y) for _, y in self.train)

    def whitened(self, ridge: float) -> tuple[Tensor, Tensor]:
        """Return mean and W with which ``(z - mean) W`` is white, but for a ridge.

        The ridge is relative to the largest eigenvalue of the covariance of the attacker's rows.
        Where these do not vary beyond rounding, W is 0.
        """
        mean, values, vectors = self._covariance
        rounding = 10.0 * torch.finfo(values.dtype).eps * mean
        if values[-1] <= rounding.square().sum():
            return mean, torch.zeros_like(vectors)
        scaled = vectors / (values + ridge * values[-1] + torch.finfo(values.dtype).tiny).sqrt()
        return mean, scaled @ vectors.T

    @cached_property
    def _covariance(self) -> tuple[Tensor, Tensor, Tensor]:
        Z = torch.cat([z for z, _ in self.train]).double()
        mean = Z.mean(0)
        values, vectors = torch.linalg.eigh((Z - mean).T @ (Z - mean) / len(Z))
        return mean, values.clamp(min=0.0), vectors


def features_of(starts: Sequence[Start], task: Task) -> list[Features]:
    """Return what enters the head at a start, or at several that are cuts of one network.

    Features that are not finite are refused: every attacker would seem to fail on them.
    """
    train = _entering(starts, task.train, "harmful")
    held_out = _entering(starts, task.held_out, "held_out")
    return [Features(s, task, *parts) for s, *parts in zip(starts, train, held_out, strict=True)]


@torch.no_grad()
def _entering(starts: Sequence[Start], batches: Sequence[Batch], name: str) -> list[list[Batch]]:
    found: list[list[Batch]] = [[] for _ in starts]
    for number, (inputs, labels) in enumerate(batches, 1):
        for start, kept, (features, y) in zip(
            starts, found, _shown(starts, inputs, labels), strict=True
        ):
            _refuse_unlike(y, features, f"batch {number} of {name}")
            if not bool(features.isfinite().all()):
                raise ValueError(
                    f"the features that enter the head ({start.name}) must be finite, and those of "
                    f"batch {number} of {name} hold NaN or infinity"
                )
            kept.append((features, y.long()))
    return found


def _shown(starts: Sequence[Start], inputs: Any, labels: Tensor) -> list[Batch]:
    """Return features and labels of a batch at each start, from one pass."""
    ends = [start.model for start in starts if isinstance(start.model, AtCut)]
    if ends:
        pooled = pooled_at(ends[0].model, [end.cut for end in ends], inputs)
        return [(features, labels) for features in pooled]
    [start] = starts
    network = SplitModel(start.model, start.split)
    outcome = outcome_of(network, network(inputs), labels)
    return [(outcome.features, outcome.labels)]


def victim_of(
    features: Features, attacker: Attacker, settings: Settings, seed: int
) -> Head | Network:
    """Return what an attacker trains, made anew."""
    start = features.start
    ridge = settings.get("ridge", RIDGES[0])
    white = features.whitened(ridge) if start.whitened or attacker.whitened else None
    kind = Head if attacker.probes else Network
    return kind(features, attacker, white, seed)


class Head:
    """A linear head on features that stay as they are."""

    def __init__(
        self, features: Features, _: Attacker, white: tuple[Tensor, Tensor] | None, seed: int
    ) -> None:
        del seed  # it starts at zero
        self.train, self.held_out = (
            [(_mapped(z, white), y) for z, y in part]
            for part in (features.train, features.held_out)
        )
        self.rows, like = features.rows, self.train[0][0]
        self.module = _zero(nn.Linear(like.shape[1], features.task.classes)).to(like)

    def run(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits and classes."""
        return self.module(batch[0]), batch[1]

    def scale(self) -> float:
        """Return the mean square norm of the features, with the one of the bias."""
        return _scale([z for z, _ in self.train])

    def mode(self, _: Settings) -> None:
        """Nothing in a head depends on it."""

    def utility(self) -> None:
        """Nothing touches the network."""


class Network:
    """A copy of the start with a new head, which starts at zero."""

    def __init__(
        self, features: Features, attacker: Attacker, white: tuple[Tensor, Tensor] | None, seed: int
    ) -> None:
        start, task = features.start, features.task
        self.module = copied(start.model, next(start.model.parameters()).device)
        self._split, self._primary = start.split, start.primary
        self._old = self.module.get_submodule(start.split)
        self._new = _zero(
            with_new_head(
                self.module, start.split, task.classes, params=attacker.trains,
                rank=attacker.rank, seed=seed, frozen=start.frozen,
            )
        )  # fmt: skip
        if white is not None:
            self._new.register_forward_pre_hook(partial(_whiten, white), with_kwargs=True)
        for layer in self.module.modules():
            if isinstance(layer, _BatchNorm):
                _spare_single(layer)
        self._network = SplitModel(self.module, start.split)
        self.train, self.held_out, self._task = task.train, task.held_out, task
        self.rows, self._features, self._white = features.rows, features, white

    def run(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits and classes, one row a sample or a token that counts."""
        logits, y = answered(self._network, self._network(batch[0]), batch[1])
        return logits, y.long()

    def scale(self) -> float:
        """Return the mean square norm of what enters the head at the start."""
        return _scale([_mapped(z, self._white) for z, _ in self._features.train])

    def mode(self, settings: Settings) -> None:
        """Put BatchNorm and dropout in training mode, or out of it."""
        self.module.train(settings.get("training", False))

    @torch.no_grad()
    def utility(self) -> float | None:
        """Return the primary task's accuracy by its own head, on the features as they are now."""
        if not self._task.utility:
            return None
        self.module.eval()
        if self._primary is not None:
            return utility_of(self.module.model, self._primary, self._task)  # type: ignore[arg-type]
        replace_module(self.module, self._split, self._old)
        try:
            return utility_of(self.module, self._split, self._task)
        finally:
            replace_module(self.module, self._split, self._new)


@torch.no_grad()
def utility_of(model: nn.Module, split: str, task: Task, *, attacked: bool = True) -> float:
    """Return the accuracy of a network on the primary task.

    Logits that are not finite are wrong, and refused of a network that nobody has attacked, with
    labels that its head does not know.
    """
    network = SplitModel(model, split)
    right = count = 0.0
    for number, (inputs, labels) in enumerate(task.utility, 1):
        logits, y = answered(network, network(inputs), labels)
        what = f"batch {number} of utility"
        _refuse_unlike(y, logits, what)
        if logits.ndim != 2:
            raise ValueError(
                f"the logits of {what} must be (rows, classes), and have shape "
                f"{tuple(logits.shape)}"
            )
        finite = logits.isfinite().all(1)
        most = max(2, logits.shape[1]) - 1  # the sign of a single logit tells two classes
        if not attacked and not bool(finite.all()):
            raise ValueError(f"the logits of {what} must be finite, and hold NaN or infinity")
        if not attacked and not 0 <= int(y.min()) <= int(y.max()) <= most:
            raise ValueError(
                f"the labels of utility must be classes of the head {split!r}, 0 to {most}, and "
                f"batch {number} has {int(y.min())} to {int(y.max())}"
            )
        guesses = logits.argmax(1) if logits.shape[1] > 1 else (logits[:, 0] > 0.0).long()
        right += float((finite & (guesses == y)).sum())
        count += len(y)
    return right / count


def _refuse_unlike(labels: Tensor, rows: Tensor, what: str) -> None:
    """Refuse labels that are not a class a row."""
    if labels.shape != rows.shape[:1]:
        raise ValueError(
            f"{what} must have a class a row, {len(rows)}, and has labels of shape "
            f"{tuple(labels.shape)}"
        )


def _spare_single(layer: _BatchNorm) -> None:
    """Have one value a channel, which has no variance, normalized as in evaluation."""
    spared = []

    def enter(_: nn.Module, args: Any, keywords: Any) -> None:
        x = entering(args, keywords, "what enters a batch norm")
        if layer.training and x.numel() == x.shape[1]:
            spared.append(layer.eval())

    def leave(*_: object) -> None:
        while spared:
            spared.pop().train()

    layer.register_forward_pre_hook(enter, with_kwargs=True)
    layer.register_forward_hook(leave, always_call=True)


def _zero(head: nn.Linear) -> nn.Linear:
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return head


def _mapped(z: Tensor, white: tuple[Tensor, Tensor] | None) -> Tensor:
    if white is None:
        return z
    mean, W = white
    return ((z.double() - mean) @ W).to(z.dtype)


def _whiten(white: tuple[Tensor, Tensor], _: nn.Module, args: Any, keywords: Any) -> Any:
    return (_mapped(entering(args, keywords, "what enters the head"), white),), {}


def _scale(blocks: Sequence[Tensor]) -> float:
    total = sum(float(z.double().square().sum()) for z in blocks)
    return 1.0 + total / sum(len(z) for z in blocks)
