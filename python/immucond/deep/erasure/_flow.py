"""What flows through the blocks of a network, and a block that runs on it by itself."""

from __future__ import annotations

import copy
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from ..._validate import FloatArray
from .._checkpoint import fingerprint_of
from .._rows import Layout, Samples, dimensions_of
from .._watch import Watch

_MOST = 2**30  # bytes that are kept of a task; where there are more, the whole network runs

Groups = Mapping[str, Sequence[str]]  # blocks, as they are ordered, and layers of each


class Flow(Watch):
    """What enters a block, what blocks put out, and which of them follow one another.

    Attributes
    ----------
    told : dict of str to list of str
        Fingerprints of what some blocks put out, one for each batch.
    entered : list of tuple
        Arguments and keywords of the block that it keeps, of each batch.
    kept : bool
        Whether they could be kept: they can be copied, and are not too many.
    often : set of str
        Blocks and layers that some batch does not run once.
    """

    def __init__(
        self, model: nn.Module, groups: Groups, tells: Collection[str], *, keeps: str = ""
    ) -> None:
        self._home = {layer: block for block, within in groups.items() for layer in within}
        modules = {name: model.get_submodule(name) for name in (*groups, *self._home)}
        layout = Layout("token", False, None, dimensions_of(model))
        super().__init__(modules, "input", "gram", layout, True, None)
        self.told: dict[str, list[str]] = {name: [] for name in tells}
        self.entered: list[Any] = []
        self.kept = True
        self.often: set[str] = set()
        self._blocks, self._keeps = tuple(groups), keeps
        self._astray: set[str] = set()
        self._bytes: Counter[str] = Counter()
        self._before: dict[str, set[str]] = defaultdict(set)
        self._inside, self._rest = "", ""
        self._last: tuple[str, Tensor | None] = ("", None)

    def apart(self, block: str) -> bool:
        """Whether a block runs once and in no other, and its layers nowhere else."""
        return block not in self.often | self._astray

    def follows(self, block: str, before: str) -> bool:
        """Whether a block is handed what another puts out, and all else as that one was."""
        few = self._bytes[block] <= _MOST
        return few and self.apart(block) and self._before[block] == {before}

    def begin(self, number: int, samples: Samples, targets: FloatArray | None) -> None:
        """Take up a batch."""
        super().begin(number, samples, targets)
        self._inside, self._rest, self._last = "", "", ("", None)

    def end(self) -> None:
        """See what of it did not run once."""
        self.often |= {name for name in self.modules if self._calls.get(name) != 1}
        super().end()

    @contextmanager
    def hooked(self, model: nn.Module) -> Iterator[None]:
        """Watch blocks and layers."""
        with super().hooked(model), ExitStack() as stack:
            for block in self._blocks:
                hook = self.modules[block].register_forward_hook(partial(self._leave, block))
                stack.callback(hook.remove)
            yield

    def _enters(self, name: str, _: nn.Module, args: Any, keywords: Any) -> None:
        if not self._called(name):
            return
        if name in self._home:
            if self._inside != self._home[name]:
                self._astray.add(self._home[name])
            return
        if self._inside:
            self._astray |= {name, self._inside}
        held = (args, keywords)
        (before, output), x = self._last, _first(held)
        rest = fingerprint_of(_with_first(held, None))
        follows = x is not None and x is output and rest == self._rest
        self._before[name].add(before if follows else "")
        self._inside, self._rest = name, rest
        self._bytes[name] += sum(x.nbytes for x in tree_leaves(held) if isinstance(x, Tensor))
        if name == self._keeps and self.kept:
            try:
                self.entered.append(copy.deepcopy(held))
            except Exception:  # whatever a network hands to its blocks
                self.kept = False
            self.kept = self.kept and self._bytes[name] <= _MOST

    def _leave(self, name: str, _: nn.Module, __: Any, output: Any) -> None:
        if not self._listening:
            return
        self._inside, self._last = "", (name, _first(output))
        if name in self.told:
            self.told[name].append(fingerprint_of(output))


class Alone(nn.Module):
    """A block under the name that it has in its network, run on what entered it in a batch.

    Attributes
    ----------
    name : str
    followed : bool
        Whether what it runs on is what the block before it put out.
    until : str
        A layer behind which it need not run: what is to be recorded.
    """

    def __init__(self, name: str, model: nn.Module, flow: Flow, *, followed: bool = False) -> None:
        super().__init__()
        self.name, self.followed, self.until, self._flow = name, followed, name, flow
        *path, last = name.split(".")
        holder: nn.Module = self
        for part in path:
            holder.add_module(part, inner := nn.Module())
            holder = inner
        holder.add_module(last, model.get_submodule(name))

    def forward(self, rows: Tensor) -> None:
        """Run on the batch whose number each of the rows holds, for hooks to see."""
        with ExitStack() as stack:
            if self.until not in self._flow.often:
                last = self.get_submodule(self.until)
                stack.callback(last.register_forward_hook(_reached).remove)
                stack.enter_context(suppress(_ReachedError))
            self._output(int(rows[0]))

    def alike(self, told: Sequence[str]) -> bool:
        """Whether it puts out the same bits as in its network: nothing else tells."""
        try:
            return self.told() == told
        except Exception:  # it wants what the network does before
            return False

    def leads_to(self, block: str) -> bool:
        """Whether a block follows."""
        return self._flow.follows(block, self.name)

    def then(self, block: str, model: nn.Module) -> Alone:
        """Return the block that follows, run on what this one has put out."""
        return Alone(block, model, self._flow, followed=True)

    @torch.no_grad()
    def told(self, *, onward: bool = False) -> list[str]:
        """Return fingerprints of what it puts out, which may take the place of what entered."""
        found = []
        for number, held in enumerate(self._flow.entered):
            output = self._output(number)
            found.append(fingerprint_of(output))
            if onward:
                self._flow.entered[number] = _with_first(held, _first(output))
        return found

    def _output(self, number: int) -> Any:
        args, keywords = copy.deepcopy(self._flow.entered[number])  # it may write into them
        return self.get_submodule(self.name)(*args, **keywords)


class _ReachedError(BaseException):
    """A layer has put out what is to be recorded; no network's own handlers should hear of it."""


def _reached(*_: Any) -> None:
    raise _ReachedError


def _first(tree: Any) -> Tensor | None:
    """Return the first tensor of a tree."""
    return next((x for x in tree_leaves(tree) if isinstance(x, Tensor)), None)


def _with_first(tree: Any, x: Tensor | None) -> Any:
    """Return a tree with something else in the place of its first tensor."""
    leaves, spec = tree_flatten(tree)
    at = next((i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)), len(leaves))
    return tree_unflatten([*leaves[:at], x, *leaves[at + 1 :]], spec)
