"""The leak profile of a network in a folder, on a primary and a harmful task: ``immucond leak``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from ..._errors import extra
from ..._format import number
from ..._show import Table
from .._units import Progress, silent
from ._data import load
from ._prepare import refuse_lacking, same_kind
from ._release import Measured, ReleaseSettings, figure_of, fit_head, load_release, loader_of
from ._unaided import Unaided, unaided

with extra("deep"):
    import torch

from ...deep import LeakProfile, leak_profile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DATA = ("primary", "harmful")
_NOTE = (
    "ceiling: held-out accuracy on the harmful task of the best linear probe at the cut, ± its "
    "standard error; its ridge is measured by the primary features, so that no invertible map of "
    "the features changes it{outside}. untrained: the same with weights drawn anew. served logits: "
    "what whoever keeps all outputs cannot go below. kappa and rho (label alignment): how slowly "
    "plain descent gets there."
)
_OUTSIDE = (
    " (!: but for held-out rows that leave the span of both tasks' rows; more primary rows help)"
)
_OTHER = (
    ", since the network has none for its classes: what logits of its own give away is not told"
)


@dataclass(frozen=True, kw_only=True)
class LeakSettings(ReleaseSettings):
    """What a profile depends on; the defaults are those of ``immucond leak``.

    Attributes
    ----------
    primary, harmful : str
        As in `Settings`.
    cuts : tuple of str
        Names of modules or patterns; found by default.
    test_size : int or None
        Most held-out harmful rows.
    untrained : bool
        Whether the same network is profiled with weights drawn anew.
    """

    primary: str
    harmful: str
    cuts: tuple[str, ...] = ()
    test_size: int | None = 2000
    untrained: bool = True


@dataclass(frozen=True)
class Leak(Measured):
    """A profile, and the fingerprints of what it is of: network and data, whatever was drawn."""

    settings: LeakSettings
    profile: LeakProfile
    own_head: bool
    unaided: Unaided

    @property
    def head(self) -> str:
        """Whose logits are probed."""
        if self.own_head:
            return "the network's own"
        return f"a new one, fitted to {self.settings.primary}"

    def table(self) -> Table:
        """Every cut with its ceiling."""
        found = self.profile
        rows = [
            [name, str(found.widths[name]), str(c.rank), number(c.kappa), number(c.rho),
             c.told, f"{found.untrained[name].accuracy:.1%}" if name in found.untrained else ""]
            for name, c in self._probed().items()
        ]  # fmt: skip
        counts = ", ".join(f"{n:,} {name.replace('_', '-')}" for name, n in found.rows.items())
        beside = f"{found.majority:.1%} by a constant guess of {found.classes} classes"
        if found.where in found.untrained:
            beside = f"{found.untrained[found.where].accuracy:.1%} untrained and {beside}"
        beside = f"{self.unaided}, {beside}"
        note = _NOTE.format(outside=_OUTSIDE if any("!" in row[5] for row in rows) else "")
        if self.fingerprints["primary"] == self.fingerprints["harmful"]:
            note = f"Both tasks are the same data: this is how well the network knows it. {note}"
        return Table(
            f"What is read of {self.settings.harmful} at every cut",
            ("", "features", "rank", "kappa", "rho", "ceiling", "untrained"),
            rows,
            f"Most is read at {found.where}: {found.ceiling:.1%}, beside "
            f"{beside}. {note} The head is {self.head}{'' if self.own_head else _OTHER}. Rows: "
            f"{counts}.",
        )

    def _probed(self) -> dict[str, Any]:
        logits = self.profile.logits
        return {**self.profile.cuts, **({} if logits is None else {"served logits": logits})}

    def figure(self) -> Figure:
        """Ceilings by depth, of the release and untrained, with the floor of the logits."""
        width = max(6.0, 2.4 + 0.5 * len(self.profile.cuts))
        return figure_of(self.profile, (width, 5.0), self.table().title)

    def numbers(self) -> dict[str, Any]:
        """Return what was measured."""
        told = {**self.profile.as_dict(), "unaided": self.unaided._asdict()}
        return {"head": self.head, "profile": told}


def leak(settings: LeakSettings, progress: Progress = silent) -> Leak:
    """Load a network and both tasks, and profile it.

    Raises
    ------
    OSError, ValueError
        Where they are not there or do not fit, and as `immucond.deep.leak_profile`.
    """
    data = {name: load(getattr(settings, name), settings.data_dir) for name in _DATA}
    primary, harmful = (
        task.subset(settings.train_size, settings.test_size) for task in data.values()
    )
    same_kind(primary, harmful)
    refuse_lacking(harmful, harmful.train)
    torch.manual_seed(settings.seed)
    backbone = load_release(settings, settings.backbone, primary)
    loader = partial(loader_of, backbone, batch_size=settings.batch_size)

    if not backbone.fitted:
        fit_head(backbone, loader(primary.train), progress)

    def tell(batch: int, about: Mapping[str, Any]) -> None:
        again = f", pass {about['pass']}" if about["pass"] > 1 else ""
        name = about["data"].replace("_", "-")
        progress(f"{about['network']}, {name}{again}", batch, about["batches"])

    profile = leak_profile(
        backbone.model,
        loader(harmful.train),
        primary=loader(primary.train),
        held_out=loader(harmful.test),
        cuts=settings.cuts or "auto",
        untrained=settings.untrained,
        split=backbone.split,
        seed=settings.seed,
        callback=tell,
    )
    prints = {name: task.fingerprint for name, task in data.items()}
    release = {"release": backbone.features_fingerprint, **prints}
    alone = unaided(harmful.train, harmful.test, progress)
    return Leak(settings, release, profile, backbone.fitted, alone)
