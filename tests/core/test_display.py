"""Results show themselves: HTML that parses, frames of their own arrays, curves with labels."""

import math
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure

import immucond as ic
from immucond._display import Curves, Line, Plotted, Tabular, draw, told
from immucond._show import aligned

RNG = np.random.default_rng(0)
X_P, X_H = RNG.normal(size=(60, 4)) * [4, 3, 2, 1], RNG.normal(size=(60, 4))
CLASSES = (X_H[:, 0] > 0).astype(int)
K_P, K_H = X_P.T @ X_P, X_H.T @ X_H
THETA = ic.linear.optimal_extractor(K_P, K_H)
G = np.diag([1.0, 0.5, 0.1, 0.01])


def examined():
    return ic.theorems.examine(ic.theorems.THEOREMS["proposition-3.2"], instances=3)


RESULTS = {
    "report": lambda: ic.linear.immunity(THETA, X_P, X_H),
    "limit": lambda: ic.linear.immunity_limit(K_P, K_H),
    "frontier": lambda: ic.linear.frontier(K_P, K_H, points=5),
    "no frontier": lambda: ic.linear.frontier(np.diag([9.0, 0.0]), np.eye(2), points=2),
    "noise": lambda: ic.linear.noise_curve(X_P=X_P, X_H=X_H),
    "joint": lambda: ic.linear.joint_extractor([K_P, np.eye(4)], K_H, iterations=5),
    "majorization": lambda: ic.linear.majorization(THETA, K_P),
    "distortion": lambda: ic.linear.distortion(THETA),
    "alignment": lambda: ic.linear.alignment(X_H, CLASSES),
    "alignment limit": lambda: ic.linear.alignment_limit(X_P, X_H, CLASSES, kappa_P=None),
    "fade": lambda: ic.linear.fade(X_P, [X_H, X_P], [CLASSES, CLASSES]),
    "erasure": lambda: ic.linear.erasure(K_P, G, 2),
    "path": lambda: ic.linear.erasure_path(K_P, G),
    "leak": lambda: ic.linear.leak(X_P, X_H, CLASSES),
    "trace": lambda: ic.probing.probe(X_H, X_H[:, 0] + CLASSES, steps=5),
    "comparison": lambda: ic.probing.compare(X_H, X_H @ THETA, CLASSES * 1.0, methods=["cg"]),
    "ceiling": lambda: ic.probing.ceiling(X_H, CLASSES, X_P, held_out=(X_H, CLASSES)),
    "cost": lambda: ic.probing.attack_cost(X_H @ THETA, X_H[:, 0], products=2),
    "immunized": lambda: ic.immunize.algorithm1(
        X_P, X_P @ np.ones(4), X_H, lambda_P=0.1, lambda_H=1.0, lr=1e-4, steps=3
    ),
    "closed form": lambda: ic.immunize.closed_form(X_P, X_P @ np.ones(4), X_H),
    "pairs": lambda: ic.extreme_pairs(X_P),
    "stack": lambda: ic.extreme_pairs(np.stack([X_P, X_H])),
    "examination": examined,
    "verdict": lambda: examined().worst,
    "counterexample": lambda: examined().counterexample,
}


