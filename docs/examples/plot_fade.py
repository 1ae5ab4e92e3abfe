"""
Fade a task out of features, and take it back
=============================================

Condition numbers bound the slowest direction of the weights. `fade` looks at the labels instead: it
turns the few directions that carry them into slow ones, and changes the primary features as little
as that takes. The data are the measurements of the breast cancer data set: their owner wants to
publish them for one use (predict the mean radius) and make another (the diagnosis) slow.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer

import immucond as ic

data = load_breast_cancer()
standard = (data.data - data.data.mean(0)) / data.data.std(0)
radius = list(data.feature_names).index("mean radius")
X, y_P = np.delete(standard, radius, axis=1), standard[:, radius]
y_H = data.target  # benign or malignant
made, seen = np.arange(len(X)) % 2 == 0, np.arange(len(X)) % 2 == 1

# %%
# The map is made from one half of the rows, and measured on the other: a map knows the labels of
# the rows it saw better than those of any others.

fade = ic.linear.fade(X[made], X[made], y_H[made], tau=1e4)
for name, rows in (("rows of the map", made), ("other rows", seen)):
    before, after = (ic.linear.alignment(Z[rows], y_H[rows]).rho for Z in (X, X @ fade))
    print(f"{name}: label alignment {before:.3f} before, {after:.2g} after")

# %%
# The primary task
# ----------------
#
# With the inverse of the map folded into its head, every prediction is what it was.

omega = np.linalg.lstsq(X[made], y_P[made])[0]
change = np.abs(X @ fade @ fade.solve(omega) - X @ omega).max()
print(f"largest change of a primary prediction: {change:.1g}")
print(f"primary features moved by {100 * np.linalg.norm(X @ fade - X) / np.linalg.norm(X):.0f} %")

# %%
# The attackers
# -------------
#
# Descent, with momentum and with conjugate gradients, and whoever whitens the features first.

centred = X[seen] - X[seen].mean(0)
Z, labels = centred @ fade, y_H[seen] - y_H[seen].mean()
attackers = {
    "gd": "gradient descent",
    "nesterov": "Nesterov",
    "cg": "conjugate gradients",
    "whitening": "whitened features",
}
fig, axes = plt.subplots(1, 2, figsize=(7.0, 3.6), sharey=True)
for ax, features, title in zip(axes, (centred, Z), ("before", "after fade"), strict=True):
    for marker, (name, label) in zip("os^D", attackers.items(), strict=True):
        trace = ic.probing.probe(features, labels, method=name, steps=1000)
        left = np.maximum(trace.loss - trace.best_loss, 0) / (trace.loss[0] - trace.best_loss)
        left = np.append(left, [left[-1]] * (1001 - len(left)))
        t = np.unique(np.geomspace(1, 1000, 40).round().astype(int))
        ax.semilogx(t, left[t], marker=marker, ms=4, markevery=6, label=label)
    ax.set(xlabel="step", title=title)
axes[0].set_ylabel("harmful loss left to reduce")
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
plt.show()

# %%
# What one sees: before, a single step of plain descent takes away most of the loss; after fade
# more than half of it is left after a thousand. Conjugate gradients get there in some dozens of
# steps, and whitening in one, before as after: every map with an inverse is a lock. And it is not
# free: radius and diagnosis go together, so that the features of the primary task had to move a
# lot. What follows: fade where the attacker descends, and where he may whiten, take the directions
# out (:doc:`plot_erase`) or do not publish them.
