"""Folders in Hugging Face's format, written by others: what is odd is told by file and field."""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..._errors import extra

with extra("deep"):
    import safetensors
    import torch
    import transformers
    from huggingface_hub import get_hf_file_metadata, hf_hub_url, try_to_load_from_cache
    from torch import nn
    from transformers.utils.hub import cached_file

_PATIENCE = 10.0  # seconds that the hub has to answer
CONFIG, PREPROCESSOR = "config.json", "preprocessor_config.json"


@contextmanager
def loading(spec: str, what: str, suspects: str = "") -> Iterator[None]:
    """Turn whatever fails on a folder's content into one line that names the folder.

    What `suspects` says of its fields is added.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # parsers of foreign files raise all kinds; those in Rust panic
        text = textwrap.shorten(str(error) or type(error).__name__, 400, placeholder=" ...")
        raise ValueError(f"backbone {spec!r}: {what}: {text}{suspects}") from error


def check_config(name: str, spec: str) -> str:
    """Read config.json, and tell which of its fields are odd beside the usual ones of its kind.

    That proves nothing, and is for the message if the network does not load or run.

    Raises
    ------
    FileNotFoundError
        Where there is none.
    ValueError
        For what is no configuration.
    """
    try:
        _ask_once(name)
        path, fields = _read(name, CONFIG)
    except OSError as error:
        text = textwrap.shorten(str(error), 400, placeholder=" ...")
        if Path(name).is_dir():
            text = f"the folder has no {CONFIG}"
        elif name.startswith((".", "/", "~")):
            text = "there is no such folder"
        raise FileNotFoundError(
            f"no backbone {spec!r}: it must be a folder in Hugging Face's format or an id that can "
            f"be downloaded ({text})"
        ) from error
    kind = fields.get("model_type")
    known = transformers.CONFIG_MAPPING
    if not isinstance(kind, str) or kind not in known:
        raise ValueError(
            f"backbone {spec!r}: model_type in {path} must be one that transformers knows, and is "
            f"{_short(kind)}"
        )
    usual: dict[str, Any] = {}
    with suppress(Exception):  # some need arguments
        usual = known[kind]().to_dict()
    odd = [
        f"{field} must be {needed}, and is {_short(value)}"
        for field, value in fields.items()
        if field in usual and (needed := _needed(value, usual[field], field))
    ]
    suspects = f" (in {path}: perhaps {'; '.join(odd[:3])})" if odd else ""
    with loading(spec, f"{path} is no configuration of a {kind}", suspects):
        transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
    return suspects


def _ask_once(name: str) -> None:
    """Refuse an id that the hub does not give: what loads it would ask on for half a minute."""
    if Path(name).is_dir():
        return
    try:
        if isinstance(try_to_load_from_cache(name, CONFIG), str):
            return
        get_hf_file_metadata(hf_hub_url(name, CONFIG), timeout=_PATIENCE)
    except OSError:
        raise
    except Exception as error:  # of what speaks to the hub, which is one library or another
        raise OSError(f"{type(error).__name__}: {error}") from error


def check_weights(model: nn.Module, name: str) -> None:
    """Refuse weights that are not finite, by file and tensor."""
    for tensor, values in (*model.named_parameters(), *model.named_buffers()):
        if values.is_floating_point() and not torch.isfinite(values).all():
            bad = values[~torch.isfinite(values)].flatten()[0].item()
            raise ValueError(f"{_file_of(tensor, name)}: the tensor {tensor} holds {bad}")


def image_preparation(
    name: str, missing: Sequence[str] = ("--image-size", "--mean", "--std")
) -> tuple[int, Sequence[float], Sequence[float]]:
    """Side, mean and standard deviation of preprocessor_config.json; `missing` is what to give.

    Raises
    ------
    ValueError
        Where it is missing or says something else.
    """
    *most, last = missing
    give = f"give {', '.join(most)} and {last}" if most else f"give {last}"
    try:
        path, fields = _read(name, PREPROCESSOR)
        with loading(name, f"{PREPROCESSOR} does not load; {give}"):
            read: Any = transformers.AutoImageProcessor.from_pretrained(
                name, trust_remote_code=False
            )
    except OSError as error:
        raise ValueError(
            f"{name} has no {PREPROCESSOR} that says how images are prepared: {give}"
        ) from error
    size = fields["size"] if fields.get("size") is not None else getattr(read, "size", None)
    side = _side(size)
    if side is None:
        raise ValueError(
            f"{path}: size must be a whole number above 0, or height and width that agree, or "
            f"shortest_edge, and is {_short(size)}; or {give}"
        )
    found = []
    for field, least in (("image_mean", -math.inf), ("image_std", 0.0)):
        values = fields.get(field)
        values = getattr(read, field, None) if values is None else values
        if not (
            isinstance(values, list | tuple)
            and len(values) == 3
            and all(_finite(value) and least < value <= 1.0 for value in values)
        ):
            above = " above 0" if least == 0.0 else ""
            raise ValueError(
                f"{path}: {field} must be three finite numbers{above} and at most 1, as pixels "
                f"are, and is {_short(values)}; or {give}"
            )
        found.append([float(value) for value in values])
    return side, found[0], found[1]


def _read(name: str, file: str) -> tuple[str, dict[str, Any]]:
    path = str(cached_file(name, file))
    try:
        fields = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"backbone {name!r}: {path} is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"backbone {name!r}: {path} must be an object, and is {_short(fields)}")
    return path, fields


def _needed(value: Any, usual: Any, field: str) -> str:
    """Say what a field needs that the value is not, judged by the usual one; "" where it fits."""
    if usual is None or (value is None and field.endswith("_token_id")):
        return ""
    if isinstance(usual, bool):
        return "" if value in (True, False) else "true or false"
    if isinstance(usual, int):
        least = 1 if usual > 0 and not field.endswith("_token_id") else 0
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
        return "" if whole else f"a whole number of at least {least}"
    if isinstance(usual, float):
        most = 1.0 if "dropout" in field or "prob" in field else math.inf
        fits = _finite(value) and (usual < 0.0 or 0.0 <= value <= most)
        return "" if fits else f"a number from 0 to {most:g}" if most == 1.0 else "a number >= 0"
    if isinstance(usual, list | tuple):
        items = isinstance(value, list | tuple) and bool(value or not usual)
        if items and usual:
            items = not any(_needed(item, usual[0], field) for item in value)
        return "" if items else f"a list such as {_short(list(usual))}"
    if isinstance(usual, dict):
        return "" if isinstance(value, dict) else "an object"
    return "" if isinstance(value, type(usual)) else f"a text such as {usual!r}"


def _side(size: Any) -> int | None:
    """Side of a square, None for what is none."""
    if hasattr(size, "items"):
        size = {key: value for key, value in size.items() if value is not None}
        sides = [size[key] for key in ("height", "width", "shortest_edge") if key in size]
        if len(set(map(repr, sides))) != 1:
            return None
        size = sides[0]
    whole = isinstance(size, int) and not isinstance(size, bool) and size > 0
    return size if whole else None


def _finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _file_of(tensor: str, name: str) -> str:
    """Find the file of a folder that holds a tensor, under whatever prefix."""
    for file in sorted(Path(name).glob("*.safetensors")):
        with safetensors.safe_open(file, "pt") as weights:
            if any(key.endswith(tensor) or tensor.endswith(key) for key in weights.keys()):  # noqa: SIM118
                return str(file)
    return name


def _short(value: Any) -> str:
    return textwrap.shorten(repr(value), 60, placeholder=" ...")
