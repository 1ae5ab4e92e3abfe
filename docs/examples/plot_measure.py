"""
Measure a model's immunity
==========================

Somebody freezes your features and trains a linear head on them, for a task that you would rather
not help with. How many steps does that take, and for whom? Handwritten digits stand for the
features: 3 against 8 is the task to keep, 7 against 1 the harmful one.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import immucond as ic

X, digit = load_digits(return_X_y=True)


def task(one, other):
    """Features with a column of ones, for the intercept, and labels 1 and -1."""
    rows = np.isin(digit, (one, other))
    Z = X[rows] / 16
    return np.hstack([Z, np.ones((len(Z), 1))]), np.where(digit[rows] == one, 1.0, -1.0)


Z_P, y_P = task(3, 8)
Z_H, y_H = task(7, 1)

# %%
# First the quantities
# --------------------
#
# The condition number bounds how slowly the *weights* converge in their slowest direction; label
# alignment bounds how fast the *loss* can fall at all. Both belong to plain gradient descent.

for name, Z, y in (("primary", Z_P, y_P), ("harmful", Z_H, y_H)):
    kappa = ic.condition_number(features=Z)
    rho = ic.linear.alignment(Z[:, :-1], y).rho
    print(f"{name}: {len(Z)} rows, kappa {kappa:.3g}, label alignment rho {rho:.3f}")

# %%
# A large condition number, and yet the labels lie where descent is fast: rho is far from zero, so
# kappa alone says little. The next lines ask the attackers themselves.
#
# Then the attackers
# ------------------
#
# `probe` runs one attacker from zero; `steps_to` is the first step at which his loss is within 1 %
# of the best one there is.

attackers = {
    "gd": "gradient descent",
    "nesterov": "Nesterov",
    "cg": "conjugate gradients",
    "whitening": "whitened features",
    "lstsq": "least squares",
}
steps = 3000
traces = {name: ic.probing.probe(Z_H, y_H, method=name, steps=steps) for name in attackers}
for name, trace in traces.items():
    needed = trace.steps_to(0.01)
    print(f"{attackers[name]:20s} {'more' if needed is None else needed} steps to within 1 %")

# %%
fig, ax = plt.subplots(figsize=(7.0, 2.6))
needed = [trace.steps_to(0.01) or steps for trace in traces.values()]
bars = ax.barh(list(attackers.values()), needed, height=0.6)
ax.bar_label(bars, [f" {n:,}" for n in needed])
ax.set(xscale="log", xlim=(0.8, 3 * steps), xlabel="steps to within 1 % of the best harmful loss")
ax.invert_yaxis()
ax.grid(visible=False, axis="y")
plt.show()

# %%
# What one sees: the same features cost one attacker hundreds of steps and another a single one.
# Immunity is therefore never one number, and the strongest attacker decides. What follows: before
# a map is judged by its condition number, run :func:`immucond.probing.compare` on the features
# before and after it, as :doc:`plot_immunize` does.
