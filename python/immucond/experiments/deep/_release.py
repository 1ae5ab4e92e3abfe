"""A released network in a folder and the tasks it is measured on, for commands that take one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._display import Plotted
from ..._errors import extra
from ..._format import plain
from ..._show import print_style
from ...deep.parts import SplitModel
from .._units import Progress
from . import _backbone, _saved
from ._prepare import Samples
from ._task import Part, Task

with extra("deep"):
    import torch
    import transformers
    from torch import nn
    from torch.utils.data import DataLoader


if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class ReleaseSettings:
    """Which network and data, and how they are read.

    Attributes
    ----------
    backbone, data_dir, max_length, image_size, mean, std
        As in `Settings`; the backbone may also be a folder that ``immucond deep`` saved.
    train_size : int or None
        Most training rows of each task, drawn at random.
    batch_size : int
    seed : int
        Of weights that are drawn.
    """

    backbone: str
    data_dir: Path | None = None
    max_length: int | None = None
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    train_size: int | None = 2000
    batch_size: int = 64
    seed: int = 0


@dataclass(frozen=True)
class Measured:
    """What a command measured of a release, and what it is of."""

    settings: Any
    fingerprints: dict[str, str]

    def numbers(self) -> dict[str, Any]:
        """Return what was measured."""
        raise NotImplementedError

    def as_json(self, command: str, versions: Mapping[str, str]) -> dict[str, Any]:
        """Every number as plain Python values; an infinite one is the string "inf"."""
        told: dict[str, Any] = plain({
            "command": command,
            "versions": versions,
            "settings": {**asdict(self.settings), "data_dir": None},
            "fingerprints": self.fingerprints,
            **self.numbers(),
        })  # fmt: skip
        return told


def figure_of(result: Plotted, size: tuple[float, float], title: str) -> Figure:
    """Draw a result on a figure of its own."""
    with print_style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=size, layout="constrained")
        result.plot(figure.subplots()).set_title(title, fontsize=10, wrap=True)
        return figure


def load_release(
    settings: ReleaseSettings, name: str, task: Task, *, own: bool = False
) -> _backbone.Backbone:
    """Load a network; one without a head gets one for the task, which is not fitted yet.

    Raises
    ------
    OSError, ValueError
        As `_backbone.load`, and where a saved network reads its inputs otherwise than is asked for,
        or has a head for another number of classes than those of what is to be its `own` task.
    """
    transformers.logging.disable_progress_bar()  # there is one of ours
    saved = _saved.saved_release(name)
    if saved is not None:
        kind = "image" if saved.preparation.tokenizer is None else "text"
        if kind != task.kind:
            raise ValueError(f"{name} reads {kind}s, and {task.name} has {task.kind}s")
        classes = saved.model.get_submodule(saved.split).out_features
        if own and classes != len(task.classes):
            raise ValueError(
                f"{task.name} has {len(task.classes)} classes, and the head of {name} has "
                f"{classes}: give the task that it was made for"
            )
        options = ("max_length", "image_size", "mean", "std")
        _backbone.check_reading(task, *(getattr(settings, option) for option in options))
        for option in options:
            given, kept = (getattr(x, option) for x in (settings, saved.preparation))
            if given is not None and np.any(np.not_equal(given, kept)):
                raise ValueError(
                    f"--{option.replace('_', '-')} is {given}, and {name} was made for {kept}: "
                    "leave it out"
                )
        return saved
    return _backbone.load(
        name, task, max_length=settings.max_length, mean=settings.mean,
        image_size=settings.image_size, std=settings.std,
    )  # fmt: skip


def loader_of(backbone: _backbone.Backbone, part: Part, batch_size: int) -> DataLoader[Any]:
    """Return batches of a part of a task, as the network reads them."""
    return DataLoader(Samples(backbone, part, lambda _: None), batch_size=batch_size)


@torch.no_grad()
def fit_head(backbone: _backbone.Backbone, batches: DataLoader[Any], progress: Progress) -> None:
    """Fit the head of a network without one to the primary task."""
    network, found = SplitModel(backbone.model, backbone.split), []
    for number_of, (inputs, labels) in enumerate(batches, 1):
        found.append((network(inputs)[0], labels))
        progress("primary head", number_of, len(batches))
    head = backbone.model.get_submodule(backbone.split)
    assert isinstance(head, nn.Linear)
    Z, labels = (torch.cat(parts) for parts in zip(*found, strict=True))
    with torch.enable_grad():
        _backbone.fit_head(head, Z, labels)


@torch.no_grad()
def accuracy_of(net: nn.Module, backbone: _backbone.Backbone, batches: DataLoader[Any]) -> float:
    """Share of samples that a network, split as this one is, puts in their class."""
    model, right, rows = SplitModel(net, backbone.split), 0, 0
    for inputs, labels in batches:
        right += int((model(inputs).logits.argmax(1) == labels).sum())
        rows += len(labels)
    return right / rows
