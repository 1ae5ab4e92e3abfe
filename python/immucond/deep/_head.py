"""A network split at its head, a linear layer, whose input are the features."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_map_only

from ._masks import Masks, MaskWatch, is_model
from ._network import call, logits_of, module_named

# They generate, and compare logits with the labels of the same token.
_UNSHIFTED = frozenset({"xlm", "flaubert", "xlnet", "cpmant"})


class Pass(NamedTuple):
    """What one forward pass showed.

    Attributes
    ----------
    features, output : (N, m) or (B, T, m) tensor
        What entered the head, and what it put out.
    logits : Tensor
        What the network returned.
    kept : (B, T) tensor of bool or None
        Where the head ran on tokens: those that are no padding.
    masks : tuple
        The masks that modules were given.
    """

    features: Tensor
    output: Tensor
    logits: Tensor
    kept: Tensor | None
    masks: tuple[Any, ...]


class Watched:
    """What enters the head while it is watched, what it puts out, and the masks meanwhile."""

    def __init__(self, masks: Masks) -> None:
        self.features: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.masks = masks


class SplitModel:
    """A model, its linear head (`split` is its name), and the features that enter it."""

    def __init__(self, model: nn.Module, split: str) -> None:
        self.model, self.split = model, split
        self.head = _linear(model, split)
        # Those that hold the head, the outermost first.
        self.around = [
            m
            for m in model.modules()
            if m is not self.head and any(x is self.head for x in m.modules())
        ]
        self._masks = MaskWatch(model, self.around)
        self._owner = next((m for m in reversed(self.around) if is_model(m)), None)
        self.whole_graph = False  # whether inputs that can need gradients do

    def __call__(self, inputs: Any, kept: Tensor | None = None) -> Pass:
        """Run the model once; `kept` is which tokens are no padding, where that is known."""
        if self.whole_graph and torch.is_grad_enabled():
            inputs = tree_map_only(
                Tensor,
                lambda x: x.detach().requires_grad_() if x.is_floating_point() else x,
                inputs,
            )
        with self.watched() as seen:
            output = call(self.model, inputs)
        return self.shown(seen, output, kept)

    def shown(self, seen: Watched, output: Any, kept: Tensor | None = None) -> Pass:
        """Return what one forward pass that was watched showed, by what it returned."""
        if len(seen.outputs) != 1 or len(seen.features) != 1:
            raise ValueError(
                f"the head {self.split!r} must run once in each forward pass, and ran "
                f"{len(seen.outputs)} times"
            )
        features = seen.features[0]
        if features.ndim == 3 and kept is None:
            samples, tokens, _ = features.shape
            kept = seen.masks.kept(samples, tokens, features.device)
        logits = logits_of(output)
        return Pass(features, seen.outputs[0], logits, kept, tuple(seen.masks.given()))

    @contextmanager
    def watched(self) -> Iterator[Watched]:
        """Watch the head, and what masks the modules are given."""

        def see(seen: Watched, head: nn.Module, args: tuple[Any, ...], keywords: Any) -> None:
            features = args[0] if args else keywords["input"]
            if features.ndim not in (2, 3) or features.shape[-1] != head.in_features:
                raise ValueError(
                    f"the features that enter {self.split!r} must have shape (N, "
                    f"{head.in_features}), one row a sample, or (B, T, {head.in_features}), and "
                    f"have shape {tuple(features.shape)}"
                )
            seen.features.append(features)

        with self._masks.hooked() as masks, ExitStack() as stack:
            seen = Watched(masks)
            for handle in (
                self.head.register_forward_pre_hook(partial(see, seen), with_kwargs=True),
                self.head.register_forward_hook(lambda *passed: seen.outputs.append(passed[-1])),
            ):
                stack.callback(handle.remove)
            yield seen

    # ---- what kind of network the head is of: the innermost model of transformers around it ----

    @property
    def runs_on_tokens(self) -> bool:
        """Whether a network of transformers' classes has its head run on every token."""
        named = type(self._owner).__name__.endswith("ForTokenClassification")
        return named or _generates(self._owner)

    @property
    def shifts(self) -> bool:
        """Whether transformers compares a token's logits with the label of the next one.

        No model does whose decoder, perhaps one of those, reads the labels moved already.
        """
        decodes = any(_setting(m, "is_encoder_decoder") for m in self.around if is_model(m))
        kind = _setting(self._owner, "model_type")
        return _generates(self._owner) and not decodes and kind not in _UNSHIFTED


