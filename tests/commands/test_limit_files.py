"""`immucond limit`: what programs write beside the numbers, and what is no row."""

import numpy as np
import pandas as pd
import pytest

from immucond import limit

X = np.random.default_rng(0).normal(size=(40, 3)) * [3.0, 2.0, 1.0]


def read(path):
    return np.vstack([block.copy() for block, _ in limit.open_rows(str(path)).blocks()])


@pytest.mark.parametrize("index", [None, "house", ["house", "zone"]])
def test_an_index_of_pandas_is_no_feature(tmp_path, index):
    table = pd.DataFrame(X, columns=["a", "b", "a.b"])
    if index == "house":
        table.index = pd.Index(np.arange(40) * 1000, name="house")
    elif index is not None:
        table.index = pd.MultiIndex.from_arrays([np.arange(40), np.arange(40) % 2], names=index)
    chosen = table[table["a"] > 0]  # whose index is no range, and is written as a column
    path = tmp_path / "x.parquet"
    chosen.to_parquet(path)
    pd.testing.assert_frame_equal(pd.read_parquet(path), chosen)  # pandas takes it for one too
    assert limit.open_rows(str(path)).labels == ("a", "b", "a.b")
    np.testing.assert_array_equal(read(path), chosen.to_numpy())


def test_an_empty_cell_beside_an_index_is_told_by_its_column(tmp_path):
    path = tmp_path / "x.parquet"
    table = pd.DataFrame({"a": [1, 2], "b": pd.array([3, None], dtype="Int64")}, index=[7, 9])
    table.to_parquet(path)
    with pytest.raises(ValueError, match=r"row 2, column 2 \('b'\) is empty"):
        read(path)


def test_a_column_without_a_name_is_no_feature(tmp_path):
    path = tmp_path / "x.csv"
    pd.DataFrame(X, columns=list("abc")).to_csv(path)
    with pytest.raises(ValueError, match="column 1 has no name among columns that have one"):
        limit.open_rows(str(path))
    pd.DataFrame(X, columns=list("abc")).to_csv(path, index=False)
    np.testing.assert_array_equal(read(path), X)


def test_a_row_of_empty_cells_is_no_blank_line(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("a\tb\n1\t2\n\t\n")
    with pytest.raises(ValueError, match=r"row 2 \(line 3\), column 1 \('a'\) is empty"):
        read(path)
    path.write_text("a\tb\n1\t2\n \n\n")
    np.testing.assert_array_equal(read(path), [[1, 2]])


@pytest.mark.parametrize("through", ["gram", "qr"])
def test_squares_below_the_range_are_not_taken_for_zeros(tmp_path, through):
    paths = [str(tmp_path / name) for name in ("tiny.npy", "x.npy")]
    np.save(paths[0], X * 1e-170)
    np.save(paths[1], X)
    with pytest.raises(OverflowError, match=r"square.* entries of .*tiny.npy.* range: scale them"):
        limit.run(limit.Settings(*paths, through=through, points=3))
    np.save(paths[0], X * 1e-140)
    found = limit.run(limit.Settings(*paths, through=through, points=3)).exact
    assert found.kappa_P == pytest.approx(np.linalg.cond(X) ** 2, rel=1e-12)


def test_a_byte_order_mark_may_stand_on_a_line_of_its_own(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbf\r\n1,2\r\n3,4\r\n")
    np.testing.assert_array_equal(read(path), [[1, 2], [3, 4]])


@pytest.mark.parametrize(("text", "line"), [('a,"b\n1,2\n', 1), ('"a\nx",b\n1,2\n', 1),
                                            ('a,b\n1,"2\n3,4\n', 2)])  # fmt: skip
def test_a_quote_that_stays_open_is_told(tmp_path, text, line):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"line {line} is no row of a table: unexpected end"):
        read(path)
