"""A network split at its head: features are what the head, a linear layer, takes in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only


def module_named(model: nn.Module, name: str, what: str) -> nn.Module:
    """Return a submodule by its dotted name."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if name not in modules or name == "":
        listed = ", ".join(repr(known) for known in modules if known)
        raise ValueError(
            f"{what} must name a module of the model, and is {name!r}; there are {listed}"
        )
    found: nn.Module = modules[name]
    return found


def names_of(trainable: str | Sequence[str]) -> list[str]:
    """Return the names of the trainable blocks as a list."""
    return [trainable] if isinstance(trainable, str) else list(trainable)


def blocks_named(model: nn.Module, trainable: str | Sequence[str]) -> list[nn.Module]:
    """Return the trainable blocks by their names."""
    return [module_named(model, name, "trainable") for name in names_of(trainable)]


def heads_named(split: Any) -> tuple[str, str]:
    """Return the names of the heads of two networks, from one of both or one of each."""
    names = (split, split) if isinstance(split, str) else split
    listed = isinstance(names, (tuple, list)) and all(isinstance(x, str) for x in names)
    if not listed or len(names) != 2:
        raise ValueError(f"split must be one name or that of each network, and is {split!r}")
    return names[0], names[1]


def parse_batch(batch: Any) -> tuple[Any, Any]:
    """Return the inputs of a batch and its labels: of a pair, or of a mapping with "labels"."""
    if isinstance(batch, Mapping):
        inputs = dict(batch)
        labels = inputs.pop("labels", inputs.pop("label", None))
        return inputs, labels
    if isinstance(batch, (tuple, list)):
        if len(batch) == 2:
            return batch[0], batch[1]
        raise ValueError(
            "a batch must be (inputs, labels), a mapping with 'labels', or a tensor of inputs, and "
            f"is a {type(batch).__name__} of {len(batch)}"
        )
    return batch, None


def moved(tree: Any, device: Any) -> Any:
    """Return nested tensors on a device."""
    if isinstance(tree, Tensor):
        return tree.to(device, non_blocking=True)
    if isinstance(tree, Mapping):
        return {key: moved(value, device) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        values = [moved(value, device) for value in tree]
        return type(tree)(*values) if hasattr(tree, "_fields") else type(tree)(values)
    return tree


def call(model: nn.Module, inputs: Any) -> Any:
    """Run the model on one tensor, positional ones, or a mapping of keywords."""
    if isinstance(inputs, Mapping):
        return model(**inputs)
    if isinstance(inputs, (tuple, list)):
        return model(*inputs)
    return model(inputs)


def logits_of(output: Any) -> Tensor:
    """Return the logits of what a model returned: a tensor, or what holds one as "logits"."""
    if isinstance(output, Mapping):
        output = output["logits"]
    elif hasattr(output, "logits"):
        output = output.logits
    if not isinstance(output, Tensor):
        raise TypeError(f"the model must return logits, and returned {type(output).__name__}")
    return output


def _needing_a_gradient(x: Tensor) -> Tensor:
    return x.detach().requires_grad_() if x.is_floating_point() else x


def _wrapped(split: str, head: nn.Module) -> str:
    """Say of an adapter around a linear layer, such as PEFT's, what to name instead."""
    within = [f"{split}.{name}" for name, m in head.named_modules() if isinstance(m, nn.Linear)]
    if not within or not (hasattr(head, "base_layer") or hasattr(head, "original_module")):
        return ""
    return (
        f" of {type(head).__module__}, an adapter around {', '.join(map(repr, within))}: name the "
        "one of these that runs, or merge the adapter first (PEFT: merge_and_unload())"
    )


def _remedy(ndim: int) -> str:
    if ndim < 3:
        return ""
    return (
        ": tokens or places are no samples. Pool them before the head, by their mean or by the "
        "first one, in the network's forward"
    )


class SplitModel:
    """A model, its linear head, and the features between.

    Parameters
    ----------
    model : nn.Module
        Any network.
    split : str
        The name of its head, as in ``model.named_modules()``: the last linear layer.
    """

    def __init__(self, model: nn.Module, split: str) -> None:
        self.model, self.split = model, split
        head = module_named(model, split, "split")
        if not isinstance(head, nn.Linear):
            linear = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
            listed = ", ".join(repr(name) for name in linear)
            raise TypeError(
                f"split must name a linear layer, and {split!r} is a {type(head).__name__}"
                f"{_wrapped(split, head)}; linear layers are {listed or 'none'}"
            )
        self.head = head
        self.whole_graph = False  # whether inputs that can need gradients do

    def __call__(self, inputs: Any) -> tuple[Tensor, Tensor]:
        """Return features (N, m) and logits."""
        if self.whole_graph and torch.is_grad_enabled():
            inputs = tree_map_only(Tensor, _needing_a_gradient, inputs)
        with self.watched() as seen:
            output = call(self.model, inputs)
        return self.checked(seen), logits_of(output)

    def checked(self, seen: list[Tensor]) -> Tensor:
        """Return the features of one forward pass that was watched."""
        if len(seen) != 1:
            raise ValueError(
                f"the head {self.split!r} must run once in each forward pass, and ran {len(seen)} "
                "times"
            )
        return seen[0]

    @contextmanager
    def watched(self) -> Iterator[list[Tensor]]:
        """Collect what enters the head meanwhile."""
        seen: list[Tensor] = []

        def see(head: nn.Module, args: tuple[Any, ...]) -> None:
            features = args[0]
            if features.ndim != 2 or features.shape[1] != head.in_features:
                raise ValueError(
                    f"the features that enter {self.split!r} must have shape (N, "
                    f"{head.in_features}), one row a sample, and have shape "
                    f"{tuple(features.shape)}{_remedy(features.ndim)}"
                )
            seen.append(features)

        handle = self.head.register_forward_pre_hook(see)
        try:
            yield seen
        finally:
            handle.remove()


def refuse_compiled(model: nn.Module) -> None:
    """Refuse a network whose features are computed in one graph with its logits.

    The gradient of the loss by the features is not to be had from such a graph.
    """
    if hasattr(model, "_orig_mod") or model._compiled_call_impl is not None:
        raise TypeError(
            "the model is compiled (torch.compile), which hides the features from autograd: give "
            "the module that was compiled (the attribute _orig_mod, or one on which compile() was "
            "not called), and compile what comes of it"
        )
