"""Network and tasks, loaded, and the frozen part run over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..._extras import extra
from .._units import Progress

with extra("deep"):
    import torch
    import transformers
    from torch import nn

from ...deep.parts import Kept
from . import _backbone
from ._activations import Features, features, kept
from ._head import fit_head
from ._settings import Settings
from ._sources import load
from ._task import Task


@dataclass(frozen=True, eq=False)
class Prepared:
    """Network, tasks and kept activations, and what the network makes of them before."""

    backbone: _backbone.Backbone
    primary: Task
    harmful: Task
    kept: dict[str, dict[str, Kept]]
    before: dict[str, Features]


def loaded(settings: Settings) -> tuple[_backbone.Backbone, Task, Task]:
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
    return backbone, primary, harmful


@lru_cache(maxsize=1)
def prepared(settings: Settings, cache: Path, progress: Progress) -> Prepared:
    """Run the frozen part of the network once in each process; fit a head where there is none.

    Activations beyond one GiB are mapped from a nameless file in the folder `cache`.
    """
    backbone, primary, harmful = loaded(settings)
    activations = {
        name: kept(backbone, task, settings.batch_size, cache, progress)
        for name, task in (("P", primary), ("H", harmful))
    }
    if not backbone.fitted:
        found = features(backbone.model, backbone.split, activations["P"]["train"])
        head = backbone.model.get_submodule(backbone.split)
        assert isinstance(head, nn.Linear)
        fit_head(head, found.Z, found.labels)
    before = of_tasks(backbone.model, backbone.split, activations)
    return Prepared(backbone, primary, harmful, activations, before)


def of_tasks(
    model: nn.Module, split: str, activations: Mapping[str, Mapping[str, Kept]]
) -> dict[str, Features]:
    """Features of the primary test part and of both parts of the harmful task."""
    return {
        "P": features(model, split, activations["P"]["test"]),
        "H": features(model, split, activations["H"]["test"]),
        "H train": features(model, split, activations["H"]["train"]),
    }
