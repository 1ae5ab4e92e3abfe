"""What the directions of all layers are worth, measured once for networks at any tolerance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, SupportsIndex

from torch import Tensor, nn

from ..._validate import as_count, check_choice, refuse_other
from .._checkpoint import identity, name_of
from .._network import modules_matching, whatever_modes
from .._record import unwrapped
from ._layers import Layer, Layers
from ._prepared import Prepared, prepared
from ._run import Tasks
from ._worth import METRICS, Metric, Worth, worth_of


@dataclass(frozen=True)
class NetworkPath:
    """Erasures of every layer's output, by price; `erase` takes it for any tolerance.

    Attributes
    ----------
    worth : dict
        By layer: `path`, the `immucond.linear.ErasurePath` of its output, and the output's `mean`
        on the primary rows.
    settings : dict
        What it is of: network, tasks, layers, metric, mask and seed.
    """

    worth: Mapping[str, Worth] = field(repr=False)
    settings: Mapping[str, Any] = field(repr=False)

    def __repr__(self) -> str:
        paths = [each.path for each in self.worth.values()]
        known = sum(path.root.rank for path in paths if path.total > 0.0)
        width = sum(path.dim for path in paths)
        metric = self.settings["metric"]
        return f"NetworkPath({len(paths)} layers, {known} of {width} directions, {metric!r})"

    def refuse_other(self, settings: Mapping[str, Any]) -> None:
        """Refuse what it was not measured of, and say in what that differs."""
        refuse_other(self.settings, settings, "path", "Measure it with the same arguments")


@whatever_modes()
def erasure_path(
    model: nn.Module,
    primary: Any,
    *,
    metric: Metric = "fisher",
    harmful: Any = None,
    split: str | None = None,
    modules: str | Sequence[str] = "auto",
    mask: str | Callable[[Any], Tensor] | None = "attention_mask",
    seed: SupportsIndex = 0,
) -> NetworkPath:
    """Measure what the directions of a network's layers are worth, for `erase` at any tolerance.

    Parameters
    ----------
    model, primary, metric, harmful, split, modules, mask, seed
        As in `erase`.

    Returns
    -------
    NetworkPath

    Raises
    ------
    ValueError, TypeError
        As `erase`, but for what it says of held-out rows.

    Notes
    -----
    Ours; see `erase`. A pass over each task, one with gradients, and a few eigenproblems of each
    layer's width. To the bit what the first round of `erase` measures itself.

    Examples
    --------
    >>> import torch
    >>> import immucond.deep as icd
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> X = torch.randn(400, 6)
    >>> batches = list(zip(X.split(100), net(X).argmax(1).split(100)))
    >>> path = icd.erasure_path(net, batches[:2])
    >>> path
    NetworkPath(1 layers, 6 of 8 directions, 'fisher')
    >>> kept = [
    ...     icd.erase(net, batches[:2], held_out=batches[2:], tol=tol, path=path).kept
    ...     for tol in (0.01, 0.1)
    ... ]
    >>> kept[0] >= kept[1]
    True
    """
    check_choice(metric, "metric", METRICS)
    drawn = as_count(seed, "seed", least=0)
    model = unwrapped(model)
    ready = prepared(model, Tasks(primary, harmful=harmful), split, drawn)
    layers, tasks = chosen(ready.work, ready.found, modules), ready.tasks
    worth = worth_of(
        ready.work, layers, ready.found.head, tasks.primary, tasks.harmful, metric, mask, drawn + 1
    )
    return NetworkPath(worth, settings_of(model, ready, layers, metric, mask, drawn))


def settings_of(
    model: nn.Module, ready: Prepared, layers: Mapping[str, Layer], metric: Metric, mask: Any,
    seed: int,
) -> dict[str, Any]:  # fmt: skip
    """Return all that the worths depend on."""
    return {
        "model": identity(model), "layers": list(layers), "head": ready.found.head,
        "metric": metric, "mask": name_of(mask) if callable(mask) else mask, "seed": seed,
        "data": {
            name: of.fingerprint() for name, of in ready.given.items() if "held_out" not in name
        },
    }  # fmt: skip


def chosen(model: nn.Module, found: Layers, modules: str | Sequence[str]) -> dict[str, Layer]:
    """Return the layers to erase in, or refuse those that no map can be folded into."""
    if modules == "auto":
        layers = found.layers
    else:
        named, _ = modules_matching(model, modules)
        for name in named:
            if name not in found.layers:
                reason = found.skipped.get(name, "it has no weight of its own")
                reason = "it is the head" if name == found.head else reason
                raise ValueError(f"no map can be folded into {name!r}: {reason}")
        layers = {name: layer for name, layer in found.layers.items() if name in named}
    if not layers:
        told = "; ".join(f"{name!r}: {why}" for name, why in found.skipped.items())
        raise ValueError(f"no layer before the head can have a map folded into it ({told})")
    return layers
