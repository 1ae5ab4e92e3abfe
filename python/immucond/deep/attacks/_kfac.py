"""K-FAC: natural gradient descent with a Kronecker factorization of each layer's curvature."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._rows import entering

if TYPE_CHECKING:
    from ._trial import Victim


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
            if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)
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

    def _move(self, layer: nn.Linear | nn.Conv2d, A: Tensor, G: Tensor) -> None:
        grad = layer.weight.grad
        assert grad is not None
        slope = grad.double().flatten(1)
        if layer.bias is not None:
            by_bias = layer.bias.grad
            assert by_bias is not None
            slope = torch.cat([slope, by_bias.double()[:, None]], dim=1)
        step = _solved(G, _solved(A, slope.T, self._damping).T, self._damping) * self._rate
        width = layer.weight[0].numel()
        layer.weight -= step[:, :width].reshape(layer.weight.shape).to(layer.weight)
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
                g = g.movedim(1, -1) if isinstance(layer, nn.Conv2d) else g
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


def _entering(layer: nn.Linear | nn.Conv2d, x: Tensor) -> Tensor:
    """Return what a layer multiplies at each place, with a one behind where it has a bias."""
    if isinstance(layer, nn.Conv2d):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        x = nn.functional.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
        x = nn.functional.unfold(
            x, layer.kernel_size, dilation=layer.dilation, stride=layer.stride
        ).mT
    rows = x.reshape(-1, x.shape[-1])
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
