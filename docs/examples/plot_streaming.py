"""
Rows that do not fit into memory
================================

Everything here starts from :math:`X^\top X`, and that is a sum over rows: so rows may come in
blocks, from files or from other machines. Two accumulators take them. One sums Gram matrices; the
other keeps a triangle by QR and twice the digits. The rows are all pairs of neighbouring images of
the digits data set, made block by block and never held at once.
"""

import tracemalloc
import warnings

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import immucond as ic

images = load_digits().data / 16
used = images.std(axis=0) > 0.05  # without the pixels that are blank nearly always
images = images[:, used]
d = 2 * images.shape[1]
scales = np.geomspace(1, 1e-9, d)  # directions that differ in size, along no axis
Q = np.linalg.qr(np.random.default_rng(0).normal(size=(d, d)))[0]


def blocks(size=256, first=0, last=6):
    """Blocks of float64 rows: each image beside the one that comes so many places later."""
    for gap in range(first + 1, last + 1):
        for start in range(0, len(images) - gap, size):
            here = images[start : min(start + size, len(images) - gap)]
            there = images[start + gap : start + gap + len(here)]
            yield np.hstack([here, there]) * scales @ Q


# %%
# Both accumulators see the same stream once. What they hold is a few matrices of the width
# squared, whatever the number of rows.

tracemalloc.start()
gram, triangle = ic.GramAccumulator(d), ic.TriangleAccumulator(d)
for block in blocks():
    gram.update(block)
    triangle.update(block)
_, peak = tracemalloc.get_traced_memory()
tracemalloc.stop()
print(f"{gram.count:,} rows of {d}: {gram.count * d * 8 / 1e6:.0f} MB, peak {peak / 1e6:.1f} MB")

# %%
# Parts merge
# -----------
#
# Two processes with half of the stream each give the same, in any order.

parts = [ic.TriangleAccumulator(d) for _ in range(2)]
for part, (first, last) in zip(parts, ((0, 3), (3, 6)), strict=True):
    for block in blocks(first=first, last=last):
        part.update(block)
merged = parts[1].merge(parts[0])
difference = np.abs(merged.R - triangle.R).max() / np.abs(triangle.R).max()
print(f"{merged.count:,} rows, relative difference {difference:.1g}")

# %%
# Digits
# ------
#
# Both ends of the spectrum, each with the bound that is certified for it. The Gram matrix has lost
# the small end in rounding, and says so by its rank; the triangle has all of it.

for name, held in (("Gram matrix", gram), ("triangle", triangle)):
    with warnings.catch_warnings(record=True) as warned:
        pairs = held.pairs()
    told = f", {warned[0].category.__name__}" if warned else ""
    print(f"{name}: rank {pairs.rank} of {d}, kappa {pairs.condition_number:.4g}{told}")

# %%
values = {
    "Gram matrix": np.sort(np.abs(np.linalg.eigvalsh(gram.gram)))[::-1],
    "triangle": np.linalg.svd(triangle.R, compute_uv=False) ** 2,
}
fig, ax = plt.subplots()
for marker, (name, found) in zip("os", values.items(), strict=True):
    ax.semilogy(np.arange(1, d + 1), found / found[0], marker=marker, ms=4, markevery=8, label=name)
ax.set(xlabel="eigenvalue, by size", ylabel="relative to the largest")
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# What one sees: beyond 16 decades a Gram matrix holds rounding, and the triangle still holds the
# data. What follows: :meth:`~immucond.TriangleAccumulator.pairs` before any decision about rank or
# damping; sums of Gram matrices where the spectrum is flat, at a fifth of the time. Several
# processes: :doc:`/guide/distributed`.
