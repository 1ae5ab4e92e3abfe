"""
What is read at every cut of a network
======================================

Before asking how long an attacker needs, ask what there is to be read. The leak profile trains a
linear probe at every cut, and its accuracy is a ceiling that no invertible map lowers. A small
network tells 3s from 8s; the attacker wants to read the eight other digits off its features.
"""

import copy

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

import immucond.deep as icd

images, digit = load_digits(return_X_y=True)


def task(*classes):
    """Images of some digits, and their labels."""
    rows = np.isin(digit, classes)
    X = torch.tensor(images[rows] / 16, dtype=torch.float32)
    return X, torch.tensor(np.searchsorted(sorted(classes), digit[rows]))


X_P, y_P = task(3, 8)
X_H, y_H = task(0, 1, 2, 4, 5, 6, 7, 9)

torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Linear(64, 32), torch.nn.Tanh(), torch.nn.Linear(32, 16), torch.nn.Tanh(),
    torch.nn.Linear(16, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2),
)  # fmt: skip
optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
for _ in range(200):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(net(X_P), y_P).backward()
    optimizer.step()

# %%
# The profile compares each cut with the same network untrained: what no training put there, no
# defence of the weights takes away.

harmful, held_out = [(X_H[::2], y_H[::2])], [(X_H[1::2], y_H[1::2])]
profile = icd.leak_profile(net, harmful, primary=[X_P], held_out=held_out)
print(profile)

# %%
# A lock changes none of it
# -------------------------
#
# An invertible matrix of condition number 1000 is multiplied into the second linear layer; its
# inverse in what follows would keep the function. Descent on such features is slow, and the
# ceiling stays.

A = torch.diag(torch.logspace(0, 3, 16))
locked = copy.deepcopy(net[:3]).append(torch.nn.Linear(16, 2))
plain = copy.deepcopy(locked)
with torch.no_grad():
    locked[2].weight.copy_(A @ net[2].weight)
    locked[2].bias.copy_(A @ net[2].bias)
for name, of in (("plain", plain), ("locked", locked)):
    found = icd.leak_profile(of, harmful, primary=[X_P], held_out=held_out, untrained=False)
    print(f"{name}: kappa {found.cuts['2'].kappa:.2g}, ceiling {found.cuts['2'].accuracy:.1%}")

# %%
fig, ax = plt.subplots()
cuts = [name for name in profile.cuts if name in profile.untrained]
place = np.arange(len(cuts))
for offset, of, label in ((-0.2, profile.cuts, "trained"), (0.2, profile.untrained, "untrained")):
    accuracy = [of[name].accuracy for name in cuts]
    error = [of[name].standard_error for name in cuts]
    hatch = "" if label == "trained" else "//"
    ax.bar(place + offset, accuracy, 0.38, yerr=error, label=label, hatch=hatch, edgecolor="white")
ax.axhline(profile.majority, color="black", ls=":", label="a constant guess")
ax.set_xticks(place, cuts)
ax.set(xlabel="cut", ylabel="held-out accuracy, harmful task", ylim=(0, 1))
fig.legend(loc="outside lower center", ncols=3)
plt.show()

# %%
# What one sees: the deeper the cut, the less is read, and training for two digits made it less
# than an untrained network shows. But who reads the first layers has nearly all of it, trained or
# not. What follows: the largest bar counts, since nobody keeps the attacker from the cut where it
# stands; a map before the head protects nothing that is read before it (:doc:`/guide/limits`).
