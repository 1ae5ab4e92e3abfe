"""Networks that commands made, in folders: immunized, erased or locked, and read back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..._errors import extra
from ..._files import staged
from .._sources import located
from ._backbone import Backbone, Preparation, TextClassifier
from ._foreign import loading

with extra("deep"):
    import safetensors.torch
    import torch
    import transformers
    from torch import nn

from ...deep.parts import (
    FoldedHead,
    Inserted,
    TwoLayers,
    insert_again,
    module_named,
    refuse_saving,
    replace_module,
)

HEAD_FILE, ABOUT_FILE = "head.safetensors", "immucond.json"
LOCKED_FILE = "locked.safetensors"  # all weights of a network with inserted layers
INNER = "before-the-map"  # of a closed form
_OURS = {"trust_remote_code": False}  # a folder runs no code of its own
_DAMAGED = "the files that immucond wrote there do not load"


def save(backbone: Backbone, model: nn.Module, folder: Path, unit: str = "") -> None:
    """Write an immunized network, for `load_saved`, and of which unit of a run it is.

    A classifier of images with a plain head is complete as Hugging Face reads it. The closed form
    puts a linear map before the head, which Hugging Face's classes do not know: they would serve
    the features before it, and give a classifier a random head. Its files lie in a folder within,
    so that ``from_pretrained`` of the folder itself fails. Of a network with layers that a lock
    inserted there are the configuration and a file of all weights, which ``from_pretrained`` does
    not read either.
    """
    split = backbone.split
    while isinstance(model.get_submodule(above := split.rpartition(".")[0]), TwoLayers):
        split = above  # the network was saved before, with two layers there
    head = module_named(model, split, "split")
    folded = isinstance(head, FoldedHead)
    locked = [name for name, module in model.named_modules() if isinstance(module, Inserted)]
    text = isinstance(model, TextClassifier)
    inner: Any = model.encoder if text else model
    place = folder / INNER if folded else folder
    if locked:
        inner.config.save_pretrained(place)
        safetensors.torch.save_model(model, str(folder / LOCKED_FILE))
    else:
        type(inner).save_pretrained(inner, place)  # that of a folded network refuses
    if backbone.preparation.tokenizer is not None:
        backbone.preparation.tokenizer.save_pretrained(place)
    state = {name: value.contiguous() for name, value in head.state_dict().items()}
    safetensors.torch.save_file(state, folder / HEAD_FILE)
    p = backbone.preparation
    about = {
        "kind": "text" if text else "image",
        "split": split,
        "folded": folded,
        "locked": locked,
        "max_length": p.max_length,
        "image_size": p.image_size,
        "mean": [*p.mean],
        "std": [*p.std],
        **({"unit": unit} if unit else {}),
    }
    if folded:
        about["protected"] = (
            f"the features that enter {split}.1, of the network that load_saved returns; "
            f"what {INNER} holds alone serves the unprotected ones"
        )
    about["files"] = [*sorted(file_names(folder)), ABOUT_FILE]
    (folder / ABOUT_FILE).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def file_names(folder: Path) -> set[str]:
    """Names of all files in a folder and below it, relative to it."""
    return {str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir()}


def save_anew(backbone: Backbone, model: nn.Module, folder: Path, unit: str = "") -> None:
    """`save` whole, in place of what that wrote there before.

    Raises
    ------
    OSError, ValueError
        As `refuse_foreign`, and where another process writes there.
    """
    refuse_foreign(folder)
    with staged(folder, afresh=True) as stage:
        save(backbone, model, stage, unit)


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder with files that `save` did not write: they would go with the network.

    Raises
    ------
    FileExistsError
        Where there are some.
    ValueError
        For a description that is damaged.
    """
    there = file_names(folder) if folder.is_dir() else set()
    written: set[str] = set()
    if ABOUT_FILE in there:
        with loading(str(folder), _DAMAGED):
            written = set(_about(folder).get("files", there))  # older ones do not tell
    if foreign := sorted(there - written):
        raise FileExistsError(
            f"{folder} would be made anew, and has files that immucond did not write, such as "
            f"{foreign[0]}: move them, or give another folder"
        )


def unit_of(folder: Path) -> str | None:
    """Name of the file of the unit whose network a folder has; None where it has none, or no name.

    Raises
    ------
    ValueError
        For a file that is damaged.
    """
    if not (folder / ABOUT_FILE).is_file():
        return None
    with loading(str(folder), _DAMAGED):
        name: str | None = _about(folder).get("unit")
        return name


def _about(folder: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
    return told


@contextmanager
def _no_load_report(folded: bool) -> Iterator[None]:
    """Of a folded head, which is read from its own file, transformers need not say it is new."""
    before = transformers.logging.get_verbosity()
    try:
        if folded:
            transformers.logging.set_verbosity_error()
        yield
    finally:
        transformers.logging.set_verbosity(before)


def load_saved(folder: str | Path) -> nn.Module:
    """Load a network that `save` wrote, its head included.

    Raises
    ------
    FileNotFoundError
        If the folder is none of these.
    ValueError
        If a file of it is damaged.
    """
    path = Path(folder)
    for name in (ABOUT_FILE, HEAD_FILE):
        if not (path / name).is_file():
            raise FileNotFoundError(f"{path} has no {name}: it is no network saved by immucond")
    with loading(str(folder), _DAMAGED):
        return _loaded(path, _about(path))


def _loaded(path: Path, about: dict[str, Any]) -> nn.Module:
    state = safetensors.torch.load_file(path / HEAD_FILE)
    folded, locked = about["folded"], about.get("locked", [])
    inner = path / INNER if folded else path
    text = about["kind"] == "text"
    kind: Any = transformers.AutoModel if text else transformers.AutoModelForImageClassification
    with _no_load_report(folded):
        if locked:
            config = transformers.AutoConfig.from_pretrained(inner, **_OURS)
            model: nn.Module = kind.from_config(config, dtype=torch.float32, **_OURS)
        else:
            model = kind.from_pretrained(inner, dtype=torch.float32, **_OURS)
    if text:
        last = max(name for name in state if name.endswith("weight"))
        model = TextClassifier(model, len(state[last]))
    if folded:
        head = model.get_submodule(about["split"])
        assert isinstance(head, nn.Linear)
        replace_module(model, about["split"], FoldedHead(head, np.eye(head.in_features)))
        refuse_saving(model)
    if locked:
        insert_again(model, locked)
        safetensors.torch.load_model(model, path / LOCKED_FILE)
    model.get_submodule(about["split"]).load_state_dict(state)
    return model.eval()


def saved_release(spec: str) -> Backbone | None:
    """Load a network that `save` wrote, with its preparation; None where the folder is another.

    Its head is the last layer: behind a map, or behind what a lock made of it.
    """
    path = Path(located(spec))
    if not (path / ABOUT_FILE).is_file():
        return None
    with loading(spec, _DAMAGED):
        about, tokenizer = _about(path), None
        if about["kind"] == "text":
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                path / INNER if about["folded"] else path, trust_remote_code=False
            )
        preparation = Preparation(
            tokenizer, about["max_length"], about["image_size"], about["mean"], about["std"]
        )
        model = _loaded(path, about)
        return Backbone(model, last_of(model, about["split"]), (), preparation, fitted=True)


def last_of(model: nn.Module, split: str) -> str:
    """Name of the head, which is the last of two layers, or of four, where some are inserted."""
    while isinstance(model.get_submodule(split), TwoLayers):
        split = f"{split}.1"
    return split