def _generates(owner: Any) -> bool:
    return owner is not None and bool(owner.can_generate())


def _setting(model: Any, name: str) -> Any:
    return getattr(getattr(model, "config", None), name, None)


# ---- which layers are heads ----


def _linear(model: nn.Module, split: str) -> nn.Linear:
    """Return the head; refuse what is no linear layer whose weight is its matrix."""
    head = module_named(model, split, "split")
    what = f"split must name a linear layer, and {split!r} is a {type(head).__name__}"
    quantized = _quantized(head)
    if quantized:
        raise TypeError(
            f"{what} whose weight is quantized ({quantized}): it must hold the numbers that the "
            "features are multiplied with. Load the network with its head left out of the "
            "quantization (transformers: llm_int8_skip_modules or modules_to_not_convert in the "
            "quantization_config), or dequantize it first (model.dequantize())"
        )
    if not isinstance(head, nn.Linear):
        linear = [name for name, m in model.named_modules() if isinstance(m, nn.Linear)]
        listed = ", ".join(repr(name) for name in linear)
        raise TypeError(f"{what}{_wrapped(split, head)}; linear layers are {listed or 'none'}")
    _refuse_adapted(model, split, head)
    return head


def _quantized(head: nn.Module) -> str:
    """Say in what other form than its matrix a layer with features in and out holds its weight."""
    if not isinstance(head, nn.Linear) and not hasattr(head, "in_features"):
        return ""
    if hasattr(head, "base_layer"):
        return ""  # an adapter
    weight = getattr(head, "weight", None)
    if isinstance(weight, Tensor):
        if nn.parameter.is_lazy(weight):
            raise TypeError("the head has no weight yet (a lazy layer): run the model once before")
        whole = hasattr(weight, "full_tensor")  # a DTensor
        held = type(weight.data).__name__
        if is_traceable_wrapper_subclass(weight) and not whole:
            return f"held as a {held}"
        if not weight.is_floating_point() or torch.finfo(weight.dtype).bits < 16:
            return f"{weight.dtype}, shape {tuple(weight.shape)}"
        return ""
    packed = [
        f"{name}: {x.dtype}"
        for name, x in (*head.named_parameters(), *head.named_buffers())
        if not x.is_floating_point()
    ]
    return ", ".join(packed) or ("packed" if callable(weight) else "")


def _wrapped(split: str, head: nn.Module) -> str:
    """Say of an adapter around a linear layer, such as PEFT's, what to name instead."""
    within = [f"{split}.{name}" for name, m in head.named_modules() if isinstance(m, nn.Linear)]
    if hasattr(head, "modules_to_save"):  # copies, one of which runs in the layer's place
        active: Any = getattr(head, "active_adapters", None) or getattr(head, "active_adapter", ())
        names = {active} if isinstance(active, str) else set(active)
        runs = [name for name in within if name.rpartition(".")[2] in names] or within
        return (
            f" of {type(head).__module__}, around copies of the layer: name the one that runs, "
            f"{' or '.join(map(repr, runs))}"
        )
    if not within or not hasattr(head, "base_layer"):
        return ""
    if _adds(head):
        return (
            f" of {type(head).__module__}, an adapter that adds to {split + '.base_layer'!r}: "
            "merge it first (PEFT: model = model.merge_and_unload()), and name the layer that is "
            "left"
        )
    return (
        f" of {type(head).__module__}, an adapter around {', '.join(map(repr, within))}: name the "
        "one of these that runs, or merge the adapter first (PEFT: merge_and_unload())"
    )


def _adds(layer: nn.Module) -> bool:
    """Whether an adapter of PEFT's changes what its layer puts out."""
    active = getattr(layer, "active_adapters", ())
    off = getattr(layer, "disable_adapters", False) or getattr(layer, "merged", False)
    return bool(active) and not off


def _refuse_adapted(model: nn.Module, split: str, head: nn.Linear) -> None:
    """Refuse a layer whose output an adapter adds to: it is not all that the features make."""
    for name, module in model.named_modules():
        if getattr(module, "base_layer", None) is head and _adds(module):
            raise TypeError(
                f"split must name all of the head, and {name!r} is a {type(module).__name__} that "
                f"adds to what {split!r} puts out: merge the adapter first (PEFT: model = "
                f"model.merge_and_unload()), and name the layer that is left"
            )
