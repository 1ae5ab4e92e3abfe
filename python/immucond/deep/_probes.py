"""Linear probes on frozen features by mini-batches: accuracy and loss by epoch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from .._validate import FloatArray, as_count, check_choice

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


def linear_probes(
    train: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    *,
    attackers: Sequence[str] = tuple(ATTACKERS),
    classes: SupportsIndex | None = None,
    epochs: SupportsIndex = 20,
    seed: SupportsIndex = 0,
) -> dict[str, dict[str, Any]]:
    """Train a linear head on frozen features by several attackers: what they get of a task.

    Mini-batches, the cross-entropy, no bias, from zero. Each attacker runs at several step lengths,
    and the one with the lowest training loss at the end counts.

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
        By attacker: "lr", and by epoch from 0 on the arrays "accuracy" (on the test features) and
        "loss" (on the training features).

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
        check_choice(name, "attackers", tuple(ATTACKERS))
    passes, drawn = as_count(epochs, "epochs", least=0), as_count(seed, "seed", least=0)
    parts = [_checked(pair, name) for pair, name in ((train, "train"), (test, "test"))]
    widths = [Z.shape[1] for Z, _ in parts]
    if widths[0] != widths[1]:
        raise ValueError(
            f"train and test must have features of one width, and have {widths[0]} and {widths[1]}"
        )
    if not bool(parts[0][0].any()):
        raise ValueError("the features of train must not all be zero, and are")
    count = max(int(y.max()) for _, y in parts) + 1
    if classes is not None:
        count = as_count(classes, "classes", least=count)
    found = {}
    for name in attackers:
        _, update, lengths = ATTACKERS[name]
        (Z, labels), (Z_test, labels_test) = parts
        if name == "whitening":
            W = _whitener(Z)
            Z, Z_test = Z @ W, Z_test @ W
        unit = float(Z.square().mean().sqrt())
        if name != "adam":
            unit = float(torch.linalg.matrix_norm(Z, 2) ** 2) / len(Z)
        steps = torch.tensor([length / unit for length in lengths], dtype=torch.float32)
        found[name] = _run(
            (Z.float(), labels), (Z_test.float(), labels_test), count, update, steps, passes, drawn
        )
    return found


def _checked(pair: tuple[Tensor, Tensor], name: str) -> tuple[Tensor, Tensor]:
    """Return features in float64 and classes, on the CPU, or refuse what is neither."""
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
    return Z.detach().cpu().double(), y.cpu().long()


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
    heads = torch.zeros(len(steps), Z.shape[1], classes, dtype=Z.dtype)
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
    right = (test[0] @ heads).argmax(-1) == test[1]
    logits = (train[0] @ heads).flatten(0, 1)
    losses = torch.nn.functional.cross_entropy(
        logits, train[1].repeat(len(heads)), reduction="none"
    )
    accuracy: list[float] = right.double().mean(1).tolist()
    loss: list[float] = losses.unflatten(0, (len(heads), -1)).mean(1).tolist()
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
