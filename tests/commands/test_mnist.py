"""`immucond mnist`: IDX files, the run over pairs of digits, and bad files."""

import gzip
import json
import math
import re
import shutil
import struct
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
from truth import felt

import immucond as ic
from immucond._cli import main
from immucond.experiments import _sources, mnist
from immucond.experiments._search import ranked
from immucond.experiments._sources import IDX_FILES as FILES
from immucond.experiments._sources import MEAN, STD

pytestmark = pytest.mark.usefixtures("undrawn")  # `outcome` alone is drawn

QUICK = ["--probe-steps", "30", "--pairs", "0-1", "1-0", "4-9"]


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def images(rows, seed, side=5):
    """Grey levels around a picture for each digit; some pixels are never lit."""
    digits = np.arange(rows) % 10
    shapes = np.random.default_rng(0).random((10, side, side)) ** 3
    noise = np.random.default_rng(seed).random((rows, side, side))
    pixels = np.round(255 * np.clip(shapes[digits] + 0.4 * (noise - 0.5), 0, 1))
    pixels[:, 0, :2] = 0
    return pixels.astype(np.uint8), digits.astype(np.uint8)


def idx(array, kind=8):
    header = struct.pack(">BBBB", 0, 0, kind, array.ndim) + struct.pack(
        f">{array.ndim}I", *array.shape
    )
    return header + array.tobytes()


