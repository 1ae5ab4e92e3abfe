"""The methods with the hyper-parameters that they run with on MNIST, by protocol."""

from __future__ import annotations

from .._methods import Method

PROTOCOLS = ("full-batch", "mini-batch")
_FULL = {"loss": "logistic", "steps": 30}

METHODS = {
    "identity": Method("identity", "identity", {}, "none", seeded=False),
    "algorithm1": Method(
        "Algorithm 1",
        "algorithm1",
        {**_FULL, "lambda_P": 3e-5, "lambda_H": 1e17, "lr": 0.005},
        "searched",
    ),
    "closed-form": Method(
        "closed form",
        "closed_form",
        {"delta": "rounding", "kappa_P": "middle"},
        "closed form",
        seeded=False,
    ),
}

# What `immucond mnist --search` tries, every combination, and on which pairs.
GRIDS = {
    "algorithm1": {
        "lr": (5e-3,),
        "lambda_P": tuple(10.0**k for k in range(-6, -2)),
        "lambda_H": tuple(10.0**k for k in range(14, 20)),
    },
}
SEARCH_PAIRS = ((0, 1), (1, 0), (4, 9))
