"""A card: what raw runs say of a release, put together."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._format import plain
from ._lacks import lacks
from ._page import claim, metadata, section
from ._reading import Value, public_name, shown
from ._runs import NETWORKS, Attack, AttackRun, Runs, runs_of
from ._seeds import Bounds, Summary, over_seeds, within
from ._tamperbench import records


@dataclass(frozen=True, repr=False)
class Card:
    """A release card; ``print`` it for its section of a model card.

    Attributes
    ----------
    numbers : dict
        All that it says, as plain values that JSON holds.
    """

    numbers: dict[str, Any]
    _attacks: tuple[AttackRun, ...] = field(repr=False)

    @property
    def lacks(self) -> list[str]:
        """What the runs do not show, in a word or two each."""
        return [lack["what"] for lack in self.numbers["lacks"]]

    def __repr__(self) -> str:
        missing = ", ".join(dict.fromkeys(self.lacks))
        return f"Card({self.numbers['name']!r}, lacks {missing})"

    def __str__(self) -> str:
        return section(self.numbers)

    _repr_markdown_ = __str__

    def as_dict(self) -> dict[str, Any]:
        """Return `numbers`."""
        return self.numbers

    def json(self) -> str:
        """Return the file ``card.json``: the same bytes for the same raw runs."""
        return as_json(self.numbers)

    def markdown(self) -> str:
        """Return the file ``card.md``: Hugging Face's metadata, and the section."""
        return f"---\n{metadata(self.numbers)}---\n\n{section(self.numbers)}"

    def tamperbench(self) -> dict[str, Any]:
        """Return the attacks in TamperBench's schema of a sweep's best trials.

        By the path at which TamperBench keeps such a record,
        ``MODEL/ATTACK/optuna_single/best.json``. Names of attacks and of what is measured are
        immucond's, which TamperBench does not know.
        """
        return records(self.numbers["name"], self._attacks)


def card(*runs: Any, name: str | None = None) -> Card:
    """Make a release card of raw runs.

    Parameters
    ----------
    *runs : path-like, dict, or object with ``as_dict``
        ``leak.json``, ``cost.json`` and ``attack.json`` as the commands write them, or folders that
        hold them; dictionaries of the same; or reports: `LeakProfile`, `NetworkCost`, and those of
        attacks, one a seed. In any order.
    name : str, optional
        Of the release; by default that of its folder.

    Returns
    -------
    Card

    Raises
    ------
    OSError
        For files that are not there or cannot be read.
    ValueError
        For what is no raw run, values that are missing or not what they should be, two runs for one
        thing, and runs that contradict one another: of another release or other data, or attacks
        by another target or budget.
    TypeError
        For what is neither a path nor a report.

    Notes
    -----
    Over seeds the card has the median, the worst, and the interval of the median by order
    statistics, of numbers that are paired: the release against the reference, and against a network
    trained anew, of the same seed. Steps beyond the budget are known to be more, and every number
    that comes of them is bounded rather than told. What is asked for follows Acceptance Cards
    (arXiv 2605.10575): reliability, fresh data, mechanism, transfer.

    Examples
    --------
    >>> import torch, immucond.deep as icd
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Linear(4, 3))
    >>> batches = [(torch.randn(50, 4), torch.arange(50) % 2)]
    >>> profile = icd.leak_profile(net, batches, primary=batches, held_out=batches)
    >>> found = icd.card(profile, name="my-model")
    >>> found.numbers["leak"]["ceiling"] == profile.ceiling, "attacks" in found.lacks
    (True, True)
    """
    if not isinstance(name, str | None):
        raise TypeError(f"name must be a string, and is of type {type(name).__name__}")
    found = runs_of(runs)
    called = public_name(name) if name is not None else found.names.get("release", "release")
    told: dict[str, Any] = {
        "card": 1,
        "name": called,
        **{key: _thing(found, key) for key in ("release", "reference", "harmful", "primary")},
        "leak": None if found.leak is None else _leak(found.leak),
        "cost": _cost(found.costs),
        "attack": _attack(found.attacks) if found.attacks else None,
        "lacks": lacks(found),
        "settings": found.settings,
        "versions": found.versions,
    }
    numbers: dict[str, Any] = plain(told)
    numbers["claim"] = claim(numbers)
    return Card(numbers, found.attacks)


def as_json(value: Any) -> str:
    """JSON with sorted keys, none of whose numbers is NaN or infinite."""
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _thing(runs: Runs, key: str) -> dict[str, str | None] | None:
    """Name and fingerprint of a network or of data; None for what has neither."""
    name, print_of = runs.names.get(key), runs.fingerprints.get(key)
    return None if name is None and print_of is None else {"name": name, "fingerprint": print_of}


def _leak(profile: Value) -> dict[str, Any]:
    cuts = profile["cuts"].items()
    logits, unaided = profile.get("logits"), profile.get("unaided")
    ceiling, where = profile["ceiling"].share(), profile["where"].text()
    read = {shown(name): cut["accuracy"].share() for name, cut in cuts.items()}
    if read.get(where) != ceiling or ceiling < max(read.values()):
        raise ValueError(
            f"{profile.file}: the ceiling is {ceiling:.1%} at {where!r}, and the most that a cut "
            f"shows is {max(read.values(), default=0.0):.1%}, {where!r} {read.get(where, 0.0):.1%}"
        )
    return {
        "ceiling": ceiling,
        "where": where,
        "majority": profile["majority"].share(),
        "classes": profile["classes"].count(2),
        "rows": {name: count.count() for name, count in profile["rows"].items().items()},
        "logits": None if logits is None else _probe(logits),
        "unaided": None if unaided is None else unaided["accuracy"].share(),
        "cuts": [{"cut": name, **_probe(cut)} for name, cut in cuts.items()],
    }


