"""The mask of tokens that a network really ran with, whoever made it: read where it enters.

A batch may give it by name or by place, or a module's forward may make it. It is that of the
innermost module around the head that was given one, or else that of the outermost ones elsewhere:
what these make of it for their layers, of four dimensions, tells tokens of no sample.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager
from functools import lru_cache, partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..torch.parts import token_mask

ENCODED, DECODED = "attention_mask", "decoder_attention_mask"
_TOKENS = ("decoder_input_ids", "decoder_inputs_embeds")
_READ = frozenset((ENCODED, DECODED, *_TOKENS))


class _Run(NamedTuple):
    """One run of a module, and such of its arguments as tell of tokens and are not None."""

    name: str
    module: nn.Module
    given: dict[str, Any]
    decodes: bool

    @property
    def decoded(self) -> bool:
        """Whether the decoder's own tokens were given."""
        return any(name in self.given for name in _TOKENS)

    def __str__(self) -> str:
        kind = type(self.module).__name__
        return f"{self.name!r}, a {kind}," if self.name else f"the model, a {kind},"


def is_model(module: nn.Module) -> bool:
    """Whether a module is a model of transformers, or stands for one."""
    return callable(getattr(module, "can_generate", None))


def _forward(module: nn.Module) -> tuple[tuple[str, ...], bool, bool]:
    """Return the names of a forward's arguments by place; whether it names masks, and a decoder's.

    Of the class: what stands in an instance's ``forward`` wraps it, with the same arguments.
    """
    return _arguments(getattr(type(module), "forward", None))


@lru_cache(maxsize=1024)
def _arguments(forward: Any) -> tuple[tuple[str, ...], bool, bool]:
    try:
        given = inspect.signature(forward).parameters
    except (TypeError, ValueError):
        return (), False, False
    by_place = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    places = tuple(name for name, x in given.items() if x.kind in by_place)[1:]
    return places, ENCODED in given, DECODED in given


class MaskWatch:
    """Sees what masks the modules of a network are given; `around` are those that hold the head."""

    def __init__(self, model: nn.Module, around: Sequence[nn.Module] = ()) -> None:
        self._around = {id(module) for module in around}
        self._modules = {
            name: module
            for name, module in model.named_modules()
            if id(module) in self._around or _forward(module)[1] or is_model(module)
        }

    @contextmanager
    def hooked(self) -> Iterator[Masks]:
        """Watch one forward pass."""
        runs: list[_Run] = []
        with ExitStack() as stack:
            for name, module in self._modules.items():
                places, _, decodes = _forward(module)
                hook = partial(_see, runs, name, places, decodes)
                handle = module.register_forward_pre_hook(hook, with_kwargs=True)
                stack.callback(handle.remove)
            yield Masks(runs, self._around)


def _see(
    runs: list[_Run], name: str, places: Sequence[str], decodes: bool, module: nn.Module,
    args: Any, keywords: Any,
) -> None:  # fmt: skip
    given = dict(zip(places, args, strict=False)) | keywords
    told = {key: x for key, x in given.items() if key in _READ and x is not None}
    runs.append(_Run(name, module, told, decodes))


