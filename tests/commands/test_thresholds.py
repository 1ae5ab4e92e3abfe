"""`python -m benchmarks.thresholds` finds where the other way is faster, and tells what is used."""

import math
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import thresholds  # noqa: E402


@pytest.mark.parametrize(
    ("small", "large", "wanted"),
    [
        ([1, 8, 64], [2, 8, 32], 200.0),  # even at 200
        ([1, 4, 64], [2, 8, 32], math.sqrt(200 * 400)),  # half way in logarithms
        ([2, 8, 64], [1, 4, 32], 100.0),  # always
        ([2, 8, 64], [1, 9, 32], 200 * 2 ** (math.log(9 / 8) / math.log(9 / 4))),
        ([1, 8, 32], [2, 4, 64], math.inf),  # faster between, and no longer at the end
    ],
)  # fmt: skip
def test_the_crossing_is_where_the_other_stays_faster(small, large, wanted):
    assert thresholds.crossing([100, 200, 400], small, large) == pytest.approx(wanted)


@pytest.mark.parametrize("name", thresholds.RULES)
def test_what_is_said_to_be_used_is_what_the_kernels_use(name):
    rule = thresholds.RULES[name]
    constant, file = rule.constant.split(", ")
    value = re.search(rf"{constant} = ([0-9.e]+)", (ROOT / file).read_text())[1]
    assert float(value) == rule.used


def test_the_command_prints_every_size_and_what_is_used(capsys, tmp_path):
    thresholds.main(["products", "--runs", "1", "--most", "128", "--plot", str(tmp_path)])
    speed, told, head, *rows = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"dgemm: \d+\.\d Gflop/s", speed)
    assert "used: 2e+08 flops (kProductFlops, cpp/include/immucond/blas_threads.hpp)" in told
    assert head.split() == ["n", "one", "thread", "all", "threads", "ratio"]
    assert [int(row.split()[0]) for row in rows] == [64, 128]
    figure = (tmp_path / "threshold-products.svg").read_text(encoding="utf-8")
    assert "floor: its flops at the rate of dgemm" in figure


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nope"], "RULE must be of symmetric, general, products, reductions, and is nope"),
        (["--runs", "0"], "--runs must be at least 1, and is 0"),
        (["--most", "100"], "--most must leave two sizes of symmetric: 768 or more"),
    ],
)
def test_what_cannot_be_measured_is_refused(given, message, capsys):
    with pytest.raises(SystemExit):
        thresholds.main(given)
    assert message in capsys.readouterr().err
