"""What immunization did to a network, on rows of both tasks: condition numbers and probes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._errors import ImmunityWarning
from ._activations import task_of
from ._batches import Batches, Outcome
from ._features import gathered, kappa
from ._probes import linear_probes
from ._split import SplitModel
from ._warn import _warn

ROWS = 4096
"""Rows of each task that are measured, at most."""

_ATTACKERS = ("sgd", "adam")


@dataclass(frozen=True, repr=False)
class DeepReport:
    """Both tasks before and after, in the exact convention: kappa over the nonzero eigenvalues.

    Attributes
    ----------
    rows : str
        "held-out", or "immunized on": then a share of them is a matter of fitting.
    counts : (int, int)
        Rows of the primary and of the harmful task that were measured, at most 4096 of each.
    kappa_P, kappa_H : float
        Condition numbers of the primary and of the harmful Hessian after.
    reference_kappa_P, reference_kappa_H : float
        The same before.
    accuracy : (float, float) or None
        Of the network on the primary rows, before and after; None without classes.
    probes : dict of str to (float, float)
        Accuracy that a linear probe reaches on the harmful task in 20 epochs (`linear_probes`),
        before and after, by attacker: "sgd", and the stronger "adam". Of held-out rows the probe
        is trained on those that were immunized on; else on every second one, and tested on the
        others. Empty without classes.
    """

    rows: str
    counts: tuple[int, int]
    kappa_P: float
    kappa_H: float
    reference_kappa_P: float
    reference_kappa_H: float
    accuracy: tuple[float, float] | None = None
    probes: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def i(self) -> float:
        """``kappa_H`` over that before: immunity wants it large."""
        return self.kappa_H / self.reference_kappa_H

    @property
    def ii(self) -> float:
        """``kappa_P`` over that before: at most 1 is wanted."""
        return self.kappa_P / self.reference_kappa_P

    @property
    def rir(self) -> float:
        """The ratio (i) / (ii)."""
        return self.i / self.ii

    def __repr__(self) -> str:
        shares = {f"{name} probe": pair for name, pair in self.probes.items()}
        if self.accuracy is not None:
            shares["primary"] = self.accuracy
        told = [f"(i) {self.i:.3g}", f"(ii) {self.ii:.3g}", f"rir {self.rir:.3g}"]
        told += [f"{name} {a:.1%} -> {b:.1%}" for name, (a, b) in shares.items()]
        return f"DeepReport({', '.join(told)}; {self.rows}, {sum(self.counts)} rows)"


class Measurement:
    """Rows of both tasks, and what a network makes of them before it is immunized."""

    def __init__(
        self,
        model: SplitModel,
        immunized_on: tuple[Batches, Batches],
        held_out: tuple[Batches, Batches] | None,
    ) -> None:
        self._train = immunized_on[1]
        self._tasks = held_out or immunized_on
        self._held_out = held_out is not None
        self._before = self._seen(model)

    def _seen(self, model: SplitModel) -> tuple[Outcome, Outcome, Outcome | None]:
        of = "held_out " if self._held_out else ""
        P, H = (
            gathered(model, task, of + name, ROWS)
            for task, name in zip(self._tasks, ("primary", "harmful"), strict=True)
        )
        train = gathered(model, self._train, "harmful", ROWS) if self._held_out else None
        return P, H, train

    def report(self, model: SplitModel) -> DeepReport:
        """Compare a network with the one before."""
        return self._compared(self._seen(model))

    def compared(self, other: Measurement) -> DeepReport:
        """Compare another network, measured on the same rows, with this one."""
        return self._compared(other._before)

    def _compared(self, after: tuple[Outcome, Outcome, Outcome | None]) -> DeepReport:
        before = self._before
        kappa_P, kappa_H, start_P, start_H = (
            kappa(task.features) for found in (after, before) for task in (found[0], found[1])
        )
        probed = [_probed(*found[1:]) for found in (before, after)]
        accuracy = [_accuracy(found[0]) for found in (before, after)]
        return DeepReport(
            "held-out" if self._held_out else "immunized on",
            (len(after[0].features), len(after[1].features)),
            kappa_P,
            kappa_H,
            start_P,
            start_H,
            accuracy=None if None in accuracy else (accuracy[0], accuracy[1]),  # type: ignore[arg-type]
            probes={name: (probed[0][name], probed[1][name]) for name in probed[0]},
        )


def _accuracy(found: Outcome) -> float | None:
    if found.labels is None or found.logits.ndim != 2:
        return None
    return float((found.logits.argmax(1) == found.labels).double().mean())


def _probed(test: Outcome, train: Outcome | None) -> dict[str, float]:
    """Accuracy of each attacker's probe in the end."""
    labels = test.labels if train is None else train.labels
    if labels is None or test.labels is None or int(labels.max()) == int(labels.min()):
        return {}
    seen: tuple[Tensor, Tensor]
    if train is None:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        mine, others = order[::2], order[1::2]
        seen, unseen = ((test.features[at], labels[at]) for at in (mine, others))
    else:
        seen, unseen = (train.features, labels), (test.features, test.labels)
    found = linear_probes(seen, unseen, attackers=_ATTACKERS)
    return {name: float(curve["accuracy"][-1]) for name, curve in found.items()}


