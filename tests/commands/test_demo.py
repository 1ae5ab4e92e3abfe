"""The command line and the demo: what it shows and writes, and that it writes all or nothing."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import immucond as ic
from immucond._cli import main
from immucond._errors import extra
from immucond._files import staged
from immucond._show import thin
from immucond.experiments import digits
from immucond.experiments._report import left_after

FILES = ["loss.png", "norm_ratio.png", "results.json"]
QUICK = ["--steps", "40", "--probe-steps", "300"]


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture(scope="module")
def outcome():
    """A run with the defaults of the command, all methods and both tasks."""
    return digits.run(digits.Settings())


# What the demo shows


@pytest.mark.parametrize("rows", ["training", "held_out"])
@pytest.mark.parametrize("method", ["Algorithm 1", "closed form"])
@pytest.mark.parametrize("convention", ["exact", "ridge", "noisy"])
def test_default_run_immunizes_in_every_convention(outcome, rows, method, convention):
    report = outcome.units[method][0][rows][convention]
    assert report["i"] > 2
    assert report["ii"] < 0.5
    assert report["condition_a"]
    assert report["condition_b"]
    assert report["condition_c"]
    assert report["convention"] == ("ridge" if convention == "ridge" else "exact")


def test_default_run_against_the_limit(outcome):
    (closed,), (trained,) = outcome.units["closed form"], outcome.units["Algorithm 1"]
    limit, noisy = outcome.limits["training"]["delta"], closed["training"]["noisy"]
    assert limit.attained
    assert noisy["limit"]["rir"] == pytest.approx(limit.rir, rel=1e-6)
    assert noisy["rir"] == pytest.approx(limit.rir, rel=1e-4)
    assert noisy["i"] == pytest.approx(1 / noisy["ii"], rel=1e-4)
    assert trained["training"]["noisy"]["rir"] < limit.rir
    assert outcome.limits["training"]["exact"].case == "unbounded"


def test_default_run_keeps_the_primary_loss(outcome):
    before = outcome.units["identity"][0]["primary_loss"]
    for (values,) in outcome.units.values():
        loss = values["primary_loss"]
        assert loss["training"]["best"] == pytest.approx(before["training"]["best"], rel=1e-6)
        assert loss["training"]["own"] < 0.02  # of 1, the loss of predicting nothing
        assert loss["held_out"]["own"] < 1.01 * before["held_out"]["own"]


def test_default_run_slows_descent_and_not_the_solve(outcome):
    steps = {
        (name, attacker): values["probes"]["harmful"][attacker]["steps_to_tolerance"]
        for name, (values,) in outcome.units.items()
        for attacker in ("gd", "cg", "whitening", "lstsq")
    }
    assert steps["Algorithm 1", "gd"] > 2 * steps["identity", "gd"]
    assert steps["closed form", "gd"] is None
    assert steps["closed form", "cg"] > steps["identity", "cg"]
    assert {steps[name, a] for name in outcome.units for a in ("whitening", "lstsq")} == {1}
    easy = [v["probes"]["primary"]["gd"]["steps_to_tolerance"] for (v,) in outcome.units.values()]
    assert easy[0] is None
    assert easy[2] < easy[1]


def test_fade_slows_what_the_probe_feels_whatever_the_rir(outcome):
    """The harmful loss stays; the primary task pays nothing; the RIR says the opposite."""
    left = {
        name: left_after(values["probes"]["harmful"]["gd"], 100)
        for name, (values,) in outcome.units.items()
    }
    assert left["identity"] < left["Algorithm 1"] < left["closed form"] < 0.1 < 0.9 < left["fade"]
    (before,), (fade,) = outcome.units["identity"], outcome.units["fade"]
    assert fade["training"]["exact"]["rir"] < 1e-3
    for rows in ("training", "held_out"):
        own, kept = (v["primary_loss"][rows]["own"] for v in (fade, before))
        assert own == pytest.approx(kept, rel=1e-9)
    primary = [left_after(v["probes"]["primary"]["gd"], 100) for v in (fade, before)]
    assert primary[0] < 1.5 * primary[1]


def test_fade_and_rho_are_those_of_their_formulas(outcome):
    data = digits.load(0, 5)
    parameters = outcome.methods["fade"].parameters
    assert parameters == {"tau": 1e4, "delta": pytest.approx(len(data.X_P) / (12 * 16**2))}
    K = data.X_P.T @ data.X_P + parameters["delta"] * np.eye(64)
    b = data.X_H.sum(axis=0)  # of the target 1
    x = np.linalg.solve(K, b)
    A = np.eye(64) - (1 - 1e-2) * np.outer(x, b) / (b @ x)
    for rows, X in (("training", data.X_H), ("held_out", data.X_H_held_out)):
        for name, Z in (("before", X), ("after", X @ A)):
            # No pixel is lit everywhere: the target is not in the range of the rows.
            u, s, _ = np.linalg.svd(Z, full_matrices=False)
            u = u[:, : np.linalg.matrix_rank(X)]
            expected = np.sum(Z.sum(axis=0) ** 2) / s[0] ** 2 / np.sum(u.sum(axis=0) ** 2)
            told = outcome.units["fade"][0]["alignment"][rows]["harmful"][name]["rho"]
            assert told == pytest.approx(expected, rel=1e-6)
    faded = outcome.units["fade"][0]["alignment"]["training"]["harmful"]
    assert faded["before"]["rho"] > 0.9
    assert faded["after"]["rho"] < 2e-3


def test_numbers_are_those_of_numpy(outcome):
    data = digits.load(0, 5)
    weights = outcome.methods["Algorithm 1"].parameters
    theta = ic.immunize.algorithm1(data.X_P, np.ones(len(data.X_P)), data.X_H, **weights).theta
    report = outcome.units["Algorithm 1"][0]["held_out"]["exact"]
    for X, task in ((data.X_P_held_out, "P"), (data.X_H_held_out, "H")):
        rank, value = report[f"rank_{task}"], report[f"kappa_{task}"]
        assert rank == np.linalg.matrix_rank(X)
        s = np.linalg.svd(X @ theta, compute_uv=False)
        assert value == pytest.approx((s[0] / s[rank - 1]) ** 2, rel=1e-6)


@pytest.mark.parametrize(
    ("primary", "harmful", "seed"),
    [(3, 8, 0), (8, 3, 1), (4, 9, 0), (1, 7, 1), (6, 2, 0), (9, 0, 1)],
)
def test_other_digits_are_immunized_too(primary, harmful, seed):
    settings = digits.Settings(
        primary=primary, harmful=harmful, seed=seed, probe_steps=1, steps=300
    )
    result = digits.run(settings)
    (trained,), (closed,) = result.units["Algorithm 1"], result.units["closed form"]
    for rows in ("training", "held_out"):
        report = trained[rows]["exact"]
        assert report["i"] > 2
        assert report["ii"] < 0.25
    assert closed["training"]["noisy"]["i"] > 10
    assert closed["training"]["noisy"]["ii"] < 0.1
    assert closed["held_out"]["exact"]["rir"] > 10
    assert trained["history"]["loss"][-1] < 0.1 * trained["history"]["loss"][0]


def test_rows_are_real_and_held_out_ones_are_others():
    data = digits.load(3, 8, seed=5)
    assert 85 <= len(data.X_P) <= 95
    assert data.X_P.shape[1] == 64
    assert 0.0 <= data.X_P.min() < data.X_P.max() == 1.0
    rows = {tuple(row) for row in data.X_P}
    assert not rows & {tuple(row) for row in data.X_P_held_out}
    again, other = digits.load(3, 8, seed=5), digits.load(3, 8, seed=6)
    np.testing.assert_array_equal(again.X_H, data.X_H)
    assert not np.array_equal(other.X_H, data.X_H)


# What it writes


def test_demo_prints_tables_and_writes_its_files(tmp_path, capsys):
    out = tmp_path / "new" / "results"
    words = ["demo", "--primary", "4", "--harmful", "9", "--out", str(out), "--seed", "3", *QUICK]
    assert main(words) == 0
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert [path.name for path in out.parent.iterdir()] == ["results"]
    shown = capsys.readouterr().out
    for word in ("primary digit 4, harmful digit 9", "identity", "Algorithm 1", "closed form",
                 "fade", "training rows", "held-out rows", "limit", "inf", "gradient descent",
                 "conjugate", "least", "The last two are not slowed", "rho",
                 "infinite: K_P has rank"):  # fmt: skip
        assert word in shown
    for name in FILES[:2]:
        assert (out / name).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")

    text = (out / "results.json").read_text()
    numbers = json.loads(text, parse_constant=lambda constant: pytest.fail(constant))
    assert numbers["command"] == "immucond " + " ".join(words)
    assert numbers["settings"]["seed"] == 3
    assert numbers["versions"]["immucond"] == ic.__version__
    assert set(numbers["conventions"]) >= {"exact", "ridge", "noisy"}
    assert set(numbers["methods"]) == {"identity", "Algorithm 1", "closed form", "fade"}
    trained = numbers["methods"]["Algorithm 1"]
    assert len(trained["history"]["loss"]) == 41
    assert trained["training"]["exact"]["rir"] == pytest.approx(trained["history"]["rir"][-1])
    assert trained["training"]["exact"]["limit"]["rir"] == "inf"
    assert trained["training"]["ridge"]["convention"] == "ridge"
    probe = trained["probes"]["harmful"]["gd"]
    assert probe["steps_taken"] == 300
    assert probe["steps_to_tolerance"] is None
    assert len(probe["step"]) == len(probe["loss"]) == len(probe["norm_ratio"])


@pytest.mark.usefixtures("undrawn")
def test_same_seed_same_numbers(tmp_path):
    for name in ("one", "two"):
        assert main(["demo", "--out", str(tmp_path / name), *QUICK]) == 0
    first, second = (
        json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")
    )
    assert first.pop("command") != second.pop("command")
    assert first == second


@pytest.mark.usefixtures("undrawn")
def test_delta_and_kappa_primary_reach_the_closed_form(tmp_path):
    words = ["--delta", "0.5", "--kappa-primary", "7", "--out", str(tmp_path / "out")]
    assert main(["demo", *words, *QUICK]) == 0
    numbers = json.loads((tmp_path / "out" / "results.json").read_text())
    assert numbers["delta"] == {"P": 0.5, "H": 0.5}
    noisy = numbers["methods"]["closed form"]["training"]["noisy"]
    assert noisy["kappa_P"] == pytest.approx(7.0, rel=1e-6)


@pytest.mark.usefixtures("undrawn")
def test_no_loss_is_told_after_more_steps_than_were_taken(tmp_path, capsys):
    words = ["demo", "--out", str(tmp_path / "out"), "--steps", "2", "--probe-steps", "50"]
    assert main([*words, "--quiet"]) == 0
    printed = capsys.readouterr().out
    assert "10 steps" in printed
    assert "100 steps" not in printed


def test_figures_are_drawn_for_print(outcome):
    drawn = digits.figures(outcome)
    assert sorted(drawn) == FILES[:2]
    for figure in drawn.values():
        assert len(figure.axes) == 2
        for ax in figure.axes:
            assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
            assert ax.get_xlabel()
            curves = [line for line in ax.lines if not line.get_label().startswith("_")]
            assert len({(line.get_linestyle(), line.get_linewidth()) for line in curves}) == 4
            assert len({line.get_color() for line in curves}) == 4
        assert figure.axes[0].get_ylabel()
        assert len(figure.legends) == 1  # beside the panels: inside it may cover a curve


def test_thinned_curves_keep_their_ends():
    steps, values = thin(np.arange(1e5))
    assert (steps[0], steps[-1]) == (1, 99999)
    assert steps.size <= 200
    np.testing.assert_array_equal(values, steps)
    assert thin(np.array([3.0, 2.0]))[0].tolist() == [1]


# All or nothing


def test_failure_leaves_nothing(tmp_path, monkeypatch, capsys):
    def fail(_):
        raise OSError("disk full")

    monkeypatch.setattr(digits, "figures", fail)
    assert main(["demo", "--out", str(tmp_path / "out"), *QUICK, "--quiet"]) == 2
    assert capsys.readouterr().err == "immucond demo: error: disk full\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("undrawn")
def test_failure_leaves_earlier_results_alone(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "results.json").write_text("mine")
    monkeypatch.setattr(digits, "as_json", lambda *_: {"not": object()})
    with pytest.raises(TypeError):
        main(["demo", "--out", str(out), *QUICK])
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [(path.name, path.read_text()) for path in out.iterdir()] == [("results.json", "mine")]


def test_results_replace_earlier_ones_and_nothing_else(tmp_path):
    out = tmp_path / "out"
    with staged(out) as folder:
        (folder / "a").write_text("1")
    (out / "notes").write_text("mine")
    with staged(out) as folder:
        assert list(folder.iterdir()) == []
        (folder / "a").write_text("2")
    assert {path.name: path.read_text() for path in out.iterdir()} == {"a": "2", "notes": "mine"}
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_demo_leaves_nothing(tmp_path, number, status):
    out = tmp_path / "out"
    words = ["demo", "--out", str(out), "--steps", "10000000"]
    with subprocess.Popen(
        [sys.executable, "-m", "immucond", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while not list(tmp_path.iterdir()):  # its staging folder
                assert process.poll() is None, process.stderr.read()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(number)
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == status
    assert b"Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def write_three(out: Path) -> None:
    with staged(out) as folder:
        for name in "abc":
            (folder / name).write_text(name)


def test_interrupt_while_files_move_waits_until_all_are_there(tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    replace = os.replace

    def interrupted(source, target):
        signal.raise_signal(signal.SIGINT)
        replace(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_three(out)
    assert sorted(path.name for path in out.iterdir()) == ["a", "b", "c"]
    assert list(tmp_path.iterdir()) == [out]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# The command line


def run_and_exit(words: list[str], capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(words)
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


def test_help_lists_the_subcommands(capsys):
    status, shown, _ = run_and_exit(["--help"], capsys)
    assert status == 0
    assert re.search(r"^ +demo +Immunize handwritten digits", shown, re.M)
    assert re.search(r"^ +info +Show versions", shown, re.M)
    assert re.search(r"^ +limit +Find the most", shown, re.M)


def test_demo_help_explains_every_option_with_its_default(capsys):
    status, shown, _ = run_and_exit(["demo", "--help"], capsys)
    assert status == 0
    options = shown.split("options:")[1]
    entries = re.split(r"\n  (?=-)", options)[1:]
    names = {re.match(r"--?[\w-]+", entry).group(): " ".join(entry.split()) for entry in entries}
    assert set(names) == {
        "-h", "--primary", "--harmful", "--out", "--seed", "--steps", "--lr", "--delta",
        "--kappa-primary", "--probe-steps", "--quiet", "--json",
    }  # fmt: skip
    defaults = digits.Settings()
    for name in ("primary", "harmful", "seed", "steps", "lr", "probe_steps"):
        option = "--" + name.replace("_", "-")
        assert f"(default: {getattr(defaults, name)})" in names[option]
    assert "(default: immucond-demo)" in names["--out"]
    for option in ("--delta", "--kappa-primary"):
        assert "by default" in names[option]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: COMMAND"),
        (["dmeo"], "invalid choice: 'dmeo'"),
        (["demo", "--primary", "10"], "argument --primary: invalid choice: 10"),
        (["demo", "--harmful", "x"], "argument --harmful: invalid int value: 'x'"),
        (["demo", "--primary", "5"], "--primary and --harmful must differ, got 5 for both"),
        (["demo", "--steps", "0"], "argument --steps: a whole number of at least 1"),
        (["demo", "--steps", "1.5"], "argument --steps: a whole number of at least 1"),
        (["demo", "--seed", "-1"], "argument --seed: a whole number of at least 0"),
        (["demo", "--delta", "-1"], "argument --delta: a finite number of at least 0"),
        (["demo", "--delta", "nan"], "argument --delta: a finite number of at least 0"),
        (["demo", "--lr", "0"], "argument --lr: a finite number above 0"),
        (["demo", "--lr", "inf"], "argument --lr: a finite number above 0"),
        (
            ["demo", "--kappa-primary", "0.5"],
            "argument --kappa-primary: a finite number of at least 1",
        ),
        (["demo", "--nonsense"], "unrecognized arguments: --nonsense"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(words, message, capsys):
    status, shown, error = run_and_exit(words, capsys)
    assert (status, shown) == (2, "")
    lines = [line for line in error.splitlines() if "error:" in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert error.endswith(lines[0] + "\n")


def test_out_that_is_a_file(tmp_path, capsys):
    path = tmp_path / "file"
    path.write_text("mine")
    assert main(["demo", "--out", str(path), *QUICK]) == 2
    error = capsys.readouterr().err
    told = f"--out {path}: a folder is needed, and this is a file"
    assert error == f"immucond demo: error: {told}\n"
    assert path.read_text() == "mine"


@pytest.mark.filterwarnings("ignore::immucond.AccuracyWarning")
@pytest.mark.filterwarnings("ignore::immucond.DegenerateSpectrumWarning")
def test_divergence_is_one_line_and_leaves_nothing(tmp_path, capsys):
    assert main(["demo", "--lr", "100", "--out", str(tmp_path / "out"), *QUICK, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "diverged at step" in error
    assert "lower lr (given 100)" in error
    assert list(tmp_path.iterdir()) == []


def test_a_figure_beyond_the_float_range_is_one_line(tmp_path, monkeypatch, capsys):
    def overflow(*_):
        raise OverflowError("the loss of y is beyond the float range")

    monkeypatch.setattr(digits, "run", overflow)
    assert main(["demo", "--out", str(tmp_path / "out"), *QUICK]) == 2
    error = capsys.readouterr().err
    assert error == "immucond demo: error: the loss of y is beyond the float range\n"
    assert list(tmp_path.iterdir()) == []


def test_unbounded_without_delta_says_what_to_give(tmp_path, capsys):
    assert main(["demo", "--delta", "0", "--out", str(tmp_path / "out"), *QUICK, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Give delta > 0" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["sklearn.datasets", "rich.console", "matplotlib"])
def test_missing_extra_is_named(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, name, None)
    assert main(["demo", "--out", str(tmp_path / "out"), *QUICK, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error == (
        f'immucond demo: error: {name} is not installed: pip install "immucond[experiments]", '
        'or in a clone pip install ".[experiments]"\n'
    )
    assert list(tmp_path.iterdir()) == []


def test_other_import_errors_pass_through_extra():
    with pytest.raises(ImportError, match="cannot import name"), extra("experiments"):
        from math import no_such_function  # noqa: F401


@pytest.mark.parametrize(
    ("primary", "harmful", "message"),
    [(10, 1, "primary must be a digit"), (1, -1, "harmful must be a digit"), (2, 2, "2 twice")],
)
def test_load_refuses_other_digits(primary, harmful, message):
    with pytest.raises(ValueError, match=message):
        digits.load(primary, harmful)


def test_python_m_is_the_command_and_info_tells_what_runs():
    shown = subprocess.run(
        [sys.executable, "-m", "immucond", "info"], check=True, capture_output=True, text=True
    ).stdout
    facts = dict(re.split(r" {2,}", line, maxsplit=1) for line in shown.splitlines())
    assert facts["immucond"] == ic.__version__
    assert facts["numpy"] == np.__version__
    assert facts["simd"]
    assert facts["blas"]


def test_version(capsys):
    status, shown, _ = run_and_exit(["--version"], capsys)
    assert (status, shown) == (0, f"immucond {ic.__version__}\n")


def test_subcommands_are_found_by_name():
    folder = Path(sys.modules["immucond._cli"].__file__).parent
    found = {path.stem.replace("_", "-") for path in folder.glob("[a-z]*.py")}
    from immucond._cli import build_parser

    choices = build_parser()._subparsers._group_actions[0].choices
    assert set(choices) == found >= {"demo", "info", "limit"}
