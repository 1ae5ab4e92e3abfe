"""K-FAC: natural gradient descent with a Kronecker factorization of each layer's curvature."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._rows import Layout, entering, features_last, is_conv1d

if TYPE_CHECKING:
    from ._trial import Victim

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_PATCHES = Layout("token", True, None, frozenset())


class KFAC:
    r"""Steps :math:`W \leftarrow W - \eta\, \hat G^{-1} \nabla \hat A^{-1}` of layers.

    A is the second moment of what enters a layer (with a one for the bias), G that of the gradients
    of the loss by its outputs, for classes drawn from the network's own predictions. Linear maps
    before and after a layer change neither what the step does to the network's function nor, with
    little damping, how fast it goes. All parameters but those of linear layers and convolutions
    stay.

    Sources: Martens and Grosse (arXiv 1503.05671); Grosse and Martens (arXiv 1602.01407) for
    convolutions, and for linear layers that run on tokens.

    Parameters
    ----------
    victim : Victim
        With all its rows in each step.
    rate, damping : float
        Damping is relative to the mean eigenvalue of each factor.
    seed : int
        Of the drawn classes.
    """

    def __init__(self, victim: Victim, rate: float, damping: float, seed: int) -> None:
        self._victim, self._rate, self._damping = victim, rate, damping
        self._generator = torch.Generator().manual_seed(seed)
        self._layers = {
            name: layer
            for name, layer in victim.module.named_modules()
            if isinstance(layer, nn.Linear)
            or is_conv1d(layer)
            or (isinstance(layer, _CONVOLUTIONS) and layer.groups == 1)
            if layer.weight.requires_grad
        }

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self._victim.module.zero_grad()

    def step(self, closure: Callable[[], Any]) -> Any:
        """Take a step, and return the loss before it."""
        factors = self._factors()
        loss = closure()
        with torch.no_grad():
            for name, layer in self._layers.items():
                if name in factors and layer.weight.grad is not None:
                    self._move(layer, *factors[name])
        return loss

    def _move(self, layer: Any, A: Tensor, G: Tensor) -> None:
        grad = layer.weight.grad
        assert grad is not None
        turned = is_conv1d(layer)
        slope = (grad.mT if turned else grad).double().flatten(1)
        if layer.bias is not None:
            by_bias = layer.bias.grad
            assert by_bias is not None
            slope = torch.cat([slope, by_bias.double()[:, None]], dim=1)
        step = _solved(G, _solved(A, slope.T, self._damping).T, self._damping) * self._rate
        width = slope.shape[1] - (layer.bias is not None)
        by_weight = step[:, :width]
        by_weight = by_weight.mT if turned else by_weight.reshape(layer.weight.shape)
        layer.weight -= by_weight.to(layer.weight)
        if layer.bias is not None:
            layer.bias -= step[:, width].to(layer.bias)

    def _factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        """Return both second moments of each layer that ran, over all rows; none once diverged."""
        found: dict[str, list[Tensor]] = {}
        count = 0  # of the rows that the loss is a mean of
        with self._watched(found):
            for batch in self._victim.train:
                logits, _ = self._victim.run(batch)
                count += len(logits)
                if not bool(logits.isfinite().all()):
                    return {}
                drawn = torch.multinomial(
                    logits.detach().double().softmax(1).cpu(), 1, generator=self._generator
                )[:, 0].to(logits.device)
                nn.functional.cross_entropy(logits, drawn, reduction="sum").backward()
        self.zero_grad()
        return {name: (A / count, G / places) for name, (A, G, places) in found.items() if G.any()}

    @contextmanager
    def _watched(self, found: dict[str, list[Tensor]]) -> Iterator[None]:
        def see(name: str, layer: Any, args: Any, keywords: Any, output: Tensor) -> None:
            if not output.requires_grad:
                return
            x = entering(args, keywords, f"what enters {name!r}")
            a = _entering(layer, x.detach()).double()
            moment = a.T @ a

            def back(grad: Tensor) -> None:
                g = grad.detach()
                g = g.movedim(1, -1) if isinstance(layer, _CONVOLUTIONS) else g
                g = g.reshape(-1, g.shape[-1]).double()
                new = [moment, g.T @ g, torch.tensor(float(len(g)), dtype=torch.float64)]
                old = found.get(name)
                found[name] = new if old is None else [x + y for x, y in zip(old, new, strict=True)]

            output.register_hook(back)

        with ExitStack() as stack:
            for name, layer in self._layers.items():
                hook = layer.register_forward_hook(partial(see, name), with_kwargs=True)
                stack.callback(hook.remove)
            yield


def _entering(layer: Any, x: Tensor) -> Tensor:
    """Return what a layer multiplies at each place, with a one behind where it has a bias."""
    width = x.shape[-1]
    if isinstance(layer, _CONVOLUTIONS):
        x, width = features_last(x, layer, _PATCHES, "what enters a convolution")
    rows = x.reshape(-1, width)
    return rows if layer.bias is None else torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1)


def _solved(moment: Tensor, x: Tensor, damping: float) -> Tensor:
    """Return ``(moment + damping * mean eigenvalue)^-1 x``, on the range where that is singular."""
    mean = moment.diagonal().mean()
    damped = moment + damping * mean * torch.eye(len(moment), dtype=x.dtype, device=x.device)
    factor, failed = torch.linalg.cholesky_ex(damped)
    if not bool(failed):
        return torch.cholesky_solve(x, factor)
    values, vectors = torch.linalg.eigh(damped)
    floor = len(values) * torch.finfo(values.dtype).eps * values[-1]
    inverse = torch.where(values > floor, 1.0 / values.clamp(min=floor), 0.0)
    found: Tensor = vectors @ (inverse[:, None] * (vectors.T @ x))
    return found
