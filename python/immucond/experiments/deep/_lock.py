"""Locks of others on a network in a folder, as baselines: ``immucond lock``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from ..._errors import extra
from ..._format import number
from ..._show import Table
from ...deep import gauge
from ...deep.parts import Inserted, SplitModel
from .._units import Progress, silent
from . import _saved
from ._data import load
from ._release import Measured, ReleaseSettings, fit_head, load_release, loader_of

with extra("deep"):
    import torch
    from torch import Tensor, nn
    from torch.utils.data import DataLoader

_LABELS = {"specdef": "SpecDef", "gauges": "random gauges"}


@dataclass(frozen=True, kw_only=True)
class LockSettings(ReleaseSettings):
    """What a lock depends on; the defaults are those of ``immucond lock``.

    Attributes
    ----------
    primary : str
        The task that the network is for.
    kind : {"specdef", "gauges"}
    strength : float
    top : int
        As in :func:`immucond.deep.gauge.lock`.
    test_size : int or None
        Held-out rows on which the outputs are compared.
    """

    primary: str
    kind: Literal["specdef", "gauges"] = "specdef"
    strength: float = 1e3
    top: int = 2
    test_size: int | None = 1000


@dataclass(frozen=True)
class Locked(Measured):
    """What became of the outputs.

    Attributes
    ----------
    accuracy : tuple of float
        Of the primary task, before and after.
    error : float
        Largest change of a row's logits, relative to the largest logit of all.
    inserted : int
        Layers that are new.
    rows : int
    """

    settings: LockSettings
    accuracy: tuple[float, float]
    error: float
    inserted: int
    rows: int

    def table(self) -> Table:
        """Before and after."""
        before, after = (f"{share:.2%}" for share in self.accuracy)
        given = self.settings
        name = f"{_LABELS[given.kind]}, strength {number(given.strength)}"
        return Table(
            f"{Path(given.backbone).name} under a lock",
            ("", f"accuracy on {given.primary}", "logits differ by", "layers inserted"),
            [["as it is", before, "", ""],
             [name, after, f"{self.error:.1e}", str(self.inserted)]],
            f"{self.rows:,} held-out rows; differences relative to the largest logit. A lock slows "
            "who descends from the parameters as they are, and nobody else: immucond attack.",
        )  # fmt: skip

    def numbers(self) -> dict[str, Any]:
        """Return what was measured."""
        return {"accuracy": self.accuracy, "error": self.error, "inserted": self.inserted,
                "rows": self.rows}  # fmt: skip


def lock_release(settings: LockSettings, progress: Progress = silent, *, folder: Path) -> Locked:
    """Load a network, lock it, and write it into the folder.

    Raises
    ------
    OSError, ValueError
        Where network or data are not there or do not fit, where the folder has files that are no
        network of a command's, and as `immucond.deep.gauge.lock`.
    """
    _saved.refuse_foreign(folder)  # now, and not after the work
    data = load(settings.primary, settings.data_dir)
    primary = data.subset(settings.train_size, settings.test_size, settings.seed)
    torch.manual_seed(settings.seed)
    backbone = load_release(settings, settings.backbone, primary, own=True)
    loader = partial(loader_of, backbone, batch_size=settings.batch_size)
    if not backbone.fitted:
        fit_head(backbone, loader(primary.train), progress)
    progress("lock", 0, 1)
    inputs, _ = next(iter(loader(primary.train)))
    too_much = f"strength {settings.strength:g} is more than the network's weights bear"
    try:
        locked = gauge.lock(
            backbone.model, strength=settings.strength, top=settings.top, seed=settings.seed,
            groups="specdef" if settings.kind == "specdef" else "all",
            data=None if settings.kind == "specdef" else inputs,
        )  # fmt: skip
    except torch.linalg.LinAlgError as singular:  # type: ignore[attr-defined]
        raise ValueError(f"{too_much}: {singular}") from singular
    progress("lock", 1, 1)
    test = loader(primary.test)
    before, after = (
        _logits(network, progress, what, split, test)
        for network, what, split in (
            (backbone.model, "as it is", backbone.split),
            (locked, "locked", _saved.last_of(locked, backbone.split)),
        )
    )
    labels = torch.cat([cast(Tensor, found) for _, found in test])
    accuracy = tuple(float((x.argmax(1) == labels).double().mean()) for x in (before, after))
    if not torch.isfinite(after).all():
        raise ValueError(f"{too_much}: its logits are not finite any more")
    error = float((after - before).abs().max() / before.abs().max())
    _saved.save_anew(backbone, locked, folder)
    return Locked(
        settings, {"release": backbone.features_fingerprint, "primary": data.fingerprint},
        cast("tuple[float, float]", accuracy), error,
        sum(isinstance(module, Inserted) for module in locked.modules()), len(labels),
    )  # fmt: skip


@torch.no_grad()
def _logits(
    model: nn.Module, progress: Progress, what: str, split: str, batches: DataLoader[Any]
) -> Tensor:
    network, found = SplitModel(model, split), []
    for place, (inputs, _) in enumerate(batches, 1):
        found.append(network(inputs).logits)
        progress(what, place, len(batches))
    return torch.cat(found)
