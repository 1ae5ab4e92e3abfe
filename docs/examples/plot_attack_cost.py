"""
What an attack costs: a certificate, and the run
================================================

How many steps of gradient descent does a probe need? A few products with the features bound the
loss at *every* step, without running any. The data are those of the diabetes data set with all
products of two measurements: features whose spectrum falls over many decades.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_diabetes
from sklearn.preprocessing import PolynomialFeatures

import immucond as ic

X, y = load_diabetes(return_X_y=True)
Z = PolynomialFeatures(2, include_bias=False).fit_transform(X / X.std(0))
Z, y = Z - Z.mean(0), y - y.mean()
print(f"{Z.shape[0]} rows, {Z.shape[1]} features, kappa {ic.condition_number(features=Z):.2g}")

# %%
# The more products, the tighter: each is one multiplication by the features and one by their
# transpose. The run that they bracket is made as well, and has to lie between.

t = np.unique(np.geomspace(1, 10**5, 60).round().astype(int))
run = ic.probing.probe(Z, y, method="gd-constant", steps=int(t[-1]))

fig, ax = plt.subplots()
ax.loglog(t, run.loss[t] / run.loss[0], color="black", ls="-", label="the run", zorder=3)
for products, colour, hatch in ((5, "#56B4E9", ".."), (15, "#E69F00", "//"), (40, "#0072B2", "")):
    cost = ic.probing.attack_cost(Z, y, products=products)
    low, _, high = cost.loss(t)
    assert np.all(low <= run.loss[t] * (1 + 1e-9))
    assert np.all(run.loss[t] <= high * (1 + 1e-9))
    ax.fill_between(
        t, low / cost.start, high / cost.start, alpha=0.45, facecolor=colour, hatch=hatch,
        edgecolor="white", label=f"bounds of {products} products",
    )  # fmt: skip
ax.set(xlabel="step of gradient descent", ylabel="loss, relative to the start", ylim=(0.35, 1))
ax.set_yticks([0.4, 0.6, 0.8, 1.0], ["0.4", "0.6", "0.8", "1"])
ax.minorticks_off()
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# Steps to take away nine tenths, and then 99 %, of what can be taken away.

cost = ic.probing.attack_cost(Z, y, products=Z.shape[1])  # which tells what no head gets below
for share in (0.1, 0.01):
    low, _, high = cost.steps(share, reducible=True)
    reached = np.argmax(run.loss - run.best_loss <= share * (run.loss[0] - run.best_loss))
    print(f"{1 - share:.0%}: between {low:,.0f} and {high:,.0f} steps, the run took {reached:,}")

# %%
# What one sees: 40 products tell of a hundred thousand steps what the run tells. What follows: a
# claim that an attack is slow can be certified, for the attacker that it names and for nobody who
# preconditions.

whitened = ic.probing.probe(Z, y, method="whitening")
print(f"on whitened features: {whitened.steps_to(0.01)} step")
