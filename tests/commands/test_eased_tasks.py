"""Where an RIR is printed for a harmful task that got no harder, it says so beside the number."""

import io
import re
from itertools import permutations

import numpy as np
import pytest
from rich.console import Console

import immucond as ic
from immucond._cli import main
from immucond._format import NOTE, marked, not_harder
from immucond.experiments import deep, digits, house_price, mnist
from immucond.experiments._methods import Method


@pytest.mark.parametrize(
    ("i", "rir", "told"),
    [
        (3.6e-4, 715.0, "easier"),
        (0.5, 1.0, "easier"),
        (0.9, 0.1, "easier"),
        (1.0, 715.0, "no harder"),
        (1.0 + 1e-12, 715.0, "no harder"),
        (1.0, 1.0, ""),  # the identity
        (1.0 - 1e-12, 1.0 + 1e-12, ""),
        (2.0, 0.3, ""),
        (2.0, 715.0, ""),
    ],
)
def test_what_i_tells(i, rir, told):
    assert told in not_harder(i, rir)
    assert bool(not_harder(i, rir)) == bool(told)
    assert marked("715", i, rir) == ("715 !" if told else "715")


def report(i, rir):
    return {"i": i, "ii": i / rir, "rir": rir}


def values(training, held_out):
    """What a unit of an experiment holds; in both conventions (i) and RIR are as given."""
    rows = {"training": training, "held_out": held_out}
    both = {key: {c: report(*told) for c in ("ridge", "exact")} for key, told in rows.items()}
    loss = {key: {"own": 1.0, "best": 1.0} for key in rows}
    felt = {"before": {"rho": 0.5, "left": 0.1}, "after": {"rho": 0.005, "left": 0.9}}
    alignment = {key: {"harmful": felt, "primary": felt} for key in rows}
    return {
        **both,
        "loss": loss,
        "alignment": alignment,
        "size": 1.0,
        "seconds": 1.0,
        "warnings": [],
    }


METHODS = {
    "identity": Method("identity", "identity", {}, "none"),
    "closed-form": Method("closed form", "closed-form", {}, "closed form"),
    "algorithm1": Method("Algorithm 1", "algorithm1", {}, "searched"),
}
UNITS = {
    "identity": values((1.0, 1.0), (1.0, 1.0)),
    "closed-form": values((3.6e-4, 715.0), (4.0, 31.0)),
    "algorithm1": values((5.0, 95.0), (0.2, 77.0)),
}


def lines(table):
    """Rows of a table in Markdown, by their section and first cell."""
    section, found = "", {}
    for row in table.rows:
        if len(row) == 1:
            section = row[0]
        else:
            found[section, row[0]] = row
    return found


def test_house_price():
    limit = ic.linear.immunity_limit(np.diag([100.0, 1.0]), np.diag([2.0, 1.0]))
    curve = {"step": [1, 10], "norm_ratio": [0.5, 0.1], "loss": [0.5, 0.1], "best_loss": 0.0}
    curves = {"primary": curve, "harmful": curve}
    result = house_price.Result(
        settings=house_price.Settings(),
        source="files",
        fingerprint="",
        counts={"P training": 200, "P held-out": 109, "H held-out": 951},
        methods=METHODS,
        units={name: [unit | {"curves": curves}] for name, unit in UNITS.items()},
        limits={rows: {"exact": limit, "delta": limit} for rows in ("training", "held_out")},
    )
    overview, *_, immunity, _, _ = house_price.tables(result)
    assert lines(overview)["", "closed form"][4:] == ["", "", "0.5 → 5.00e-3", "715 !"]
    rows = lines(immunity)
    assert next(s for s, _ in rows) == "held-out rows"
    assert rows["training rows", "closed form"][4:8:3] == ["715 !", "715 !"]
    assert rows["held-out rows", "closed form"][4:8:3] == ["31", "31"]
    assert rows["held-out rows", "Algorithm 1"][4:8:3] == ["77 !", "77 !"]
    assert rows["training rows", "Algorithm 1"][4:8:3] == ["95", "95"]
    assert rows["training rows", "identity"][4] == "1"
    assert NOTE in immunity.markdown()


def of_pairs(pairs, units=UNITS):
    limit = {key: {"rir": 1.0} for key in ("exact", "delta")}
    return mnist.Result(
        settings=mnist.Settings(pairs=pairs),
        source="files",
        fingerprint="",
        counts={},
        methods=METHODS,
        units={(name, pair): [unit] for name, unit in units.items() for pair in pairs},
        limits=dict.fromkeys(pairs, limit),
    )


def test_mnist_pair_by_pair():
    _, immunity, _, pairs, *_ = mnist.tables(of_pairs(((0, 1),)))
    rows = lines(pairs)
    assert next(s for s, _ in rows) == "primary 0, harmful 1, held-out images"
    training = "primary 0, harmful 1, training images"
    assert rows[training, "closed form"][2:5] == ["3.60e-4", "5.03e-7", "715 !"]
    assert rows[training, "Algorithm 1"][4] == "95"
    assert NOTE in pairs.markdown()
    shown = lines(immunity)
    assert next(s for s, _ in shown) == "held-out images, ridge"
    assert shown["training images, exact", "closed form"][4:7] == ["2.85 !"] * 3
    assert shown["held-out images, exact", "closed form"][4:7] == ["1.49"] * 3
    assert NOTE in immunity.markdown()
    assert NOTE not in mnist.tables(of_pairs(((0, 1),), {"identity": UNITS["identity"]} | {
        name: values((5.0, 9.0), (5.0, 9.0)) for name in ("closed-form", "algorithm1")
    }))[1].markdown()  # fmt: skip