class Masks:
    """The masks of one forward pass, by the runs of modules, each before those within it."""

    def __init__(self, runs: list[_Run], around: Set[int]) -> None:
        self._runs, self._around = runs, around

    def given(self) -> Iterator[Any]:
        """Yield the very masks that were given."""
        for run in self._runs:
            yield from (run.given[name] for name in (ENCODED, DECODED) if name in run.given)

    def pad(self) -> bool:
        """Whether an outermost module was given a mask (B, T) with padding."""
        found = (run.given.get(ENCODED) for run in self._outermost())
        return any(isinstance(x, Tensor) and x.ndim == 2 and bool((x == 0).any()) for x in found)

    def unlike(self, mask: Tensor) -> set[int]:
        """Return the modules of decoders that ran on as many tokens as a mask has, but others."""
        found: set[int] = set()
        for run in self._runs:
            tokens = next((run.given[name] for name in _TOKENS if name in run.given), None)
            decoder = getattr(run.module, "get_decoder", None)
            if tokens is None or decoder is None or tokens.shape[:2] != mask.shape:
                continue
            own = torch.ones_like(mask) if DECODED not in run.given else run.given[DECODED] != 0
            if not torch.equal(own.to(mask.device), mask):
                found |= {id(module) for module in decoder().modules()}
        return found

    def kept(self, samples: int, tokens: int, device: torch.device) -> Tensor:
        """Return which of the head's tokens are no padding, (B, T): all, where there is no mask."""
        run = next((run for run in reversed(self._runs) if self._tells(run)), None)
        if run is None:
            return self._elsewhere(samples, tokens, device)
        if run.decodes and not run.decoded:
            raise ValueError(
                f"a batch must hold {_TOKENS[0]} for a {type(run.module).__name__}, which else "
                "makes them of labels that it is not given, or of others: "
                "DataCollatorForSeq2Seq(tokenizer, model=model) does"
            )
        name = DECODED if run.decoded else ENCODED
        if name not in run.given:  # the decoder ran on all of its tokens
            return torch.ones(samples, tokens, dtype=torch.bool, device=device)
        return _as_bool(run, name, samples, tokens).to(device)

    def _tells(self, run: _Run) -> bool:
        """Whether a run of a module around the head tells the mask, or that there is none."""
        return id(run.module) in self._around and (
            run.decodes or run.decoded or ENCODED in run.given
        )

    def _elsewhere(self, samples: int, tokens: int, device: torch.device) -> Tensor:
        """Return the one mask of modules that do not hold the head, or refuse several."""
        claims = [
            (run, name)
            for run in self._outermost()
            for name in ((ENCODED, DECODED) if run.decodes and run.decoded else (ENCODED,))
        ]
        everything = torch.ones(samples, tokens, dtype=torch.bool, device=device)
        found: list[tuple[str, Tensor]] = []
        for run, name in claims:
            mask = run.given.get(name)
            if mask is None:
                found.append((f"{run} with no {name}", everything))
            elif getattr(mask, "shape", None) == (samples, tokens):
                kept = _as_bool(run, name, samples, tokens).to(device)
                found.append((f"{run} with one", kept))
        remedy = (
            f"let the forward of the module around the head take {ENCODED}, of 0 and 1 and shape "
            f"{(samples, tokens)}, and give it with the batch"
        )
        if claims and not found:
            told = "; ".join(
                f"{run} ran with {name} of shape {tuple(getattr(run.given[name], 'shape', ()))}"
                for run, name in claims
            )
            raise ValueError(
                f"which tokens of the head are padding cannot be told: {told}: {remedy}"
            )
        if any(not torch.equal(mask, found[0][1]) for _, mask in found):
            told = "; ".join(dict.fromkeys(label for label, _ in found))
            raise ValueError(
                f"which tokens of the head are padding cannot be told, for masks differ: {told}: "
                f"{remedy}"
            )
        return found[0][1] if found else everything

    def _outermost(self) -> Iterator[_Run]:
        """Yield the outermost runs that were given a mask, or are a model's, which had none.

        A model that takes none, such as of images, has masks of its own for its layers; but models
        within it may be given one.
        """
        inside: set[int] = set()
        for run in self._runs:
            if id(run.module) in self._around or id(run.module) in inside:
                continue
            model, below = is_model(run.module), list(run.module.modules())[1:]
            if ENCODED in run.given or run.decodes or (model and _forward(run.module)[1]):
                inside |= set(map(id, below))
                yield run
            elif model:
                inside |= {id(m) for m in below if not is_model(m)}


def _as_bool(run: _Run, name: str, samples: int, tokens: int) -> Tensor:
    mask = run.given[name]
    mask = mask.detach() if isinstance(mask, Tensor) else mask
    where = f"the {name} of {run.name!r}" if run.name else f"the batch's {name}"
    return token_mask(mask, where, samples=samples, tokens=tokens)
