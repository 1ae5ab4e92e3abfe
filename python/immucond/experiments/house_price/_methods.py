"""The methods with the hyper-parameters that they run with on the House Price data."""

from __future__ import annotations

from .._methods import Method

# Eigenvalues that count as noise in the closed form and in the limit that is shown.
DELTA = 1e-3

METHODS = {
    "identity": Method("identity", "identity", {}, "none", seeded=False),
    "algorithm1": Method(
        "Algorithm 1",
        "algorithm1",
        {"loss": "squared", "lambda_P": 0.03, "lambda_H": 1e9, "lr": 0.005, "steps": 100},
        "searched",
        (18.92, 0.053, 356.20),
    ),
    "closed-form": Method(
        "closed form",
        "closed_form",
        {"delta": DELTA, "kappa_P": 1.0},
        "closed form",
        seeded=False,
    ),
}

# What `immucond house-price --search` tries: every combination.
GRIDS = {
    "algorithm1": {
        "lr": (5e-4, 5e-3, 5e-2),
        "lambda_P": tuple(10.0 ** (k / 2) for k in range(-6, 1)),
        "lambda_H": tuple(10.0 ** (k / 2) for k in range(12, 25)),
    },
}
