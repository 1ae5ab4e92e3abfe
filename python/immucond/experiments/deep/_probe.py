"""Linear probes on frozen features by mini-batches: accuracy and loss by epoch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..._extras import extra
from ..._validate import FloatArray
from ._activations import Features

with extra("deep"):
    import torch
    from torch import Tensor

BATCH = 256

# An update from (gradient, state, step number), for heads of all step lengths at once.
Update = Callable[[Tensor, dict[str, Tensor], int], Tensor]


def _sgd(gradient: Tensor, _: dict[str, Tensor], __: int) -> Tensor:
    return gradient


def _momentum(gradient: Tensor, state: dict[str, Tensor], _: int) -> Tensor:
    state["m"] = 0.9 * state.get("m", torch.zeros_like(gradient)) + gradient
    return state["m"]


def _adam(gradient: Tensor, state: dict[str, Tensor], step: int) -> Tensor:
    zero = torch.zeros_like(gradient)
    state["m"] = 0.9 * state.get("m", zero) + 0.1 * gradient
    state["v"] = 0.999 * state.get("v", zero) + 0.001 * gradient.square()
    m, v = state["m"] / (1.0 - 0.9**step), state["v"] / (1.0 - 0.999**step)
    return m / (v.sqrt() + 1e-12 * v.max().sqrt())


# Label, update, step lengths. Those of descent are in units of 1 / (largest eigenvalue of
# Z^T Z / N), those of Adam in units of 1 / (root mean square entry of Z): the scale of the features
# changes nothing.
ATTACKERS: dict[str, tuple[str, Update, tuple[float, ...]]] = {
    "sgd": ("SGD", _sgd, (0.5, 1.0, 2.0, 4.0, 8.0)),
    "momentum": ("SGD, momentum 0.9", _momentum, (0.05, 0.1, 0.2, 0.4, 0.8)),
    "adam": ("Adam", _adam, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)),
    "whitening": ("SGD, features whitened", _sgd, (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)),
}


def probes(
    train: Features, test: Features, classes: int, *, epochs: int, seed: int = 0
) -> dict[str, Any]:
    """Train a linear head w (no bias) by each attacker, from w = 0, on the cross-entropy.

    Each runs at several step lengths, and the one with the lowest training loss at the end counts.

    Returns
    -------
    dict
        By attacker: "lr", and by epoch from 0 on "accuracy" (on the test part) and "loss" (on the
        training part).
    """
    found = {}
    for name, (_, update, lengths) in ATTACKERS.items():
        Z, Z_test = train.Z.double(), test.Z.double()
        if name == "whitening":
            W = _whitener(Z)
            Z, Z_test = Z @ W, Z_test @ W
        unit = float(Z.square().mean().sqrt())
        if name != "adam":
            unit = float(torch.linalg.matrix_norm(Z, 2) ** 2) / len(Z)
        steps = torch.tensor([length / unit for length in lengths])
        found[name] = _run(
            (Z.float(), train.labels), (Z_test.float(), test.labels), classes, update, steps,
            epochs, seed,
        )  # fmt: skip
    return found


def _run(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    classes: int,
    update: Update,
    steps: Tensor,
    epochs: int,
    seed: int,
) -> dict[str, Any]:
    (Z, y), generator = train, torch.Generator().manual_seed(seed)
    heads = torch.zeros(len(steps), Z.shape[1], classes)
    state: dict[str, Tensor] = {}
    rows = [_measured(heads, train, test)]
    taken = 0
    with torch.no_grad():
        for _ in range(epochs):
            for batch in torch.randperm(len(Z), generator=generator).split(BATCH):
                taken += 1
                residual = (Z[batch] @ heads).softmax(-1)
                residual[:, torch.arange(len(batch)), y[batch]] -= 1.0
                gradient = Z[batch].T @ residual / len(batch)
                heads -= steps[:, None, None] * update(gradient, state, taken)
            rows.append(_measured(heads, train, test))
    accuracy, loss = (np.array(column).T for column in zip(*rows, strict=True))
    best = int(np.argmin(np.nan_to_num(loss[:, -1], nan=np.inf)))
    return {"lr": float(steps[best]), "accuracy": accuracy[best], "loss": loss[best]}


def _measured(
    heads: Tensor, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]
) -> tuple[list[float], list[float]]:
    """Test accuracy and training loss of each head."""
    accuracy = [float(((test[0] @ w).argmax(1) == test[1]).double().mean()) for w in heads]
    loss = [float(torch.nn.functional.cross_entropy(train[0] @ w, train[1])) for w in heads]
    return accuracy, loss


def _whitener(Z: Tensor) -> Tensor:
    """W (m, k) such that Z W has equal singular values: the attacker's own preconditioner."""
    values, vectors = np.linalg.eigh((Z.T @ Z).numpy() / len(Z))
    kept = values > len(values) * np.finfo(np.float32).eps ** 2 * values[-1]
    W: FloatArray = vectors[:, kept] / np.sqrt(values[kept])
    return torch.from_numpy(W)


def drop(before: dict[str, Any], after: dict[str, Any]) -> float:
    """RFD: relative drop of the probe's accuracy after all epochs."""
    first = float(before["accuracy"][-1])
    return (first - float(after["accuracy"][-1])) / first if first else 0.0
