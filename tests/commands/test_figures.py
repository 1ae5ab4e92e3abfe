"""Figures tell all that was run: what failed, what cannot be seen, and on which scale."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from test_eased_tasks import METHODS, UNITS, of_pairs, values

import immucond as ic
from immucond._cli._results import write_results
from immucond._show import print_style
from immucond.experiments import deep, digits, house_price, mnist
from immucond.experiments._curves import curves
from immucond.experiments._methods import descent
from immucond.experiments._report import norm_ratios

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import scaling_plot

TITLES = {"primary": "primary", "harmful": "harmful"}


def curve(ratio, loss):
    return {"step": [1, 10, 100], "norm_ratio": ratio, "loss": loss, "best_loss": 0.0}


def both(curve_P, curve_H):
    return {"primary": curve_P, "harmful": curve_H}


SLOW = curve([0.9, 0.8, 0.7], [0.9, 0.5, 0.2])
FAST = curve([1e-12, 1e-13, 0.0], [1e-12, 1e-13, 0.0])


def texts(ax):
    return [text.get_text() for text in ax.texts]


def legend(figure):
    (only,) = figure.legends
    return [text.get_text() for text in only.get_texts()]


def no_legend_inside(figure):
    assert all(ax.get_legend() is None for ax in figure.axes)


def test_curves_name_what_cannot_be_seen_and_what_failed():
    drawn = {"identity": both(SLOW, SLOW), "closed-form": both(FAST, SLOW)}
    figure = curves(METHODS, drawn, TITLES)
    upper_left, upper_right, lower_left, lower_right = figure.axes
    assert texts(upper_left) == ["below 0.01 throughout: closed form"]
    assert texts(lower_left) == ["below 1e-8 throughout: closed form"]
    assert texts(upper_right) == texts(lower_right) == []
    assert legend(figure) == ["before", "closed form", "Algorithm 1: failed"]
    for left, right in ((upper_left, upper_right), (lower_left, lower_right)):
        assert left.get_ylim() == right.get_ylim()
        assert left.get_yscale() == right.get_yscale()
        assert left.get_xlim() == right.get_xlim()
    no_legend_inside(figure)


def test_house_price_names_a_method_that_failed():
    units = {name: [unit | {"curves": both(SLOW, SLOW)}] for name, unit in UNITS.items()}
    units["algorithm1"] = [{"failure": "diverged", "warnings": []}]
    result = house_price.Result(
        settings=house_price.Settings(), source="files", fingerprint="", counts={}, limits={},
        methods=METHODS, units=units,
    )  # fmt: skip
    assert "Algorithm 1: failed" in legend(house_price.figures(result)["curves"])


def test_grids_show_the_pairs_that_ran_on_one_scale():
    pairs = ((0, 1), (4, 9), (4, 1))
    result = of_pairs(pairs)
    result.units["closed-form", (4, 9)] = [values((2.0, 1e8), (2.0, 1e8))]
    result.units["closed-form", (4, 1)] = [{"failure": "diverged", "warnings": []}]
    figure = mnist.figures(result)["grid-closed-form"]
    left, right, bar = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["0", "4"]
    assert [label.get_text() for label in left.get_xticklabels()] == ["1", "9"]
    assert sorted(texts(left)) == ["2.9 !", "8.0", "x"]
    assert "RIR" in bar.get_ylabel()
    scale = left.images[0].norm
    assert (scale.vmin, scale.vmax) == (-8.0, 8.0) == (
        right.images[0].norm.vmin, right.images[0].norm.vmax,
    )  # fmt: skip
    five, eight = (np.array(left.images[0].cmap(scale(value))) for value in (5.0, 8.0))
    assert np.abs(five - eight).max() > 0.2
    title = figure.get_suptitle()
    assert "the harmful condition number did not grow" in title
    assert "x : failed" in title
    clean = of_pairs(((0, 1),), {name: values((5.0, 95.0), (5.0, 9.0)) for name in METHODS})
    assert "\n" not in mnist.figures(clean)["grid-closed-form"].get_suptitle()


def test_a_network_before_immunization_is_called_so():
    probe = {"accuracy": [0.1, 0.2], "loss": [1.0, 0.5]}
    unit = {
        "probe": dict.fromkeys(("sgd", "momentum", "adam", "lbfgs", "whitening"), probe),
        "primary_probe": dict.fromkeys(("sgd", "adam"), probe),
        "accuracy": 0.9,
        "rho": {"before": 0.5, "after": 0.5},
        "all": {"rir": 1.0},
        "spectra": {task: {"place": [1, 2], "value": [2.0, 1.0]} for task in "PH"},
    }
    methods = {"identity": replace(METHODS["identity"], label="theta_0")}
    settings = deep.Settings(backbone="b", primary="p", harmful="h")
    result = deep.Result(
        settings, {}, {}, (), methods, {"identity": [unit]}, deep.Unaided(0.5, 0.4, "pixels")
    )
    for figure in deep.figures(result).values():
        assert legend(figure) == ["before"]
        no_legend_inside(figure)


def test_the_demo_draws_its_legend_beside_the_data():
    result = digits.run(digits.Settings(steps=2, probe_steps=5))
    for figure in digits.figures(result).values():
        assert legend(figure) == ["before", "Algorithm 1", "closed form", "fade"]
        no_legend_inside(figure)


def test_a_curve_of_who_has_nothing_to_learn_is_not_drawn_as_one_that_arrived():
    rng = np.random.default_rng(0)
    Z, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    erased = Z @ ic.linear.fade(Z, Z, y, tau=np.inf, center=False).theta
    drawn = {name: dict.fromkeys(("primary", "harmful"), descent(features, y, 50, rank))
             for name, features, rank in (("identity", Z, 3), ("leace", erased, 2))}  # fmt: skip
    methods = {name: house_price.METHODS[name] for name in drawn}
    figure = curves(methods, drawn, {"primary": "P", "harmful": "H"})
    for ax in figure.axes:
        assert [text.get_text() for text in ax.texts] == ["nothing to learn: LEACE"]
        assert np.isnan(ax.lines[1].get_ydata()).all()
    table = norm_ratios({methods[name].label: of for name, of in drawn.items()})
    assert [row[1:] for row in table.rows if row[0] == "LEACE"] == [["-", "-"]] * 2


@pytest.mark.parametrize("count", [1, 6, 7, 13, 30])
def test_benchmark_plots_have_six_lines_a_panel_at_most(tmp_path, monkeypatch, count):
    names = ["immucond", "immucond, warm start", "direct method (immucond)", "floor: LAPACK dpotrf"]
    names += [f"torch.{i}" for i in range(4)] + [f"scipy {i}" for i in range(22)]
    points = {n: 1e-6 * n**2 for n in (64, 256, 512)}
    panels = {title: dict.fromkeys(names[:count], points) for title in ("random", "decaying")}
    rows = scaling_plot.families(panels)
    assert max(map(len, rows)) <= 6
    assert {name for row in rows for name in row} == set(names[:count])
    assert len(rows) == 1 or all("immucond" in row for row in rows)
    drawn = []
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: drawn.append(self) or
                        Path(path).touch())  # fmt: skip
    scaling_plot.save_plot(panels, tmp_path / "plot.svg")
    assert max(len(ax.lines) for ax in drawn[0].axes) <= 6
    assert (tmp_path / "plot.svg").exists()


def test_the_same_figure_is_the_same_file(tmp_path):
    written = []
    for at in ("one", "two"):
        with print_style():
            figure = Figure()
            axes = figure.subplots()
            axes.plot([1, 2, 3], label="line")
            axes.fill_between([0, 1], [0, 1])
            axes.legend()
        (tmp_path / at).mkdir()
        numbers = {"command": "immucond", "versions": {"immucond": "0"}}
        write_results(tmp_path / at, [], {"figure": figure}, numbers)
        written.append((tmp_path / at / "figure.svg").read_bytes())
    assert written[0] == written[1]
