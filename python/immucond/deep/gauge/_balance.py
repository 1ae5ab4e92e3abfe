"""The balanced point of an orbit: each group in closed form, several by turns."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._group import GaugeGroup, State

TOLERANCE = 1e-13
SWEEPS = 1000


class Balancing:
    """Groups of one network brought to balance, and what that took.

    The sum of squares of all that a product of groups acts on is geodesically convex along it
    (Kempf and Ness), and least where W W^T = V^T V for each group and block. Each step takes one
    group there in closed form; groups that share parameters take turns. They stop where every
    block has ``||W W^T - V^T V||_F <= 1e-13 ||W W^T + V^T V||_F``, or after `sweeps` turns.
    """

    def __init__(self, found: Sequence[GaugeGroup], state: State, sweeps: int = SWEEPS) -> None:
        self.found, self.state = list(found), state
        self.total: list[Tensor] = [
            torch.eye(g.size, dtype=torch.float64).repeat(g.blocks, 1, 1) for g in found
        ]
        self.sweeps = 0
        self.imbalance = 0.0
        for place, group in enumerate(self.found):
            if group._variances:
                self._act(place, _unit_variance(group, state))
        for component in _components(self.found):
            self._settle(component, sweeps)
        for place, group in enumerate(self.found):
            if group._readers:
                self._act(place, _sign(group, group._written(state)))

    def _settle(self, component: Sequence[int], sweeps: int) -> None:
        worst = float("inf")
        for sweep in range(sweeps + 1):
            worst = 0.0
            for place in component:
                group = self.found[place]
                if group._scales:
                    off, A = self._scale(group)
                    put = None
                else:
                    put = group._written(self.state), group._read(self.state)
                    off = imbalance(*put)
                worst = max(worst, off)
                if off <= TOLERANCE or sweep == sweeps:
                    continue
                if put is None:
                    self._act(place, A)
                else:
                    written, read, A = balanced_pair(*put)
                    group._put(self.state, written, read)
                    self.total[place] = A.cpu() @ self.total[place]
            if worst <= TOLERANCE:
                break
            self.sweeps = max(self.sweeps, sweep + 1)
        self.imbalance = max(self.imbalance, worst)

    def _scale(self, group: GaugeGroup) -> tuple[float, Tensor]:
        """Return the imbalance of a group of scales, and those that end it."""
        P, Q = group._norms(self.state)
        passed = (P > 0) & (Q > 0)  # else nothing passes, and the scale is left alone
        off = torch.where(passed, (P.square() - Q.square()).abs() / (P.square() + Q.square()), 0.0)
        scale = torch.where(passed, (Q / P).sqrt(), 1.0)
        return float(off.max()), scale[:, None, None] * torch.eye(group.size).to(scale)

    def _act(self, place: int, A: Tensor) -> None:
        self.found[place]._act(self.state, A)
        self.total[place] = A.cpu() @ self.total[place]

    @property
    def conditions(self) -> list[float]:
        """Condition number of the element that each group took, on the range of its product."""
        return [condition_of(A, group) for A, group in zip(self.total, self.found, strict=True)]


def condition_of(A: Tensor, group: GaugeGroup) -> float:
    """Return the largest of the matrices' condition numbers; of scales, that over all blocks."""
    values = torch.linalg.svdvals(A)
    if group._scales:
        return float(values.max() / values.min())
    least = torch.where(values > 0, values, float("inf")).amin(dim=1)
    return float((values.amax(dim=1) / least).max())


def imbalance(written: Tensor, read: Tensor) -> float:
    """Return ||P - Q||_F/||P + Q||_F of the worst block, P = W W^T, Q = V^T V."""
    P, Q = written @ written.mT, read @ read.mT
    size = (P + Q).norm(dim=(1, 2))
    off = torch.where(size > 0, (P - Q).norm(dim=(1, 2)) / size, 0.0)
    return float(off.max())


def balanced_pair(written: Tensor, read: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    r"""Return sqrt(Sigma) V^T and U sqrt(Sigma) of the product U Sigma V^T, never formed.

    One SVD of the triangles' product, T2 T1^T of W2 = Q2 T2 and W1 = T1^T Q1^T: Gram matrices of
    the factors would square their condition.

    Parameters
    ----------
    written : (b, d, m) Tensor
        W1, by block.
    read : (b, d, k) Tensor
        W2^T.

    Returns
    -------
    written, read : Tensors of the same shapes
        Rows beyond the rank of the product are 0: the orbit's closure has them so.
    A : (b, d, d) Tensor
        With ``A @ W1`` the new one, its further rows 0.
    """
    d = written.shape[1]
    Q1, T1 = torch.linalg.qr(written.mT)
    Q2, T2 = torch.linalg.qr(read.mT)
    U, s, Vh = torch.linalg.svd(T2 @ T1.mT, full_matrices=False)
    noise = torch.finfo(s.dtype).eps * max(written.shape[-1], read.shape[-1], d)
    kept = s > noise * s[:, :1]
    root = torch.where(kept, s, 0.0).sqrt()[..., None]
    inverse = torch.where(kept[..., None], 1.0 / torch.where(root > 0, root, 1.0), 0.0)
    found = (root * (Vh @ Q1.mT), root * (Q2 @ U).mT, inverse * (U.mT @ T2))
    return tuple(_padded(x, d) for x in found)  # type: ignore[return-value]


def _padded(x: Tensor, rows: int) -> Tensor:
    more = x.new_zeros((x.shape[0], rows - x.shape[1], x.shape[2]))
    return torch.cat((x, more), dim=1)


def _sign(group: GaugeGroup, written: Tensor) -> Tensor:
    """Return what makes the largest entry of each written row positive, as far as the group may."""
    rows = written.shape[1]
    if group.kind == "relu":
        return torch.eye(1).to(written).expand(group.blocks, 1, 1)
    if group.kind == "query-key-rope":
        z = torch.complex(written[:, 0], written[:, 1])
        largest = z.gather(1, z.abs().argmax(dim=1, keepdim=True))[:, 0]
        turn = torch.where(largest == 0, 1.0, largest.conj() / largest.abs().clamp(min=1e-300))
        return torch.stack(
            (torch.stack((turn.real, -turn.imag), -1), torch.stack((turn.imag, turn.real), -1)), -2
        )
    largest = written.gather(2, written.abs().argmax(dim=2, keepdim=True))[..., 0]
    signs = torch.where(largest < 0, -1.0, 1.0).to(written)
    return torch.diag_embed(signs) if rows > 1 else signs[..., None]


def _unit_variance(group: GaugeGroup, state: State) -> Tensor:
    """Return what makes variance plus eps 1: a positive scale that nothing else reads."""
    ((side, eps),) = group._variances
    return 1.0 / (side.read(state) + eps).sqrt()


def _components(found: Sequence[GaugeGroup]) -> list[list[int]]:
    """Return the groups that balance against readers, those together that share parameters."""
    components: list[tuple[list[int], set[str]]] = []
    for place, group in enumerate(found):
        if not group._readers:
            continue
        mine, names = [place], set(group.parameters)
        apart = []
        for places, theirs in components:
            if theirs & names:
                mine, names = places + mine, names | theirs
            else:
                apart.append((places, theirs))
        components = [*apart, (mine, names)]
    return [sorted(places) for places, _ in components]