class Table(HTMLParser):
    """Cells by row, and the caption; tags must close in the order in which they were opened."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.rows, self.caption = [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, _):
        assert tag in ("table", "caption", "thead", "tbody", "tr", "th", "td"), tag
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "caption":
            self.caption += data
        elif self.open and self.open[-1] in ("th", "td"):
            self.rows[-1][-1] += data
        else:
            assert not data.strip(), data


@pytest.fixture(autouse=True)
def _closed():
    yield
    pyplot.close("all")


def equal(a, b):
    if isinstance(a, float) or isinstance(b, float):
        return a == b or (math.isnan(a) and (b is None or math.isnan(b)))
    return a == b


@pytest.mark.parametrize("name", RESULTS)
def test_a_frame_holds_the_columns_and_html_shows_them(name):
    result = RESULTS[name]()
    columns = result._columns()
    frame = result.to_pandas()
    assert list(frame.columns) == list(columns)
    assert len({len(values) for values in columns.values()}) == 1
    for column, values in columns.items():
        assert all(map(equal, frame[column].tolist(), list(values))), column
    table = Table(result._repr_html_())
    heads, *rows = table.rows
    assert heads == list(columns)
    assert table.caption
    if len(frame) <= 24:
        cells = [[told(values[at]) for values in columns.values()] for at in range(len(frame))]
        assert rows == cells
    line = repr(result)
    assert "\n" not in line
    assert "array(" not in line
    assert isinstance(result, Plotted) == (name in PLOTS)


@pytest.mark.parametrize("name", RESULTS)
def test_results_are_compared_without_an_error(name):
    """As lists of them do that are searched; those that hold arrays equal themselves alone."""
    result, other = RESULTS[name](), RESULTS[name]()
    assert result == result
    assert [other, result].index(other) == 0
    assert (result == other) in (True, False)


PLOTS = ["frontier", "no frontier", "noise", "majorization", "erasure", "path", "trace", "ceiling",
         "cost", "immunized", "closed form"]  # fmt: skip


@pytest.mark.parametrize("name", PLOTS)
def test_a_plot_has_labels_and_a_line_a_curve(name):
    result = RESULTS[name]()
    curves = result._curves()
    given = Figure().subplots()
    before = dict(pyplot.rcParams)
    assert result.plot(given) is given
    assert dict(pyplot.rcParams) == before
    own = result.plot()
    assert own.figure in map(pyplot.figure, pyplot.get_fignums())
    for ax in (given, own):
        assert ax.get_xlabel()
        assert ax.get_ylabel()
        assert len(ax.lines) == len(curves.lines) + len(curves.levels)
        for drawn, line in zip(ax.lines, curves.lines, strict=False):
            assert np.array_equal(drawn.get_ydata(), np.asarray(line.y, float), equal_nan=True)
            assert np.array_equal(drawn.get_xdata(), np.asarray(line.x, float))
        looks = {(str(line.get_color()), line._unscaled_dash_pattern) for line in ax.lines}
        assert len(looks) == len(ax.lines)
        if len(ax.lines) > 1:
            ax.figure.draw_without_rendering()
            legend = ax.get_legend()
            assert [t.get_text() for t in legend.get_texts()]
            assert not legend.get_window_extent().overlaps(ax.get_window_extent())


def test_columns_are_the_numbers_of_the_object():
    line = ic.linear.frontier(K_P, K_H, points=5)
    assert line.to_pandas()["kappa_H"].to_numpy() == pytest.approx(line.kappa_H, rel=0)
    report = ic.linear.immunity(THETA, X_P, X_H)
    frame = report.to_pandas().set_index("task")
    assert frame.loc["harmful", "times"] == report.i == report.kappa_H / report.kappa_H_reference
    assert frame.loc["primary", "kappa"] == report.kappa_P
    stack = ic.extreme_pairs(np.stack([X_P, X_H])).to_pandas()
    assert stack["sigma_max"].to_numpy() == pytest.approx(
        [np.linalg.norm(X, 2) for X in (X_P, X_H)], rel=1e-12
    )
    path = ic.linear.erasure_path(K_P, G).to_pandas()
    values = np.sort(np.linalg.eigvals(G @ K_P).real)[::-1]
    assert path["value"].to_numpy() == pytest.approx(values, rel=1e-9)
    beyond = [values[rank:].sum() for rank in (1, 2, 3, 4)]
    assert path["bound"].to_numpy() == pytest.approx(beyond, rel=1e-9, abs=1e-9)
    trace = ic.probing.probe(X_H, CLASSES * 1.0, steps=5)
    assert trace.to_pandas()["loss"].tolist() == trace.loss.tolist()


class Names(Tabular):
    def __repr__(self):
        return "<script>'1' & \"2\"</script>"

    def _columns(self):
        return {"<b>": ["<img src=x onerror=alert(1)>", "a & b"], "n": [1, math.nan]}


def test_names_are_escaped():
    text = Names()._repr_html_()
    assert "<img" not in text
    assert "<script" not in text
    table = Table(text)
    assert table.caption == repr(Names())
    assert table.rows == [["<b>", "n"], ["<img src=x onerror=alert(1)>", "1"], ["a & b", "nan"]]


def test_a_long_table_shows_its_ends():
    trace = ic.probing.probe(X_H, CLASSES * 1.0, steps=60, method="adam", lr=0.01)
    rows = Table(trace._repr_html_()).rows
    assert len(rows) == 26
    assert [row[0] for row in rows[12:15]] == ["11", "... 37 more", "49"]
    lines = str(trace).splitlines()
    assert lines[0] == repr(trace)
    assert lines[-1].split()[0] == "60"
    assert len(lines) == 27
    assert len(trace.to_pandas()) == 61


@pytest.mark.parametrize(
    ("value", "cell"),
    [(None, ""), (True, "yes"), (np.False_, "no"), (12345, "12,345"), (math.nan, "nan"),
     (math.inf, "inf"), (-math.inf, "-inf"), (1e-9, "1.00e-9"), ((1.0, "a"), "1, a"),
     (np.float64(0.0), "0"), ("x", "x")],
)  # fmt: skip
def test_cells(value, cell):
    assert told(value) == cell


def test_rows_are_aligned():
    assert aligned([("a", "bb"), ("ccc", "d")]) == ["a    bb", "ccc   d"]
    assert aligned([("a", "bb"), ("ccc", "d")], left=(1,)) == ["  a  bb", "ccc  d"]


def test_what_a_logarithmic_axis_cannot_show_warns_of_nothing():
    for y in ([0.0, 0.0], [math.inf, math.inf], [math.nan, 1.0], [-1.0, 0.0], []):
        ax = draw(Curves("x", "y", [Line("a", np.arange(len(y)), y)], scales=("log", "log")))
        ax.figure.draw_without_rendering()


@pytest.mark.parametrize(("module", "use"), [("pandas", "to_pandas"), ("matplotlib", "plot")])
def test_a_missing_library_names_the_extra(module, use, monkeypatch):
    line = ic.linear.frontier(K_P, K_H, points=5)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"{module} is not installed: .*immucond\[experiments\]"):
        getattr(line, use)()
    assert "kappa_P" in str(line)
    assert "<table" in line._repr_html_()
