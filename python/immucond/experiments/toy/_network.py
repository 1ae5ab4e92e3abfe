"""A network that a harmful task is cheap to learn with, and dear without, and its releases.

Sixteen bits, eight exclusive ors of two each. A network is trained to tell many readouts of all
eight; the primary task needs the first five, the harmful one the last five, two of them both.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..._errors import AccuracyWarning, ImmunityWarning, extra

with extra("torch"):
    import torch
    from torch import Tensor, nn

from ... import deep

BITS, HIDDEN, WIDTH = 16, 64, 16
READOUTS, PRIMARY, HARMFUL = 24, 10, 5
SPLIT = "6"
_CUTS = (2, 3, 5, 6)  # linear layers before which features are compressed
_TRAINED, _EPOCHS, _BATCH = 20_000, 25, 256


@dataclass(frozen=True)
class Toy:
    """The tasks of a seed, and the network that was trained for them.

    Attributes
    ----------
    seed : int
    rows : int
        Harmful ones of the attacker.
    """

    seed: int
    rows: int

    def _draw(self, count: int, part: int) -> tuple[Tensor, Tensor]:
        """Return bits (count, 16) and their exclusive ors (count, 8), both as -1 and 1."""
        generator = torch.Generator().manual_seed(1000 * self.seed + part)
        x = 2.0 * torch.randint(0, 2, (count, BITS), generator=generator) - 1.0
        return x, x[:, 0::2] * x[:, 1::2]

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(1000 * self.seed + 999)
        sizes = {"readouts": (8, READOUTS), "primary": (5, PRIMARY), "harmful": (5, HARMFUL)}
        return {name: torch.randn(*size, generator=generator) for name, size in sizes.items()}

    def primary(self, count: int = 4000, part: int = 1) -> list[tuple[Tensor, Tensor]]:
        """Return rows with the largest of ten readouts of the first five features."""
        x, f = self._draw(count, part)
        return [(x, (f[:, :5] @ self._weights["primary"]).argmax(1))]

    def harmful(self, count: int | None = None, part: int = 2) -> list[tuple[Tensor, Tensor]]:
        """Return rows with the largest of five readouts of the last five features."""
        x, f = self._draw(self.rows if count is None else count, part)
        return [(x, (f[:, 3:] @ self._weights["harmful"]).argmax(1))]

    @cached_property
    def network(self) -> nn.Sequential:
        """Trained to tell the readouts, with a head for the primary task."""
        return self.trained(8)

    def trained(self, features: int) -> nn.Sequential:
        """Return a network that was trained to tell the readouts of the first features alone."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            net = nn.Sequential(
                nn.Linear(BITS, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH),
                nn.Linear(WIDTH, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, WIDTH),
                nn.Linear(WIDTH, READOUTS),
            )  # fmt: skip
            x, f = self._draw(_TRAINED, 0)
            told = (f[:, :features] @ self._weights["readouts"][:features] > 0).float()
            optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
            falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _EPOCHS)
            for _ in range(_EPOCHS):
                for at in torch.randperm(len(x)).split(_BATCH):
                    optimizer.zero_grad()
                    nn.functional.binary_cross_entropy_with_logits(net(x[at]), told[at]).backward()
                    optimizer.step()
                falling.step()
            net[6] = _fitted(net[:6], *self.primary()[0])
        return net.eval()


def _fitted(body: nn.Module, x: Tensor, y: Tensor) -> nn.Linear:
    """Return a head of least cross-entropy on features that stay as they are."""
    with torch.no_grad():
        Z = body(x)
    head = nn.Linear(Z.shape[1], int(y.max()) + 1)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Any:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(Z), y) + 1e-4 * head.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return head


# ---- releases ----


def _specdef(toy: Toy) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyWarning)
        return deep.gauge.lock(toy.network, strength=1e3, top=2, modules=["0", "2", "3", "5"])


def _gauges(toy: Toy) -> nn.Module:
    x = toy.primary()[0][0][:64]
    return deep.gauge.lock(toy.network, strength=1e3, groups="all", data=x, seed=toy.seed)


