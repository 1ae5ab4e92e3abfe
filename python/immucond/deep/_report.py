"""What immunization did to a network, on rows of both tasks: condition numbers and probes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from .._display import Columns, Curves, Plotted, Tabular, history_columns, history_curves
from .._errors import ImmunityWarning, warn
from .._format import OF_NETWORKS, easier, not_harder, times
from .._rank import epsilon
from .._validate import FloatArray
from ..linear import FadeMap, alignment
from ._activations import task_of
from ._batches import Batches, Measured, gathered, kappa_and_rank
from ._head import SplitModel
from ._maps import NetworkFade
from ._network import array, heads_named, served
from ._probes import linear_probes
from ._rir import Ratios

ROWS = 4096
"""Rows of each task that are measured, at most."""

_ATTACKERS = ("sgd", "adam")


@dataclass(frozen=True, repr=False)
class DeepReport(Ratios[float], Tabular):
    """Both tasks before and after, in the exact convention: kappa over the nonzero eigenvalues.

    Attributes
    ----------
    rows : str
        "held-out"; "immunized on", a share of which is a matter of fitting; or "given", which
        `immunity_report` says of any.
    counts : (int, int)
        Rows of the primary and of the harmful task that were measured, at most 4096 of each.
    kappa_P, kappa_H : float
        Condition numbers of the primary and of the harmful Hessian after.
    reference_kappa_P, reference_kappa_H : float
        The same before.
    rank_P, rank_H, reference_rank_P, reference_rank_H : int
        How many eigenvalues they are taken over. Where a rank changed, (i) or (ii) compares
        different spectra, and says little.
    rho, reference_rho : float or None
        Alignment of the harmful labels with the features after and before, as by
        `immucond.linear.alignment`; None without classes.
    changed : int or None
        Primary rows that are put in another class than before, of all that were measured; None
        where the network has not two logits or more.
    tested : int
        Rows of the harmful task that probes are tested on.
    accuracy : (float, float) or None
        Of the network on the primary rows, before and after; None without classes, which are whole
        numbers below the number of logits. Of one logit they are 0 and 1, and 1 is predicted where
        it is positive.
    probes : dict of str to (float, float)
        Accuracy that a linear probe reaches on the harmful task in 20 epochs (`linear_probes`),
        before and after, by attacker: "sgd", and the stronger "adam". Of held-out rows the probe
        is trained on those that were immunized on; else on every second one, and tested on the
        others. Empty without classes: labels that are no whole numbers, are all the same, or are
        more than half as many as the rows.
    """

    rows: str
    counts: tuple[int, int]
    kappa_P: float
    kappa_H: float
    reference_kappa_P: float
    reference_kappa_H: float
    rank_P: int
    rank_H: int
    reference_rank_P: int
    reference_rank_H: int
    tested: int
    accuracy: tuple[float, float] | None = None
    probes: dict[str, tuple[float, float]] = field(default_factory=dict)
    rho: float | None = None
    reference_rho: float | None = None
    changed: int | None = None

    def __repr__(self) -> str:
        shares = {f"{name} probe": pair for name, pair in self.probes.items()}
        if self.accuracy is not None:
            shares["primary"] = self.accuracy
        eased = not_harder(self.i, self.rir, OF_NETWORKS) if not self._rank_change("H") else ""
        rir = f"rir {self.rir:.3g}{f' ({eased})' if eased else ''}"
        told = [f"(i) {self.i:.3g}", f"(ii) {self.ii:.3g}", rir]
        if self.rho is not None:
            told.append(f"rho {self.reference_rho:.3g} -> {self.rho:.3g}")
        told += [f"rank_{task} {found}" for task in "PH" if (found := self._rank_change(task))]
        told += [f"{name} {a:.1%} -> {b:.1%}" for name, (a, b) in shares.items()]
        return f"DeepReport({', '.join(told)}; {self.rows}, {sum(self.counts)} rows)"

    def _columns(self) -> Columns:
        pairs: dict[str, tuple[Any, Any] | None] = {
            **{
                f"{name}_{task}": tuple(
                    getattr(self, f"{of}{name}_{task}") for of in ("reference_", "")
                )
                for name in ("kappa", "rank")
                for task in "PH"
            },
            "rho": None if self.rho is None else (self.reference_rho, self.rho),
            "primary accuracy": self.accuracy,
            **{f"probe by {name}: accuracy": pair for name, pair in self.probes.items()},
        }
        told = {name: pair for name, pair in pairs.items() if pair is not None}
        before, after = zip(*told.values(), strict=True)
        return {"": [*told], "before": before, "after": after}

    def _rank_change(self, task: str) -> str:
        before, after = (getattr(self, f"{of}rank_{task}") for of in ("reference_", ""))
        return f"{before} -> {after}" if before != after else ""


@dataclass(frozen=True, eq=False)
class DeepImmunization(Plotted):
    """An immunized network, and how it came about.

    Attributes
    ----------
    model : nn.Module
        A copy of the model that was given, immunized, in evaluation mode.
    split : str
        The name of the linear layer whose input are its features; where a layer was put before the
        head (by the closed form, and by fade that is inserted), the folded head's last layer.
    history : dict of str to (steps,) array
        Every term at every step: ``loss`` (of the primary task), ``well`` and ``ill`` (the terms of
        the primary and of the harmful features), their weights ``lambda_P`` and ``lambda_H``, and
        the Frobenius norms of their gradients by the features ``grad_loss``, ``grad_well``,
        ``grad_ill``. Empty for the closed form, and for fade unless it is distilled.
    report : DeepReport or None
        (i), (ii), RIR and what linear probes get of the harmful task, before and after. None where
        it could not be measured, such as where the features collapsed to zero; a warning says why.
    fade : NetworkFade or None
        Of fade: the map, what holds it, and by how much primary logits changed.
    """

    model: nn.Module = field(repr=False)
    split: str
    history: dict[str, FloatArray] = field(repr=False)
    report: DeepReport | None
    fade: NetworkFade | None = None

    def __repr__(self) -> str:
        told = "" if self.fade is None else f", fade={self.fade!r}"
        return f"DeepImmunization(split={self.split!r}, report={self.report!r}{told})"

    def _columns(self) -> Columns:
        return history_columns(self.history)

    def _curves(self) -> Curves:
        return history_curves(self.history, ("loss", "well", "ill"))


class Measurement:
    """Rows of both tasks, and what a network makes of them before it is immunized."""

    def __init__(
        self,
        model: SplitModel,
        tasks: tuple[Batches, Batches],
        train: Batches | None,
        rows: str,
        computed_in: Any = None,
    ) -> None:
        self._how = tasks, train, rows, computed_in
        of = "held_out " if rows == "held-out" else ""
        self.P, self.H = (
            gathered(model, task, of + name, ROWS)
            for task, name in zip(tasks, ("primary", "harmful"), strict=True)
        )
        name = "harmful_train" if rows == "given" else "harmful"
        self.train = None if train is None else gathered(model, train, name, ROWS)

    def report(self, model: SplitModel) -> DeepReport:
        """Compare another network, on the same rows, with this one."""
        return self.compared(Measurement(model, *self._how))

    def compared(self, after: Measurement) -> DeepReport:
        """Compare another network, measured on the same rows, with this one."""
        *_, rows, _ = self._how
        figures: dict[str, Any] = {}
        for of, found in (("", after), ("reference_", self)):
            figures |= {of + name: value for name, value in found.kappas().items()}
        probed = [_probed(found.H, found.train) for found in (self, after)]
        before, now = (_accuracy(found.P) for found in (self, after))
        reference_rho, rho = (found.rho() for found in (self, after))
        count = len(after.H.features)
        return DeepReport(
            rows,
            (len(after.P.features), count),
            **figures,
            tested=count // 2 if self.train is None else count,
            accuracy=None if before is None or now is None else (before, now),
            probes={name: (probed[0][name], probed[1][name]) for name in probed[0]},
            rho=None if reference_rho is None else rho,
            reference_rho=None if rho is None else reference_rho,
            changed=_changed(self.P, after.P),
        )

    def kappas(self) -> dict[str, float]:
        """Return the condition numbers of both tasks, and the ranks that they are taken over."""
        found: dict[str, float] = {}
        for task, seen in (("P", self.P), ("H", self.H)):
            kappa, rank = kappa_and_rank(seen.features, self._how[-1])
            found |= {f"kappa_{task}": kappa, f"rank_{task}": rank}
        return found

    def rho(self) -> float | None:
        """Alignment of the harmful labels; None where they are no classes."""
        return _rho(self.H, self._how[-1])

    def rho_under(self, A: FadeMap) -> float | None:
        """Alignment of the harmful labels with the features before, under a map."""
        mapped = torch.from_numpy(array(self.H.features) @ A)
        computed_in = self._how[-1]
        precision = self.H.features.dtype if computed_in is None else computed_in
        return _rho(self.H._replace(features=mapped), precision)


def _accuracy(found: Measured) -> float | None:
    """Return None unless the labels are classes of these logits."""
    guesses, labels = found.guesses, found.labels
    if labels is None or guesses is None or int(labels.max()) >= max(2, found.classes):
        return None
    return float((guesses == labels).double().mean())


def _changed(before: Measured, after: Measured) -> int | None:
    """Rows whose largest logit is another one."""
    if before.guesses is None or after.guesses is None or before.classes < 2:
        return None
    if (before.classes, len(before.guesses)) != (after.classes, len(after.guesses)):
        return None
    return int((before.guesses != after.guesses).sum())


def _rho(found: Measured, computed_in: Any) -> float | None:
    """Alignment of harmful labels; None without two classes, or with a class for each row."""
    if found.labels is None:
        return None
    classes = len(torch.unique(found.labels))
    if not 1 < classes < len(found.labels) or bool((found.features == found.features[0]).all()):
        return None
    precision = found.features.dtype if computed_in is None else computed_in
    return alignment(array(found.features), found.labels.numpy(), computed_in=precision).rho


def _probed(test: Measured, train: Measured | None) -> dict[str, float]:
    """Accuracy of each attacker's probe in the end."""
    labels = test.labels if train is None else train.labels
    if labels is None or test.labels is None:
        return {}
    # Numbers of their own: labels are names, and the largest may be any.
    named, numbers = torch.unique(torch.cat([labels, test.labels]), return_inverse=True)
    labels, of_test = numbers[: len(labels)], numbers[len(labels) :]
    if bool((labels == labels[0]).all()) or 2 * len(named) > len(labels):
        return {}
    seen: tuple[Tensor, Tensor]
    if train is None:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
        mine, others = order[::2], order[1::2]
        seen, unseen = ((test.features[at], labels[at]) for at in (mine, others))
    else:
        seen, unseen = (train.features, labels), (test.features, of_test)
    found = linear_probes(seen, unseen, attackers=_ATTACKERS)
    return {name: float(curve["accuracy"][-1]) for name, curve in found.items()}