def _probe(cut: Value) -> dict[str, Any]:
    untrained = cut.get("untrained")
    return {
        "accuracy": cut["accuracy"].share(),
        "standard_error": cut["standard_error"].finite(),
        "rank": cut["rank"].count(),
        "kappa": cut["kappa"].number(),
        "rho": cut["rho"].number(),
        "untrained": None if untrained is None else untrained["accuracy"].share(),
    }


def _cost(costs: Mapping[tuple[str, str], Value]) -> list[dict[str, Any]]:
    return [
        {
            "network": network,
            "params": params,
            "steps": {
                share: {side: steps[side].number() for side in ("lower", "forecast", "upper")}
                for share, steps in cost["steps"].by_share().items()
            },
            "krylov": {share: n.number() for share, n in cost["krylov"].by_share().items()},
            "error": cost["error"].number(),
            "lazy": cost["lazy"].flag(),
            "certified": cost["certified"].flag(),
        }
        for (network, params), cost in costs.items()
    ]


def _attack(runs: Sequence[AttackRun]) -> dict[str, Any]:
    first = runs[0]
    release, *others = (_needed(runs, network) for network in NETWORKS)
    assert release is not None
    attacks = _over_seeds(runs)
    reached = [one for one in attacks if one["reached"]]
    return {
        "target": first.target,
        "steps": first.steps,
        "trials": first.trials,
        "max_utility_drop": first.max_utility_drop,
        "classes": first.classes,
        "seeds": [_seed(run) for run in runs],
        "needed": {
            network: None if found is None else over_seeds(list(found.values())).as_dict()
            for network, found in zip(NETWORKS, (release, *others), strict=True)
        },
        **{
            name: None if (paired := _paired(release, other)) is None else paired.as_dict()
            for name, other in zip(("factor", "scratch_share"), others, strict=True)
        },
        "defeats": sorted(reached, key=lambda one: (one["fewest"], one["attacker"], one["start"])),
        "withstood": [one for one in attacks if not one["reached"]],
    }


def _needed(runs: Iterable[AttackRun], network: str) -> dict[int, Bounds] | None:
    """Return the strongest attack's steps by seed; None where the network was not attacked."""
    found = {
        run.seed: within(strongest.steps, run.steps)
        for run in runs
        if (strongest := run.strongest[network]) is not None
    }
    return found or None


def _paired(release: Mapping[int, Bounds], other: Mapping[int, Bounds] | None) -> Summary | None:
    """Return the steps on the release over those on another network, over seeds."""
    if other is None:
        return None
    return over_seeds([release[seed].over(steps) for seed, steps in other.items()])


def _seed(run: AttackRun) -> dict[str, Any]:
    """One seed: the strongest attackers, and what comes of them."""
    strongest = {
        network: None
        if one is None
        else {name: getattr(one, name)
              for name in ("attacker", "start", "steps", "passes", "seconds")}
        for network, one in run.strongest.items()
    }  # fmt: skip
    steps = _needed([run], "release")
    assert steps is not None
    pairs = {
        name: _paired(steps, _needed([run], network))
        for name, network in (("factor", "reference"), ("scratch_share", "scratch"))
    }
    return {
        "seed": run.seed,
        "rows": run.rows,
        "majority": run.majority,
        "strongest": strongest,
        **{name: None if x is None else x.median._asdict() for name, x in pairs.items()},
    }


def _over_seeds(runs: Sequence[AttackRun]) -> list[dict[str, Any]]:
    """Every attack on the release, over the seeds in which it ran."""
    by_name: dict[tuple[str, str], list[tuple[AttackRun, Attack]]] = {}
    for run in runs:
        for attack in run.attacks["release"]:
            by_name.setdefault((attack.attacker, attack.start), []).append((run, attack))
    return [_one_attack(*name, of) for name, of in sorted(by_name.items())]


def _one_attack(
    attacker: str, start: str, of: Sequence[tuple[AttackRun, Attack]]
) -> dict[str, Any]:
    best = min((attack for _, attack in of), key=lambda attack: (attack.steps, attack.passes))
    return {
        "attacker": attacker,
        "start": start,
        "seeds": len(of),
        "reached": sum(math.isfinite(attack.steps) for _, attack in of),
        "steps": over_seeds([within(attack.steps, run.steps) for run, attack in of]).as_dict(),
        "fewest": best.steps,
        "passes": best.passes,
        "seconds": best.seconds,
        "trials": min(attack.trials for _, attack in of),
        "diverged": sum(attack.diverged for _, attack in of),
        "loss": min(attack.loss for _, attack in of),
        "accuracy": max(attack.accuracy for _, attack in of),
        "rfd": _median([attack.rfd for _, attack in of]),
        "rfd_signed": _median([attack.rfd_signed for _, attack in of]),
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None
