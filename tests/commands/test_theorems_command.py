"""`immucond theorems`: what it shows, writes and refuses."""

import json
import re
import shlex
import signal
import subprocess
import sys

import pytest

import immucond as ic
from immucond import theorems as th
from immucond._cli import main
from immucond._files import write_whole
from immucond._format import plain
from immucond.theorems import THEOREMS


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")


def run_and_exit(words: list[str], capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as left:
        main(words)
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


def test_all_theorems_are_checked_and_shown(capsys):
    assert main(["theorems", "--instances", "60"]) == 0
    shown = capsys.readouterr().out
    for name, theorem in THEOREMS.items():
        row = re.search(rf"^{re.escape(name)} .*$", shown, re.MULTILINE).group()
        held, total = map(int, re.search(r"(\d+)/(\d+)", row).groups())
        assert total == 60
        if theorem.corrected_by is None:
            assert held == 60
            assert "holds" in row
        else:
            assert held < 60
            assert "false; see" in row
            assert theorem.corrected_by in shown
            assert f"Smallest counterexample to {name}" in shown
    assert "kappa_after" in shown


def test_names_and_patterns_choose(capsys):
    assert main(["theorems", "limit", "theorem-4.1*", "--instances", "3"]) == 0
    shown = capsys.readouterr().out
    listed = [name for name in THEOREMS if re.search(rf"^{re.escape(name)} ", shown, re.MULTILINE)]
    assert listed == ["theorem-4.1-1", "theorem-4.1-2", "theorem-4.1-3", "theorem-4.1-4", "limit"]


def test_json_and_markdown(tmp_path, capsys):
    json_file, table = tmp_path / "new" / "report.json", tmp_path / "report.md"
    words = ["theorems", "alignment*", "r-ill-step", "--instances", "40", "--seed", "5",
             "--json", str(json_file), "--markdown", str(table)]  # fmt: skip
    assert main(words) == 0
    report = json.loads(json_file.read_text(), parse_constant=lambda c: pytest.fail(c))
    assert report["command"] == shlex.join(["immucond", *words])
    assert (report["instances"], report["seed"]) == (40, 5)
    assert report["version"] == ic.__version__
    remark, alignment, step = report["theorems"]
    assert [remark["name"], alignment["name"]] == ["alignment-remark", "alignment"]
    assert (alignment["verdict"], alignment["counterexample"]) == ("holds", None)
    assert remark["verdict"] == "false; see alignment"
    for entry in report["theorems"]:
        theorem = THEOREMS[entry["name"]]
        assert entry["statement"] == theorem.statement
        assert entry["proof"] == f"docs/{theorem.section}"
        assert entry["worst"]["rounding"] >= 0
    # The counterexample can be built again from the report alone.
    shown = remark["counterexample"]
    theorem = THEOREMS["alignment-remark"]
    again = theorem.check(theorem.instance(**shown["parameters"]))
    assert not again.holds
    assert again.slack == shown["slack"]
    assert again.witness == shown["witness"]
    assert step["held"] == 40

    text = table.read_text()
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert len(rows) == 3
    assert all(len(re.split(r"(?<!\\)\|", row)) == 8 for row in rows)
    assert "Smallest counterexample to `alignment-remark`" in text


def test_same_seed_same_report(tmp_path):
    files = [tmp_path / "one", tmp_path / "two", tmp_path / "three"]
    for file, seed in zip(files, "112", strict=True):
        main(["theorems", "limit", "--instances", "5", "--seed", seed, "--json", str(file)])
    one, two, three = (json.loads(file.read_text())["theorems"] for file in files)
    assert one == two != three


def test_a_true_statement_that_fails_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr(th._limit, "kappa", lambda *_: 1e-3)
    assert main(["theorems", "limit", "--instances", "2", "--quiet"]) == 2
    captured = capsys.readouterr()
    assert "FAILS" in captured.out
    assert captured.err == ("immucond theorems: error: known to be true, and did not hold: limit\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--instances", "0"], "argument --instances: a whole number of at least 1"),
        (["--seed", "-1"], "argument --seed: a whole number of at least 0"),
        (["--seed", "x"], "argument --seed: a whole number of at least 0"),
        (["--list", "--json", "f.json"], "--list writes no file: leave f.json out"),
        (["--list", "--markdown", "f.md"], "--list writes no file: leave f.md out"),
        (["--markdown", "-"], "--markdown takes a FILE, such as /dev/stdout, got -"),
    ],
)
def test_wrong_input_is_one_line_and_status_2(words, message, capsys):
    status, shown, error = run_and_exit(["theorems", *words], capsys)
    assert (status, shown) == (2, "")
    assert message in error.splitlines()[-1]


def test_help_explains_every_option_with_its_default(capsys):
    status, shown, _ = run_and_exit(["theorems", "--help"], capsys)
    assert status == 0
    for words in ("NAME", "by default all", "--instances N", "(default: 200)", "--seed N",
                  "(default: 0)", "--json [FILE]", "--markdown FILE",
                  "counterexample"):  # fmt: skip
        assert words in shown
    status, shown, _ = run_and_exit(["--help"], capsys)
    assert re.search(r"^ +theorems +Check every theorem on random instances", shown, re.MULTILINE)


# The command, and a line as soon as it would leave cleanly. (No thread tells it: one that is still
# running when the interpreter ends can end it by a segmentation fault, CPython's own.)
TOLD = """
import signal, sys
from immucond._cli import main

set_handler = signal.signal

def told(number, handler):
    before = set_handler(number, handler)
    if number == signal.SIGTERM:  # the last that the command sets
        signal.signal = set_handler
        print(flush=True)
    return before

signal.signal = told
sys.exit(main())
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_run_leaves_no_file(tmp_path, number, status):
    words = ["theorems", "--instances", "1000000", "--json", str(tmp_path / "report.json")]
    with subprocess.Popen(
        [sys.executable, "-c", TOLD, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        try:
            process.stdout.readline()
            assert process.poll() is None
            process.send_signal(number)
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == status
    assert b"Traceback" not in error
    assert list(tmp_path.iterdir()) == []


def test_failure_while_writing_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    path.write_text("mine")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_whole(path, "yours")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("report.json", "mine")]


def test_infinities_are_words_in_json():
    assert plain({"a": [float("inf"), 1.0], "b": (2,)}) == {"a": ["inf", 1.0], "b": [2]}