def write_data(folder):
    place = folder / "data" / "mnist"
    place.mkdir(parents=True)
    arrays = [*images(400, 1), *images(300, 2)]
    for number, (name, array) in enumerate(zip(FILES, arrays, strict=True)):
        if number % 2:
            (place / name).write_bytes(idx(array))
        else:
            (place / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return folder / "data"


@pytest.fixture
def folder(tmp_path):
    return write_data(tmp_path)


# ---- data ----


def test_idx_files_compressed_or_not(folder):
    data = mnist.load(folder)
    pixels, digits = images(400, 1)
    np.testing.assert_array_equal(data.pixels, pixels)
    np.testing.assert_array_equal(data.digits, digits)
    rows = data.rows(3, held_out=True)
    assert rows.shape == (30, 25)
    expected = (images(300, 2)[0][3].ravel() / 255 - MEAN) / STD
    np.testing.assert_allclose(rows[0], expected)
    assert data.counts([4, 9]) == {4: (40, 30), 9: (40, 30)}
    assert mnist.load(folder / "mnist").fingerprint == data.fingerprint


def bunch():
    pixels, digits = (
        np.concatenate(pair) for pair in zip(images(400, 1), images(300, 2), strict=True)
    )
    return sklearn.utils.Bunch(
        data=pd.DataFrame(pixels.reshape(700, 25)), target=pd.Series(digits.astype(str))
    )


def test_download_gives_the_same_as_the_files(folder, monkeypatch):
    monkeypatch.delenv("IMMUCOND_DATA", raising=False)
    monkeypatch.setattr(_sources, "_TRAIN", 400)
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", lambda name, **_: bunch())
    downloaded, read = mnist.load(), mnist.load(folder)
    for name in ("digits", "digits_held_out"):
        np.testing.assert_array_equal(getattr(downloaded, name), getattr(read, name))
    for digit in range(10):
        for part in (False, True):
            np.testing.assert_array_equal(downloaded.rows(digit, part), read.rows(digit, part))
    wrong = bunch()
    wrong.data = wrong.data.astype(float)
    wrong.data.iloc[3, 4] = np.nan
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", lambda name, **_: wrong)
    with pytest.raises(ValueError, match="mnist_784: row 4, column 5 holds nan, not a grey level"):
        mnist.load()


LABELS, IMAGES = FILES[1], FILES[0]
BAD = {
    "not idx": (LABELS, b"hello, world", "is not an IDX file of bytes in 1 dimension"),
    "empty": (LABELS, b"", "it starts with nothing, and should with 00 00 08 01"),
    "other type": (LABELS, idx(np.zeros(400, np.uint8), kind=13), "is not an IDX file of bytes"),
    "images for labels": (LABELS, idx(images(400, 1)[0]), "is not an IDX file of bytes in 1"),
    "short": (LABELS, idx(images(400, 1)[1])[:-5], r"have 408 bytes .*\(400,\), and has 403"),
    "long": (LABELS, idx(images(400, 1)[1]) + b"x", "should have 408 bytes"),
    "no rows": (LABELS, idx(np.zeros(0, np.uint8)), "array of shape"),
    "fewer labels": (LABELS, idx(images(399, 1)[1]), "has 399 labels for 400 images"),
    "not a digit": (LABELS, idx(np.full(400, 10, np.uint8)), "row 1 holds 10, not a digit"),
    "one class": (LABELS, idx(np.full(400, 3, np.uint8)), "holds the digit 3 alone"),
    "cut gzip": (IMAGES + ".gz", gzip.compress(idx(images(400, 1)[0]))[:-99], "not a whole gzip"),
    "no gzip": (IMAGES + ".gz", b"hello", "not a whole gzip"),
    "other width": (
        IMAGES + ".gz",
        gzip.compress(idx(images(400, 1, side=4)[0])),
        r"has images of shape \(4, 4\), .*t10k-images.* of shape \(5, 5\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "told"), BAD.values(), ids=BAD)
def test_bad_files_are_named_and_leave_nothing(folder, tmp_path, capsys, name, content, told):
    (folder / "mnist" / name).write_bytes(content)
    words = ["mnist", "--data-dir", str(folder), "--out", str(tmp_path / "out"), *QUICK]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("immucond mnist: error: ")
    assert error.count("\n") == 1
    assert name in error
    assert re.search(told, error), error
    assert not (tmp_path / "out").exists()


def test_a_digit_without_images_is_named(folder, tmp_path, capsys):
    digits = images(300, 2)[1]
    digits[digits == 9] = 8
    (folder / "mnist" / FILES[3]).write_bytes(idx(digits))
    words = ["mnist", "--data-dir", str(folder), "--out", str(tmp_path / "out"), *QUICK]
    assert main(words) == 2
    assert "no held-out image shows the digit 9" in capsys.readouterr().err


def test_missing_files(folder):
    (folder / "mnist" / FILES[3]).unlink()
    with pytest.raises(FileNotFoundError, match="mnist has no t10k-labels-idx1-ubyte"):
        mnist.load(folder)


# ---- the run ----


def fit(patch):
    """Give Algorithm 1 parameters that suit 25 pixels."""
    methods = mnist.METHODS["full-batch"]
    method = methods["algorithm1"]
    fitting = {**method.parameters, "lambda_P": 0.01, "lambda_H": 1e6, "lr": 0.005}
    patch.setitem(methods, "algorithm1", replace(method, parameters=fitting))


@pytest.fixture(scope="module")
def outcome(tmp_path_factory):
    """A run on three pairs that several tests look at; its data are those of `folder`."""
    place = tmp_path_factory.mktemp("run")
    words = ["mnist", "--data-dir", str(write_data(place)), "--out", str(place / "out"), *QUICK]
    with pytest.MonkeyPatch.context() as patch:
        fit(patch)
        assert main(words) == 0
    return place / "out"


@pytest.fixture
def again(outcome, tmp_path, monkeypatch):
    """The same for one test to go on from."""
    fit(monkeypatch)
    return shutil.copytree(outcome, tmp_path / "out")


def test_run_shows_tables_and_writes_its_files(folder, outcome, again, capsys):
    assert main(["mnist", "--data-dir", str(folder), "--out", str(again), *QUICK]) == 0
    shown = capsys.readouterr().out
    for word in ("Algorithm 1", "closed form", "held-out images, exact", "90 of 90", "of 3",
                 "primary 4, harmful 9", "gradient descent, line search"):  # fmt: skip
        assert word in shown, word
    names = ("r-ill-only", "imma", "opt-kappa", "algorithm1", "closed-form", "fade", "leace")
    figures = ("curves", *(f"{kind}-{name}" for kind in ("grid", "rho") for name in names))
    for out in (outcome, again):
        assert sorted(path.name for path in out.iterdir() if path.name != "units") == sorted(
            ["results.json", "tables.md", *(f"{f}.{s}" for f in figures for s in ("png", "svg"))]
        )
    for name in figures:
        assert (outcome / f"{name}.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
        assert "<svg" in (outcome / f"{name}.svg").read_text()


@pytest.mark.filterwarnings("ignore:the harmful task got easier")
def test_numbers_are_those_of_the_library(folder, outcome):
    numbers = json.loads((outcome / "results.json").read_text(), parse_constant=pytest.fail)
    data = mnist.load(folder)
    P, H = data.rows(4), data.rows(9)
    method = numbers["methods"]["algorithm1"]
    assert list(method["pairs"]) == ["0-1", "1-0", "4-9"]
    (told,) = method["pairs"]["4-9"]
    trained = ic.immunize.algorithm1(P, np.ones(len(P)), H, seed=0, **method["parameters"])
    held_out = data.rows(4, held_out=True), data.rows(9, held_out=True)
    for rows, X in (("training", (P, H)), ("held_out", held_out)):
        for convention, ridge in (("exact", 0.0), ("ridge", 1e-6)):
            report = ic.linear.immunity(trained.theta, *X, ridge=ridge)
            for key in ("kappa_P", "kappa_H", "i", "ii", "rir"):
                assert told[rows][convention][key] == pytest.approx(getattr(report, key), rel=1e-5)
    assert "curves" not in told
    assert "curves" in method["pairs"]["0-1"][0]
    limit = ic.linear.immunity_limit(X_P=P, X_H=H)
    assert float(numbers["limits"]["4-9"]["exact"]["rir"]) == pytest.approx(limit.rir, rel=1e-5)
    closed = numbers["methods"]["closed-form"]["pairs"]["4-9"][0]
    assert closed["size"] == pytest.approx(1.0)


def test_fade_and_what_probes_feel_are_those_of_their_formulas(folder, outcome):
    numbers = json.loads((outcome / "results.json").read_text())
    data = mnist.load(folder)
    P, H = data.rows(4), data.rows(9)
    d, delta = P.shape[1], numbers["settings"]["noise"] * len(P)
    b = H.sum(axis=0)  # of the label 1
    x = np.linalg.solve(P.T @ P + delta * np.eye(d), b)
    A = np.eye(d) - 0.99 * np.outer(x, b) / (b @ x)
    (values,) = numbers["methods"]["fade"]["pairs"]["4-9"]
    for rows, task, X in (
        ("training", "harmful", H), ("training", "primary", P),
        ("held_out", "harmful", data.rows(9, held_out=True)),
    ):  # fmt: skip
        told, y = values["alignment"][rows][task], np.ones(len(X))
        assert told["before"] == pytest.approx(felt(X, y, X), rel=1e-6)
        assert told["after"] == pytest.approx(felt(X @ A, y, X), rel=1e-5)
    text = (outcome / "tables.md").read_text()
    assert text.partition("\n\n")[2].startswith("**MNIST: what the attacker gets")
    assert text.count(" → ") > 10


def test_rho_grids_show_how_much_slower_the_labels_got(folder, tmp_path):
    settings = mnist.Settings(
        data_dir=folder, methods=("fade",), pairs=((0, 1), (4, 9)), probe_steps=0
    )
    result = mnist.run(settings, tmp_path / "units")
    told = result.units["fade", (0, 1)][0]["alignment"]["held_out"]["harmful"]
    left, right, bar = mnist.figures(result)["rho-fade"].axes
    shown = right.images[0].get_array()[0, 0]
    assert shown == pytest.approx(math.log10(told["before"]["rho"] / told["after"]["rho"]))
    assert left.images[0].get_array()[0, 0] > 2
    assert "rho" in bar.get_ylabel()
    told["after"]["rho"] = 0.0  # nothing of the labels is seen, which is no failure
    figure = mnist.figures(result)["rho-fade"]
    assert figure.axes[1].texts[0].get_text() == "inf"
    right = figure.axes[1].images[0]
    assert right.get_array()[0, 0] == right.norm.vmax  # of the figures that are finite
    assert "failed" not in figure.get_suptitle()


def test_grid_is_blue_where_positive_and_red_where_not(folder, tmp_path):
    settings = mnist.Settings(
        data_dir=folder, methods=("identity", "closed-form"), pairs=((0, 1), (4, 9)), probe_steps=0
    )
    result = mnist.run(settings, tmp_path / "units")
    report = result.units["closed-form", (0, 1)][0]["training"]["ridge"]
    values = mnist.log_rir(result, "closed-form", "training", "ridge")
    assert values[0, 1] == pytest.approx(math.log10(report["rir"]))
    report["rir"] = 1e-2
    drawn = mnist.figures(result)
    assert set(drawn) == {"grid-closed-form", "rho-closed-form"}
    picture = drawn["grid-closed-form"].axes[0].images[0]
    red, _, blue, _ = picture.cmap(picture.norm(picture.get_array()[0, 0]))
    assert red > blue
    red, _, blue, _ = picture.cmap(picture.norm(picture.get_array()[1, 1]))
    assert blue > red
    assert drawn["grid-closed-form"].axes[0].texts[0].get_text().startswith("-2.0")
    report["rir"] = 10**-0.004
    text = mnist.figures(result)["grid-closed-form"].axes[0].texts[0].get_text()
    assert text.startswith("-4e-3")


def test_a_second_run_goes_on_from_the_first(folder, again, monkeypatch):
    words = ["mnist", "--data-dir", str(folder), "--out", str(again), "--probe-steps", "30"]
    computed = []
    measure = mnist.MnistExperiment.measure
    monkeypatch.setattr(
        mnist.MnistExperiment,
        "measure",
        lambda self, data, unit: computed.append(unit) or measure(self, data, unit),
    )
    assert main([*words, "--pairs", "0-1", "1-0", "4-9", "7-2"]) == 0
    assert {tuple(unit["pair"]) for unit in computed} == {(7, 2)}
    assert len(computed) == 1 + len(mnist.METHODS["full-batch"])


def test_search_looks_at_the_worst_pair(folder, tmp_path, monkeypatch, capsys):
    grid = {"lr": (0.005,), "lambda_P": (0.01, 1e9), "lambda_H": (1e5, 1e6)}
    monkeypatch.setattr(mnist._experiment, "GRIDS", {"full-batch": {"algorithm1": grid}})
    out = tmp_path / "out"
    assert main(["mnist", "--data-dir", str(folder), "--out", str(out), "--search"]) == 0
    assert "candidates immunize" in capsys.readouterr().out
    numbers = json.loads((out / "search" / "results.json").read_text())
    found = numbers["methods"]["Algorithm 1"]
    assert len(found["candidates"]) == 4
    for candidate in found["candidates"]:
        assert len(candidate["outcomes"]) == len(found["tasks"])
        if candidate["score"] != "-inf":
            least = min(o[c]["rir"] for o in candidate["outcomes"] for c in ("ridge", "exact"))
            assert candidate["score"] == pytest.approx(math.log10(least))


def test_search_ranks_size_then_immunity_then_the_least_ratio():
    def outcome(i, ii, size=1.0):
        return {"size": size, **{c: {"i": i, "ii": ii, "rir": i / ii} for c in ("ridge", "exact")}}

    outcomes = {
        "immunizes": [outcome(2.0, 0.5), outcome(3.0, 0.9)],
        "larger ratio": [outcome(0.9, 0.01), outcome(0.9, 0.01)],
        "too large": [outcome(9.0, 0.1), outcome(9.0, 0.1, size=2.1)],
        "too small": [outcome(9.0, 0.1, size=0.4), outcome(9.0, 0.2)],
        "fails": [outcome(9.0, 0.1), {"failure": "diverged"}],
        "worst task": [outcome(99.0, 0.1), outcome(0.9, 1.0)],
    }
    method = mnist.METHODS["full-batch"]["algorithm1"]
    tried = [{"name": name} for name in outcomes]
    found = ranked(method, {}, tried, list(outcomes.values()), ["first", "second"])
    assert [c.parameters["name"] for c in found.candidates] == [
        "immunizes", "larger ratio", "worst task", "too large", "too small", "fails",
    ]  # fmt: skip
    assert [c.immunizes for c in found.candidates] == [True, False, False, True, True, False]
    assert found.candidates[2].score == pytest.approx(math.log10(0.9))


@pytest.mark.parametrize("protocol", mnist.METHODS)
def test_searched_values_are_on_the_grid(protocol):
    grids = mnist.GRIDS[protocol]
    searched = {k for k, m in mnist.METHODS[protocol].items() if m.source == "searched"}
    assert "algorithm1" in searched
    assert searched <= set(grids)
    for name in searched:
        for key, tried in grids[name].items():
            if len(tried) > 1:
                assert mnist.METHODS[protocol][name].parameters[key] in tried, (name, key)


# ---- the real data ----


def test_real_images(data_dir):
    data = mnist.load(data_dir)
    assert data.pixels.shape == (60_000, 28, 28)
    assert data.pixels_held_out.shape == (10_000, 28, 28)
    assert data.counts([5]) == {5: (5421, 892)}
    everything = data.pixels / 255
    assert everything.mean() == pytest.approx(MEAN, abs=1e-4)
    assert everything.std() == pytest.approx(STD, abs=1e-4)


def test_divide_and_conquer_that_gives_up_does_not_end_a_run(data_dir, tmp_path):
    """What LEACE leaves of eights beside sixes was beyond LAPACK's dgesdd."""
    settings = mnist.Settings(data_dir=data_dir, methods=("leace",), pairs=((8, 6),), probe_steps=0)
    (values,) = mnist.run(settings, tmp_path / "units").units["leace", (8, 6)]
    assert values["alignment"]["training"]["harmful"]["after"] == {"rho": 0.0, "left": 1.0}
    assert values["alignment"]["training"]["primary"]["after"]["left"] < 0.1
