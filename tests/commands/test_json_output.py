"""--json and --quiet on every command, completion, and the exit statuses that --help tells."""

import importlib
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import immucond as ic
from immucond._cli import EPILOG, _output, build_parser, completion, info, main
from immucond._cli.completion import SHELLS

COMMANDS = build_parser()._subparsers._group_actions[0].choices


def strict(text):
    """JSON as its standard has it: Python's reader takes NaN and Infinity too."""

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("p", "h"):
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(30, 3)) * [5, 2, 1])
    np.save(tmp_path / "thin.npy", rng.normal(size=(30, 1)) * [1.0, 2.0, 3.0])
    return {name: str(tmp_path / f"{name}.npy") for name in ("p", "h", "thin")}


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "completion"])
def test_every_command_tells_its_result_in_the_same_ways(name):
    options = COMMANDS[name]._option_string_actions
    assert {"--quiet", "--json"} <= set(options)
    for option in ("--quiet", "--json"):
        assert options[option].default in (False, None)


@pytest.fixture
def _undrawn(monkeypatch):
    """Figures are tested elsewhere."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda _, path, **__: Path(path).touch())


@pytest.mark.usefixtures("_undrawn")
@pytest.mark.parametrize("primary", ["p", "thin"])
def test_limit_prints_what_it_writes(primary, files, tmp_path, capsys):
    out, more = tmp_path / "out", ["--quiet"] if primary == "p" else []
    words = ["limit", files[primary], files["h"], "--out", str(out), "--points", "3", "--json"]
    assert main([*words, *more]) == 0
    shown, told = capsys.readouterr()
    assert shown == (out / "limit.json").read_text()
    numbers = strict(shown)
    rir = ic.linear.immunity_limit(X_P=np.load(files[primary]), X_H=np.load(files["h"])).rir
    assert float(numbers["exact"]["rir"]) == pytest.approx(rir, rel=1e-9)
    assert (numbers["exact"]["rir"] == "inf") == (primary == "thin")
    assert numbers["command"] == shlex.join(["immucond", *words, *more])
    assert ("noise floor" in told) is (primary == "thin")  # how far it is


@pytest.mark.usefixtures("_undrawn")
def test_the_demo_prints_what_it_writes(tmp_path, capsys):
    words = ["demo", "--out", str(tmp_path), "--steps", "2", "--probe-steps", "5", "--json"]
    assert main([*words, "--quiet"]) == 0
    shown, told = capsys.readouterr()
    assert (shown, told) == ((tmp_path / "results.json").read_text(), "")
    strict(shown)


def test_facts_and_theorems(capsys, tmp_path):
    assert main(["info", "--json"]) == 0
    facts = strict(capsys.readouterr().out)
    assert facts["numpy"] == np.__version__
    words = ["theorems", "theorem-4.1-1", "proposition-3.2", "--instances", "2", "--quiet"]
    assert main([*words, "--json"]) == 0
    shown, told = capsys.readouterr()
    assert told == ""
    by_name = {t["name"]: t for t in strict(shown)["theorems"]}
    assert by_name["theorem-4.1-1"]["held"] == 2
    assert by_name["proposition-3.2"]["counterexample"]
    assert main([*words, "--json", str(tmp_path / "a.json")]) == 0
    assert "statement" in capsys.readouterr().out
    written = strict((tmp_path / "a.json").read_text())
    assert written["theorems"] == strict(shown)["theorems"]
    assert main([*words, "--json", "-"]) == 0  # as without a FILE
    assert strict(capsys.readouterr().out)["theorems"] == written["theorems"]
    assert main(["theorems", "--list", "--json"]) == 0
    assert {"theorem-4.1-1", "proposition-3.2"} < {
        t["name"] for t in strict(capsys.readouterr().out)
    }


def test_a_theorem_is_not_taken_for_a_file(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("theorem-4.1-1", "theorem-4*"):
        with pytest.raises(SystemExit) as left:
            main(["theorems", "--json", name])
        assert left.value.code == 2
        assert f"--json takes a FILE, and {name} names theorem-4.1-1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_card_is_printed_as_it_is_written(tmp_path, capsys):
    run = {
        "command": "immucond leak", "versions": {}, "settings": {"backbone": "b", "harmful": "h"},
    }  # fmt: skip
    (tmp_path / "leak.json").write_text(json.dumps(run))
    assert main(["card", str(tmp_path), "--out", str(tmp_path / "out"), "--json"]) == 2
    shown, told = capsys.readouterr()
    assert shown == ""  # nothing but a result goes there
    assert told.count("\n") == 1


@pytest.mark.parametrize("value", [np.nan, [1.0, np.float32("nan")], {"a": {"b": -np.nan}}])
def test_no_nan_is_ever_written(value, capsys):
    with pytest.raises(ValueError, match="the result has a number that is NaN"):
        _output.json_text({"value": value})


def test_what_numbers_become():
    given = {"a": np.float64(np.inf), "b": [-np.inf, np.int64(3)], "c": np.array([0.1, 1e300])}
    text = _output.json_text(given)
    assert strict(text) == {"a": "inf", "b": ["-inf", 3], "c": [0.1, 1e300]}
    assert float(strict(text)["b"][0]) == -np.inf  # as they are read back


# ---- completion ----


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_knows_commands_and_options(shell, capsys):
    assert main(["completion", shell]) == 0
    script, told = capsys.readouterr()
    assert told == ""
    for word in (*COMMANDS, "rank-primary", "max-utility-drop", *SHELLS):
        assert word in script, word
    if shutil.which(shell):
        checked = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True)
        assert (checked.returncode, checked.stderr) == (0, "")


def test_bash_completes(capsys):
    main(["completion", "bash"])
    script = capsys.readouterr().out
    line = """
