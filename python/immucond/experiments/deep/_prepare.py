"""Network and tasks, loaded, with the frozen part of the network run over them once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from ..._errors import extra
from .._units import Progress
from ._data import load
from ._settings import Settings
from ._task import Part, Task

with extra("deep"):
    import torch
    import transformers
    from torch import Tensor, nn
    from torch.utils.data import DataLoader, Dataset

from ...deep import keep_activations
from ...deep.parts import FoldedHead, Kept, SplitModel
from . import _backbone
from ._tuning import batch_norms, reestimated


class Samples(Dataset[Any]):
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
    backbone: _backbone.Backbone, part: Part, name: str, training: bool, batch_size: int,
    cache: Path, progress: Progress,
) -> Kept:  # fmt: skip
    """Run the frozen part over samples."""
    stage, size = f"frozen blocks, {name}", len(part.inputs)
    samples = Samples(backbone, part, lambda place: progress(stage, place + 1, size))
    # A last batch that is short is left out of training; a small part is one batch.
    loader: DataLoader[Any] = DataLoader(
        samples, batch_size=min(batch_size, size), drop_last=training
    )
    try:
        return keep_activations(
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


def features(model: nn.Module, split: str, batches: Kept) -> Features:
    """Run the rest of a network over a part."""
    network = SplitModel(model, split)
    with torch.no_grad():
        found = [batches.run(network, batch) for batch in batches.in_order()]
    columns = zip(*(outcome[:3] for outcome in found), strict=True)
    return Features(*map(torch.cat, columns))


@dataclass(frozen=True, eq=False)
class Loaded:
    """A network and two tasks that fit it, and perhaps a third one, benign too."""

    backbone: _backbone.Backbone
    primary: Task
    harmful: Task
    benign: Task | None
    defender: Part
    """Harmful samples that immunization sees."""
    attacker: Part
    """Harmful samples that attackers train on, none of which is the defender's."""

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """Of all that results depend on."""
        parts: dict[str, Any] = {
            "backbone": self.backbone, "primary": self.primary, "harmful": self.harmful,
        }  # fmt: skip
        if self.benign is not None:
            parts["transfer"] = self.benign
        return {name: part.fingerprint for name, part in parts.items()}


@dataclass(frozen=True, eq=False)
class Prepared(Loaded):
    """Kept activations too, and what the network makes of them before.

    Both are by letter and part: of the primary task "P train" and "P test"; of the harmful one
    "H train", the attacker's, and "H test"; of another benign one "T train" and "T test". What the
    defender has of the harmful task is kept by the number of samples.
    """

    kept: dict[str, Kept]
    defended: dict[int, Kept]
    before: dict[str, Features]

    def after(self, model: nn.Module, split: str) -> dict[str, Features]:
        """Return what a network that was made of this one makes of all parts.

        Where nothing but the head differs, to the bit, only what is in its place runs.
        """
        if self._differs(model):
            return of_parts(model, split, self.kept)
        return {name: self._behind(model, found) for name, found in self.before.items()}

    def reestimated(self, model: nn.Module, split: str) -> dict[str, Features]:
        """Return the same of the harmful parts, with BatchNorm statistics of the attackers' rows.

        Empty where the trainable blocks have no BatchNorm.
        """
        if not batch_norms(model, self.backbone.trainable):
            return {}
        if self._differs(model):
            return self._of_reestimated(model, split)
        return {name: self._behind(model, found) for name, found in self._reestimated.items()}

    @cached_property
    def _reestimated(self) -> dict[str, Features]:
        return self._of_reestimated(self.backbone.model, self.backbone.split)

    def _of_reestimated(self, model: nn.Module, split: str) -> dict[str, Features]:
        task = {name: self.kept[name] for name in ("H train", "H test")}
        other = reestimated(model, split, self.backbone.trainable, task["H train"])
        return of_parts(other, split, task)

    def _differs(self, model: nn.Module) -> bool:
        head = f"{self.backbone.split}."
        before, after = (
            {key: x for key, x in m.state_dict().items() if not key.startswith(head)}
            for m in (self.backbone.model, model)
        )
        return before.keys() != after.keys() or any(
            not torch.equal(x, after[key]) for key, x in before.items()
        )

    @torch.no_grad()
    def _behind(self, model: nn.Module, found: Features) -> Features:
        head = model.get_submodule(self.backbone.split)
        Z, last = found.Z, head
        if isinstance(head, FoldedHead):
            mapping, last = head
            Z = mapping(Z)
        return Features(Z, last(Z), found.labels)


def same_kind(first: Task, *others: Task) -> None:
    """Refuse tasks of which some have texts and others images."""
    for other in others:
        if other.kind != first.kind:
            raise ValueError(
                f"all tasks must be of one kind: {first.name} has {first.kind}s, {other.name} "
                f"{other.kind}s"
            )


