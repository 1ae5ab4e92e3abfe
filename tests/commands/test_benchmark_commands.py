"""The benchmarks' commands: from what size on which way is faster, and what grows how."""

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))
import ratios  # noqa: E402
import scaling  # noqa: E402
import speed_page  # noqa: E402
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
        (["nope"], "RULE must be of symmetric, warm, general, products, reductions, and is nope"),
        (["--runs", "0"], "--runs must be at least 1, and is 0"),
        (["--most", "100"], "--most must be at least 768, and is 100"),
    ],
)
def test_what_cannot_be_measured_is_refused(given, message, capsys):
    with pytest.raises(SystemExit):
        thresholds.main(given)
    assert message in capsys.readouterr().err


# ---- scaling ----


def test_scaling_prints_times_floor_and_memory_and_draws_them(capsys, tmp_path):
    given = ["psd_extreme_pairs", "--runs", "1", "--most", "64", "--plot", str(tmp_path)]
    scaling.main(given)
    speed, name, head, order, stacks, *rows = capsys.readouterr().out.splitlines()
    assert (name, head.split()[:2], order.split()[0]) == ("psd_extreme_pairs", ["order", "n"], "64")
    assert stacks.split()[:2] == ["b", "matrices"]
    assert [int(row.split()[0]) for row in rows] == [1, 4, 16, 64]
    # Of a stack the floor is proportional to its size, and that of one is a matrix's.
    floors = [float(row.split()[5]) for row in (order, *rows)]
    assert floors[1:] == pytest.approx([floors[0] * b for b in (1, 4, 16, 64)], rel=0.01)
    rate = 1e9 * float(speed.split()[1])
    assert floors[0] == pytest.approx(1e3 * 4 / 3 * 64**3 / rate, rel=0.02)
    for figure, label in (("scaling", "median time of one call"), ("memory", "extra memory, MiB")):
        text = (tmp_path / f"{figure}-psd_extreme_pairs.svg").read_text(encoding="utf-8")
        assert label in text
        assert "b matrices 64 x 64" in text


def test_memory_is_what_a_fresh_process_grows_by():
    # Without sums over rows in blocks, a Gram matrix of float32 rows would take a copy of 128 MiB.
    shape = (131_072, 128)
    assert scaling.extra_memory("gram", "float32", shape) < 64
    assert scaling.extra_memory("r_well.value_and_grad_features", "float64", shape) > 127


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["nope"], "KERNEL must be of gram, feature_extreme_pairs, r_well.value_and_grad_features"),
        (["--runs", "0"], "--runs must be at least 1, and is 0"),
        (["--most", "10"], "--most must be at least 512, and is 10"),
    ],
)
def test_what_cannot_be_scaled_is_refused(given, message, capsys):
    with pytest.raises(SystemExit):
        scaling.main(given)
    assert message in " ".join(capsys.readouterr().err.split())


# ---- where a peer is faster ----


def group(ours, peers):
    def timed(medians):
        return {name: ratios.Timing(seconds, 0.0, False) for name, seconds in medians.items()}

    return ratios.Group(ours=timed(ours), peers=timed(peers))


def test_rows_that_are_lost_come_worst_first_and_floors_do_not_count():
    ours = {"immucond": 2.0, "immucond, warm start": 0.5}
    found = ratios.lost(
        {
            "a": group(ours, {"torch": 1.0, "floor: dpotrf": 0.1, "direct (immucond)": 0.1}),
            "b": group({"immucond": 4.0}, {"scipy": 1.0, "numpy": 4.0}),
        }
    )
    assert found == [
        "A peer is faster in 2 of 4 rows, by their ratios:",
        "",
        "- 0.25: b, immucond against scipy",
        "- 0.50: a, immucond against torch",
    ]
    assert ratios.lost({"a": group(ours, {"torch": 3.0})}) == [
        "In none of 2 rows a peer is faster."
    ]


# ---- the page ----

