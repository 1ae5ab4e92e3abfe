"""The paper's own settings: ImageNet against Stanford Cars and Country211."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._sources import VARIABLE
from ._import import is_import_path
from ._weights import located

if TYPE_CHECKING:
    from ._settings import Settings


@dataclass(frozen=True)
class Preset:
    """One of the paper's deep experiments.

    Attributes
    ----------
    backbone : str
        Id of the weights.
    harmful, primary : str
        Folders of images, below --data-dir: train and test parts, a folder a class.
    trainable : tuple of str
        The last blocks.
    epochs, batch_size, lr, lambdas
        As published.
    """

    backbone: str
    harmful: str
    trainable: tuple[str, ...]
    epochs: int
    batch_size: int
    lr: float
    lambdas: tuple[float, float]
    primary: str = "imagenet"


_RESNET, _VIT = "microsoft/resnet-18", "google/vit-base-patch16-224"
_STAGE = ("resnet.encoder.stages.3",)  # two residual blocks

PRESETS = {
    "resnet18-cars": Preset(_RESNET, "cars", _STAGE, 3, 64, 1e-5, (5e-5, 2e6)),
    "resnet18-country211": Preset(_RESNET, "country211", _STAGE, 3, 64, 1e-5, (5e-5, 2e6)),
    "vit-cars": Preset(_VIT, "cars", ("1",), 2, 32, 1e-5, (3e-6, 3e8)),
    "vit-country211": Preset(_VIT, "country211", ("1",), 2, 32, 5e-6, (1e-6, 1e8)),
}


def preset_settings(name: str, settings: Settings) -> Settings:
    """Return the settings of a preset; backbone, data sets and hyper-parameters given stay.

    Raises
    ------
    ValueError
        For another name.
    FileNotFoundError
        Where data or weights are missing: the message lists all that is.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be of {', '.join(PRESETS)}, and is {name!r}")
    preset = PRESETS[name]
    common = {
        "lr": preset.lr, "epochs": preset.epochs, "momentum": 0.9, "label_smoothing": 0.1,
    }  # fmt: skip
    published: Mapping[str, Mapping[str, Any]] = {
        "": {**common, **settings.parameters.get("", {})},
        **{key: value for key, value in settings.parameters.items() if key},
        "algorithm1": {"lambdas": preset.lambdas, **settings.parameters.get("algorithm1", {})},
    }
    full = replace(
        settings,
        backbone=settings.backbone or preset.backbone,
        primary=settings.primary or preset.primary,
        harmful=settings.harmful or preset.harmful,
        trainable=settings.trainable if settings.trainable != ("1",) else preset.trainable,
        batch_size=(
            settings.batch_size
            if settings.batch_size != type(settings).batch_size
            else preset.batch_size
        ),
        parameters=published,
    )
    missing = [*_missing_data(full), *_missing_weights(full.backbone)]
    if missing:
        raise FileNotFoundError(f"preset {name} needs what is not there: {'; '.join(missing)}")
    return full


def _missing_data(settings: Settings) -> list[str]:
    folder = settings.data_dir or (
        Path(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else Path()
    )
    return [
        f"{role} data, folder {folder / spec} with parts train and test (folders or zips of "
        "images, a folder a class)"
        for role, spec in (("primary", settings.primary), ("harmful", settings.harmful))
        if not (is_import_path(spec) or Path(spec).exists() or (folder / spec).exists())
    ]


def _missing_weights(backbone: str) -> list[str]:
    if is_import_path(backbone):
        return []
    import transformers

    try:
        transformers.AutoConfig.from_pretrained(located(backbone))
    except OSError:
        return [f"weights {backbone}: no such folder, and it cannot be downloaded (--backbone)"]
    return []
