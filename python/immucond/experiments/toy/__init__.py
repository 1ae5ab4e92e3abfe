"""A toy on which every attack takes moments: releases of one small network, attacked by all."""

from ._experiment import ATTACKERS, RELEASES, Result, Settings, measure, run
from ._report import as_json, correlations, figures, tables

__all__ = [
    "ATTACKERS",
    "RELEASES",
    "Result",
    "Settings",
    "as_json",
    "correlations",
    "figures",
    "measure",
    "run",
    "tables",
]