def test_pairs_are_counted_as_people_do():
    failing = {**UNITS, "algorithm1": {"failure": "diverged", "warnings": []}}
    one, two = (
        mnist.tables(of_pairs(pairs, failing))[1].note for pairs in (((0, 1),), ((0, 1), (1, 0)))
    )
    assert one.startswith("Over 1 ordered pair of digits")
    assert "(1 of 1 pair)" in one
    assert two.startswith("Over 2 ordered pairs of digits")
    assert "(2 of 2 pairs)" in two


def test_mnist_grids():
    pairs = (*permutations(range(3), 2), (5, 6))
    result = of_pairs(pairs)
    result.units["closed-form", (5, 6)] = [values((2.0, 300.0), (2.0, 300.0))]
    grid = next(
        t for t in mnist.tables(result) if t.title.endswith("exact convention: closed form")
    )
    assert grid.rows[0][2] == "2.85 !"
    assert grid.rows[5][7] == "2.48"
    assert NOTE in grid.markdown()
    immunity = lines(mnist.tables(result)[1])["training images, ridge", "closed form"]
    assert immunity[4:7] == ["2.48", "2.85 !", "2.85 !"]  # the least is that of 5-6


def test_deep():
    def unit(i, rir):
        told = {k: {"mean": v, "std": 0.0} for k, v in report(i, rir).items()}
        learnt = {"accuracy": [0.5, 0.6], "loss": [1.0, 0.5]}
        return {
            "groups": {"exact": told, "ridge": told},
            "all": {**report(i, rir), "kappa_P": 1.0, "kappa_H": 1.0},
            "accuracy": 0.9, "changed_predictions": 0, "seconds": 1.0, "warnings": [],
            "probe": dict.fromkeys(("sgd", "momentum", "adam", "lbfgs", "whitening"), learnt),
            "primary_probe": dict.fromkeys(("sgd", "adam"), learnt),
            "rho": {"before": 0.5, "after": 0.05, "defender's rows": None},
            "moved": 0.0, "kappa_A": None,
        }  # fmt: skip

    settings = deep.Settings(backbone="b", primary="p", harmful="h", probe_epochs=1)
    counts = dict.fromkeys(
        ("P classes", "P training", "P test", "H classes", "H training", "H test", "H defender",
         "H attacker"), 2,
    )  # fmt: skip
    units = {"closed-form": [unit(0.4, 2.5)], "algorithm1": [unit(3.0, 9.0)]}
    alone = deep.Unaided(0.5, 0.4, "tf-idf")
    result = deep.Result(settings, {}, counts, ("block",), METHODS, {"identity": []} | units, alone)
    *_, groups, whole = (t for t in deep.tables(result) if "(i)" in str(t.headings))
    assert lines(groups)["", "closed form"][3::3][:2] == ["2.5 ± 0 !"] * 2
    assert lines(whole)["", "closed form"][3] == "2.5 !"
    assert lines(whole)["", "Algorithm 1"][3] == "9"
    assert NOTE in groups.markdown()
    assert NOTE in whole.markdown()


def test_demo():
    settings = digits.Settings(steps=2, probe_steps=2)
    result = digits.run(settings)
    del result.units["fade"]  # what it does to labels costs condition numbers
    told = io.StringIO()
    digits.print_tables(result, Console(file=told, width=80))
    shown = told.getvalue()
    assert shown.index(" held-out rows ") < shown.index(" training rows ")
    before = shown.count(" ! ")
    result.units["closed form"][0]["training"]["noisy"]["i"] = 1 / 3
    told = io.StringIO()
    digits.print_tables(result, Console(file=told, width=80))
    assert " ".join(NOTE.split()) in " ".join(told.getvalue().split())
    assert told.getvalue().count(" ! ") == before + 1


@pytest.mark.parametrize(
    ("i", "told"),
    [
        (1.0 - 1e-12, "the harmful task got no harder"),
        (1.0 + 1e-12, "the harmful task got no harder"),
        (0.5, "the harmful task got easier"),
        (2.0, ""),
    ],
)
def test_the_demo_s_last_sentence_has_the_same_rule(i, told):
    result = digits.run(digits.Settings(steps=2, probe_steps=2))
    result.units["closed form"][0]["held_out"]["exact"] |= {"i": i, "rir": 3.0 * i}
    text = digits.closing(result)
    (remark,) = re.findall(r"and the RIR .* after the closed form(.*?) and \S+ after fade", text)
    assert remark == (f" (by (i), {told})" if told else "")


def test_limit(tmp_path, capsys):
    for name, scale in (("p", [9.0, 3.0, 1.0]), ("h", [9.0, 2.0, 1.0])):
        np.save(tmp_path / f"{name}.npy", np.diag(scale))
    words = [str(tmp_path / "p.npy"), str(tmp_path / "h.npy"), "--out", str(tmp_path / "out")]
    assert main(["limit", *words]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert " ".join(NOTE.split()) in shown  # at kappa_P = 1 the frontier's kappa_H is below 81
    assert " 1 2.25 0.0278 ! 0.0123 " in shown
