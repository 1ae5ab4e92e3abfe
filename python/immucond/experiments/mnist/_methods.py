"""The methods with the hyper-parameters that they run with on MNIST, by protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._methods import Method, Source

_IDENTITY = Method("identity", "identity", {}, "none", seeded=False)
_CLOSED_FORM = Method(
    "closed form",
    "closed_form",
    {"delta": "rounding", "kappa_P": "middle"},
    "closed form",
    seeded=False,
)


# What `immucond mnist --search` tries, every combination, by protocol. Theta feels lr times a
# weight, and lr alone moves the head only: where theta moves by R_well, R_ill or kappa, it stays
# the paper's.
GRIDS: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {
    "full-batch": {
        "r-ill-only": {"lr": (5e-3,), "lambda_H": tuple(10.0**k for k in range(15, 22))},
        "imma": {
            "lr": (1e-3, 1e-2, 1e-1),
            "lambda_H": (0.1, 1.0, 10.0),
            "inner_steps": (1, 4),
        },
        "opt-kappa": {
            "lr": (5e-3,),
            # At 1000 the first step takes theta's top singular value through 0, at 10 kappa_H
            # grows until it leaves float64 behind: more of either is not stable.
            "lambda_P": (10.0, 30.0, 100.0, 300.0),
            "lambda_H": (0.1, 0.3, 1.0, 3.0),
        },
        "algorithm1": {
            "lr": (5e-3,),
            "lambda_P": (1e-5, 2e-5, 4e-5, 8e-5),
            "lambda_H": (5e16, 1e17, 2e17, 4e17),
        },
    },
    "mini-batch": {  # by a tenth of the run
        "r-ill-only": {
            "epochs": (3,),
            "lr": (5e-3,),
            "lambda_H": tuple(10.0**k for k in range(9, 16)),
        },
        "algorithm1": {
            "epochs": (3,),
            "lr": (5e-3,),
            "lambda_P": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
            "lambda_H": (1e10, 1e11, 1e12, 1e13, 1e14),
        },
    },
}
# Top eigenvectors that lie apart (0, 1) and close together: the easiest and the hardest pairs.
SEARCH_PAIRS = ((0, 1), (9, 4), (8, 5))


def _protocol(
    protocol: str,
    steps: Mapping[str, Any],
    hessians: Mapping[str, Any],
    weights: Mapping[str, Mapping[str, float]],
) -> dict[str, Method]:
    """Methods with what a protocol says of their steps and of the Hessians they see.

    Weights of one protocol are not those of the other: eigenvalues of a batch are as much smaller
    as it is, and R_well steps by their first power, R_ill by their inverse third.
    """

    def iterative(name: str, label: str, fit: str, parameters: Mapping[str, Any]) -> Method:
        source: Source = "searched" if name in GRIDS[protocol] else "by hand"
        chosen = {"loss": "logistic", **steps, **parameters, "lr": 5e-3, **weights[name]}
        return Method(label, fit, chosen, source)

    # kappa differs by four orders of magnitude among the digits: no fixed weights suit all pairs.
    balance = {"balance": "gradient-norm"}
    right = {"preconditioner": "right"}
    return {
        "identity": _IDENTITY,
        "r-ill-only": iterative("r-ill-only", "R_ill only", "r_ill_only", {**hessians, **right}),
        "imma": iterative("imma", "IMMA", "imma", {}),
        "opt-kappa": iterative("opt-kappa", "Opt kappa", "opt_kappa", {**hessians, **balance}),
        "algorithm1": iterative("algorithm1", "Algorithm 1", "algorithm1", hessians),
        "closed-form": _CLOSED_FORM,
    }


METHODS = {
    "full-batch": _protocol(
        "full-batch",
        {"steps": 30},
        {},
        {
            "r-ill-only": {"lambda_H": 1e19},
            "imma": {"lr": 1e-3, "lambda_H": 0.1, "inner_steps": 4},
            "opt-kappa": {"lambda_P": 300.0, "lambda_H": 3.0},
            "algorithm1": {"lambda_P": 4e-5, "lambda_H": 1e17},
        },
    ),
    "mini-batch": {
        **_protocol(
            "mini-batch",
            {"epochs": 30, "batch_size": 64},
            {"hessian": "batch"},
            {
                "r-ill-only": {"lambda_H": 1e14},
                "imma": {"lr": 1e-3, "lambda_H": 0.1, "inner_steps": 4},
                "opt-kappa": {"lambda_P": 1.0, "lambda_H": 0.01},
                "algorithm1": {"lambda_P": 3e-3, "lambda_H": 1e12},
            },
        ),
        "published": Method(
            "Algorithm 1, published code",
            "published",
            {"loss": "logistic", "lambda_P": 1.0, "lambda_H": 5e7, "lr": 1e-3, "epochs": 30,
             "ridge": (1.0, 1e-7)},
            "published",
        ),
    },
}  # fmt: skip
NAMES = tuple(METHODS["mini-batch"])
