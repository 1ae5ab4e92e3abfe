"""
A regularizer in a training loop of PyTorch
===========================================

One line more in a loop that you have anyway: `ImmunizationLoss` is a term like any other, which
PyTorch differentiates. A small network learns to tell 3s from 8s, while the features of 7s and 1s
shall be hard to probe.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits

import immucond as ic
import immucond.torch as ict

images, digit = load_digits(return_X_y=True)


def task(one, other):
    """Images of two digits, and which of them it is."""
    rows = np.isin(digit, (one, other))
    x = torch.tensor(images[rows] / 16, dtype=torch.float32)
    return x, torch.tensor(digit[rows] == one).long()


X_P, y_P = task(3, 8)
X_H, y_H = task(7, 1)
parts = slice(None, None, 2), slice(1, None, 2)  # to train on, held out

# %%
# Two networks, from the same start: one with the terms, one without. The weights bring both terms
# to the size of the loss at the start; :func:`immucond.deep.immunize` does that by itself.


def trained(immunized):
    """Body and head, and the condition number of held-out harmful features by epoch."""
    torch.manual_seed(0)
    body = torch.nn.Sequential(torch.nn.Linear(64, 16), torch.nn.Tanh())
    head = torch.nn.Linear(16, 2)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=0.01)
    with torch.no_grad():
        sizes = [ict.r_well(features=body(X_P)), ict.r_ill(features=body(X_H))]
    terms = ict.ImmunizationLoss(lambda_P=0.1 / sizes[0].item(), lambda_H=1.0 / sizes[1].item())
    kappas = []
    for _ in range(200):
        x, y, harmful = X_P[parts[0]], y_P[parts[0]], X_H[parts[0]]
        loss = torch.nn.functional.cross_entropy(head(body(x)), y)
        if immunized:
            loss = loss + terms(body(x), body(harmful))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            kappas.append(ict.condition_number(features=body(X_H[parts[1]])).item())
    with torch.no_grad():
        right = (head(body(X_P[parts[1]])).argmax(1) == y_P[parts[1]]).float().mean().item()
    return body, right, kappas


# %%
# What the attacker gets: a probe by gradient descent on the frozen features, from zero.

fig, (left, right) = plt.subplots(1, 2, figsize=(7.0, 3.6))
for name, immunized in (("loss alone", False), ("with the terms", True)):
    body, accuracy, kappas = trained(immunized)
    with torch.no_grad():
        Z = body(X_H[parts[1]]).double().numpy()
    labels = np.where(y_H[parts[1]] == 1, 1.0, -1.0)
    trace = ic.probing.probe(Z, labels, method="gd", steps=2000)
    reducible = (trace.loss - trace.best_loss) / (trace.loss[0] - trace.best_loss)
    left.semilogy(kappas, label=name)
    right.loglog(np.arange(1, 2001), reducible[1:])
    whitened = ic.probing.probe(Z, labels, method="whitening")
    print(f"{name}: primary accuracy {accuracy:.1%}, harmful kappa {kappas[-1]:.3g}")
    tenth = np.argmax(reducible <= 0.1)
    print(f"  steps to a tenth of the loss: {tenth}, whitened: {whitened.steps_to(0.01)}")
left.set(xlabel="epoch", ylabel="condition number", title="harmful features, held out")
right.set(xlabel="step of the probe", ylabel="reducible loss left", title="harmful probe")
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# What one sees: the condition number says little, twice what it would be without the terms, and
# the probe's loss says more, since descent needs several times as many steps; the primary task
# pays about a point of accuracy. What follows: read the right panel before the left one, and print
# what the terms cost. Whitened features take one step either way, and an attacker who trains the
# body again is hardly slowed (:doc:`/guide/limits`).
