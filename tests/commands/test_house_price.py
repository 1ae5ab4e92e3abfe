"""`immucond house-price`: the data as the paper prepares them, the run, and bad files."""

import json
import re
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
from truth import felt

import immucond as ic
from immucond._cli import main
from immucond.experiments import house_price
from immucond.experiments._methods import Tasks, fit
from immucond.experiments._report import overview
from immucond.experiments.house_price._data import COLUMNS

QUICK = ["--rows", "70", "--probe-steps", "20", "--seeds", "2"]
PAPER = house_price.METHODS["algorithm1"].parameters
CATEGORIES = {"MSZoning": ("FV", "RM"), "Street": ("Pave", "Grvl"), "MasVnrType": ("None", "Stone")}


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


@pytest.fixture(scope="module", autouse=True)
def _short_runs():
    with pytest.MonkeyPatch.context() as patch:
        for name, method in house_price.METHODS.items():
            short = {"steps": 15, "epochs": 2}
            parameters = {k: short.get(k, value) for k, value in method.parameters.items()}
            patch.setitem(house_price.METHODS, name, replace(method, parameters=parameters))
        yield


def table(rows, seed, zone=None):
    """A file as the real ones are: numbers, categories, some of either missing."""
    rng = np.random.default_rng(seed)
    base = rng.normal(size=(rows, 12)) * np.geomspace(9, 1, 12)
    columns = {}
    for j, name in enumerate(COLUMNS):
        if name in CATEGORIES:
            columns[name] = rng.choice(CATEGORIES[name], size=rows)
        else:
            mixed = base @ rng.normal(size=12) + 0.3 * rng.normal(size=rows)
            columns[name] = np.round(100 + 10 * mixed, 2 if j % 2 else 0)
    frame = pd.DataFrame(columns).astype(object)
    frame.loc[frame.index % 7 == 3, ["LotFrontage", "Street"]] = None
    frame["PoolArea"] = 0
    if zone:
        frame["MSZoning"] = zone
    return frame


def write_data(parent):
    (parent / "data" / "house_price").mkdir(parents=True)
    for name, rows, zone in (("D_P.csv", 90, None), ("D_H.csv", 100, "RL")):
        table(rows, rows, zone).to_csv(parent / "data" / "house_price" / name, index=False)
    return parent / "data"


@pytest.fixture
def folder(tmp_path):
    return write_data(tmp_path)


def edit(folder, name, change):
    path = folder / "house_price" / name
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    change(frame).to_csv(path, index=False)


# ---- data ----


def test_data_are_prepared_as_the_paper_does(folder):
    data = house_price.load(folder, rows=70)
    assert len(data.features) == 79
    assert {"Id", "MSZoning"} <= set(data.features)
    assert not {"LotArea", "SalePrice"} & set(data.features)
    P, H = data.primary, data.harmful
    assert (P.X.shape, P.X_held_out.shape) == ((70, 79), (20, 79))
    assert (H.X.shape, H.X_held_out.shape) == ((70, 79), (30, 79))
    frame = table(90, 90)
    X, y = np.vstack([P.X, P.X_held_out]), np.concatenate([P.y, P.y_held_out])
    target = frame["LotArea"].astype(float).to_numpy()
    np.testing.assert_allclose(y, (target - target.mean()) / target.std())
    frontage = frame["LotFrontage"].astype(float).fillna(0).to_numpy()
    expected = (frontage - frontage.mean()) / frontage.std()
    np.testing.assert_allclose(X[:, data.features.index("LotFrontage")], expected)
    street = frame["Street"].fillna("0").map({"0": 0, "Grvl": 1, "Pave": 2}).to_numpy(dtype=float)
    expected = (street - street.mean()) / street.std()
    np.testing.assert_allclose(X[:, data.features.index("Street")], expected)
    # "None" is a category (a house without veneer), not a missing value.
    veneer = (frame["MasVnrType"] == "Stone").to_numpy(dtype=float)
    expected = (veneer - veneer.mean()) / veneer.std()
    np.testing.assert_allclose(X[:, data.features.index("MasVnrType")], expected)
    assert not X[:, data.features.index("PoolArea")].any()


