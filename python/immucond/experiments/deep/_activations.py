"""Both tasks with the frozen part of a network run over them once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..._extras import extra
from .._units import Progress
from ._backbone import Backbone
from ._task import Part, Task

with extra("deep"):
    import torch
    from torch import Tensor, nn
    from torch.utils.data import DataLoader, Dataset

from ...deep.parts import Kept, SplitModel
from ...torch import keep_activations


class Samples(Dataset[Any]):
    """Samples as the network takes them, with their labels; ``tell(place)`` at each.

    Attributes
    ----------
    broken : ValueError or None
        What the last sample said that cannot be read.
    """

    def __init__(self, backbone: Backbone, part: Part, tell: Callable[[int], object]) -> None:
        self._tell = tell
        self._prepared, self._inputs = backbone.preparation, part.inputs
        self._labels = torch.from_numpy(part.labels)
        self.broken: ValueError | None = None

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[dict[str, Tensor], Tensor]:
        self._tell(index)
        try:
            return self._prepared(self._inputs[index]), self._labels[index]
        except ValueError as error:
            self.broken = error
            raise


@dataclass(frozen=True)
class Features:
    """What a network makes of all samples of a part: features and logits, with the labels."""

    Z: Tensor
    logits: Tensor
    labels: Tensor

    @property
    def accuracy(self) -> float:
        """Share of samples that the head puts in their class."""
        return float((self.logits.argmax(1) == self.labels).double().mean())


def kept(
    backbone: Backbone, task: Task, batch_size: int, cache: Path, progress: Progress
) -> dict[str, Kept]:
    """Run the frozen part over a task's parts, "train" and "test"."""
    found = {}
    for name, part in (("train", task.train), ("test", task.test)):
        stage, size = f"frozen blocks, {task.name} {name}", len(part.inputs)

        def tell(place: int, stage: str = stage, size: int = size) -> None:
            progress(stage, place + 1, size)

        samples = Samples(backbone, part, tell)
        loader: DataLoader[Any] = DataLoader(
            samples, batch_size=batch_size, drop_last=name == "train"
        )
        try:
            found[name] = keep_activations(
                backbone.model,
                loader,
                split=backbone.split,
                trainable=backbone.trainable,
                cache=cache,
                deterministic=True,
            )
        except ValueError:
            if samples.broken is not None:  # that is the cause, whatever was made of it
                raise samples.broken from None
            raise
    return found


def features(model: nn.Module, split: str, batches: Kept) -> Features:
    """Run the rest of a network over a part."""
    network = SplitModel(model, split)
    with torch.no_grad():
        outcomes = [batches.run(network, batch) for batch in batches.in_order()]
    return Features(*(torch.cat(columns) for columns in zip(*outcomes, strict=True)))
