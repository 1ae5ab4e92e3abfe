"""A card as a section of a model card: Hugging Face's metadata, and Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from .._format import number
from .._show import Table
from ._seeds import Bounds, Summary, span


def _bounds(told: Mapping[str, Any]) -> Bounds:
    return Bounds(float(told["lower"]), float(told["upper"]))


def _summary(told: Mapping[str, Any]) -> Summary:
    interval = told["interval"]
    return Summary(
        told["seeds"], _bounds(told["median"]), _bounds(told["worst"]),
        None if interval is None else _bounds(interval), told["level"],
    )  # fmt: skip


def _figure(value: Any) -> str:
    """Text of a number, which may be the string "inf"."""
    return "" if value is None else number(float(value))


def _quoted(thing: Mapping[str, Any] | None, otherwise: str) -> str:
    """Name of a network or of data, as code, with its fingerprint."""
    if thing is None:
        return otherwise
    parts = [f"`{thing[key]}`" for key in ("name", "fingerprint") if thing[key] is not None]
    return " ".join(part.replace("|", "\\|") for part in parts)


# ---- what is claimed ----


def claim(numbers: Mapping[str, Any]) -> str:
    """Return what the attacks show, in a sentence or two."""
    attack = numbers["attack"]
    if attack is None:
        return "Nothing is claimed: no attack was run."
    needed, factor = (_summary(attack["needed"]["release"]),
                      attack["factor"] and _summary(attack["factor"]))  # fmt: skip
    tried = len(attack["defeats"]) + len(attack["withstood"])
    said = (
        f"The strongest of {tried} attacks, each by its best of up to {attack['trials']} trials of "
        f"{attack['steps']} steps, needs {needed.median} steps to a held-out cross-entropy of "
        f"{number(attack['target'])}: the median of {_seeds(needed.seeds)}, {needed.worst} at "
        "worst."
    )
    if not factor:
        return said
    said += (
        f" That is {factor.median} times what the strongest attack on the reference needs "
        f"({factor.told}), {factor.worst} at worst."
    )
    if factor.worst.lower <= 1.0:
        said += " In the worst seed no protection is shown."
    return said


def _seeds(count: int) -> str:
    return f"{count} seed{'' if count == 1 else 's'}"


# ---- Markdown ----


def section(numbers: Mapping[str, Any]) -> str:
    """Return the section of a model card."""
    parts = [
        f"## How hard `{numbers['name']}` is to misuse",
        numbers["claim"],
        _about(numbers),
        *(table.markdown().rstrip() for table in _tables(numbers)),
        "**What this card lacks**",
        "\n".join(f"- *{lack['what']}*: {lack['why']}" for lack in numbers["lacks"]),
        _made(numbers["versions"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(numbers: Mapping[str, Any]) -> str:
    attack = numbers["attack"]
    cap = "" if attack is None else attack["max_utility_drop"]
    lines = [
        ("Released", _quoted(numbers["release"], "not told")),
        ("Reference", _quoted(numbers["reference"], "none")),
        ("Harmful data", _quoted(numbers["harmful"], "not told")),
        ("Primary data", _quoted(numbers["primary"], "not told")),
        ("Utility an attack may cost", "" if cap in ("", None) else f"{cap:.1%}"),
    ]
    return "\n".join(f"- {what}: {value}" for what, value in lines if value)


def _tables(numbers: Mapping[str, Any]) -> Iterable[Table]:
    if numbers["attack"] is not None:
        yield _strongest(numbers["attack"])
        yield _defeats(numbers["attack"])
    if numbers["leak"] is not None:
        yield _leak(numbers["leak"])
    if numbers["cost"]:
        yield _cost(numbers["cost"])


def _strongest(attack: Mapping[str, Any]) -> Table:
    budget = attack["steps"]

    def steps(one: Mapping[str, Any] | None) -> str:
        if one is None:
            return ""
        return f"> {budget}" if one["steps"] == "inf" else _figure(one["steps"])

    def quotient(told: Mapping[str, Any] | None) -> str:
        return "" if told is None else str(_bounds(told))

    def attacked(release: Mapping[str, Any]) -> list[str]:
        if release["steps"] == "inf":
            return ["none suffices", steps(release), "", ""]
        return [_name(release), *(_figure(release[x]) for x in ("steps", "passes", "seconds"))]

    rows = [
        [f"seed {seed['seed']}", *attacked(seed["strongest"]["release"]),
         *(steps(seed["strongest"][network]) for network in ("reference", "scratch")),
         quotient(seed["factor"]), quotient(seed["scratch_share"])]
        for seed in attack["seeds"]
    ]  # fmt: skip
    told = [
        None if x is None else _summary(x)
        for x in (*attack["needed"].values(), attack["factor"], attack["scratch_share"])
    ]
    for what in ("median", "worst", "interval"):
        cells = ["" if x is None else _cell(x, what) for x in told]
        if any(cells):
            rows.append([_label(told[0], what), "", cells[0], "", "", *cells[1:]])
    rows_of = "; ".join(dict.fromkeys(
        ", ".join(f"{n:,} {part.replace('_', '-')}" for part, n in seed["rows"].items())
        for seed in attack["seeds"]
    ))  # fmt: skip
    guesses = sorted(seed["majority"] for seed in attack["seeds"])
    guess = " to ".join(dict.fromkeys(f"{share:.1%}" for share in (guesses[0], guesses[-1])))
    return Table(
        "The strongest attack",
        ("", "attack", "steps", "passes", "seconds", "reference", "scratch", "factor", "share"),
        rows,
        f"Steps to a held-out cross-entropy of {number(attack['target'])}, within {budget} steps, "
        f"by the best of up to {attack['trials']} trials an attack. factor: steps over those of "
        "the strongest attack on the reference of the same seed. share: over those from scratch, "
        "the ceiling of every defence. >, <: known to be beyond, as the budget ended before. "
        f"Rows: {rows_of}. A constant guess: {guess} of "
        f"{attack['classes']} classes.",
    )


def _label(summary: Summary | None, what: str) -> str:
    if what != "interval" or summary is None or summary.level is None:
        return what
    return f"{summary.level:.0%} interval"


def _cell(summary: Summary, what: str) -> str:
    found = getattr(summary, what)
    if found is None:
        return ""
    return span(found) if what == "interval" else str(found)


def _name(one: Mapping[str, Any]) -> str:
    return one["attacker"] if one["start"] == "plain" else f"{one['attacker']}, {one['start']}"


def _defeats(attack: Mapping[str, Any]) -> Table:
    rows = [
        [_name(one), f"{one['reached']} of {one['seeds']}", _figure(one["fewest"]),
         str(_bounds(one["steps"]["median"])), _figure(one["passes"]), _figure(one["seconds"]),
         str(one["trials"]), f"{one['accuracy']:.1%}", _figure(one["rfd_signed"])]
        for one in attack["defeats"]
    ]  # fmt: skip
    others = "; ".join(
        f"{_name(one)} (at best {_figure(one['loss'])}, {one['accuracy']:.1%})"
        for one in attack["withstood"]
    )
    return Table(
        "What defeats it",
        ("attack", "seeds", "fewest steps", "median", "passes", "seconds", "trials", "accuracy",
         "signed RFD"),
        rows or [["nothing that was tried"]],
        "Attacks that reached the target, by the fewest steps; passes and seconds are of these, "
        "accuracy is the best that was seen on held-out rows. "
        + (f"Not within the budget: {others}." if others else "Each reached it in some seed."),
    )  # fmt: skip


def _leak(leak: Mapping[str, Any]) -> Table:
    cuts, logits = leak["cuts"], leak["logits"]
    chosen = [cut for cut in cuts if cut["cut"] == leak["where"] or cut is cuts[-1]]
    chosen += [] if logits is None else [{"cut": "served logits", **logits}]
    rows = [
        [cut["cut"], _figure(cut["rho"]), _figure(cut["kappa"]), str(cut["rank"]),
         f"{cut['accuracy']:.1%} ± {cut['standard_error']:.1%}",
         "" if cut["untrained"] is None else f"{cut['untrained']:.1%}"]
        for cut in chosen
    ]  # fmt: skip
    counts = ", ".join(f"{n:,} {name.replace('_', '-')}" for name, n in leak["rows"].items())
    alone = "" if leak["unaided"] is None else (
        f"Without any network, by a plain classifier of the samples: {leak['unaided']:.1%}. "
    )  # fmt: skip
    return Table(
        "What is read of the harmful task",
        ("", "rho", "kappa", "rank", "ceiling", "untrained"),
        rows,
        f"Held-out accuracy of the best linear probe, of {len(cuts)} cuts that at which most is "
        "read and the last one. No invertible map of the features changes it. kappa and rho (label "
        "alignment): how slowly plain descent gets there. "
        + (
            "untrained: the same network, weights drawn anew. "
            if any(row[-1] for row in rows)
            else ""
        )
        + alone
        + f"A constant guess: {leak['majority']:.1%} of {leak['classes']} classes. Rows: {counts}.",
    )


def _cost(costs: Iterable[Mapping[str, Any]]) -> Table:
    costs = list(costs)
    shares = sorted({share for cost in costs for share in cost["steps"]}, key=float, reverse=True)

    def steps(cost: Mapping[str, Any], share: str) -> str:
        found = cost["steps"].get(share)
        return "" if found is None else span(_bounds(found))

    rows = [
        [f"{cost['network']}, {cost['params']}", *(steps(cost, share) for share in shares),
         f"{float(cost['error']):.1%}{'' if cost['lazy'] else ' !'}"]
        for cost in costs
    ]  # fmt: skip
    return Table(
        "What gradient descent costs, forecast",
        ("trained", *(f"steps to {float(share):.0%}" for share in shares), "error"),
        rows,
        "Squared loss; steps until that share of it is left, of the network as if it were linear "
        "in its parameters, between bounds. error: of the forecast within a real run; where the "
        "network is not lazy (!), the forecast says little.",
    )


def _made(versions: Mapping[str, Any]) -> str:
    """With what the raw runs were made, each thing once."""
    said = {
        ", ".join(f"{name} {of[name]}" for name in sorted(of)) for found in versions.values()
        for of in found
    }  # fmt: skip
    kinds = ", ".join(f"`immucond {kind}`" for kind, found in sorted(versions.items()) if found)
    return f"Made from raw runs of {kinds}; {'; '.join(sorted(said))}." if said else ""


# ---- Hugging Face's metadata ----


def metadata(numbers: Mapping[str, Any]) -> str:
    """Return the YAML of a model card: tags, and results in a model index.

    After huggingface_hub's ``ModelCardData`` and ``EvalResult``. It is written here so that the
    bytes hang on no version of it.
    """
    data = numbers["harmful"] or {}
    name = data.get("name") or "harmful task"
    args = {"fingerprint": data["fingerprint"]} if data.get("fingerprint") else None
    result = {
        "task": {"type": "other", "name": "Relearning of a harmful task"},
        "dataset": {"type": name, "name": name, **({"args": args} if args else {})},
        "metrics": [
            {"type": kind, "value": value, "name": told} for kind, value, told in _metrics(numbers)
        ],
    }
    about = {"tags": ["immucond", "model-immunization"]}
    if result["metrics"]:
        about["model-index"] = [{"name": numbers["name"], "results": [result]}]  # type: ignore[list-item]
    return _yaml(about)


def _metrics(numbers: Mapping[str, Any]) -> Iterable[tuple[str, Any, str]]:
    leak, attack = numbers["leak"], numbers["attack"]
    if leak is not None:
        told = f"Held-out accuracy of the best linear probe at any cut ({leak['where']})"
        yield "accuracy", leak["ceiling"], told
    if attack is None:
        return
    steps = "Steps of the strongest attack"
    for name, found, told in (
        ("steps_to_target", attack["needed"]["release"],
         f"{steps} to a held-out cross-entropy of {number(attack['target'])}"),
        ("factor", attack["factor"], f"{steps} over those on the reference"),
        ("scratch_share", attack["scratch_share"], f"{steps} over those on a network trained anew"),
    ):  # fmt: skip
        if found is not None:
            yield name, _value(found), f"{told}, median of {_seeds(found['seeds'])}"


def _value(told: Mapping[str, Any]) -> float | str:
    """Return the median as a number where it is known and finite, else as text."""
    median = _bounds(told["median"])
    known = median.lower == median.upper and math.isfinite(median.lower)
    return median.lower if known else str(median)


def _yaml(value: Any, indent: str = "") -> str:
    """Write objects and lists as blocks; a scalar in JSON is one of YAML too."""
    if isinstance(value, Mapping):
        return "".join(f"{indent}{key}:{_nested(item, indent)}" for key, item in value.items())
    return "".join(
        f"{indent}- {_yaml(item, f'{indent}  ').lstrip(' ')}"
        if isinstance(item, Mapping | list)
        else f"{indent}-{_nested(item, indent)}"
        for item in value
    )


def _nested(item: Any, indent: str) -> str:
    if isinstance(item, Mapping | list):
        deeper = indent if isinstance(item, list) else f"{indent}  "
        return f"\n{_yaml(item, deeper)}"
    text = json.dumps(item, ensure_ascii=False, allow_nan=False)
    if isinstance(item, float) and "." not in text:  # 5e-05, which readers of YAML 1.1 call a text
        text = text.replace("e", ".0e")
    return f" {text}\n"