def test_a_constant_whose_mean_is_rounded_is_0_too(folder):
    edit(folder, "D_P.csv", lambda f: f.assign(PoolArea="0.1"))
    assert np.full(90, 0.1).std() > 0.0
    data = house_price.load(folder, rows=70)
    assert not data.primary.X[:, data.features.index("PoolArea")].any()


def test_folder_may_be_named_itself_or_by_the_environment(folder, monkeypatch):
    wanted = house_price.load(folder, rows=70)
    assert house_price.load(folder / "house_price", rows=70).fingerprint == wanted.fingerprint
    monkeypatch.setenv("IMMUCOND_DATA", str(folder))
    assert house_price.load(rows=70).fingerprint == wanted.fingerprint
    assert house_price.load(rows=71).fingerprint != wanted.fingerprint


def test_download_gives_the_same_as_the_files(folder, monkeypatch):
    P, H = table(90, 90), table(100, 100, "RL")
    mixed = pd.concat([H[:20], P[:30], H[20:], P[30:]], ignore_index=True)

    def fetch(name, **options):
        assert (name, options) == ("house_prices", {"version": 1, "as_frame": True})
        return sklearn.utils.Bunch(frame=mixed)

    monkeypatch.delenv("IMMUCOND_DATA", raising=False)
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    data, wanted = house_price.load(rows=70), house_price.load(folder, rows=70)
    assert data.fingerprint == wanted.fingerprint
    assert data.source == "OpenML"


BAD = {
    "absent column": (lambda f: f.drop(columns="Alley"), r"D_P\.csv has no column 'Alley'"),
    "absent target": (lambda f: f.drop(columns="LotArea"), r"D_P\.csv has no column 'LotArea'"),
    "other features": (lambda f: f.assign(Extra=1), r"D_P\.csv has other features.*'Extra'"),
    "nan": (
        lambda f: f.assign(GrLivArea=["nan" if i == 4 else v for i, v in enumerate(f.GrLivArea)]),
        r"D_P\.csv: row 5, column 'GrLivArea' holds nan",
    ),
    "infinity": (
        lambda f: f.assign(YrSold=["-inf" if i == 0 else v for i, v in enumerate(f.YrSold)]),
        r"D_P\.csv: row 1, column 'YrSold' holds -inf",
    ),
    "empty target": (
        lambda f: f.assign(LotArea=["" if i == 2 else v for i, v in enumerate(f.LotArea)]),
        r"D_P\.csv: row 3, column 'LotArea' holds '', not a number",
    ),
    "text target": (
        lambda f: f.assign(LotArea=["big" if i == 2 else v for i, v in enumerate(f.LotArea)]),
        r"D_P\.csv: row 3, column 'LotArea' holds 'big', not a number",
    ),
    "constant target": (lambda f: f.assign(LotArea="7"), r"column 'LotArea' is 7 in every row"),
    "too few rows": (lambda f: f[:70], r"D_P\.csv has 70 rows, and more than 70 are needed"),
}


@pytest.mark.parametrize(("change", "told"), BAD.values(), ids=BAD)
def test_bad_tables_name_file_row_and_column(folder, tmp_path, capsys, change, told):
    edit(folder, "D_P.csv", change)
    words = ["house-price", "--data-dir", str(folder), "--out", str(tmp_path / "out"), *QUICK]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("immucond house-price: error: ")
    assert error.count("\n") == 1
    assert re.search(told, error), error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", r"D_H\.csv is empty"),
        (b"a,b\n1\n", r"D_H\.csv: row 1 has 1 columns, and the header 2"),
        (b"a,b,a\n1,2,3\n", r"D_H\.csv has the column 'a' twice"),
        (b"a,\xff\n", r"D_H\.csv is not a CSV file in UTF-8"),
        (b'a,"b\n', r"D_H\.csv is not a CSV file in UTF-8"),
    ],
)
def test_files_that_are_no_tables(folder, content, told):
    (folder / "house_price" / "D_H.csv").write_bytes(content)
    with pytest.raises(ValueError, match=told):
        house_price.load(folder, rows=70)


