"""
Check a theorem, and find a counterexample
==========================================

Every statement of the paper and of this library is an object that checks itself on an instance. One
holds on every instance that it is shown; another one is printed with a step length that is too
long, and a search finds where.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_iris, load_linnerud

import immucond as ic

# %%
# A statement, on real data
# -------------------------
#
# The limit: no extractor drives the condition numbers of two tasks further apart than a ratio that
# their Gram matrices fix. The instance is made by hand: the exercises and the bodies of the
# linnerud data set, and a random extractor.

limit = ic.theorems.THEOREMS["limit"]
print(limit.statement)
X_P, X_H = load_linnerud(return_X_y=True)
theta = np.random.default_rng(0).normal(size=(3, 3))
known = ic.linear.immunity_limit(X_P=X_P, X_H=X_H)
print(f"largest RIR {known.rir:.4g}; of a random extractor "
      f"{ic.linear.immunity(theta, X_P, X_H).rir:.4g}")  # fmt: skip

# %%
# On random instances, nearly degenerate ones among them. The slack is how far the inequality is
# from its edge, relative to its sides.

rng = np.random.default_rng(0)
verdicts = [limit.check(limit.random(rng)) for _ in range(300)]
print(f"{sum(v.holds for v in verdicts)} of 300 hold, smallest slack "
      f"{min(v.slack for v in verdicts):.2g}")  # fmt: skip

# %%
# A statement that is false as printed
# ------------------------------------
#
# Theorem 4.3 (1) says for which steps descent on R_well lowers the condition number. `examine`
# tries instances, and makes the first that fails as small as it can.

printed = ic.theorems.THEOREMS["theorem-4.3-1"]
tried = ic.theorems.examine(printed, instances=200, seed=0)
print(f"{printed.name}: holds on {tried.held} of {tried.instances}")
print(f"counterexample: {dict(tried.counterexample.parameters)}")
print(f"true instead: {ic.theorems.THEOREMS[printed.corrected_by].statement}")

# %%
# What happens there, drawn on features that are real: the measurements of the iris data set, one
# preconditioned step from the identity, by its length. The sharp end is that of `step_interval`,
# the printed one that of the paper.

X = load_iris().data - load_iris().data.mean(0)
K, theta = X.T @ X / len(X), np.eye(4)
s = np.linalg.eigvalsh(K)[::-1]
sharp = ic.linear.step_interval(ic.r_well, theta=theta, gram=K)
_, gradient = ic.r_well.value_and_grad_theta(theta, K, preconditioned=True)
lengths = np.linspace(1e-4, 1.05 / (0.75 * s[0]), 400)
kappa = [ic.condition_number(ic.hessian(theta - eta * gradient, K)) for eta in lengths]

fig, ax = plt.subplots()
ax.semilogy(lengths, kappa, label="after one step")
ax.axhline(s[0] / s[-1], color="black", ls=":", label="before")
ax.axvline(sharp, color="#D55E00", ls="--", label="sharp end")
ax.axvline(1 / (0.75 * s[0]), color="#009E73", ls="-.", label="printed end, first of its bounds")
ax.set(xlabel="step length", ylabel="condition number")
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# What one sees: the condition number is below what it was up to the sharp end. Just beyond, where
# a step takes the largest eigenvalue through zero, it is as large as one likes, inside the printed
# interval; then it is lower again for a while. What this is good for: ``immucond theorems`` runs
# all statements, and :doc:`/theory/index` has the proofs.
