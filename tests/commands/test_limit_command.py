"""`immucond limit`: what it computes from files, and what it says of bad ones."""

import itertools
import json
import math
import re
import subprocess
import sys
import textwrap
import zipfile

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

import immucond as ic
from immucond import limit
from immucond._cli import main
from immucond._task import root_of_gram
from immucond.limit import _rows


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def inputs():
    rng = np.random.default_rng(0)
    return rng.normal(size=(300, 5)) * [9, 5, 3, 2, 1], rng.normal(size=(200, 5)) * [1, 1, 2, 2, 3]


def write(path, X):
    if path.suffix == ".npy":
        np.save(path, X)
    elif path.suffix == ".npz":
        np.savez(path, X=X)
    elif path.suffix == ".csv":
        np.savetxt(path, X, delimiter=",", fmt="%.17g")
    else:
        pd.DataFrame(X, columns=[f"f{i}" for i in range(X.shape[1])]).to_parquet(path)
    return str(path)


def rows_of(name):
    # A block may live in memory that the next one overwrites.
    return np.vstack([block.copy() for block, _ in limit.open_rows(name).blocks()])


# ---- the report ----


# All files come as blocks of rows, whatever is then done with them.
@pytest.mark.parametrize(
    ("suffix", "through"),
    [("npy", "gram"), ("npz", "gram"), ("csv", "gram"), ("parquet", "gram"), ("npy", "qr")],
)
def test_report_is_that_of_the_rows(tmp_path, inputs, suffix, through):
    names = [write(tmp_path / f"{n}.{suffix}", X) for n, X in zip("ph", inputs, strict=True)]
    out = tmp_path / "out"
    assert main(["limit", *names, "--out", str(out), "--through", through, "--points", "9"]) == 0
    told = json.loads((out / "limit.json").read_text())
    expected = ic.linear.immunity_limit(X_P=inputs[0], X_H=inputs[1])
    for key in ("rir", "kappa_M", "kappa_P", "kappa_H"):
        assert told["exact"][key] == pytest.approx(getattr(expected, key), rel=1e-9)
    assert told["exact"]["case"] == "definite"
    assert told["tasks"]["primary"] == {
        "file": names[0], "rows": 300, "columns": 5, "computed_in": "float64",
    }  # fmt: skip
    line = ic.linear.frontier(X_P=inputs[0], X_H=inputs[1], points=9)
    np.testing.assert_allclose(told["frontier"]["kappa_P"], line.kappa_P, rtol=1e-9)
    np.testing.assert_allclose(told["frontier"]["kappa_H"], line.kappa_H, rtol=1e-9)
    np.testing.assert_allclose(told["frontier"]["i"], line.i, rtol=1e-9)
    noise = ic.linear.noise_curve(
        X_P=inputs[0], X_H=inputs[1], variance=told["noise_floor"]["variance"]
    )
    np.testing.assert_allclose(told["noise_floor"]["rir"], noise.rir, rtol=1e-8)
    assert told["noise_floor"]["variance"][-1] == pytest.approx(np.mean(inputs[0] ** 2))
    assert "limit" in told["command"]
    assert (out / "limit.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in out.iterdir()) == ["limit.json", "limit.png"]


def test_tables_show_the_numbers(tmp_path, inputs, capsys):
    names = [write(tmp_path / f"{n}.npy", X) for n, X in zip("ph", inputs, strict=True)]
    assert main(["limit", *names, "--out", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    expected = ic.linear.immunity_limit(X_P=inputs[0], X_H=inputs[1])
    assert re.search(rf"exact +{expected.rir:.0f} +{expected.kappa_M:.3g}", shown)
    for title in ("Tasks", "Limit", "Frontier", "Noise floor"):
        assert title in shown
    assert "not centred, not standardized" in " ".join(shown.split())


def test_names_of_files_are_no_markup(tmp_path, inputs, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = "rows[old].npy", "rows:car:.npy"
    for name, X in zip(names, inputs, strict=True):
        write(tmp_path / name, X)
    assert main(["limit", *names, "--points", "3"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)
    (tmp_path / "a[").mkdir()
    closing = write(tmp_path / "a[" / "b].npy", inputs[0])
    assert main(["limit", "a[/b].npy", closing, "--points", "3", "--overwrite"]) == 0


def test_unbounded_says_so_and_noise_ends_it(tmp_path, capsys):
    names = [
        write(tmp_path / f"{n}.npy", X) for n, X in (("p", np.diag([3.0, 0])), ("h", np.eye(2)))
    ]
    out = tmp_path / "out"
    assert main(["limit", *names, "--out", str(out)]) == 0
    told = json.loads((out / "limit.json").read_text())
    assert (told["exact"]["rir"], told["exact"]["case"]) == ("inf", "unbounded")
    assert told["frontier"]["kappa_H"][0] == "inf"
    assert all(isinstance(value, float) for value in told["noise_floor"]["rir"])
    shown = capsys.readouterr().out
    assert "No limit: K_P has rank 1, and K_H (rank 2) has energy in 1 directions" in shown
    assert "Frontier" not in shown
    words = ["limit", *names, "--out", str(out), "--delta", "1", "0.5", "--overwrite"]
    assert main(words) == 0
    told = json.loads((out / "limit.json").read_text())
    expected = ic.linear.immunity_limit(np.diag([9.0, 0]), np.eye(2), delta=(1.0, 0.5))
    assert told["limit"]["rir"] == pytest.approx(expected.rir)
    assert told["exact"]["rir"] == "inf"
    assert "delta = 1 (P), 0.5 (H)" in capsys.readouterr().out


def test_precision_of_the_file_decides_the_rank(tmp_path, capsys):
    rng = np.random.default_rng(0)
    low = rng.normal(size=(500, 3)) @ rng.normal(size=(3, 6))
    single, double = tmp_path / "single.npy", tmp_path / "double.npy"
    np.save(single, low.astype(np.float32))
    np.save(double, low.astype(np.float32).astype(np.float64))
    for through in ("gram", "qr"):

        def ranks(*options, through=through):
            out = tmp_path / "out"
            words = ["limit", *options, "--out", str(out), "--through", through, "--overwrite"]
            assert main(words) == 0
            told = json.loads((out / "limit.json").read_text())["exact"]
            return told["rank_P"], told["rank_H"], told["case"]

        assert ranks(str(single), str(single)) == (3, 3, "restricted")
        assert ranks(str(double), str(double), "--computed-in", "float32") == (3, 3, "restricted")
        if through == "qr":  # squared, the noise of float32 is below that of the sum
            assert ranks(str(double), str(double))[:2] == (6, 6)
        assert ranks(str(double), str(single), "--rank-primary", "3")[:2] == (3, 3)
    assert "computed in float32" in capsys.readouterr().out


def test_qr_keeps_the_digits_that_gram_matrices_lose(tmp_path, capsys):
    rng = np.random.default_rng(0)
    X_P = np.linalg.qr(rng.normal(size=(50, 4)))[0] * np.array([1, 1e-3, 1e-6, 1e-9])
    names = [write(tmp_path / "p.npy", X_P), write(tmp_path / "h.npy", rng.normal(size=(50, 4)))]
    out = tmp_path / "out"
    assert main(["limit", *names, "--through", "qr", "--out", str(out)]) == 0
    told = json.loads((out / "limit.json").read_text())["exact"]
    assert told["kappa_P"] == pytest.approx(1e18, rel=1e-4)
    capsys.readouterr()
    assert main(["limit", *names, "--rank-primary", "4", "--out", str(out), "--overwrite"]) == 0
    assert re.search("is not determined.*--through qr", capsys.readouterr().out, re.DOTALL)


def test_a_delta_below_zero_is_refused_by_name(tmp_path, inputs):
    names = [write(tmp_path / f"{n}.npy", X) for n, X in zip("ph", inputs, strict=True)]
    with pytest.raises(ValueError, match="delta must be a number >= 0"):
        limit.run(limit.Settings(*names, delta=(0.0, -1.0)))


def test_figure_has_labels():
    settings = limit.Settings(primary="", harmful="", points=5)
    task = limit.Task("f", 3, 2, "float64", root_of_gram(np.eye(2), "K"))
    exact = ic.linear.immunity_limit(np.diag([4, 1]), np.eye(2))
    line = ic.linear.frontier(np.diag([4, 1]), np.eye(2), points=5)
    noise = ic.linear.noise_curve(np.diag([4, 1]), np.eye(2), rows=(3, 3))
    drawn = limit.figure(limit.Result(settings, (task, task), exact, line, noise, ()))
    assert len(drawn.axes) == 2
    for ax in drawn.axes:
        assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
        assert ax.get_xlabel()
        assert ax.get_ylabel()
        assert ax.get_legend() is not None


# Ticks of an axis follow from its own interval: every kappa and every height, but not all pairs.
@pytest.mark.parametrize(
    ("kappa", "high"),
    [*zip([1.0, 1.001, 1.5, 2.8, 9.0, 12.0, 300.0, 1e6], [1.0, 1.3, 7.0, 1e4] * 2, strict=True),
     *zip([1.0, 1.001, 1.5, 2.8, 9.0, 12.0, 300.0, 1e6], [7.0, 1e4, 1.0, 1.3] * 2, strict=True)],
)  # fmt: skip
def test_labels_of_ticks_do_not_overlap(kappa, high):
    """Whether an axis spans less than a decade or many; and each shows some."""
    settings = limit.Settings(primary="", harmful="", points=5)
    task = limit.Task("f", 3, 2, "float64", root_of_gram(np.eye(2), "K"))
    K = np.diag([kappa, 1.0]), np.diag([1.0, high])
    exact, line = ic.linear.immunity_limit(*K), ic.linear.frontier(*K, points=5)
    noise = ic.linear.noise_curve(*K, rows=(3, 3))
    drawn = limit.figure(limit.Result(settings, (task, task), exact, line, noise, ()))
    assert drawn.axes[0].get_legend().get_texts()[-1].get_text() == "before"
    FigureCanvasAgg(drawn).draw()
    for ax in drawn.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, top = axis.get_view_interval()
            shown = [
                tick.label1
                for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
                if tick.label1.get_text() and low <= tick.get_loc() <= top
            ]
            boxes = [label.get_window_extent() for label in shown]
            assert boxes
            assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2)), [
                label.get_text() for label in shown
            ]


# ---- reading ----

DTYPES = ["f8", "f4", "f2", ">f8", "<i4", "u1", "?"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_are_read_block_by_block(tmp_path, monkeypatch, dtype, order, suffix):
    monkeypatch.setattr(_rows, "BLOCK_BYTES", 256)
    X = (np.random.default_rng(0).normal(size=(101, 7)) * 9).astype(dtype)
    name = write(tmp_path / f"x.{suffix}", np.asarray(X, order=order))
    opened = limit.open_rows(name)
    assert (opened.columns, opened.dtype) == (7, X.dtype)
    shares = [done for _, done in opened.blocks()]
    assert len(shares) > 2
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    np.testing.assert_array_equal(rows_of(name), X)


@pytest.mark.parametrize("header", [None, "a,b,c"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n \n"])
def test_csv_is_read_block_by_block(tmp_path, monkeypatch, header, delimiter, end):
    monkeypatch.setattr(_rows, "BLOCK_BYTES", 600)
    X = np.random.default_rng(0).normal(size=(60, 3))
    lines = [delimiter.join(map(repr, row)) for row in X.tolist()]
    if header:
        lines.insert(0, header.replace(",", delimiter))
    path = tmp_path / "x.csv"
    path.write_text("\ufeff" + "\r\n".join(lines) + end)
    opened = limit.open_rows(str(path))
    assert opened.labels == (("a", "b", "c") if header else None)
    assert len(list(opened.blocks())) > 2
    np.testing.assert_array_equal(rows_of(str(path)), X)


def test_csv_of_one_column_and_quoted_numbers(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('"a"\n"1"\n2e3\n -3 \n')
    np.testing.assert_array_equal(rows_of(str(path)), [[1], [2000], [-3]])


def test_parquet_of_mixed_types(tmp_path, monkeypatch):
    monkeypatch.setattr(_rows, "BLOCK_BYTES", 256)
    table = pd.DataFrame({"a": np.arange(90), "b": np.linspace(0, 1, 90, dtype="f4"), "c": True})
    path = tmp_path / "x.parquet"
    table.to_parquet(path)
    opened = limit.open_rows(str(path))
    assert opened.dtype == np.float64
    assert len(list(opened.blocks())) > 2
    np.testing.assert_array_equal(rows_of(str(path)), table.to_numpy(dtype=np.float64))


def test_npz_with_several_arrays(tmp_path, capsys):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.eye(2), b=2 * np.eye(2))
    np.testing.assert_array_equal(rows_of(f"{path}:b"), 2 * np.eye(2))
    with pytest.raises(ValueError, match=r"x.npz holds 2 arrays \(a, b\): choose one as .*:NAME"):
        limit.open_rows(str(path))
    with pytest.raises(ValueError, match=r"x.npz holds no array 'c', but a, b"):
        limit.open_rows(f"{path}:c")


# ---- bad files ----


def csv_file(text):
    return "bad.csv", text.encode()


def npy_file(X, cut=None):
    def make(path):
        np.save(path, X)
        data = path.read_bytes()
        path.write_bytes(data[:cut])

    return "bad.npy", make


NEGATIVE = b"\x93NUMPY\x01\x00\x76\x00" + (
    b"{'descr': '<f8', 'fortran_order': False, 'shape': (-3, 2), }".ljust(117) + b"\n"
)


def zip_file(**entries):
    def make(path):
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name.replace("_", "."), content)

    return "bad.npz", make


BAD = {
    "text": (csv_file("a,b\n1,2\n3,x\n"), r"row 2 \(line 3\), column 2 \('b'\) holds 'x', not"),
    "empty cell": (csv_file("a,b\n1,2\n3,\n"), r"row 2 \(line 3\), column 2 \('b'\) is empty"),
    "nan": (csv_file("a,b\n1,2\n3,nan\n"), r"row 2 \(line 3\), column 2 \('b'\) holds nan"),
    "infinity": (csv_file("1,2\n3,-inf\n"), r"row 2 \(line 2\), column 2 holds -inf"),
    "ragged": (csv_file("1,2\n3,4,5\n"), r"row 2 \(line 2\) has 3 columns, and the first line 2"),
    "all short": (csv_file("a,b\n1\n3\n"), r"row 1 \(line 2\) has 1 columns, and .* 2"),
    "mixed header": (csv_file("a,2\n1,2\n"), r"row 1 \(line 1\), column 1 holds 'a'.*a header"),
    "underscore": (csv_file("1,2\n1_0,2\n"), r"row 2 \(line 2\), column 1 holds '1_0', not a"),
    "blank line": (csv_file("1,2\n\n3,4\n"), "blank line between rows, at or before line 2"),
    "no csv rows": (csv_file("a,b\n"), "bad.csv has no rows"),
    "empty csv": (csv_file(""), "bad.csv is empty"),
    "latin-1": (("bad.csv", b"1,2\n3,\xe9\n"), "line 2 is not text in UTF-8"),
    "zeros": (csv_file("0,0\n0,0\n"), "bad.csv (is zero|has rank 0)"),
    "too large": (csv_file("1e200,1\n1,1\n"), "bad.csv: .*1.8e308"),
    "nan in npy": (npy_file(np.array([[1.0, 2.0], [np.nan, 1.0]])), "row 2, column 1 holds nan"),
    "truncated npy": (npy_file(np.ones((100, 2)), -9), "bad.npy ends early: 9 bytes"),
    "not npy": (("bad.npy", b"hello"), "bad.npy is not an array as numpy.save"),
    "vector": (npy_file(np.ones(3)), r"bad.npy must hold a matrix, .* has shape \(3,\)"),
    "no columns": (npy_file(np.ones((3, 0))), r"bad.npy must hold a matrix"),
    "no npy rows": (npy_file(np.ones((0, 2))), "bad.npy has no rows"),
    "complex": (npy_file(np.ones((2, 2)) * 1j), "must hold float16, .*has dtype complex128"),
    "objects": (npy_file(np.array([[None, 1]], dtype=object)), "has dtype object"),
    "huge integers": (npy_file(np.full((2, 2), 2**60)), "bad.npy: X holds the integer"),
    "negative": (("bad.npy", NEGATIVE), r"bad.npy must hold a matrix, .* has shape \(-3, 2\)"),
    "not npz": (("bad.npz", b"hello"), "bad.npz is not an archive as numpy.savez"),
    "text in npz": (zip_file(a_csv="1,2"), "bad.npz holds 0 arrays"),
    "only CR": (csv_file("1,2\r3,4\r"), "bad.csv: line 1 is no row of a table: new-line"),
    "one line": (csv_file("1.5 " * 40_000), "bad.csv: line 1 is no row of a table: field larger"),
    "a long cell": (csv_file("1,2\nx,x" + "9" * 200_000), "line 2 is no row of a table: field"),
    "not parquet": (("bad.parquet", b"hello"), "bad.parquet is not a Parquet file"),
    "other type": (("bad.txt", b"1 2"), r"bad.txt must be a file of type .npy, .npz, .csv"),
}  # fmt: skip


@pytest.mark.parametrize("through", ["gram", "qr"])
@pytest.mark.parametrize(("file", "told"), BAD.values(), ids=BAD)
def test_bad_files_are_one_line_and_leave_nothing(tmp_path, capsys, file, told, through):
    if through == "qr" and ("1.8e308" in told or "integer" in told):
        # Only a Gram matrix wants exact integers, and squares within the range.
        told, expected = "beyond the float range|passes 1.8e308", (0, 2)
    else:
        expected = (2,)
    name, content = file
    bad, good = tmp_path / name, tmp_path / "good.npy"
    bad.write_bytes(content) if isinstance(content, bytes) else content(bad)
    np.save(good, np.random.default_rng(0).normal(size=(9, 2)))
    out = tmp_path / "out"
    for order in ([bad, good], [good, bad]):
        words = ["limit", *map(str, order), "--out", str(out), "--through", through]
        words += ["--quiet", "--overwrite"]
        assert main(words) in expected
        error = capsys.readouterr().err
        if error:
            assert error.startswith("immucond limit: error: ")
            assert error.count("\n") == 1
            assert re.search(told, error), error
            assert not out.exists()
    assert {path.name for path in tmp_path.iterdir()} <= {name, "good.npy", "out"}


def test_bad_parquet_columns(tmp_path):
    path = tmp_path / "x.parquet"
    pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]}).to_parquet(path)
    with pytest.raises(ValueError, match=r"column 2 \('b'\) must hold floats, integers or bools"):
        limit.open_rows(str(path))
    pd.DataFrame({"a": [1.0, 2.0], "b": pd.array([1, None], dtype="Int64")}).to_parquet(path)
    with pytest.raises(ValueError, match=r"row 2, column 2 \('b'\) is empty"):
        rows_of(str(path))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_damaged_npz(tmp_path, save, order):
    """Whichever byte it is: the error names the file, or it does not matter."""
    path = tmp_path / "x.npz"
    save(path, X=np.random.default_rng(0).normal(size=(9, 3)).copy(order))
    data, told = path.read_bytes(), []
    for at in range(0, len(data), 3):
        path.write_bytes(bytes(x ^ 0x5A if i == at else x for i, x in enumerate(data)))
        try:
            rows_of(str(path))
        except ValueError as error:
            told.append(str(error))
    assert len(told) > len(data) / 6
    assert all("x.npz" in text for text in told)


def test_npz_under_another_spelling_and_beside_other_entries(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, a=np.eye(2))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("README.txt", "the identity")
    path = path.rename(tmp_path / "X.NPZ")
    np.testing.assert_array_equal(rows_of(str(path)), np.eye(2))
    np.testing.assert_array_equal(rows_of(f"{path}:a"), np.eye(2))


def test_csv_with_other_separators_within_quotes(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text('"width, cm";"height, cm"\n1;2\n3;4\n')
    opened = limit.open_rows(str(path))
    assert opened.labels == ("width, cm", "height, cm")
    np.testing.assert_array_equal(rows_of(str(path)), [[1, 2], [3, 4]])


def test_files_of_other_widths_and_missing_files(tmp_path, capsys):
    one, other = write(tmp_path / "a.npy", np.eye(2)), write(tmp_path / "b.npy", np.eye(3))
    assert main(["limit", one, other, "--out", str(tmp_path / "out")]) == 2
    told = rf"as many columns, and {re.escape(one)} has 2, {re.escape(other)} 3"
    assert re.search(told, capsys.readouterr().err)
    for name in ("none.npy", "none.npz", "none.csv", "none.parquet"):
        assert main(["limit", str(tmp_path / name), one, "--out", str(tmp_path / "out")]) == 2
        assert name in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--delta", "-1"], "argument --delta: a finite number of at least 0"),
        (["--delta", "1", "2", "3"], "--delta takes one or two numbers, got 3"),
        (["--through", "svd"], "argument --through: invalid choice"),
        (["--points", "1"], "argument --points: a whole number of at least 2"),
        (["--rank-primary", "0"], "argument --rank-primary: a whole number of at least 1"),
        (["--computed-in", "int8"], "argument --computed-in: invalid choice"),
    ],
)
def test_wrong_options(tmp_path, capsys, options, told):
    name = write(tmp_path / "a.npy", np.eye(2))
    with pytest.raises(SystemExit) as left:
        main(["limit", name, name, *options])
    assert left.value.code == 2
    assert told in capsys.readouterr().err


def test_a_rank_beyond_the_columns_is_named(tmp_path, capsys):
    name = write(tmp_path / "a.npy", np.eye(2))
    assert main(["limit", name, name, "--rank-harmful", "3", "--out", str(tmp_path / "o")]) == 2
    assert "must be between 1 and 2" in capsys.readouterr().err


def test_parquet_without_pyarrow_names_the_extra(tmp_path, monkeypatch, capsys):
    name = write(tmp_path / "a.parquet", np.eye(2))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert main(["limit", name, name, "--out", str(tmp_path / "out")]) == 2
    told = 'pyarrow is not installed: pip install "immucond[experiments]"'
    assert told in capsys.readouterr().err


# ---- memory ----


@pytest.mark.parametrize("through", ["gram", "qr"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_memory_does_not_grow_with_the_file(tmp_path, through, order):
    d, rows = 64, 250_000  # 128 MB
    small, large = tmp_path / "small.npy", tmp_path / "large.npy"
    rng = np.random.default_rng(0)
    np.save(small, np.asarray(rng.normal(size=(3000, d)), order=order))
    X = np.lib.format.open_memmap(
        large, mode="w+", dtype=np.float64, shape=(rows, d), fortran_order=order == "F"
    )
    X[:] = rng.random((1, d))
    X += np.arange(rows)[:, None] % 97 == np.arange(d)
    X.flush()
    del X
    script = textwrap.dedent(
        f"""
        import resource
        from immucond import limit

        def run(name):
            limit.run(limit.Settings(name, name, through={through!r}, points=2))
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

        before = run({str(small)!r})
        print(run({str(large)!r}) - before)
        """
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(run.stdout) <= 64 * 2**20


def test_plain_json_has_no_nan(tmp_path, inputs):
    names = [write(tmp_path / f"{n}.npy", X) for n, X in zip("ph", inputs, strict=True)]
    result = limit.run(limit.Settings(*names, points=3))
    text = json.dumps(limit.as_json(result, "command", {}), allow_nan=False)
    assert math.isfinite(json.loads(text)["exact"]["rir"])


def test_progress_is_reported_by_file(tmp_path, inputs, monkeypatch):
    monkeypatch.setattr(_rows, "BLOCK_BYTES", 2000)
    names = [write(tmp_path / f"{n}.npy", X) for n, X in zip("ph", inputs, strict=True)]
    seen: dict[str, list[int]] = {}
    limit.run(
        limit.Settings(*names, points=3),
        lambda stage, done, total: seen.setdefault(stage, []).append(done / total),
    )
    assert list(seen) == [*names, "noise floor"]
    for shares in seen.values():
        assert shares == sorted(shares)
        assert shares[-1] == 1.0
        assert len(shares) > 2