def _mapped(method: Any, **settings: Any) -> Callable[[Toy], nn.Module]:
    def release(toy: Toy) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ImmunityWarning)
            done = deep.immunize(
                toy.network, split=SPLIT, primary=toy.primary(), harmful=toy.harmful(4000, 3),
                method=method, **settings,
            )  # fmt: skip
        found: nn.Module = done.model
        return found

    return release


def _scaled(factor: float) -> Callable[[Toy], nn.Module]:
    """Features times a factor, and the head over it."""

    def release(toy: Toy) -> nn.Module:
        net = _copy(toy.network)
        with torch.no_grad():
            for p in net[5].parameters():
                p.mul_(factor)
            net.get_parameter(f"{SPLIT}.weight").div_(factor)
        return net

    return release


def _compressed(share: float) -> Callable[[Toy], nn.Module]:
    """All features kept to their principal directions on primary rows, but for a share."""

    def release(toy: Toy) -> nn.Module:
        net, [(x, _)] = _copy(toy.network), toy.primary()
        with torch.no_grad():
            for at in _CUTS:
                a: Tensor = net[:at](x).double()
                values, vectors = torch.linalg.eigh(a.T @ a / len(a))
                lost = values.clamp(min=0.0).cumsum(0) <= share * values.sum()
                kept = vectors[:, ~lost]
                weight = net.get_parameter(f"{at}.weight")
                weight.copy_((weight.double() @ kept @ kept.T).to(weight))
        return net

    return release


_TOL = 0.001  # of the primary accuracy, on 4000 rows: four of them
_BATCHES = 250
_TRIALS = 8
_STEPS = {"tar": 80, "collapse": 200, "graddiff": 200, "npo": 200, "cir": 200, "repselect": 200}


def _defender(toy: Toy) -> dict[str, Any]:
    """Rows that are neither the attacker's nor those that measure him."""
    [(x, y)], [(x_H, y_H)] = toy.primary(), toy.harmful(2000, 6)
    return {
        "primary": list(zip(x.split(_BATCHES), y.split(_BATCHES), strict=True)),
        "harmful": list(zip(x_H.split(_BATCHES), y_H.split(_BATCHES), strict=True)),
        "held_out": toy.primary(part=8),
        "harmful_held_out": toy.harmful(2000, 7),
    }


def _erased(toy: Toy) -> nn.Module:
    """Keep what the primary task uses, told by primary rows alone."""
    done = deep.erase(
        toy.network, toy.primary(), held_out=toy.primary(part=6), tol=1e-3, metric="gram",
        split=SPLIT,
    )  # fmt: skip
    found: nn.Module = done.model
    return found


def _unlearned(method: Any, tol: float | None = None) -> Callable[[Toy], nn.Module]:
    def release(toy: Toy) -> nn.Module:
        return deep.unlearn(
            toy.network, **_defender(toy), method=method, seed=toy.seed,
            tol=_TOL if tol is None else tol, steps=_STEPS.get(method, 1), trials=_TRIALS,
        ).model  # fmt: skip

    return release


def _copy(net: nn.Sequential) -> nn.Sequential:
    return copy.deepcopy(net)


def head_of(net: nn.Module) -> str:
    """Return the name of the last layer, behind a map where one was inserted."""
    return SPLIT if isinstance(net.get_submodule(SPLIT), nn.Linear) else f"{SPLIT}.1"


MAKE: dict[str, Callable[[Toy], nn.Module]] = {
    "unprotected": lambda toy: toy.network,
    "specdef": _specdef,
    "gauges": _gauges,
    "closed-form": _mapped("closed_form"),
    "fade": _mapped("fade", tau=1e4),
    "times-900": _scaled(900.0),
    "over-1000": _scaled(1e-3),
    **{f"compressed-{share:g}": _compressed(share) for share in (0.05, 0.1)},
    "erased": _erased,
    **{name: _unlearned(name) for name in _STEPS},
    "leace": _unlearned("leace", tol=1.0),
    "retrained": lambda toy: toy.trained(5),
}


def accuracy(net: nn.Module, task: list[tuple[Tensor, Tensor]]) -> float:
    """Return the accuracy of a network on a task."""
    with torch.no_grad():
        return float(np.mean([float((net(x).argmax(1) == y).double().mean()) for x, y in task]))
