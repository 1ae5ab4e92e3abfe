"""The methods with the hyper-parameters that they run with on MNIST, by protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .._methods import Method

_IDENTITY = Method("identity", "identity", {}, "none", seeded=False)
_CLOSED_FORM = Method(
    "closed form",
    "closed_form",
    {"delta": "rounding", "kappa_P": "middle"},
    "closed form",
    seeded=False,
)


def _protocol(
    steps: Mapping[str, Any], hessians: Mapping[str, Any], lambdas: Mapping[str, float]
) -> dict[str, Method]:
    """Methods with what a protocol says of their steps, and of the Hessians they see.

    `lambdas` are those of Algorithm 1: eigenvalues of a batch are as much smaller as it is, and
    R_well steps by their first power, R_ill by their inverse third.
    """
    common = {"loss": "logistic", **steps}
    right = {"preconditioner": "right"}
    return {
        "identity": _IDENTITY,
        "r-ill-only": Method(
            "R_ill only",
            "r_ill_only",
            {**common, **hessians, **right, "lambda_H": 2e17, "lr": 0.005},
            "by hand",
        ),
        "imma": Method("IMMA", "imma", {**common, "lambda_H": 1.0, "lr": 1e-3}, "by hand"),
        "opt-kappa": Method(
            "Opt kappa",
            "opt_kappa",
            {**common, **hessians, **right, "lambda_P": 1e-12, "lambda_H": 1e-16, "lr": 0.005},
            "by hand",
        ),
        "algorithm1": Method(
            "Algorithm 1",
            "algorithm1",
            {**common, **hessians, **lambdas, "lr": 0.005},
            "searched",
        ),
        "closed-form": _CLOSED_FORM,
    }


METHODS = {
    "full-batch": _protocol({"steps": 30}, {}, {"lambda_P": 4e-5, "lambda_H": 1e17}),
    "mini-batch": {
        **_protocol(
            {"epochs": 30, "batch_size": 64},
            {"hessian": "batch"},
            {"lambda_P": 3e-3, "lambda_H": 1e12},
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

# What `immucond mnist --search` tries, every combination, and on which pairs. Theta feels lr times
# a weight, and lr alone moves the head only: it stays the paper's.
GRIDS: dict[str, dict[str, dict[str, tuple[float, ...]]]] = {
    "full-batch": {
        "algorithm1": {
            "lr": (5e-3,),
            "lambda_P": (1e-5, 2e-5, 4e-5, 8e-5),
            "lambda_H": (5e16, 1e17, 2e17, 4e17),
        },
    },
    "mini-batch": {
        "algorithm1": {
            "epochs": (3,),  # a tenth of the run
            "lr": (5e-3,),
            "lambda_P": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
            "lambda_H": (1e10, 1e11, 1e12, 1e13, 1e14),
        },
    },
}
# Top eigenvectors that lie apart (0, 1) and close together: the easiest and the hardest pairs.
SEARCH_PAIRS = ((0, 1), (9, 4), (8, 5))
