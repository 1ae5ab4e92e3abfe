"""Attackers by their names: what each trains, by which rule, and what it searches over."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ..._errors import extra
from .._attacked import ADAPTERS, as_rank


@dataclass(frozen=True)
class Rule:
    """How a step is made, and what is searched.

    Attributes
    ----------
    rates : tuple of int
        Decades of its rate, from the least to the largest.
    also : mapping of str to tuple
        Further settings; the first value of each is the one to start with.
    whole : bool
        Whether a step takes all rows, and not one batch.
    before : int
        Passes over its rows that a step takes besides those of its loss.
    """

    rates: tuple[int, ...]
    also: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    whole: bool = False
    before: int = 0


def _decades(low: int, high: int) -> tuple[int, ...]:
    return tuple(range(low, high + 1))


# Rates of gd and momentum are in units of one over the mean square norm of what enters the head;
# of least squares the rate is the ridge, and of logistic regression C, for features of variance 1.
RULES: dict[str, Rule] = {
    "gd": Rule(_decades(-5, 2)),
    "momentum": Rule(_decades(-6, 1), {"momentum": (0.9, 0.95, 0.8, 0.99)}),
    "adam": Rule(_decades(-5, 0), {"betas": ([0.9, 0.999], [0.9, 0.95], [0.8, 0.99])}),
    "adamw": Rule(_decades(-5, 0), {"weight_decay": (1e-2, 1e-1, 1e-3)}),
    "muon": Rule(_decades(-4, 1), {"others": (0.1, 1.0, 0.01), "momentum": (0.95, 0.9)}),
    "lbfgs": Rule(_decades(-2, 0), {"history": (20, 100)}, whole=True),
    "kfac": Rule(_decades(-2, 0), {"damping": (1e-6, 1e-10, 1e-3, 1e-1)}, whole=True, before=1),
    "lstsq": Rule(_decades(-12, 0), whole=True),
    "logistic": Rule(_decades(-3, 5), whole=True),
}
SOLVERS = ("lstsq", "logistic")
STANDARD = (
    "gd", "momentum", "adam", "muon", "lbfgs", "kfac", "lora-8", "probe-gd", "probe-adam", "lstsq",
    "logistic", "whitening",
)  # fmt: skip
_ADAPTER = re.compile(rf"({'|'.join(ADAPTERS)})-([1-9][0-9]*)")


@dataclass(frozen=True)
class Attacker:
    """Who attacks.

    Attributes
    ----------
    name : str
    rule : str
        In `RULES`.
    trains : str
        "full", "head", or a kind of adapter.
    rank : int
        Of adapters.
    whitened : bool
        Whether it whitens the features by itself, whatever it starts from.
    """

    name: str
    rule: str
    trains: str = "full"
    rank: int = 0
    whitened: bool = False

    @property
    def probes(self) -> bool:
        """Whether a head on features that stay as they are is all that is trained."""
        return self.trains == "head"

    def space(self, also: Mapping[str, tuple[Any, ...]]) -> Rule:
        """Return what it searches, with what its start lets it choose besides.

        Of white features the rate that descent wants is known within a decade; whoever trains more
        than a head by Adam wants a tenth of the rate.
        """
        rule = RULES[self.rule]
        known = self.probes and self.rule in ("gd", "momentum") and "ridge" in also
        rates = rule.rates[-3:] if known else rule.rates
        if not self.probes and self.rule in ("adam", "adamw"):
            rates = tuple(rate - 1 for rate in rates)
        return replace(rule, rates=rates, also={**also, **rule.also})


def parse_attackers(names: str | Sequence[str]) -> list[Attacker]:
    """Return attackers by their names; "standard" are those of `STANDARD`.

    Raises
    ------
    TypeError, ValueError
        For what names none.
    ImportError
        Where the extra is missing that one of them needs.
    """
    if isinstance(names, str):
        names = STANDARD if names == "standard" else (names,)
    listed = list(names) if hasattr(names, "__iter__") else []
    if not listed or not all(isinstance(name, str) for name in listed):
        raise TypeError(f"attackers must be 'standard' or names, and is {names!r}")
    found = [_parsed(name) for name in dict.fromkeys(listed)]
    if any(attacker.trains in ADAPTERS for attacker in found):
        with extra("lora"):
            import peft  # noqa: F401  (missing, it is to be told now)
    if any(attacker.rule == "logistic" for attacker in found):
        with extra("sklearn"):
            import sklearn  # noqa: F401
    return found


def _parsed(name: str) -> Attacker:
    adapter = _ADAPTER.fullmatch(name)
    if adapter:
        return Attacker(name, "adam", adapter[1], as_rank(int(adapter[2]), f"rank of {name!r}"))
    if name == "whitening":
        return Attacker(name, "gd", "head", whitened=True)
    if name in SOLVERS:
        return Attacker(name, name, "head")
    rule = name.removeprefix("probe-")
    if rule in RULES and rule not in SOLVERS:
        return Attacker(name, rule, "full" if rule == name else "head")
    descents = [rule for rule in RULES if rule not in SOLVERS]
    known = [
        *descents,
        *SOLVERS,
        "whitening",
        f"probe-{descents[0]}",
        *(f"{a}-8" for a in ADAPTERS),
    ]
    raise ValueError(
        f"attackers must be of {', '.join(known)} (any rule after probe-, any rank), and one is "
        f"{name!r}"
    )
