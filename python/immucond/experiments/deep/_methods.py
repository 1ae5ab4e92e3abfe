"""The methods with the hyper-parameters that they run with on deep networks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .._methods import Method

# As `immucond.torch.immunize` has them, by default; named here too, since it needs PyTorch.
_TRAINED = {"lr": 3e-3, "momentum": 0.9, "epochs": 2, "label_smoothing": 0.0}

METHODS = {
    "identity": Method("theta_0", "identity", {}, "none", seeded=False),
    "algorithm1": Method(
        "Algorithm 1", "algorithm1", {**_TRAINED, "terms": (1.0, 10.0)}, "by hand"
    ),
    "closed-form": Method(
        "closed form, (ii) = 1", "closed_form", {"ii": 1.0}, "closed form", seeded=False
    ),
    "r-ill-only": Method("R_ill only", "r_ill", {**_TRAINED, "terms": (0.0, 3.0)}, "by hand"),
    "imma": Method("IMMA", "imma", {**_TRAINED, "terms": (0.0, 3.0)}, "by hand"),
    "opt-kappa": Method("Opt kappa", "opt_kappa", {**_TRAINED, "terms": (1.0, 0.03)}, "by hand"),
}


def chosen_methods(
    names: tuple[str, ...] | None, overrides: Mapping[str, Mapping[str, Any]]
) -> dict[str, Method]:
    """Return methods by name; `overrides` replaces hyper-parameters by method, "" is for all.

    Only those that a method has are replaced, and weights take the place of terms.
    """
    wanted = tuple(METHODS) if names is None else names
    unknown = [name for name in wanted if name not in METHODS]
    if unknown:
        raise ValueError(f"methods must be of {', '.join(METHODS)}, and name {', '.join(unknown)}")
    chosen = {}
    for name in METHODS:
        if name in wanted:
            method = METHODS[name]
            changed = {**overrides.get("", {}), **overrides.get(name, {})}
            kept = dict(method.parameters)
            if "terms" in kept and "lambdas" in changed:
                del kept["terms"]
                kept["lambdas"] = changed["lambdas"]
            known = {key: value for key, value in changed.items() if key in kept}
            chosen[name] = replace(method, parameters={**kept, **known})
    return chosen
