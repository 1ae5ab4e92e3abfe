"""Immunized networks on disk: written whole, and read into the architecture that they are of."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from .._files import whole
from .._validate import as_path, plain
from ._checkpoint import loaded
from ._head import SplitModel
from ._network import FoldedHead, copied, device_of, refuse_saving, replace_module
from ._report import DeepImmunization

WEIGHTS, ABOUT = "weights.pt", "immucond.json"
_EXTRA = "_extra_state"  # what modules of one's own keep beside tensors


def save(done: DeepImmunization, folder: str | Path) -> None:
    """Write an immunized network and its report; `load_saved` reads them.

    The files hold no network for Hugging Face's ``from_pretrained``: of a closed form, or of fade
    that was inserted, it would serve the features before the map, which are the unprotected ones,
    and a random head. Networks without an inserted layer save themselves as well.

    Parameters
    ----------
    done : DeepImmunization
        What `immunize` returned.
    folder : path
        Gets ``weights.pt`` and ``immucond.json``, each whole or not at all.

    Raises
    ------
    TypeError
        For what is no result of `immunize`.
    OSError
        Where the folder cannot be written to.

    Examples
    --------
    >>> import os, tempfile, torch
    >>> import immucond.deep as icd
    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
    >>> rows = torch.randn(50, 3)
    >>> tasks = {"primary": [rows], "harmful": [rows * torch.arange(1.0, 4.0)]}
    >>> done = icd.immunize(net, split="1", method="closed_form", **tasks)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     icd.save(done, folder)
    ...     sorted(os.listdir(folder))
    ['immucond.json', 'weights.pt']
    """
    if not isinstance(done, DeepImmunization):
        raise TypeError(
            "done must be what immunize returned, a DeepImmunization, and is a "
            f"{type(done).__name__}"
        )
    head = done.split.rpartition(".")[0] if _folded(done) else done.split
    report = None if done.report is None else asdict(done.report)
    about = {"split": head, "folded": _folded(done), "report": report}
    if done.fade is not None:
        about["fade"] = done.fade.figures()
    place = as_path(folder, "folder")
    with whole(place / WEIGHTS) as file:
        torch.save(tree_map_only(Tensor, _kept, {**done.model.state_dict()}), file)
    with whole(place / ABOUT) as file:
        file.write((json.dumps(plain(about), indent=1) + "\n").encode())


def _kept(x: Tensor) -> Tensor:
    return x.detach().cpu()


def _folded(done: DeepImmunization) -> bool:
    above = done.split.rpartition(".")[0]
    return isinstance(done.model.get_submodule(above), FoldedHead)


def load_saved(folder: str | Path, model: nn.Module) -> nn.Module:
    """Read a network that `save` wrote.

    Parameters
    ----------
    folder : path
        Where it was written.
    model : nn.Module
        The network that it was made from, or one of this architecture; it is not changed.

    Returns
    -------
    nn.Module
        In evaluation mode. What it protects is measured by `immunity_report`, against the original.

    Raises
    ------
    FileNotFoundError
        Where there are no such files.
    ValueError
        Where they cannot be read, or do not fit the architecture or its dtype.

    Examples
    --------
    >>> import tempfile, torch
    >>> import immucond.deep as icd
    >>> _ = torch.manual_seed(0)
    >>> net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    >>> primary, harmful = [torch.randn(200, 6)], [torch.randn(200, 6) * torch.arange(1.0, 7.0)]
    >>> done = icd.immunize(net, split="2", primary=primary, harmful=harmful, method="closed_form")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     icd.save(done, folder)
    ...     again = icd.load_saved(folder, net)
    >>> found = icd.immunity_report(again, net, primary, harmful, split=(done.split, "2"))
    >>> found.i == done.report.i
    True
    """
    path = as_path(folder, "folder")
    for name in (ABOUT, WEIGHTS):
        if not (path / name).is_file():
            raise FileNotFoundError(f"{path} has no {name}: it is no network saved by immucond")
    try:
        about: dict[str, Any] = json.loads((path / ABOUT).read_text(encoding="utf-8"))
        split, folded = about["split"], about["folded"]
        state = loaded(path / WEIGHTS)
    except Exception as error:
        raise ValueError(f"{path} is no network saved by immucond: {error}") from error
    if not isinstance(split, str) or not isinstance(folded, bool):
        raise ValueError(
            f"{path / ABOUT} must hold the name of the head, split, and whether it is folded, and "
            f"has split={split!r}, folded={folded!r}"
        )
    if not isinstance(state, dict) or not all(
        isinstance(name, str) and (isinstance(x, Tensor) or name.endswith(_EXTRA))
        for name, x in state.items()
    ):
        raise ValueError(
            f"{path / WEIGHTS} must hold tensors by their names, and holds a {type(state).__name__}"
            " of something else"
        )
    found = copied(model, device_of(model))
    head = SplitModel(found, split).head
    if folded:
        replace_module(found, split, FoldedHead(head, np.eye(head.in_features)))
        refuse_saving(found)
    own = found.state_dict()
    for name, x in state.items():
        if isinstance(x, Tensor) and name in own and own[name].dtype != x.dtype:
            raise ValueError(
                f"the network in {path} is of another dtype: {name!r} is {x.dtype} there and "
                f"{own[name].dtype} in model, which model.to({x.dtype}) changes"
            )
    try:
        found.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"the network in {path} is of another architecture: {error}") from error
    return found.eval()
