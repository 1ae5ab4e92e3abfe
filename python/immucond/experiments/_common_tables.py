"""Tables that more than one experiment shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._format import brief, listed, number
from .._table import Table
from ..probing import LABELS
from ._methods import Method

LIMIT_SYMBOLS = (
    "RIR*: the largest RIR = (i) / (ii) that any extractor reaches. M: the pencil of K_H against "
    "K_P, K_P^(-1/2) K_H K_P^(-1/2); kappa: condition number."
)


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
        "published: those of the paper or its code; searched: chosen on training rows by --search; "
        "by hand: a few trials, or given.",
    )


def shown(method: Method) -> str:
    """Hyper-parameters as text."""
    return ", ".join(f"{name} = {listed(value)}" for name, value in method.parameters.items())


def norm_ratios(probed: Mapping[str, Mapping[str, Any]]) -> Table:
    """Show norm ratio and loss of gradient descent after 10, 100, ... steps, by method."""
    last = max(curve["step"][-1] for curves in probed.values() for curve in curves.values())
    marks = [10**k for k in range(1, 7) if 10**k <= last]
    rows: list[list[str]] = []
    for figure, title in (("norm_ratio", "norm ratio"), ("loss", "excess loss, relative to w = 0")):
        rows.append([title])
        for label, curves in probed.items():
            cells = []
            for task in ("primary", "harmful"):
                curve = curves[task]
                at = dict(zip(curve["step"], curve[figure], strict=True))
                floor = curve["best_loss"] if figure == "loss" else 0.0
                cells += [number(max(0.0, at.get(t, curve[figure][-1]) - floor)) for t in marks]
            rows.append([label, *cells])
    return Table(
        "Gradient descent with exact line search, after t steps",
        ("", *(f"{task}\n{t:,}" for task in ("primary", "harmful") for t in marks)),
        rows,
        "norm ratio: distance of the head to the best one, over that at w = 0, after t steps. "
        "Where a descent arrived before t, its value at its end. "
        "Immunized is: slower than the identity on the harmful task, faster on the primary one.",
        (("primary task", len(marks)), ("harmful task", len(marks))),
    )


def attackers(compared: Mapping[str, Mapping[str, Any]], targets: str = "") -> Table:
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
        f"kappa binds unpreconditioned first-order methods, not a least-squares solve. {targets}",
    )


def _effort(effort: Mapping[str, Any]) -> str:
    if effort["steps"] is not None:
        return f"{effort['steps']:,}"
    return f"> {effort['taken']:,} ({brief(float(effort['above']), 2)})"
