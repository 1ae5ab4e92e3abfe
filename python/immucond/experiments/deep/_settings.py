"""What a run of the deep experiment depends on: settings, methods, and the paper's own values."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..._format import plain
from .._methods import Method, chosen
from .._sources import classes_in, is_import_path, located, named_folder

# ---- methods ----

# As `immucond.deep.immunize` has them, by default; named here too, since it needs PyTorch.
_TRAINED = {"lr": 3e-3, "momentum": 0.9, "epochs": 2, "label_smoothing": 0.0}

METHODS = {
    "identity": Method("theta_0", "identity", {}, "none", seeded=False),
    "algorithm1": Method(
        "Algorithm 1", "algorithm1", {**_TRAINED, "terms": (1.0, 10.0)}, "by hand"
    ),
    "closed-form": Method(
        "closed form, (ii) = 1", "closed_form", {"ii": 1.0}, "closed form", seeded=False
    ),
    "r-ill-only": Method("R_ill only", "r_ill", {**_TRAINED, "terms": (0.0, 3.0)}, "by hand"),
    "imma": Method("IMMA", "imma", {**_TRAINED, "terms": (0.0, 3.0)}, "by hand"),
    "opt-kappa": Method("Opt kappa", "opt_kappa", {**_TRAINED, "terms": (1.0, 0.03)}, "by hand"),
    # What a method has goes to `immunize` as it stands, and with "epochs" the blocks to train.
    "fade": Method("fade", "fade", {"tau": 1e4, "delta": 0.0}, "closed form", seeded=False),
    "fade-distilled": Method(
        "fade, distilled", "fade", {"tau": 1e4, "delta": 0.0, "lr": 1e-3, "epochs": 3}, "by hand"
    ),
    "alignment": Method("alignment", "alignment", {**_TRAINED, "terms": (0.0, 0.3)}, "by hand"),
    "leace": Method("LEACE", "leace", {}, "closed form", seeded=False),
}
PARAMS = ("full", "lora", "head")  # what `immucond.deep.attack_cost` knows
BY_ROWS = ("fade", "leace")  # train nothing, and run with each number of the defender's rows


def chosen_methods(
    names: tuple[str, ...] | None,
    overrides: Mapping[str, Mapping[str, Any]],
    rows: tuple[int, ...] = (),
) -> dict[str, Method]:
    """Return methods by name; `overrides` replaces hyper-parameters by method, "" is for all.

    Only those that a method has are replaced, and weights take the place of terms. Of several
    numbers of harmful rows that the defender has, the largest is that of all methods; those of
    `BY_ROWS` run with the others too, under names that end in their number.
    """
    *fewer, most = sorted(set(rows)) or [0]
    found = {}
    for name, method in chosen(METHODS, names).items():
        changed = {**overrides.get("", {}), **overrides.get(name, {})}
        kept = dict(method.parameters)
        if "terms" in kept and "lambdas" in changed:
            del kept["terms"]
            kept["lambdas"] = changed["lambdas"]
        known = {key: value for key, value in changed.items() if key in kept}
        kept |= known
        if most and method.fit != "identity":
            kept["rows"] = most
        found[name] = replace(method, parameters=plain(kept))
        for count in fewer if name in BY_ROWS else ():
            label = f"{method.label}, {count:,} rows"
            parameters = plain({**kept, "rows": count})
            found[f"{name}-{count}"] = replace(method, label=label, parameters=parameters)
    return found


# ---- settings ----


@dataclass(frozen=True)
class Settings:
    """What a run depends on; the defaults are those of ``immucond deep``.

    Attributes
    ----------
    backbone, primary, harmful : str
        See `load_network` and `load`.
    data_dir : Path or None
        Where data sets lie.
    trainable, max_length, image_size, mean, std
        See `load_network`.
    methods : tuple of str, or None
        Names; all by default.
    parameters : mapping
        Hyper-parameters that replace those of the methods, see `chosen_methods`.
    seeds : int
        Runs of each method that depends on one.
    batch_size : int
        Of immunization.
    train_size : tuple of int
        Most training samples of each task that are used, drawn at random: one number, or that of
        benign tasks and that of the harmful one.
    test_size : int or None
        Most test samples of each.
    defender_rows : tuple of int
        Harmful training rows that immunization sees, see `chosen_methods`; by default one half.
        The attackers train on the other half, or on what the largest number leaves.
    transfer : str or None
        Another benign task, which a probe learns from scratch.
    fine_tune : bool
        Whether attackers train the last blocks too.
    probe_epochs, probe_steps : int
        Of the attackers, and most steps of one under the squared loss.
    groups, group_size : int
        Of the RIR.
    save : tuple of str
        Methods whose network is written, of seed 0.
    """

    backbone: str
    primary: str
    harmful: str
    data_dir: Path | None = None
    trainable: tuple[str, ...] = ("1",)
    max_length: int | None = None
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    methods: tuple[str, ...] | None = None
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: int = 3
    batch_size: int = 64
    train_size: tuple[int, ...] = ()
    test_size: int | None = None
    defender_rows: tuple[int, ...] = ()
    transfer: str | None = None
    fine_tune: bool = False
    probe_epochs: int = 20
    probe_steps: int = 2000
    groups: int = 20  # the paper's protocol
    group_size: int = 100
    save: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return hash(repr(self))  # a mapping has none


# ---- presets: ImageNet against Stanford Cars and Country211 ----


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


def preset_settings(name: str, settings: Settings, given: Collection[str] = ()) -> Settings:
    """Return the settings of a preset; backbone, data sets and hyper-parameters given stay.

    So do the settings that `given` names, where they are the defaults.

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
    own = settings.parameters.get("algorithm1", {})
    weights = {} if "terms" in own else {"lambdas": preset.lambdas}
    published: Mapping[str, Mapping[str, Any]] = {
        "": {**common, **settings.parameters.get("", {})},
        **{key: value for key, value in settings.parameters.items() if key},
        "algorithm1": {**weights, **own},
    }
    full = replace(
        settings,
        backbone=settings.backbone or preset.backbone,
        primary=settings.primary or preset.primary,
        harmful=settings.harmful or preset.harmful,
        parameters=published,
        **{
            name: getattr(preset, name)
            for name in ("trainable", "batch_size")
            if name not in given and getattr(settings, name) == getattr(Settings, name)
        },
    )
    missing = [*_missing_data(full), *_missing_weights(full.backbone)]
    if missing:
        raise FileNotFoundError(f"preset {name} needs what is not there: {'; '.join(missing)}")
    return full


def _missing_data(settings: Settings) -> list[str]:
    folder = named_folder(settings.data_dir) or Path()
    return [
        f"{role} data, folder {folder / spec} with parts train and test (folders or zips of "
        "images, a folder a class)"
        for role, given in (("primary", settings.primary), ("harmful", settings.harmful))
        for spec in (classes_in(given)[0],)
        if not (is_import_path(spec) or Path(spec).exists() or (folder / spec).exists())
    ]


def _missing_weights(backbone: str) -> list[str]:
    if is_import_path(backbone):
        return []
    import transformers

    try:
        transformers.AutoConfig.from_pretrained(located(backbone), trust_remote_code=False)
    except OSError:
        return [f"weights {backbone}: no such folder, and it cannot be downloaded (--backbone)"]
    return []
