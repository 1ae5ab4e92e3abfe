"""The methods with the hyper-parameters that they run with on the House Price data."""

from __future__ import annotations

from .._methods import Method

# Eigenvalues that count as noise in the closed form and in the limit that is shown.
DELTA = 1e-3

# 100 epochs of batches of 64 from 200 rows, the last one incomplete, are 400 steps.
_STEPS = 400

METHODS = {
    "identity": Method("identity", "identity", {}, "none", seeded=False),
    "r-ill-only": Method(
        "R_ill only",
        "r_ill_only",
        {"lambda_H": 1e12, "lr": 5e-4, "steps": _STEPS, "preconditioner": "right"},
        "searched",
        (90.02, 72.415, 1.244),
    ),
    "imma": Method(
        "IMMA",
        "imma",
        {"lambda_H": 3.0, "inner_steps": 4, "lr": 0.005, "steps": 20, "optimizer": "adam"},
        "searched",
        (7.053, 3.545, 2.001),
    ),
    "opt-kappa": Method(
        "Opt kappa",
        "opt_kappa",
        {"lambda_P": 10.0**-1.5, "lambda_H": 1e-8, "lr": 0.005, "steps": _STEPS},
        "searched",
        (1.518, 0.016, 92.58),
    ),
    "published": Method(
        "Algorithm 1, published code",
        "published",
        {"lambda_P": 100.0, "lambda_H": 1e7, "lr": 0.005, "epochs": 100},
        "published",
        (18.92, 0.053, 356.20),
    ),
    "algorithm1-published": Method(
        "Algorithm 1, published values",
        "algorithm1",
        {"lambda_P": 100.0, "lambda_H": 1e7, "lr": 0.005, "steps": _STEPS},
        "published",
        (18.92, 0.053, 356.20),
    ),
    "algorithm1": Method(
        "Algorithm 1",
        "algorithm1",
        {"lambda_P": 10.0**-1.125, "lambda_H": 10.0**10.25, "lr": 0.005, "steps": _STEPS},
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
    "r-ill-only": {
        "lr": (5e-4, 5e-3),
        "lambda_H": tuple(10.0 ** (k / 2) for k in range(14, 25)),
    },
    "imma": {
        "lr": (2e-3, 5e-3, 1e-2),
        "steps": (5, 10, 20, 40),  # its loss has no bound: (i) and (ii) soon grow without one
        "lambda_H": (0.3, 1.0, 3.0),
        "inner_steps": (1, 4),
    },
    "opt-kappa": {
        "lr": (5e-3,),
        "lambda_P": tuple(10.0 ** (k / 2) for k in range(-8, 1)),
        "lambda_H": tuple(10.0**k for k in range(-10, -5)),
    },
    "algorithm1": {
        "lr": (5e-3,),  # the paper's: the head moves by it too
        "lambda_P": tuple(10.0 ** (k / 8) for k in range(-14, 1)),
        "lambda_H": tuple(10.0 ** (k / 4) for k in range(36, 47)),
    },
}