def warn_if_easier(report: DeepReport) -> None:
    """Say where the harmful task got easier: by (i), or by a probe, beyond chance."""
    told = []
    if report.i < 1.0 - 1e-3:
        told.append(f"its condition number is {report.i:.3g} times what it was, (i)")
    tested = report.counts[1] if report.rows == "held-out" else report.counts[1] // 2
    for name, (before, after) in report.probes.items():
        share = (before + after) / 2.0
        if after - before > 2.0 * (2.0 * share * (1.0 - share) / tested) ** 0.5:
            told.append(f"a linear probe by {name} gets {after:.1%}, and got {before:.1%}")
    if told:
        _warn(
            f"the harmful task got easier, on the rows {report.rows}: {'; '.join(told)}",
            ImmunityWarning,
        )


@torch.random.fork_rng(devices=[])
def immunity_report(
    model: nn.Module,
    reference: nn.Module,
    primary: Any,
    harmful: Any,
    *,
    split: str | tuple[str, str],
    harmful_train: Any = None,
    device: Any = None,
) -> DeepReport:
    """Compare any network with another, such as one read back from a file with the original.

    Parameters
    ----------
    model, reference : nn.Module
        The immunized network, and the one that it was made from.
    primary, harmful : DataLoader, or iterable of batches
        Held-out rows, as in `immunize`; at most 4096 of each are read.
    split : str or (str, str)
        The name of the head of both, or of each. The input of this head is what an attacker sees:
        of a closed form ``"head.1"`` sees the map, and ``"head.0"`` is before it.
    harmful_train : DataLoader, or iterable of batches, optional
        What probes are trained on; by default every second row of `harmful`.
    device : torch.device, optional
        By default that of each model.

    Returns
    -------
    DeepReport

    Warns
    -----
    ImmunityWarning
        Where the harmful task got easier.

    Examples
    --------
    >>> import torch
    >>> import immucond.torch as ict
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    >>> primary, harmful = [torch.randn(200, 6)], [torch.randn(200, 6) * torch.arange(1.0, 7.0)]
    >>> done = ict.immunize(net, split="2", primary=primary, harmful=harmful, method="closed_form")
    >>> for seen in (done.split, "2.0"):  # behind the map, and before it
    ...     found = ict.immunity_report(done.model, net, primary, harmful, split=(seen, "2"))
    ...     print(found.i > 2)
    True
    False
    """
    names = (split, split) if isinstance(split, str) else tuple(split)
    if len(names) != 2:
        raise ValueError(f"split must be one name or that of each network, and is {split!r}")

    def tasks(where: torch.device) -> tuple[Any, Any]:
        P, H = task_of(primary, where, "primary"), task_of(harmful, where, "harmful")
        if harmful_train is None:
            return (P, H), None
        return (P, task_of(harmful_train, where, "harmful_train")), (P, H)

    found: list[Measurement] = []
    for network, name in ((reference, names[1]), (model, names[0])):
        first = next(network.parameters()).device
        where, training = torch.device(device) if device is not None else first, network.training
        try:
            head = SplitModel(network.to(where).eval(), name)
            found.append(Measurement(head, *tasks(where)))
        finally:
            network.to(first).train(training)
    report = found[0].compared(found[1])
    warn_if_easier(report)
    return report
