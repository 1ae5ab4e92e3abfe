"""Tables that more than one experiment shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..probing._compare import LABELS
from ._format import number
from ._methods import Method
from ._table import Table


def parameters(methods: Mapping[str, Method]) -> Table:
    """Hyper-parameters, and where they come from."""
    rows = [
        [method.label, method.source, shown(method)]
        for method in methods.values()
        if method.source != "none"
    ]
    return Table(
        "Hyper-parameters",
        ("", "where from", "values"),
        rows,
        "published: those of the paper or its code; searched: chosen on training rows by --search.",
    )


def shown(method: Method) -> str:
    """Hyper-parameters as text."""
    return ", ".join(
        f"{name} = {value:g}" if isinstance(value, float | int) else f"{name} = {value}"
        for name, value in method.parameters.items()
    )


def attackers(compared: Mapping[str, Mapping[str, Any]]) -> Table:
    """Tell what each attacker needs after each method, as ``probing.compare`` found."""
    some = next(iter(compared.values()))
    rows = []
    for attacker in some["attackers"]:
        efforts = [told["attackers"][attacker]["after"] for told in compared.values()]
        rows.append([LABELS[attacker], *map(_effort, efforts)])
    rows.append(["kappa", *(number(float(c["kappa"]["after"])) for c in compared.values())])
    rows.append(
        ["label energy in slow directions",
         *(f"{c['slow_share']['after']:.2%}" for c in compared.values())]
    )  # fmt: skip
    return Table(
        f"What immunity is worth: steps to within {some['tolerance']:.0%} of the best harmful loss",
        ("attacker", *compared),
        rows,
        "> : not reached; in brackets how far the loss is above the best, relative to it. "
        "kappa binds unpreconditioned first-order methods, not a least-squares solve.",
    )


def _effort(effort: Mapping[str, Any]) -> str:
    if effort["steps"] is not None:
        return f"{effort['steps']:,}"
    return f"> {effort['taken']:,} ({float(effort['above']):.2g})"