COMP_WORDS=(immucond limit --comp); COMP_CWORD=2; COMP_LINE='immucond limit --comp'
$(complete -p immucond | sed 's/.*-F \\([^ ]*\\).*/\\1/') immucond --comp limit
echo "${COMPREPLY[@]}"
"""
    done = subprocess.run(["bash", "-c", script + line], text=True, capture_output=True)
    assert done.stdout.split() == ["--computed-in"], done.stderr


def test_completion_without_its_extra_is_one_line(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "fish"]) == 2
    shown, told = capsys.readouterr()
    assert shown == ""
    assert re.fullmatch(
        r"immucond completion: error: shtab is not installed: .*immucond\[completion\].*\n", told
    )
    with pytest.raises(SystemExit) as left:
        main(["completion", "tcsh"])
    assert left.value.code == 2


def test_the_command_does_not_need_it_otherwise(monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    importlib.reload(completion)


# ---- exit statuses ----


def test_help_tells_every_exit_status(capsys):
    with pytest.raises(SystemExit) as left:
        main(["--help"])
    assert left.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert " ".join(EPILOG.split()) in shown
    assert {int(n) for n in re.findall(r"\b\d+(?=,)", EPILOG)} == {0, 1, 2, 130, 141, 143}


@pytest.mark.parametrize(
    ("failure", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "\nimmucond info: interrupted\n"),
        (ValueError("a\nb"), 2, "immucond info: error: a b\n"),
        (ImportError("no such"), 2, "immucond info: error: no such\n"),
        (MemoryError(), 2, "immucond info: error: MemoryError\n"),
        (
            OSError(28, "No space left on device"),
            2,
            "immucond info: error: [Errno 28] No space left on device\n",
        ),
        (
            _output.OutputError(OSError(28, "full")),
            1,
            "immucond info: error: standard output: full\n",
        ),
        (_output.OutputError(OSError(32, "gone")), 141, ""),
    ],
)
def test_statuses(failure, status, message, monkeypatch, capsys):
    def fail(_):
        raise failure

    monkeypatch.setattr(_output.os, "dup2", lambda *_: None)  # the test's own output stays open
    monkeypatch.setattr(info, "run", fail)
    assert main(["info"]) == status
    assert capsys.readouterr().err == message