def warn_if_easier(report: DeepReport) -> None:
    """Say where the harmful task got easier: by (i), or by a probe, beyond chance.

    And where a rank changed, so that (i) or (ii) does not tell.
    """
    for name, figure, had, has in (
        ("primary", "(ii)", report.reference_rank_P, report.rank_P),
        ("harmful", "(i)", report.reference_rank_H, report.rank_H),
    ):
        if had != has:
            warn(
                f"the {name} features have rank {has} and had rank {had}, on the rows "
                f"{report.rows}: {figure} compares different spectra, and does not tell",
                ImmunityWarning,
            )
    told = []
    if report.rank_H == report.reference_rank_H and easier(report.i, OF_NETWORKS):
        told.append(f"its condition number is {times(report.i)} times what it was, (i)")
    for name, (before, after) in report.probes.items():
        share = (before + after) / 2.0
        if after - before > 2.0 * (2.0 * share * (1.0 - share) / report.tested) ** 0.5:
            told.append(f"a linear probe by {name} gets {after:.1%}, and got {before:.1%}")
    if told:
        warn(
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
    computed_in: Any = None,
    device: Any = None,
) -> DeepReport:
    """Compare any network with another, such as one read back from a file with the original.

    Parameters
    ----------
    model, reference : nn.Module
        The immunized network, and the one that it was made from.
    primary, harmful : DataLoader, or iterable of batches
        Rows to measure on, best such as neither network has seen; at most 4096 of each are read.
    split : str or (str, str)
        The name of the head of both, or of each. The input of this head is what an attacker sees:
        of a closed form ``"head.1"`` sees the map, and ``"head.0"`` is before it.
    harmful_train : DataLoader, or iterable of batches, optional
        What probes are trained on; by default every second row of `harmful`.
    computed_in : dtype_like, optional
        The precision in which the features are computed, as in `immunize`.
    device : torch.device, optional
        By default that of each model.

    Returns
    -------
    DeepReport

    Raises
    ------
    ValueError, TypeError
        As `immunize`: for heads that are not there, and tasks that are no batches, have fewer than
        two rows, or features that are not finite.

    Warns
    -----
    ImmunityWarning
        Where the harmful task got easier, or a rank changed.

    Notes
    -----
    Source: arXiv 2505.23760, Definition 3.1.

    Examples
    --------
    >>> import torch
    >>> import immucond.deep as icd
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    >>> primary, harmful = [torch.randn(200, 6)], [torch.randn(200, 6) * torch.arange(1.0, 7.0)]
    >>> done = icd.immunize(net, split="2", primary=primary, harmful=harmful, method="closed_form")
    >>> for seen in (done.split, "2.0"):  # behind the map, and before it
    ...     found = icd.immunity_report(done.model, net, primary, harmful, split=(seen, "2"))
    ...     print(found.i > 2)
    True
    False
    """
    names = heads_named(split)
    if computed_in is not None:
        epsilon(computed_in)  # refuses what is no dtype

    found: list[Measurement] = []
    for network, name in ((reference, names[1]), (model, names[0])):
        with served(network, device) as (ready, where):
            tasks = task_of(primary, where, "primary"), task_of(harmful, where, "harmful")
            given = harmful_train is not None
            train = task_of(harmful_train, where, "harmful_train") if given else None
            found.append(Measurement(SplitModel(ready, name), tasks, train, "given", computed_in))
    report = found[0].compared(found[1])
    warn_if_easier(report)
    return report
