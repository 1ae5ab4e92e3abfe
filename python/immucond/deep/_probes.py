"""Linear heads on frozen features, trained by mini-batches: accuracy and loss by epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .._validate import as_count, check_choice
from ._network import whatever_modes

BATCH = 256

# Optimizer and step lengths. Those of descent are in units of 1 / (largest eigenvalue of
# Z^T Z / N), those of Adam in units of 1 / (root mean square entry of Z): the scale of the features
# changes nothing.
RULES: dict[str, tuple[Callable[..., torch.optim.Optimizer], tuple[float, ...]]] = {
    "sgd": (torch.optim.SGD, (0.5, 1.0, 2.0, 4.0, 8.0)),
    "momentum": (partial(torch.optim.SGD, momentum=0.9), (0.05, 0.1, 0.2, 0.4, 0.8)),
    "adam": (torch.optim.Adam, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)),
    "whitening": (torch.optim.SGD, (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)),
}


class Rows(NamedTuple):
    """Features (N, m) with their classes, to train on and to test on."""

    Z: Tensor
    y: Tensor
    Z_test: Tensor
    y_test: Tensor

    @property
    def classes(self) -> int:
        """Number of classes that the labels name."""
        return int(max(self.y.max(), self.y_test.max())) + 1

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Rows:
        """Rows of other features."""
        return self._replace(Z=change(self.Z), Z_test=change(self.Z_test))


class Trained(NamedTuple):
    """Heads of all step lengths: `lr` (k), and by epoch from 0 on (epochs + 1, k)."""

    lr: list[float]
    accuracy: np.ndarray[Any, Any]
    """Of the test rows."""
    loss: np.ndarray[Any, Any]
    """Of the rows trained on."""

    def of(self, best: int) -> dict[str, Any]:
        """Return the curves of one of them."""
        accuracy, loss = self.accuracy[:, best], self.loss[:, best]
        return {"lr": self.lr[best], "accuracy": accuracy, "loss": loss}


def linear_probes(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    attackers: Sequence[str] = tuple(RULES),
    classes: SupportsIndex | None = None,
    epochs: SupportsIndex = 20,
    seed: SupportsIndex = 0,
) -> dict[str, dict[str, Any]]:
    """Train a linear head on frozen features by several attackers: what they get of a task.

    Mini-batches of 256, the cross-entropy, no bias, from zero, by the optimizers of PyTorch. Each
    attacker runs at several step lengths, and the one with the lowest training loss at the end
    counts.

    Parameters
    ----------
    train, test : (Tensor, Tensor)
        Features (N, m) with their classes (N,), counted from 0: to train on and to test on.
    attackers : sequence of str
        Of "sgd", "momentum" (0.9), "adam", and "whitening": SGD on features that the attacker has
        whitened.
    classes : int, optional
        Their number; by default as many as the labels name.
    epochs : int
        Passes over the features.
    seed : int
        Of the order of the samples.

    Returns
    -------
    dict
        By attacker: "lr" (infinite or zero where the scale of the features takes it beyond
        float64), and by epoch from 0 on the arrays "accuracy" (on the test features) and "loss" (on
        the training features).

    Raises
    ------
    ValueError, TypeError
        For what are no features with their classes: NumPy arrays, shapes or widths that do not
        match, no rows, entries that are not finite, zeros alone, labels that are no whole numbers
        from 0 on; and for unknown attackers.

    Examples
    --------
    >>> import torch
    >>> import immucond.deep as icd
    >>> _ = torch.manual_seed(0)
    >>> labels = torch.arange(200) % 2
    >>> Z = torch.randn(200, 5) + 3.0 * (2 * labels[:, None] - 1)
    >>> found = icd.linear_probes((Z[:100], labels[:100]), (Z[100:], labels[100:]))
    >>> bool(found["sgd"]["accuracy"][-1] > 0.9)
    True
    """
    if isinstance(attackers, str):
        raise TypeError(f"attackers must be a sequence of names, and is {attackers!r}")
    for name in attackers:
        check_choice(name, "attackers", tuple(RULES))
    passes, drawn = as_count(epochs, "epochs", least=0), as_count(seed, "seed", least=0)
    rows = rows_of(train, test).mapped(Tensor.double)
    # A power of two, so that neither squares nor the steps leave the range of float64.
    scale = 2.0 ** (int(torch.frexp(rows.Z.abs().max()).exponent) - 1)
    rows = rows.mapped(lambda part: part / scale)
    count = rows.classes
    if classes is not None:
        count = as_count(classes, "classes", least=count)
    found = {}
    for name in attackers:
        seen = whitened(rows, center=False) if name == "whitening" else rows
        heads = descend(seen, name, passes, drawn, bias=False, classes=count)
        found[name] = heads.of(int(np.argmin(np.nan_to_num(heads.loss[-1], nan=np.inf))))
        size = float(seen.Z.square().mean().sqrt())
        size *= 1.0 if name == "whitening" else scale  # whitened features have none
        lr = np.float64(found[name]["lr"])
        with np.errstate(over="ignore", under="ignore"):  # beyond float64 it is inf, or 0
            found[name]["lr"] = float(lr / size if name == "adam" else lr / size / size)
    return found


def rows_of(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> Rows:
    """Return features with their classes on the CPU, or refuse what is neither."""
    rows = Rows(*_checked(train, "train"), *_checked(test, "test"))
    if rows.Z.shape[1] != rows.Z_test.shape[1]:
        raise ValueError(
            f"train and test must have features of one width, and have {rows.Z.shape[1]} and "
            f"{rows.Z_test.shape[1]}"
        )
    if not bool(rows.Z.any()):
        raise ValueError("the features of train must not all be zero, and are")
    return rows


def _checked(pair: tuple[Tensor, Tensor], name: str) -> tuple[Tensor, Tensor]:
    wanted = f"{name} must be a pair of tensors, features (N, m) and classes (N,)"
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise TypeError(f"{wanted}, and is a {type(pair).__name__}")
    Z, y = pair
    for x in (Z, y):
        if not isinstance(x, Tensor):
            raise TypeError(f"{wanted}, and holds a {type(x).__name__}")
    if Z.ndim != 2 or Z.numel() == 0 or y.shape != Z.shape[:1]:
        raise ValueError(f"{wanted}, and has shapes {tuple(Z.shape)} and {tuple(y.shape)}")
    if Z.is_complex():
        raise TypeError(f"the features of {name} must be real, and have dtype {Z.dtype}")
    if y.is_floating_point() or y.is_complex():
        raise TypeError(f"the classes of {name} must be whole numbers, and have dtype {y.dtype}")
    if not bool(Z.isfinite().all()):
        raise ValueError(f"the features of {name} must be finite, and are not")
    if int(y.min()) < 0:
        raise ValueError(f"the classes of {name} must be counted from 0, and hold {int(y.min())}")
    return Z.detach().cpu(), y.cpu().long()


@whatever_modes()
def descend(
    rows: Rows,
    rule: str,
    epochs: int,
    seed: int,
    *,
    bias: bool,
    front: nn.Module | None = None,
    classes: int | None = None,
) -> Trained:
    """Train heads from zero at all step lengths of a rule at once, behind `front`."""
    make, lengths = RULES[rule]
    size = rows.Z.square().mean().sqrt()
    # Copies, of labels too: what inference mode has made autograd does not keep.
    rows = rows.mapped(lambda part: (part / size).float())._replace(y=rows.y.clone())
    front = nn.Identity() if front is None else front

    def entering(Z: Tensor) -> Tensor:
        Z = front(Z)
        return torch.cat([Z, torch.ones_like(Z[:, :1])], dim=1) if bias else Z

    def logits(Z: Tensor) -> Tensor:
        side_by_side = torch.stack(heads, dim=2).flatten(1)
        found: Tensor = (entering(Z) @ side_by_side).unflatten(1, (-1, len(heads)))
        return found

    @torch.no_grad()
    def measured() -> tuple[list[float], list[float]]:
        front.eval()
        right = logits(rows.Z_test).argmax(1) == rows.y_test[:, None]
        found = logits(rows.Z)
        front.train()
        targets = rows.y[:, None].expand(-1, len(heads))
        loss = cross_entropy(found, targets, reduction="none").double().mean(0)
        return right.double().mean(0).tolist(), loss.tolist()

    unit = 1.0
    if make is not torch.optim.Adam:
        Z = torch.cat([rows.Z, torch.ones_like(rows.Z[:, :1])], dim=1) if bias else rows.Z
        unit = float(torch.linalg.matrix_norm(Z, 2) ** 2) / len(Z)
    shape = rows.Z.shape[1] + bias, rows.classes if classes is None else classes
    heads = [rows.Z.new_zeros(shape, requires_grad=True) for _ in lengths]
    lr = [length / unit for length in lengths]
    optimizer = make([{"params": [head], "lr": step} for head, step in zip(heads, lr, strict=True)])
    order = torch.Generator().manual_seed(seed)
    curves = [measured()]
    for _ in range(epochs):
        for batch in torch.randperm(len(rows.Z), generator=order).split(BATCH):
            if len(batch) == 1 and not isinstance(front, nn.Identity):
                continue  # one row has no variance
            optimizer.zero_grad()
            targets = rows.y[batch][:, None].expand(-1, len(heads))
            (cross_entropy(logits(rows.Z[batch]), targets) * len(heads)).backward()
            optimizer.step()
        curves.append(measured())
    accuracy, loss = (np.array(column) for column in zip(*curves, strict=True))
    return Trained(lr, accuracy, loss)


def whitened(rows: Rows, *, center: bool) -> Rows:
    """Features whose second moments are the identity, by the rows to train on."""
    Z = rows.Z.double()
    mean = Z.mean(0) if center else torch.zeros_like(Z[0])
    values, vectors = torch.linalg.eigh((Z - mean).T @ (Z - mean) / len(Z))
    # What is below was lost to the rounding of float32 in the features.
    kept = values > Z.shape[1] * torch.finfo(torch.float32).eps ** 2 * values[-1]
    W = vectors[:, kept] / values[kept].sqrt()
    return rows.mapped(lambda part: (part.double() - mean) @ W)


def drop(before: dict[str, Any], after: dict[str, Any]) -> float:
    """RFD: relative drop of the probe's accuracy after all epochs."""
    first = float(before["accuracy"][-1])
    return (first - float(after["accuracy"][-1])) / first if first else 0.0
