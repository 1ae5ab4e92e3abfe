"""Tables of the experiments on a terminal: nothing is cut off, and what belongs together stays."""

import io
import re
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console
from test_eased_tasks import of_pairs, report, values

import immucond as ic
from immucond import probing
from immucond._show import Table
from immucond.experiments import deep, house_price, mnist
from immucond.experiments._report import norm_ratios

FIGURES = ("(i)", "(ii)", "RIR")
CONVENTIONS = ("ridge", "exact", "paper")


def shown(table, width):
    table.show(Console(file=(output := io.StringIO()), width=width))
    assert "…" not in output.getvalue()
    assert max(map(len, output.getvalue().splitlines())) <= width
    return output.getvalue()


@pytest.mark.parametrize("width", [40, *range(70, 120), 200])
def test_every_cell_is_shown_whole(width):
    cells = [f"{i}.2345e-{i}" for i in range(9)]
    table = Table(
        "Title", ["row", *(f"method\n{i}" for i in range(9))], [["part"], ["one", *cells]]
    )
    text = shown(table, width)
    assert all(cell in text for cell in cells)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_column_of_words_gives_way_to_numbers(width):
    table = Table("Title", ["row", "words", "number"], [["one", "many words " * 9, "1.2345e-100"]])
    text = shown(table, width)
    assert "1.2345e-100" in text
    assert text.count("words") == 10


def test_a_title_is_wrapped_at_the_terminals_width_and_not_at_the_tables():
    title = "What it takes to learn cifar10[bird,cat,deer,dog,frog,horse]"
    table = Table(title, ["", "trials"], [["one", "1"]])
    assert title in shown(table, 80)
    assert "".join(title.split()) in "".join(shown(table, 40).split())


@pytest.mark.parametrize("width", [60, 70, 80, 100, 120, 200])
def test_columns_of_a_group_stay_together_under_a_title_of_their_own(width):
    headings = ["", *(f"{figure}\n{of}" for of in CONVENTIONS for figure in FIGURES)]
    rows = [["a method of a long name", *(f"1.23e-{n}" for n in range(9))]]
    groups = [(f"{of} convention", 3) for of in CONVENTIONS]
    text = shown(Table("Immunity", headings, rows, "(i): what it is", groups), width)
    parts = re.split(r"^ *Immunity", text, flags=re.MULTILINE)[1:]
    titles = [part.splitlines()[0].strip() for part in parts]
    assert len(set(titles)) == len(titles) <= 3
    for part in parts:
        for of in CONVENTIONS:  # all three of a convention, or none
            numbers = [f"1.23e-{3 * CONVENTIONS.index(of) + k}" for k in range(3)]
            assert len({number in part for number in numbers}) == 1
            if len(parts) > 1 and numbers[0] in part:
                assert f"{of} convention" in part.splitlines()[0]
    assert text.count("(i): what it is") == 1


def test_a_group_that_fits_nowhere_is_split_and_says_how():
    headings = ["", *(f"step\n{10**n}" for n in range(9))]
    rows = [["row", *(["1.23e-100"] * 9)]]
    text = shown(Table("Loss", headings, rows, "", [("primary", 9)]), 60)
    titles = re.findall(r"^ *(Loss \(.*?) *$", text, re.MULTILINE)
    assert titles[0].startswith("Loss (primary step 1 to step 1")
    assert len(set(titles)) == len(titles) > 1


def test_columns_of_nothing_are_not_shown():
    headings = ["", *(f"{figure}\n{of}" for of in CONVENTIONS for figure in FIGURES)]
    rows = [
        ["part"],
        ["row", *(f"1.23e-{n}" for n in range(6))],
        ["other", *["9"] * 6, "", " ", ""],
    ]
    groups = [(f"{of} convention", 3) for of in CONVENTIONS]
    table = Table("Immunity", headings, rows, "", groups)
    for width in (40, 80, 200):
        assert "paper" not in shown(table, width)
    assert "paper" not in table.markdown()
    assert "| row | 1.23e-0 |" in table.markdown()
    assert len({line.count("|") for line in table.markdown().splitlines() if "|" in line}) == 1
    some = replace(table, rows=[*rows, ["with", *["9"] * 6, "", "0", ""]])
    assert "(i) exact" in some.markdown()
    assert "(ii) paper" in some.markdown()
    assert "(i) paper" not in some.markdown()


def test_titles_of_parts_read():
    headings = ["", *(f"{figure}\n{of}" for of in CONVENTIONS for figure in FIGURES)]
    rows = [["row", *(f"1.23e-1{n}" for n in range(9))]]
    groups = [(f"{of} convention", 3) for of in CONVENTIONS]
    text = shown(Table("Immunity, of all", headings, rows, "", groups), 80)
    titles = [line.strip() for line in text.splitlines() if "Immunity" in line]
    assert titles == [
        "Immunity, of all (ridge convention and exact convention)",
        "Immunity, of all (paper convention)",
    ]


# ---- the tables of the experiments themselves, on a terminal of 80 columns ----

