"""Updates that spare what is common: harmful weight gradients without their principal parts."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..._errors import extra
from .._attacked import layer_by_layer, with_new_head
from .._distillation import adam
from .._head import SplitModel
from .._network import copied, device_of, replace_module
from .._record import record
from .._search import Settings
from ._bench import Bench, adapting, norm_of
from ._layers import Layer
from ._worth import gains_of

Map = Callable[[Tensor], Tensor]

_LORA_RATE, _LORA_RANK = 3e-3, 8


def cir(bench: Bench, settings: Settings) -> None:
    """Ascend the harmful loss, without what retained inputs and output gradients have in common.

    Nothing else retains: each layer's weight gradient is projected off the top components of the
    primary rows' inputs on one side, and of their output gradients on the other.
    """
    layers = _matrices(bench)
    inputs, outputs = bench.once("components", lambda: _components(bench, layers))
    weights = [layer.module.get_parameter("weight") for layer in layers.values()]
    student, rival = bench.student(), bench.rival()
    adapt, length = adapting(rival), settings["rate"] * norm_of(list(weights)) / bench.steps
    optimizer = torch.optim.SGD(weights, lr=length)
    for _, other in bench.pairs():
        found = bench.harmful.run(student, other)
        gradients = torch.autograd.grad(-rival.loss(found), weights, allow_unused=True)
        for (name, layer), p, g in zip(layers.items(), weights, gradients, strict=True):
            if g is None:  # of a layer on a path around the harmful head
                continue
            sides = tuple(_top(x[name], settings["rank"]).to(g) for x in (inputs, outputs))
            p.grad = _on_matrix(layer, g, partial(_between, *sides))
        size = norm_of([p.grad for p in weights if p.grad is not None])
        if size > 0.0:
            for p in weights:
                p.grad = None if p.grad is None else p.grad / size
            optimizer.step()
        adapt(found)


def _top(vectors: Tensor, rank: int) -> Tensor:
    """Return the last eigenvectors; at least one direction is left."""
    count = vectors.shape[1]
    return vectors[:, count - min(rank, count - 1) :]


def _between(V: Tensor, U: Tensor, G: Tensor) -> Tensor:
    """Return a gradient without what it has along either side's components."""
    return _off(_off(G, V).T, U).T


def _off(rows: Tensor, basis: Tensor) -> Tensor:
    left: Tensor = rows - (rows @ basis) @ basis.T
    return left


def _components(
    bench: Bench, layers: dict[str, Layer]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return eigenvectors, ascending, of the second moments of inputs and of output gradients."""
    primary, keywords = bench.loaders["primary"], {"mask": bench.mask, "seed": bench.seed}
    convolve = [n for n, of in layers.items() if isinstance(of.module, nn.modules.conv._ConvNd)]
    inputs: dict[str, Tensor] = {}
    for names, patches in ((convolve, True), ([n for n in layers if n not in convolve], False)):
        if names:
            found = record(
                bench.teacher, primary, names, patches=patches, repeated="sum", **keywords
            )
            inputs.update({n: _vectors(found.gram(n)) for n in names})
    G = gains_of(
        bench.teacher, list(layers), bench.head, primary, "fisher", repeated="sum", **keywords
    )
    return inputs, {name: _vectors(second) for name, second in G.items()}


def _vectors(second: object) -> Tensor:
    vectors: Tensor = torch.linalg.eigh(torch.as_tensor(second))[1]
    return vectors


# ---- RepSelect ----


def repselect(bench: Bench, settings: Settings) -> None:
    """Step along the gradient that an adversary's adapter has on the weights below, made even.

    Each of its top components is divided, on either side, by its singular value relative to that
    of the last of them.
    """
    layers = _matrices(bench)
    gradients = bench.once("adversary", lambda: _adversarial(bench, layers))
    moves = {
        name: _on_matrix(layer, gradients[name], lambda G: _evened(G, settings["rank"]))
        for name, layer in layers.items()
    }
    weights = {name: layer.module.get_parameter("weight") for name, layer in layers.items()}
    size = norm_of(list(moves.values()))
    if size == 0.0:
        return
    length = settings["rate"] * norm_of(list(weights.values())) / size
    optimizer = torch.optim.SGD(weights.values(), lr=length)
    for name, p in weights.items():
        p.grad = -moves[name].to(p)
    optimizer.step()


def _evened(G: Tensor, rank: int) -> Tensor:
    U, s, V = torch.linalg.svd(G.double(), full_matrices=False)
    least = torch.finfo(G.dtype).eps * max(G.shape) * s[0]
    top = min(rank, int((s > least).sum()))
    if top:
        s[:top] = s[top - 1] ** 2 / s[:top]  # on both sides
    evened: Tensor = ((U * s) @ V).to(G)
    return evened


@layer_by_layer()
def _adversarial(bench: Bench, layers: dict[str, Layer]) -> dict[str, Tensor]:
    """Return the harmful gradient by each layer's weight, beside an adapter that has adapted."""
    with extra("lora"):
        import peft  # noqa: F401  (missing, it is to be told now)
    network = copied(bench.teacher, device_of(bench.teacher)).eval()
    own = network.get_submodule(bench.head)
    head = with_new_head(
        network, bench.head, bench.classes, params="lora", seed=bench.seed, rank=_LORA_RANK
    )
    replace_module(network, bench.head, own)  # the new one stands beside it, on its features
    network.eval()
    model = SplitModel(network, bench.head)
    new = [p for p in (*network.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = adam(new, _LORA_RATE, bench.steps)
    for _, other in bench.pairs():
        optimizer.zero_grad()
        found = bench.harmful.run(model, other)
        cross_entropy(head(found.features), found.labels.long()).backward()
        optimizer.step()
    network.requires_grad_(False)
    weights = {}
    for name in layers:
        module = network.get_submodule(name)
        weights[name] = getattr(module, "base_layer", module).get_parameter("weight")
        weights[name].requires_grad_(True)
    sums = {name: torch.zeros_like(p) for name, p in weights.items()}
    for other in bench.harmful.in_order():
        found = bench.harmful.run(model, other)
        loss = cross_entropy(head(found.features), found.labels.long(), reduction="sum")
        found_by = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        for name, g in zip(weights, found_by, strict=True):
            if g is not None:  # of a layer on a path around the head
                sums[name] += g
    return sums


# ---- weights as matrices ----


def _matrices(bench: Bench) -> dict[str, Layer]:
    """Return the layers that multiply by a matrix, and of which the logits are made."""
    layers = bench.layers.items()
    return {n: of for n, of in layers if of.used and not isinstance(of.module, nn.Embedding)}


def _on_matrix(layer: Layer, weight: Tensor, change: Map) -> Tensor:
    """Return a weight, or its gradient, changed as a matrix (out, in)."""
    turned = weight.movedim(layer.axis, 0)
    return change(turned.flatten(1)).reshape(turned.shape).movedim(0, layer.axis)