def test_missing_files_and_folders(folder, tmp_path, monkeypatch):
    (folder / "house_price" / "D_H.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"house_price has no D_H\.csv"):
        house_price.load(folder)
    with pytest.raises(FileNotFoundError, match="none does not exist"):
        house_price.load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("IMMUCOND_DATA", str(tmp_path / "empty"))
    with pytest.raises(FileNotFoundError, match=r"\(from IMMUCOND_DATA\) has no D_P\.csv, D_H"):
        house_price.load()


# ---- the run ----


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """One run that several tests look at: where its results lie; its data are those of `folder`."""
    place = tmp_path_factory.mktemp("run")
    words = ["house-price", "--data-dir", str(write_data(place)), "--out", str(place / "out")]
    assert main([*words, *QUICK]) == 0
    return place / "out"


def test_run_shows_tables_and_writes_its_files(folder, outcome, capsys):
    words = ["house-price", "--data-dir", str(folder), "--out", str(outcome), *QUICK]
    assert main(words) == 0
    shown = capsys.readouterr().out
    for word in ("identity", "Algorithm 1", "closed form", "training rows", "held-out rows",
                 "RIR*", "356", "Hyper-parameters", "gradient descent, line search",
                 "least squares in float32", "searched"):  # fmt: skip
        assert word in shown, word
    assert sorted(path.name for path in outcome.iterdir()) == [
        "curves.png", "curves.svg", "results.json", "tables.md", "units",
    ]  # fmt: skip
    assert (outcome / "curves.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert "<svg" in (outcome / "curves.svg").read_text()
    text = (outcome / "tables.md").read_text()
    assert text.startswith("`immucond house-price --data-dir")
    assert "| Algorithm 1 |" in text


def test_numbers_are_those_of_the_library(folder, outcome):
    numbers = json.loads((outcome / "results.json").read_text(), parse_constant=pytest.fail)
    data = house_price.load(folder, rows=70)
    P, H = data.primary, data.harmful
    method = numbers["methods"]["algorithm1"]
    assert len(method["seeds"]) == 2
    trained = ic.immunize.algorithm1(P.X, P.y, H.X, seed=1, **method["parameters"])
    report = ic.linear.immunity(trained.theta, P.X_held_out, H.X_held_out, ridge=1e-6)
    told = method["seeds"][1]["held_out"]["ridge"]
    for key in ("kappa_P", "kappa_H", "i", "ii", "rir"):
        assert told[key] == pytest.approx(getattr(report, key), rel=1e-9)
    assert method["seeds"][1]["loss"]["training"]["own"] == pytest.approx(
        trained.history["loss"][-1]
    )
    identity = numbers["methods"]["identity"]["seeds"]
    assert [values["training"]["exact"]["rir"] for values in identity] == [1.0]
    closed = numbers["methods"]["closed-form"]["seeds"][0]
    assert closed["size"] == pytest.approx(1.0)
    assert closed["training"]["exact"]["ii"] < 1e-3
    assert closed["loss"]["training"]["own"] == pytest.approx(
        identity[0]["loss"]["training"]["own"], rel=1e-6
    )


def test_fade_and_what_probes_feel_are_those_of_their_formulas(folder, outcome):
    numbers = json.loads((outcome / "results.json").read_text())
    data = house_price.load(folder, rows=70)
    P, H = data.primary, data.harmful
    method = numbers["methods"]["fade"]
    assert method["parameters"] == {"tau": 1e4, "delta": 1e-3}
    b = H.X.T @ H.y  # real numbers, so one column
    x = np.linalg.solve(P.X.T @ P.X + 1e-3 * np.eye(79), b)
    A = np.eye(79) - 0.99 * np.outer(x, b) / (b @ x)
    (values,) = method["seeds"]
    for rows, task, X, y in (
        ("training", "harmful", H.X, H.y), ("held_out", "harmful", H.X_held_out, H.y_held_out),
        ("training", "primary", P.X, P.y), ("held_out", "primary", P.X_held_out, P.y_held_out),
    ):  # fmt: skip
        told = values["alignment"][rows][task]
        assert told["before"] == pytest.approx(felt(X, y, X), rel=1e-6)
        assert told["after"] == pytest.approx(felt(X @ A, y, X), rel=1e-5)
        seen = ic.linear.alignment(X @ A, y, center=False, rank=int(np.linalg.matrix_rank(X)))
        assert told["after"]["rho"] == pytest.approx(seen.rho, rel=1e-5)
        assert told["after"]["left"] >= (1 - told["after"]["rho"]) ** 200 * (1 - 1e-9)
    harmful = values["alignment"]["training"]["harmful"]
    assert harmful["after"]["left"] > 0.9 > harmful["before"]["left"]
    identity = numbers["methods"]["identity"]["seeds"][0]
    for rows in ("training", "held_out"):
        own = values["loss"][rows]["own"]
        assert own == pytest.approx(identity["loss"][rows]["own"], rel=1e-6)


@pytest.mark.parametrize("intercept", [False, True])
def test_leace_leaves_no_probe_anything(folder, outcome, intercept):
    data = house_price.load(folder, rows=70)
    P, H = data.primary, data.harmful
    numbers = json.loads((outcome / "results.json").read_text())
    (values,) = numbers["methods"]["leace"]["seeds"]
    tasks = Tasks(P.X, P.y, H.X, H.y)
    theta = fit("leace", tasks, {}, 0).theta
    labels = np.column_stack([H.y, np.ones(70)])
    b = H.X.T @ labels
    K = np.linalg.pinv(H.X.T @ H.X, rcond=1e-12, hermitian=True)
    np.testing.assert_allclose(
        theta, np.eye(79) - K @ b @ np.linalg.inv(b.T @ K @ b) @ b.T, atol=1e-6
    )
    Z = H.X @ theta
    seen = np.column_stack([Z, np.ones(70)]) if intercept else Z
    best = H.y - seen @ np.linalg.lstsq(seen, H.y, rcond=1e-10)[0]
    mean = H.y.mean() if intercept else 0.0
    assert best @ best == pytest.approx(np.sum((H.y - mean) ** 2), rel=1e-9)
    assert values["alignment"]["training"]["harmful"]["after"] == {"rho": 0.0, "left": 1.0}
    assert values["alignment"]["held_out"]["harmful"]["after"]["rho"] > 0.0
    identity = numbers["methods"]["identity"]["seeds"][0]["alignment"]
    for rows in ("training", "held_out"):  # before it is what it was, whatever rank a map loses
        assert values["alignment"][rows]["harmful"]["before"] == pytest.approx(
            identity[rows]["harmful"]["before"]
        )
    (row,) = [line for line in (outcome / "tables.md").read_text().splitlines()
              if line.startswith("| LEACE") and "nothing" in line and "→" in line]  # fmt: skip
    assert row.count("nothing to learn") == 2
    assert "→ 0 |" in row


def test_tables_tell_the_attacker_first_and_the_rir_last(outcome):
    text = (outcome / "tables.md").read_text()
    (heading,) = (line for line in text.splitlines() if line.startswith("|  | harmful loss left"))
    wanted = ("harmful loss left", "primary loss held-out", "whitened features", "least squares",
              "rho harmful", "RIR exact")  # fmt: skip
    places = [heading.index(word) for word in wanted]
    assert places == sorted(places)
    assert text.partition("\n\n")[2].startswith("**What the attacker gets")
    assert " → " in text


def test_an_rir_that_rises_while_the_probe_gets_easier_is_marked():
    unit = {"training": {"exact": {"i": 9.0, "ii": 1.0, "rir": 9.0}}, "warnings": []}
    easier = {"before": {"rho": 0.1, "left": 0.5}, "after": {"rho": 0.3, "left": 0.2}}
    unit["alignment"] = {"training": dict.fromkeys(("primary", "harmful"), easier)}
    table = overview({"imma": house_price.METHODS["imma"]}, {"imma": [unit]}, "training")
    assert table.rows[0] == ["identity", "0.5", "", "0.5"]  # before, where it was not run
    assert table.rows[1][6:] == ["0.1 → 0.3", "9 †"]
    assert "yet the harmful probe got easier" in table.note
    unit["training"]["exact"]["rir"] = 0.9
    again = overview({"imma": house_price.METHODS["imma"]}, {"imma": [unit]}, "training")
    assert again.rows[1][7] == "0.9"
    assert "†" not in again.note


@pytest.mark.usefixtures("undrawn")
def test_second_run_computes_nothing_and_other_settings_do(folder, outcome, monkeypatch, capsys):
    words = ["house-price", "--data-dir", str(folder), "--out", str(outcome)]
    before = json.loads((outcome / "results.json").read_text())
    never = lambda *_: pytest.fail("computed again")  # noqa: E731
    monkeypatch.setattr(house_price.HousePriceExperiment, "measure", never)
    assert main([*words, *QUICK, "--jobs", "2"]) == 0
    after = json.loads((outcome / "results.json").read_text())
    assert before.pop("command") != after.pop("command")
    assert before == after
    with pytest.raises(pytest.fail.Exception):
        main([*words, *QUICK, "--delta", "0.5"])


@pytest.mark.usefixtures("undrawn")
def test_two_processes_find_the_same(folder, outcome, tmp_path):
    words = ["house-price", "--data-dir", str(folder), "--out", str(tmp_path / "two"), *QUICK]
    assert main([*words, "--methods", "identity", "closed-form", "--jobs", "2"]) == 0
    one, two = (
        json.loads((out / "results.json").read_text())["methods"]
        for out in (outcome, tmp_path / "two")
    )
    assert set(two) == {"identity", "closed-form"}
    for name, method in two.items():
        found, wanted = method["seeds"][0]["training"], one[name]["seeds"][0]["training"]
        for convention in ("exact", "ridge"):
            assert found[convention]["rir"] == pytest.approx(wanted[convention]["rir"], rel=1e-6)


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    ("name", "parameters", "label", "told"),
    [
        ("algorithm1", {"lr": 1e6}, "Algorithm 1", "algorithm1 diverged at step"),
        ("closed-form", {"kappa_P": 1e31}, "closed form", "rounding would change"),
    ],
)
def test_a_method_that_fails_is_a_result(
    name, parameters, label, told, folder, tmp_path, monkeypatch, capsys
):
    method = house_price.METHODS[name]
    wild = replace(method, parameters={**method.parameters, **parameters})
    monkeypatch.setitem(house_price.METHODS, name, wild)
    out = tmp_path / "out"
    words = ["house-price", "--data-dir", str(folder), "--out", str(out), *QUICK]
    assert main([*words, "--methods", "identity", name]) == 0
    assert f"{label} failed: {told}" in capsys.readouterr().out
    numbers = json.loads((out / "results.json").read_text())
    assert told in numbers["methods"][name]["seeds"][0]["failure"]
    for others in (["imma"], []):  # the last method tells nothing of before, nor does any
        assert main([*words, "--methods", name, *others]) == 0
        assert f"{label} failed: {told}" in (out / "tables.md").read_text()


def test_search_ranks_by_training_rows(folder, tmp_path, monkeypatch, capsys):
    grid = {"lr": (0.005,), "lambda_P": (0.01, 1e9), "lambda_H": (1e3, 1e5)}
    monkeypatch.setattr(house_price._experiment, "GRIDS", {"algorithm1": grid})
    out = tmp_path / "out"
    words = ["house-price", "--data-dir", str(folder), "--out", str(out), *QUICK, "--search"]
    assert main(words) == 0
    assert "candidates immunize" in capsys.readouterr().out
    numbers = json.loads((out / "search" / "results.json").read_text())
    candidates = numbers["methods"]["Algorithm 1"]["candidates"]
    scores = [float(c["score"]) for c in candidates]
    assert len(scores) == 4
    assert scores == sorted(scores, reverse=True)
    failed = [c for c in candidates if "failure" in c["outcomes"][0]]
    assert {c["parameters"]["lambda_P"] for c in failed} == {1e9}
    assert all(c["score"] == "-inf" for c in failed)


def test_a_search_for_nothing_is_told(folder, tmp_path, capsys):
    words = ["house-price", "--data-dir", str(folder), "--out", str(tmp_path / "out"), "--search"]
    assert main([*words, "--methods", "fade", "leace"]) == 2
    assert "there is nothing to search for fade, leace" in capsys.readouterr().err


def test_missing_extra_is_named(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    assert main(["house-price", "--data-dir", str(folder), "--out", str(tmp_path / "o")]) == 2
    assert 'pip install "immucond[experiments]"' in capsys.readouterr().err


# ---- the real data ----


def test_paper_figures_are_reached(data_dir):
    data = house_price.load(data_dir)
    assert (data.primary.X.shape, data.harmful.X_held_out.shape) == ((200, 79), (951, 79))
    P, H = data.primary, data.harmful
    trained = ic.immunize.algorithm1(P.X, P.y, H.X, **PAPER)
    for ridge, least in ((1e-6, 356), (0.0, 1)):
        report = ic.linear.immunity(trained.theta, P.X, H.X, ridge=ridge)
        assert report.rir >= least
        assert report.i > 1 > report.ii
