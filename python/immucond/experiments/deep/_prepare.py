"""Network and tasks, loaded, with the frozen part of the network run over them once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from ..._errors import extra
from .._units import Progress
from ._settings import Settings
from ._task import Part, Task
from ._task_files import load

with extra("deep"):
    import torch
    import transformers
    from torch import Tensor, nn
    from torch.utils.data import DataLoader, Dataset

from ...deep import keep_activations
from ...deep.parts import Kept, SplitModel
from . import _backbone


class _Samples(Dataset[Any]):
    """Samples as the network takes them, with their labels; ``tell(place)`` at each.

    Attributes
    ----------
    broken : ValueError or None
        What the last sample said that cannot be read.
    """

    def __init__(
        self, backbone: _backbone.Backbone, part: Part, tell: Callable[[int], object]
    ) -> None:
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


def _kept(
    backbone: _backbone.Backbone, task: Task, batch_size: int, cache: Path, progress: Progress
) -> dict[str, Kept]:
    """Run the frozen part over a task's parts, "train" and "test"."""
    found = {}
    for name, part in (("train", task.train), ("test", task.test)):
        stage, size = f"frozen blocks, {task.name} {name}", len(part.inputs)

        def tell(place: int, stage: str = stage, size: int = size) -> None:
            progress(stage, place + 1, size)

        samples = _Samples(backbone, part, tell)
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


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network and two tasks that fit it."""

    backbone: _backbone.Backbone
    primary: Task
    harmful: Task

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of all that results depend on."""
        return {
            name: getattr(self, name).fingerprint for name in ("backbone", "primary", "harmful")
        }


@dataclass(frozen=True, eq=False)
class Prepared(Loaded):
    """Kept activations too, by task and part, and what the network makes of them before."""

    kept: dict[str, dict[str, Kept]]
    before: dict[str, Features]


def loaded(settings: Settings) -> Loaded:
    """Load network and tasks, and see that they fit.

    Raises
    ------
    OSError, ValueError
        Where they do not.
    """
    transformers.logging.disable_progress_bar()  # there is one of ours
    primary, harmful = (
        load(spec, settings.data_dir).subset(settings.train_size, settings.test_size)
        for spec in (settings.primary, settings.harmful)
    )
    if primary.kind != harmful.kind:
        raise ValueError(
            f"both tasks must be of one kind: {settings.primary} has {primary.kind}s, "
            f"{settings.harmful} {harmful.kind}s"
        )
    for task in (primary, harmful):
        if len(task.test.inputs) < settings.group_size:
            raise ValueError(
                f"{task.name} has {len(task.test.inputs)} test samples, and a group of the RIR "
                f"has {settings.group_size}"
            )
        if len(task.train.inputs) < settings.batch_size:
            raise ValueError(
                f"{task.name} has {len(task.train.inputs)} training samples, and a batch has "
                f"{settings.batch_size}"
            )
    torch.manual_seed(0)  # a new head, before it is fitted
    backbone = _backbone.load(
        settings.backbone,
        primary,
        trainable=settings.trainable,
        max_length=settings.max_length,
        image_size=settings.image_size,
        mean=settings.mean,
        std=settings.std,
    )
    return Loaded(backbone, primary, harmful)


@lru_cache(maxsize=1)
def prepared(settings: Settings, cache: Path, progress: Progress) -> Prepared:
    """Run the frozen part of the network once in each process; fit a head where there is none.

    Activations beyond one GiB are mapped from a nameless file in the folder `cache`.
    """
    here = loaded(settings)
    backbone = here.backbone
    activations = {
        name: _kept(backbone, task, settings.batch_size, cache, progress)
        for name, task in (("P", here.primary), ("H", here.harmful))
    }
    if not backbone.fitted:
        found = features(backbone.model, backbone.split, activations["P"]["train"])
        head = backbone.model.get_submodule(backbone.split)
        assert isinstance(head, nn.Linear)
        _backbone.fit_head(head, found.Z, found.labels)
    before = of_tasks(backbone.model, backbone.split, activations)
    return Prepared(backbone, here.primary, here.harmful, activations, before)


def of_tasks(
    model: nn.Module, split: str, activations: Mapping[str, Mapping[str, Kept]]
) -> dict[str, Features]:
    """Features of the primary test part and of both parts of the harmful task."""
    return {
        "P": features(model, split, activations["P"]["test"]),
        "H": features(model, split, activations["H"]["test"]),
        "H train": features(model, split, activations["H"]["train"]),
    }
