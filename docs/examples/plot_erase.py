"""
Erasure: what it costs, and what is left to read
================================================

What a network does not know has to be learned anew. `erase` takes out of its weights what the
primary task does not use. A small network has learned the ten handwritten digits; the owner wants
to keep even against odd, and the digit itself is what an attacker wants to read.
"""

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits

import immucond.deep as icd

images, digit = load_digits(return_X_y=True)
X, digit = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(digit)

torch.manual_seed(0)
order = torch.randperm(len(X))
parts = order.split(450)  # to train and erase, to choose by, for the attacker, to report on

net = torch.nn.Sequential(
    torch.nn.Linear(64, 48), torch.nn.ReLU(), torch.nn.Linear(48, 32), torch.nn.ReLU(),
    torch.nn.Linear(32, 10),
)  # fmt: skip
optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
for _ in range(150):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(net(X[parts[0]]), digit[parts[0]]).backward()
    optimizer.step()

# %%
# The release serves parity alone: a new head with two outputs, on the body that knows ten digits.

with torch.no_grad():
    served = torch.nn.Linear(32, 2)
    for parity in (0, 1):
        served.weight[parity] = net[4].weight[parity::2].sum(0)
        served.bias[parity] = net[4].bias[parity::2].sum()
net[4] = served
optimizer = torch.optim.Adam(net.parameters(), lr=0.003)
for _ in range(100):
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(net(X[parts[0]]), digit[parts[0]] % 2).backward()
    optimizer.step()


def rows(part, label):
    """One batch of a part."""
    return [(X[part], label(digit[part]))]


def parity(label):
    """Primary labels."""
    return label % 2


def itself(label):
    """Harmful labels."""
    return label


# %%
# Erasing at growing prices
# -------------------------
#
# `tol` is how much accuracy the primary task may lose on the rows that choose; the harmful rows
# say which directions go first among those that cost alike. The ceiling is the largest accuracy of
# linear probes at any cut of the network, on rows that erased nothing. What directions are worth is
# measured once for all tolerances.

primary, harmful = rows(parts[0], parity), rows(parts[2], itself)
path = icd.erasure_path(net, primary, harmful=harmful)
results = {}
for tol in (0.01, 0.02, 0.05):
    done = icd.erase(
        net, primary, held_out=rows(parts[1], parity), tol=tol, path=path,
        harmful=harmful, harmful_held_out=rows(parts[3], itself),
    )  # fmt: skip
    with torch.no_grad():
        fresh = (done.model(X[parts[3]]).argmax(1) == digit[parts[3]] % 2).float().mean().item()
    results[tol] = done.kept[0], fresh, done.leak.ceiling
    print(
        f"tol {tol}: {done.kept[0]} of {done.kept[1]} directions, ceiling {done.leak.ceiling:.1%}"
    )

profile = rows(parts[2], itself), rows(parts[0], parity), rows(parts[3], itself)
before = icd.leak_profile(net, profile[0], primary=profile[1], held_out=profile[2])
with torch.no_grad():
    accuracy = (net(X[parts[3]]).argmax(1) == digit[parts[3]] % 2).float().mean().item()
lowest = max(of.accuracy for of in before.untrained.values())
print(
    f"before: ceiling {before.ceiling:.1%}, untrained {lowest:.1%}, a guess {before.majority:.1%}"
)

# %%
fig, ax = plt.subplots(figsize=(5.6, 3.6))
_, fresh, ceilings = zip(*results.values(), strict=True)
ax.plot([accuracy, *fresh], [before.ceiling, *ceilings], marker="o", label="erasure")
ax.plot([accuracy], [before.ceiling], marker="s", ms=8, ls="", label="as it is")
ax.axhline(lowest, color="0.3", ls=":", label="untrained network")
ax.axhline(before.majority, color="0.6", ls="-", lw=1, label="a guess")
ax.set(xlabel="primary accuracy, fresh rows", ylabel="ceiling of the harmful task", ylim=(0, 1.02))
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# What one sees: the ceiling falls only where the primary task is allowed to pay, and then below
# what an untrained network shows, because an untrained one has not lost a direction. What is gone
# has no inverse, so whitening does not bring it back; what both tasks share stays, and whoever has
# data can learn the rest anew. What follows: report price and ceiling together, on rows that chose
# nothing, and attack the result (:doc:`/guide/attack`).