CURVE = {
    "step": [1, 10, 100, 1000, 10_000],
    "norm_ratio": [0.9, 0.5, 1.2e-3, 1.2e-5, 1.23e-17],
    "loss": [0.9, 0.5, 1.2e-3, 1.2e-5, 1.23e-17],
    "best_loss": 0.0,
}
COMPARED = {
    "tolerance": 0.01,
    "kappa": {"before": 1234.0, "after": 1.23e12},
    "slow_share": {"before": 0.5, "after": 0.123},
    "attackers": {
        name: {"after": {"steps": None, "taken": 10_000, "above": 1.2e-7}}
        for name in probing.METHODS
    },
}
MEASURED = values((1.234e-11, 1.234e-11), (1.234e-11, 1.234e-11)) | {
    "size": 123.4, "seconds": 1234.0, "attackers": COMPARED,
    "curves": {"primary": CURVE, "harmful": CURVE},
}  # fmt: skip


def of_house_price():
    limit = ic.linear.immunity_limit(np.diag([100.0, 1.0]), np.diag([2.0, 1.0]))
    chosen = dict(house_price.METHODS)
    return house_price.Result(
        settings=house_price.Settings(), source="files", fingerprint="",
        counts={"P training": 200, "P held-out": 109, "H held-out": 951},
        methods=chosen, units={name: [MEASURED] * 2 for name in chosen},
        limits={rows: {"exact": limit, "delta": limit} for rows in ("training", "held_out")},
    )  # fmt: skip


def of_mnist():
    methods = mnist.METHODS["mini-batch"]
    pairs = ((0, 1), (9, 4))
    return replace(of_pairs(pairs, dict.fromkeys(methods, MEASURED)), methods=methods)


def of_deep():
    told = {k: {"mean": v, "std": 1.23e-9} for k, v in report(1e-11, 1e-9).items()}
    learnt = {"accuracy": [0.5] * 21, "loss": [1.0] * 21}
    unit = {
        "groups": {"exact": told, "ridge": told}, "attackers": COMPARED,
        "all": {**report(1e-11, 1e-9), "kappa_P": 1.2e9, "kappa_H": 1.2e9},
        "accuracy": 0.912, "changed_predictions": 1000, "seconds": 1234.0, "warnings": [],
        "probe": dict.fromkeys(deep.LABELS, learnt), "moved": 0.0123, "kappa_A": 1.2e9,
        "primary_probe": dict.fromkeys(("sgd", "adam"), learnt),
        "rho": {"before": 0.123, "after": 1.2e-9, "defender's rows": 1.2e-9},
    }  # fmt: skip
    counts = dict.fromkeys(
        ("P classes", "P training", "P test", "H classes", "H training", "H test", "H defender",
         "H attacker"), 2,
    )  # fmt: skip
    settings = deep.Settings(backbone="b", primary="p", harmful="h")
    units = {name: [unit] for name in deep.METHODS}
    alone = deep.Unaided(0.5, 0.4, "pixels")
    return deep.Result(settings, {}, counts, ("block",), dict(deep.METHODS), units, alone)


@pytest.mark.parametrize(
    ("experiment", "result"), [(house_price, of_house_price), (mnist, of_mnist), (deep, of_deep)]
)
def test_tables_of_an_experiment_at_80_columns(experiment, result):
    pytest.importorskip("torch", reason="the extra torch is not installed")
    for table in experiment.tables(result()):
        parts = [set(columns) for columns, _ in table._parts(80)]
        assert len(parts) <= 3, table.title
        at = 1
        for name, count in table.groups:
            group = {column for column in range(at, at + count) if any(table._cells(column))}
            at += count
            assert any(group <= part for part in parts), (table.title, name)
        shown(table, 80)


def test_a_probe_stands_beside_its_own_accuracies():
    pytest.importorskip("torch", reason="the extra torch is not installed")
    (table,) = [t for t in deep.tables(of_deep()) if "by epoch" in t.title]
    assert len(table._parts(80)) == 1
    sections = [row[0] for row in table.rows if len(row) == 1]
    assert sections == ["SGD", "SGD, momentum 0.9", "Adam", "whitened, SGD"]
    assert [*table.headings] == ["", "epoch 1", "epoch 5", "epoch 20", "RFD"]


def test_a_descent_that_arrived_leaves_no_blank():
    """Its cells after its last step hold what it ended at, and the columns reach the longest."""
    short = {key: value[:2] if isinstance(value, list) else value for key, value in CURVE.items()}
    probed = {"first": {"primary": short, "harmful": short},
              "second": {"primary": CURVE, "harmful": CURVE}}  # fmt: skip
    table = norm_ratios(probed)
    assert len(table.headings) == 9
    rows = {row[0]: row[1:] for row in table.rows[1:3]}
    assert rows["first"] == ["0.5"] * 8
    assert rows["second"][:4] == ["0.5", "1.20e-3", "1.20e-5", "1.23e-17"]
    assert "its value at its end" in table.note
