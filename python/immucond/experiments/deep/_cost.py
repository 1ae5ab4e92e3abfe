"""What fine-tuning a network in a folder costs, forecast: ``immucond cost``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..._errors import extra
from ..._format import number
from ..._show import BLUE, GREEN, VERMILION, Table, print_style
from ...deep import NetworkCost, attack_cost
from .._units import Progress, silent
from ._data import load
from ._release import Measured, ReleaseSettings, load_release, loader_of

with extra("deep"):
    import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHARES = (0.5, 0.1)  # of the loss at the start
_COLOURS = {"full": BLUE, "lora": GREEN, "head": VERMILION}
_NOTE = (
    "Squared loss of one-hot classes, gradient descent over all rows at once with step "
    "1 / lambda_max, a new head. steps: until that share of the loss at the start is left, of the "
    "network as if it were linear in its parameters, between bounds of it. error: the largest "
    "relative one of the forecast within the real run; where it is above a quarter the network is "
    "not lazy (!), and the forecast says little. products: fewest with which a Krylov method could "
    "reach the half."
)


@dataclass(frozen=True, kw_only=True)
class CostSettings(ReleaseSettings):
    """What a forecast depends on; the defaults are those of ``immucond cost``.

    Attributes
    ----------
    harmful : str
        As in `Settings`.
    reference : str or None
        Another network to put beside it.
    params : tuple of str
        What is trained.
    rank, products, steps : int
        As in :func:`immucond.deep.attack_cost`.
    """

    harmful: str
    reference: str | None = None
    params: tuple[str, ...] = ("full", "head")
    train_size: int | None = 128
    rank: int = 8
    products: int = 40
    steps: int = 20


@dataclass(frozen=True)
class Costs(Measured):
    """Forecasts by network, "release" and perhaps "reference", and by what is trained.

    Fingerprints are of networks and data, whatever rows were drawn.
    """

    settings: CostSettings
    costs: dict[str, dict[str, NetworkCost]]
    rows: int

    def table(self) -> Table:
        """Every forecast."""
        rows = [
            [network, params, *(_steps(cost, share) for share in _SHARES),
             number(cost.krylov(_SHARES[0])), f"{cost.error:.1%}{'' if cost.lazy else ' !'}"]
            for network, found in self.costs.items()
            for params, cost in found.items()
        ]  # fmt: skip
        heads = ("network", "trained", *(f"steps to {share:.0%}" for share in _SHARES))
        return Table(
            f"What it costs to learn {self.settings.harmful}",
            (*heads, "products", "error"),
            rows,
            f"{_NOTE} {self.rows} rows, {self.settings.products} products.",
        )

    def figure(self) -> Figure:
        """Loss by step: bounds as bands, the real run as points."""
        with print_style():
            from matplotlib.figure import Figure

            figure = Figure(figsize=(7.0, 5.0), layout="constrained")
            ax = figure.subplots()
            for network, found in self.costs.items():
                line, marker = ("-", "o") if network == "release" else ("--", "s")
                for params, cost in found.items():
                    style = {"color": _COLOURS[params], "linestyle": line, "marker": marker}
                    cost.plot(ax, label=f"{network}, {params}", **style)
            ax.set_title(self.table().title, fontsize=10, wrap=True)
            ax.legend()
            return figure

    def numbers(self) -> dict[str, Any]:
        """Return what was measured."""
        return {
            "rows": self.rows,
            "costs": {
                network: {params: cost.as_dict(_SHARES) for params, cost in found.items()}
                for network, found in self.costs.items()
            },
        }


def _steps(cost: NetworkCost, share: float) -> str:
    lower, _, upper = cost.steps(share)
    return number(lower) if lower == upper else f"{number(lower)} to {number(upper)}"


def cost(settings: CostSettings, progress: Progress = silent) -> Costs:
    """Load networks and the task, and forecast.

    Raises
    ------
    OSError, ValueError
        Where they are not there or do not fit, and as `immucond.deep.attack_cost`.
    """
    data = load(settings.harmful, settings.data_dir)
    harmful = data.subset(settings.train_size, 2)
    names = {"release": settings.backbone, "reference": settings.reference}
    costs: dict[str, dict[str, NetworkCost]] = {}
    prints = {"harmful": data.fingerprint}
    for network, name in names.items():
        if name is None:
            continue
        torch.manual_seed(settings.seed)
        backbone = load_release(settings, name, harmful)
        prints[network] = backbone.features_fingerprint
        costs[network] = {}
        for params in settings.params:
            of = f"{network}, {params}"

            def tell(batch: int, about: Mapping[str, Any], of: str = of) -> None:
                progress(of, batch, about["batches"])

            costs[network][params] = attack_cost(
                backbone.model, loader_of(backbone, harmful.train, settings.batch_size),
                split=backbone.split, params=params, rank=settings.rank,
                products=settings.products, steps=settings.steps, seed=settings.seed,
                callback=tell,
            )  # fmt: skip
    return Costs(settings, prints, costs, len(harmful.train.inputs))
