"""From the balanced point of a pair to the least trace of its training kernel on a batch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ._balance import Balancing, _sign, balanced_pair
from ._group import GaugeGroup
from ._layers import linear
from ._tape import show_entering, tensors


def to_kernel(balancing: Balancing, work: nn.Module, inputs: Any) -> dict[int, int]:
    """Bring pairs of a balanced network to the least trace of their kernels.

    Returns by place of the group how many directions, over its blocks, the batch uses. The balanced
    point is a function of the orbit, and so is what is computed from it: no gauge leaves a trace.
    """
    places = pairs(balancing.found, work)
    writers = {place: balancing.found[place]._writers for place in places}
    owners = {place: sides[0].parameter.rpartition(".")[0] for place, sides in writers.items()}
    entered = entering(work, inputs, set(owners.values()))
    # Weights are known no better than rounding times the condition number of what was removed.
    known = max(balancing.conditions, default=1.0)
    used = {}
    for place in places:
        group, R = balancing.found[place], entered.get(owners[place])
        if R is None:
            continue
        R = R if len(writers[place]) == 2 else R[:, :-1]  # the last column is the bias's
        A, used[place] = least_trace(
            group._written(balancing.state), group._read(balancing.state), R, known
        )
        balancing._act(place, A)
        balancing._act(place, _sign(group, group._written(balancing.state)))
    return used


def pairs(found: Sequence[GaugeGroup], model: nn.Module) -> list[int]:
    """Return the places of groups of two matrices, where one's product with rows is read.

    Of groups in a chain each one's least point depends on the others': they are left out.
    """
    named = dict(model.named_modules())
    fit = []
    for place, group in enumerate(found):
        owners = (s.parameter.rpartition(".")[0] for s in (*group._writers, *group._readers))
        layers = [linear(name, named[name]) for name in owners]
        if group.kind in ("linear", "value-output") and all(x and not x.channels for x in layers):
            fit.append(place)
    shared = Counter(name for place in fit for name in found[place].parameters)
    return [p for p in fit if all(shared[name] == 1 for name in found[p].parameters)]


def entering(model: nn.Module, batch: Any, names: set[str]) -> dict[str, Tensor]:
    """Return triangles of the rows that enter modules, at all their calls, and a column of ones."""
    found: dict[str, Tensor] = {}

    def see(name: str, entered: tuple[Any, Any]) -> None:
        X = next(tensors(entered)).detach().double()
        X = X.reshape(-1, X.shape[-1])
        if not X.isfinite().all():
            raise ValueError(f"data must give finite inputs to {name!r}, and gives NaN or infinity")
        R = torch.cat((X, X.new_ones((len(X), 1))), dim=1)
        before = found.get(name, R[:0])
        found[name] = torch.linalg.qr(torch.cat((before, R)), mode="r").R

    show_entering(model, batch, names, see)
    return found


def least_trace(written: Tensor, read: Tensor, R: Tensor, known: float) -> tuple[Tensor, int]:
    r"""Return the element that takes a balanced pair to the least trace of its kernel.

    With S = A^T A, the trace of X X^T (x) W2 S^-1 W2^T + H S H^T (x) I, H = X W1^T. Where H has
    no full rank there is no least one: what a direction that no row uses writes could grow without
    end, and what reads it vanish. A is the identity there, and least among those that are.

    Parameters
    ----------
    written : (b, d, m) Tensor
        W1, by block.
    read : (b, d, c) Tensor
        W2^T.
    R : (k, m) Tensor
        Triangle of X.
    known : float
        Times the unit roundoff, the relative error of H.

    Returns
    -------
    A : (b, d, d) Tensor
        Symmetric, positive definite.
    used : int
        Rank of H, over all blocks.
    """
    d, c = read.shape[1:]
    H = R @ written.mT
    if H.shape[1] < d:
        H = torch.cat((H, H.new_zeros((len(H), d - H.shape[1], d))), dim=1)
    _, s, Z = torch.linalg.svd(H, full_matrices=False)  # Z: directions, those unused the last
    used = s > torch.finfo(s.dtype).eps * max(len(R), d) * known * s[:, :1]
    seen = R.norm() * (Z @ read)
    while True:
        P = c**0.5 * s * used
        Q = seen * used[..., None]
        # A pair of its own, P = Q, for what is unused: its element is the identity.
        size = torch.where(used.any(1), (P.amax(1) * Q.norm(dim=(1, 2))).sqrt(), 1.0)
        apart = size[:, None] * ~used
        more = torch.cat((Q, torch.diag_embed(apart)), dim=2)
        _, _, A = balanced_pair(torch.diag_embed(P + apart), more)
        lost = (A == 0).all(dim=2).any(dim=1)  # below rounding, and would be gone
        if not lost.any():
            break
        last = used.sum(dim=1) - 1
        used = used & ~(lost[:, None] & (torch.arange(d, device=s.device) == last[:, None]))
    # Of all A with the same A^T A the symmetric one, which is the identity where nothing changes.
    _, a, V = torch.linalg.svd(A @ Z)
    alive = (written != 0).any(dim=2)  # beyond the rank of the product rows are 0, and stay
    both = alive[:, :, None] & alive[:, None, :]
    return torch.where(both, V.mT @ (a[..., None] * V), torch.eye(d).to(s)), int(used.sum())