def refuse_lacking(task: Task, train: Part) -> None:
    """Refuse samples to train on, or held out, that lack a class of the others.

    Raises
    ------
    ValueError
        With their number, and the classes.
    """
    for part, other, what in ((train, task.test, "training"), (task.test, train, "test")):
        missing = [task.classes[place] for place in np.setdiff1d(other.labels, part.labels)]
        if missing:
            raise ValueError(
                f"the {len(part.inputs)} {what} samples of {task.name} have none of the class "
                f"{', '.join(map(repr, missing[:5]))}{', ...' * (len(missing) > 5)}: take more of "
                "them, or fewer classes"
            )


def loaded(settings: Settings) -> Loaded:
    """Load network and tasks, and see that they fit.

    Raises
    ------
    OSError, ValueError
        Where they do not.
    ImportError
        Where attackers fine-tune and peft is not installed.
    """
    if settings.fine_tune:  # not after minutes of work
        with extra("lora"):
            import peft  # noqa: F401
    transformers.logging.disable_progress_bar()  # there is one of ours
    if len(settings.train_size) > 2:
        raise ValueError(
            "train_size must be one number, or that of benign tasks and that of the harmful one, "
            f"and is {', '.join(map(str, settings.train_size))}"
        )
    sizes = settings.train_size or (None,)
    tasks = [
        load(spec, settings.data_dir).subset(size, settings.test_size)
        for spec, size in (
            (settings.primary, sizes[0]), (settings.harmful, sizes[-1]),
            (settings.transfer, sizes[0]),
        )
        if spec is not None
    ]  # fmt: skip
    same_kind(*tasks)
    for task in tasks[:2]:
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
        tasks[0],
        trainable=settings.trainable,
        max_length=settings.max_length,
        image_size=settings.image_size,
        mean=settings.mean,
        std=settings.std,
    )
    primary, harmful = tasks[:2]
    benign = tasks[2] if len(tasks) > 2 else None
    all_rows = len(harmful.train.inputs)
    most = max(settings.defender_rows, default=0)
    if most > all_rows - settings.batch_size:
        raise ValueError(
            f"defender_rows must be at most {all_rows - settings.batch_size}, so that of the "
            f"{all_rows} training samples of {harmful.name} a batch is left for the attackers, "
            f"and is {most}"
        )
    parts = harmful.train.parted(max(most, all_rows // 2))
    for part, whose in zip(parts, ("defender", "attackers"), strict=True):
        if (part.labels == part.labels[0]).all():
            raise ValueError(
                f"of the training samples of {harmful.name}, the {len(part.inputs)} of the {whose} "
                f"are all of the class {harmful.classes[part.labels[0]]!r}: take more of them"
            )
    return Loaded(backbone, primary, harmful, benign, *parts)


@lru_cache(maxsize=1)
def prepared(settings: Settings, cache: Path, progress: Progress) -> Prepared:
    """Run the frozen part of the network once in each process; fit a head where there is none.

    Activations beyond one GiB are mapped from a nameless file in the folder `cache`.
    """
    here = loaded(settings)
    backbone = here.backbone

    def kept(part: Part, name: str, training: bool) -> Kept:
        return _kept(backbone, part, name, training, settings.batch_size, cache, progress)

    counts = settings.defender_rows or (len(here.defender.inputs),)
    activations, defended = {}, {}
    for letter, task in (("P", here.primary), ("H", here.harmful), ("T", here.benign)):
        if task is None:
            continue
        train = here.attacker if letter == "H" else task.train
        for what, part in (("train", train), ("test", task.test)):
            of = ", attacker's" if part is here.attacker else ""
            activations[f"{letter} {what}"] = kept(part, f"{task.name} {what}{of}", what == "train")
        for count in sorted(set(counts)) if letter == "H" else ():
            few = here.defender.some(count, seed=2)
            defended[count] = kept(few, f"{task.name} train, defender's", True)
    if not backbone.fitted:
        found = features(backbone.model, backbone.split, activations["P train"])
        head = backbone.model.get_submodule(backbone.split)
        assert isinstance(head, nn.Linear)
        _backbone.fit_head(head, found.Z, found.labels)
    before = of_parts(backbone.model, backbone.split, activations)
    return Prepared(
        backbone, here.primary, here.harmful, here.benign, here.defender, here.attacker,
        activations, defended, before,
    )  # fmt: skip


def of_parts(model: nn.Module, split: str, activations: Mapping[str, Kept]) -> dict[str, Features]:
    """Features of all parts."""
    return {name: features(model, split, kept) for name, kept in activations.items()}
