"""
A regularizer of your own, in NumPy and in PyTorch
==================================================

Every regularizer of the library is a function of three numbers of a spectrum: its largest and its
smallest nonzero singular value and its sum of squares. Whoever can write that function and its
three derivatives has one that works in NumPy, in PyTorch with second derivatives, and in stacks.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_wine

import immucond as ic
import immucond.torch as ict

# %%
# The stable rank, written down
# -----------------------------
#
# The stable rank :math:`F / \sigma_1^2` tells how many directions carry the features. Its gradient
# is :math:`\alpha\, u_1 v_1^\top + \beta\, u_k v_k^\top + \gamma\, S`, with alpha, beta and gamma
# beside the value. A spectrum `s` has `sigma_max`, `sigma_min`, `p` and :math:`\mathrm{below\_max}
# = p \sigma_1^2 - F`, from which :math:`F` follows. The degree of homogeneity is 0: the scale of
# the features does not matter.


def coefficients(s):
    """Value, alpha, beta and gamma of the stable rank."""
    squares = s.p * s.sigma_max**2 - s.below_max
    value = squares / s.sigma_max**2
    return value, -2.0 * value / s.sigma_max, 0.0, 2.0 / s.sigma_max**2


stable_rank = ic.SpectralRegularizer("stable rank", 0, coefficients)

# %%
# In NumPy
# --------
#
# The chemical measurements of the wine data set, as they are and standardized.

raw = load_wine().data
Z = (raw - raw.mean(0)) / raw.std(0)
for name, features in (("as measured", raw), ("standardized", Z)):
    print(f"{name}: stable rank of the Hessian {stable_rank(features.T @ features):.4f}")

# %%
# An independent check: differences of the value in a random direction.

S = Z.T @ Z
value, gradient = stable_rank.value_and_grad(S)
rng = np.random.default_rng(0)
step = rng.normal(size=S.shape)
step = 0.1 * (step + step.T)
measured = (stable_rank(S + step) - stable_rank(S - step)) / 2
print(f"by the gradient {np.sum(gradient * step):.8g}, by differences {measured:.8g}")

# %%
# In PyTorch
# ----------
#
# `evaluate` makes it an operator, which autograd differentiates twice.

matrix = torch.tensor(Z, requires_grad=True)
print(torch.autograd.gradcheck(lambda x: ict.evaluate(stable_rank, features=x), matrix[:20]))

# %%
# So it can be trained with: a linear map of the measurements that spreads them over more
# directions, while a head tells the three sorts of wine apart.

torch.manual_seed(0)
x, y = torch.tensor(Z, dtype=torch.float32), torch.tensor(load_wine().target)
fig, (left, right) = plt.subplots(1, 2, figsize=(7.0, 3.6))
for weight in (0.0, 0.3):
    body, head = torch.nn.Linear(13, 8, bias=False), torch.nn.Linear(8, 3)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=0.01)
    ranks, losses = [], []
    for _ in range(150):
        spread = ict.evaluate(stable_rank, features=body(x))
        loss = torch.nn.functional.cross_entropy(head(body(x)), y)
        optimizer.zero_grad()
        (loss - weight * spread).backward()
        optimizer.step()
        ranks.append(spread.item())
        losses.append(loss.item())
    label = "loss alone" if weight == 0.0 else "with the stable rank"
    left.plot(ranks, label=label)
    right.semilogy(losses)
left.set(xlabel="step", ylabel="stable rank of the features", ylim=(0, None))
right.set(xlabel="step", ylabel="cross-entropy")
fig.legend(loc="outside lower center", ncols=2)
plt.show()

# %%
# What one sees: measured in their own units, one direction (proline, the one with the largest
# numbers) carries all, and training alone does not spread the features much. What follows: what
# can be said by the ends of a spectrum and its sum of squares needs no code for gradients of
# eigenvalues; ties, ranks and rounding are the library's affair (:doc:`/theory/steps`).
