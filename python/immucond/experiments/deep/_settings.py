"""What a run of the deep experiment depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GROUPS, GROUP = 20, 100  # the paper's protocol


@dataclass(frozen=True)
class Settings:
    """What a run depends on; the defaults are those of ``immucond deep``.

    Attributes
    ----------
    backbone, primary, harmful : str
        See `_backbone.load` and `_sources.load`.
    data_dir : Path or None
        Where data sets lie.
    trainable, max_length, image_size, mean, std
        See `_backbone.load`.
    methods : tuple of str, or None
        Names; all by default.
    parameters : mapping
        Hyper-parameters that replace those of the methods, see `chosen_methods`.
    seeds : int
        Runs of each method that depends on one.
    batch_size : int
        Of immunization.
    train_size, test_size : int or None
        Most samples of each task that are used, drawn at random.
    probe_epochs, probe_steps : int
        Of the linear probes by mini-batches, and most steps of an attacker under the squared loss.
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
    max_length: int = 32
    image_size: int | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    methods: tuple[str, ...] | None = None
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: int = 3
    batch_size: int = 64
    train_size: int | None = None
    test_size: int | None = None
    probe_epochs: int = 20
    probe_steps: int = 2000
    groups: int = GROUPS
    group_size: int = GROUP
    save: tuple[str, ...] = ()

    def __hash__(self) -> int:
        return hash(repr(self))  # a mapping has none