MARKED = f"first\n\n{speed_page.BEGIN}\nold\n{speed_page.END}\n\nlast\n"


def unit(title, of, conditions="`pytest benchmarks`, commit abc"):
    return speed_page.Unit(title, conditions, 12.0, of)


def every_kind():
    """A group with something of everything that can be measured."""
    kinds = group({"immucond": 2.0}, {"torch": 1.0})
    kinds.goals["immucond", "torch"] = 3.0
    kinds.limits["immucond", ""] = 2.5
    kinds.memory["immucond"] = (10.0, 64.0)
    kinds.left_out["PRIMME"] = "no six digits"
    kinds.at = ("figure", "panel", 64)
    return kinds


def test_what_is_kept_is_what_was_measured():
    kept = unit("all kinds", {"a": every_kind(), "b": group({"immucond": 1.0}, {})})
    assert speed_page.Unit.from_json(kept.to_json()) == kept


def test_the_page_is_of_all_units_and_a_new_one_takes_the_place_of_its_own(tmp_path):
    page = tmp_path / "speed.md"
    page.write_text(MARKED)
    speed_page.keep(page, "test_b", unit("of b", {"b": group({"immucond": 4.0}, {"scipy": 1.0})}))
    speed_page.keep(page, "test_a", unit("of a", {"a": every_kind()}))
    text = page.read_text()
    assert text.startswith("first\n\n")
    assert text.endswith("\n\nlast\n")
    assert "old" not in text
    assert text.count("commit abc") == 1  # of both
    order = ["commit abc", "in 2 of 2 rows", "- 0.25: b", "- 0.50: a", "### of a", "Left out of a",
             "### of b"]  # fmt: skip
    assert sorted(order, key=text.index) == order
    assert "| a | immucond | torch | 2 s ±0% | 1 s ±0% | 0.50 | ≥ 3 | **no** |" in text
    assert "Left out of a: PRIMME, no six digits." in text
    again = unit("of a", {"a": group({"immucond": 1.0}, {"torch": 2.0})}, "commit def")
    speed_page.keep(page, "test_a", again)
    text = page.read_text()
    assert "in 1 of 2 rows" in text
    assert (text.count("commit abc; 12 s."), text.count("commit def; 12 s.")) == (1, 1)
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [
        "speed.md", "test_a.json", "test_b.json",
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["no marks", speed_page.BEGIN, speed_page.END])
def test_a_page_without_its_marks_is_refused_and_left_alone(tmp_path, text):
    page = tmp_path / "speed.md"
    page.write_text(text)
    with pytest.raises(ValueError, match="must hold the lines"):
        speed_page.keep(page, "test_a", unit("of a", {"a": every_kind()}))
    assert page.read_text() == text
    assert not [*tmp_path.rglob("*.json")]


def run_benchmarks(*words):
    """Of the smallest contest there is: a no-op beside R_ill of an 8 x 4 matrix."""
    file = "benchmarks/test_torch_operators_outrun_autograd.py"
    given = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", file, "-k", "light"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run(
        [*given, *words], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )


def test_a_run_keeps_what_it_measured_and_writes_the_page(tmp_path):
    page = tmp_path / "speed.md"
    page.write_text(MARKED)
    run = run_benchmarks("--patience", "0", "--update", str(page))
    assert run.returncode == 0, run.stdout + run.stderr
    kept = tmp_path / "units" / "speed" / "test_torch_operators_outrun_autograd.json"
    measured = speed_page.Unit.from_json(kept.read_text())
    assert (
        measured.title == "R_well(Z_P) + R_ill(Z_H) in an eager training step, forward and backward"
    )
    assert "--update" in measured.conditions
    assert measured.seconds > 0
    (found,) = measured.groups.values()
    assert len(found.ours) == len(found.peers) == 1
    assert f"### {measured.title}" in page.read_text()


def test_a_page_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path):
    run = run_benchmarks("--update", str(tmp_path / "absent.md"))
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "absent.md" in run.stderr
