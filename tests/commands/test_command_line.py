"""The command as a whole: interrupts, full or closed output, near misses, progress."""

import io
import os
import pkgutil
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from immucond import _cli
from immucond._cli import _output, main
from immucond._cli._arguments import Formatter, Parser
from immucond._cli._output import progress

SCRIPT = str(Path(sys.executable).with_name("immucond"))
QUICK = ["theorems", "theorem-4.1-1", "--instances", "3"]


@pytest.fixture
def files(tmp_path):
    rng = np.random.default_rng(0)
    for name in "ph":
        np.save(tmp_path / f"{name}.npy", rng.normal(size=(40, 3)))
    return [str(tmp_path / f"{name}.npy") for name in "ph"]


# ---- interrupts ----

# NumPy is the first thing that takes time; a module of its name tells that it is being imported.
NUMPY = """
import sys, time
print("importing", flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("words", [[sys.executable, "-m", "immucond"], [SCRIPT]])
def test_interrupt_during_imports_is_clean(tmp_path, words):
    (tmp_path / "numpy").mkdir()
    (tmp_path / "numpy" / "__init__.py").write_text(NUMPY)
    with subprocess.Popen(
        [*words, "info"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    ) as process:
        try:
            assert process.stdout.readline() == b"importing\n"
            process.send_signal(signal.SIGINT)
            _, error = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, error) == (130, b"\nimmucond: interrupted\n")


def test_interrupt_in_the_midst_of_executed_text_is_an_exit_like_any_other(tmp_path):
    (tmp_path / "program.py").write_text(
        "import os, signal, sys\n"
        "from immucond import _cli\n"
        "from immucond._cli import info\n"
        "text = 'import os, signal; os.kill(os.getpid(), signal.SIGINT)\\nwhile True: pass'\n"
        "info.run = lambda _: exec(text)\n"
        "sys.exit(_cli.main(['info']))\n"
    )
    found = subprocess.run(
        [sys.executable, "-m", "program"], cwd=tmp_path, capture_output=True, timeout=60
    )
    assert (found.returncode, found.stderr) == (130, b"\nimmucond info: interrupted\n")


def test_a_program_that_imports_the_package_keeps_its_own_interrupts():
    script = "import signal, immucond; print(signal.getsignal(signal.SIGINT).__name__)"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert shown.stdout == "default_int_handler\n"


# ---- standard output that is full, closed or no longer read ----


def run(words, stdout=None, shell_end=""):
    line = [sys.executable, "-m", "immucond", *words]
    if shell_end:
        return subprocess.run(
            ["bash", "-c", f'set -o pipefail; "$@" {shell_end}', "bash", *line],
            capture_output=True,
            text=True,
        )
    return subprocess.run(line, stdout=stdout, stderr=subprocess.PIPE, text=True)


EVERY = [["--help"], ["--version"], ["info"], [*QUICK, "--quiet"], ["theorems", "--list"]]


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_a_full_output_is_told(words):
    with open("/dev/full", "w") as full:
        done = run(words, full)
    assert done.returncode == 1
    assert re.fullmatch(
        r"immucond( \w+)?: error: standard output: No space left on device\n", done.stderr
    )


@pytest.mark.parametrize("words", EVERY, ids=" ".join)
def test_a_closed_output_is_told(words):
    done = run(words, shell_end=">&-")
    assert done.returncode == 1
    assert re.fullmatch(r"immucond: error: standard output: it is closed; .*\n", done.stderr)


@pytest.mark.parametrize("words", [["theorems", "--list"], ["info"]], ids=" ".join)
def test_a_reader_who_leaves_ends_the_command_in_silence(words):
    done = run(words, shell_end="| true")
    assert done.stderr == ""
    assert done.returncode in (0, 141)  # 0 where all was written before the reader left


def test_a_pipe_that_nobody_reads():
    read, write = os.pipe()
    os.close(read)
    try:
        done = run(["info"], write)
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_closed_error_stream_says_nothing_on_standard_output():
    done = run(["limit", "none.npy", "none.npy", "--out", "/nowhere/x"], shell_end="2>&-")
    assert (done.returncode, done.stdout) == (2, "")


def test_results_stay_where_the_output_is_full(tmp_path, files):
    with open("/dev/full", "w") as full:
        done = run(["limit", *files, "--out", str(tmp_path / "out")], full)
    assert done.returncode == 1
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["limit.json", "limit.png"]


def test_what_the_encoding_of_the_output_does_not_know_is_escaped(monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="ascii"))
    assert main([*QUICK, "--quiet"]) == 0
    assert b"\\xb1 what rounding may carry" in shown.getvalue()


def test_names_may_be_of_any_bytes(tmp_path, files, monkeypatch):
    other = os.fsdecode(b"of latin-1: \xe9")
    data, out = tmp_path / f"{other}.npy", tmp_path / other
    monkeypatch.setenv("COLUMNS", "1000")  # however long the path
    os.rename(files[0], data)
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="utf-8"))
    for more in ([], ["--overwrite", "--through", "qr"]):
        words = ["limit", str(data), files[1], "--out", str(out), "--points", "3", *more]
        assert main(words) == 0
    assert sorted(path.name for path in out.iterdir()) == ["limit.json", "limit.png"]
    assert b"/of latin-1: \\udce9\n" in shown.getvalue()
    assert main([*QUICK, "--markdown", str(out / f"{other}.md")]) == 0
    assert "/of latin-1: \\udce9" in (out / f"{other}.md").read_text()


# ---- files that the operating system refuses ----


def test_errors_of_the_system_name_option_and_file(tmp_path, files, capsys):
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    Path(f"{loop}.npy").symlink_to("loop.npy")
    long = tmp_path / ("x" * 300)
    below, out = f"{files[0]}/x", str(tmp_path / "out")
    for option, words, file, reason in (
        ("--out", ["limit", *files, "--out", str(loop)], loop, "Too many levels of symbolic links"),
        ("--out", ["limit", *files, "--out", str(long)], long, "File name too long"),
        ("--out", ["limit", *files, "--out", below], below, "Not a directory"),
        ("--json", [*QUICK, "--json", str(loop)], loop, "Too many levels of symbolic links"),
        ("--json", [*QUICK, "--json", below], below, "Not a directory"),
        ("--json", [*QUICK, "--json", str(tmp_path)], tmp_path, "a file is needed"),
        ("PRIMARY", ["limit", f"{loop}.npy", files[0], "--out", out], f"{loop}.npy", "Too many"),
        ("HARMFUL", ["limit", files[0], str(tmp_path / "none.npy"), "--out", out],
         tmp_path / "none.npy", "No such file or directory"),
    ):  # fmt: skip
        assert main([*words, "--quiet"]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"immucond {words[0]}: error: {option} {file}: {reason}"), error
        assert error.count("\n") == 1


def test_nul_characters_are_told_by_option(files, capsys):
    for option, words in (
        ("PRIMARY", ["limit", "a\0b", files[0]]),
        ("--out", ["limit", *files, "--out", "a\0b"]),
        ("--out", ["demo", "--out", "a\0b"]),
        ("--json", [*QUICK, "--json", "a\0b"]),
        ("--data-dir", ["mnist", "--data-dir", "a\0b"]),
        ("--backbone", ["deep", "--backbone", "a\0b"]),
        ("--trainable", ["deep", "--trainable", "x", "a\0b"]),
    ):
        with pytest.raises(SystemExit) as left:
            main(words)
        assert left.value.code == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.endswith(f"argument {option}: 'a\\x00b' has a NUL character")


@pytest.mark.parametrize("command", ["leak", "cost", "attack", "erase", "lock"])
def test_a_seed_that_no_generator_takes_is_told_by_its_option(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--seed", str(2**64)])
    told = "argument --seed: a whole number of at least 0 and at most 4294967295 is needed"
    assert told in capsys.readouterr().err


# ---- near misses ----


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("leak --backbone x --primary y --harmful z --batch-size", "--batch-size: .* at least 1 "),
        ("attack --backbone x --harmful z --seeds", "--seeds: .* at least 1 "),
        ("toy --seeds", "--seeds: .* at least 1 "),
        ("limit p.npy h.npy --points", "--points: .* at least 2 "),
        ("house-price --jobs", "--jobs: .* at least 1 "),
    ],
)
def test_more_than_anybody_counts_is_told_by_its_option(words, told, capsys):
    """Libraries said so, long after, in words of their own ("islice", "728 TiB")."""
    with pytest.raises(SystemExit) as left:
        main([*words.split(), "99999999999999999999"])
    assert left.value.code == 2
    assert re.search(rf"argument {told}and at most \d+ is needed", capsys.readouterr().err)


def test_a_missing_folder_of_data_is_told_by_its_option(tmp_path, capsys):
    assert main(["house-price", "--quiet", "--data-dir", str(tmp_path / "none")]) == 2
    assert f"error: --data-dir {tmp_path / 'none'} does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "usage", "meant"),
    [
        (["dmeo"], "immucond [", "demo"),
        (["demo", "--step", "3", "--sede", "1"], "immucond demo", "--seed"),
        (["limit", "a", "b", "--throguh", "qr"], "immucond limit", "--through"),
        (["limit", "a", "b", "--through", "gramm"], "immucond limit", "gram"),
        (["house-price", "--methods", "algoritm1"], "immucond house-price", "algorithm1"),
        (["mnist", "--protocol", "minibatch"], "immucond mnist", "mini-batch"),
        (["deep", "--method", "closed_form"], "immucond deep", "closed-form"),
        (["deep", "--preset", "vit-car"], "immucond deep", "vit-cars"),
    ],
)
def test_what_was_perhaps_meant(words, usage, meant, capsys):
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"usage: {usage}")
    assert error.endswith(f"did you mean '{meant}'?\n")


def test_theorems_are_listed_and_near_misses_told(capsys, monkeypatch):
    from immucond.theorems import THEOREMS

    monkeypatch.setenv("COLUMNS", "80")
    assert main(["theorems", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == list(THEOREMS)
    assert max(map(len, lines)) <= 80
    assert main(["theorems", "--list", "theorem-4.1*"]) == 0
    names = [line for line in capsys.readouterr().out.splitlines() if line[0] != " "]
    assert names == [name for name in THEOREMS if name.startswith("theorem-4.1")]
    assert main(["theorems", "limmit"]) == 2
    assert capsys.readouterr().err == (
        "immucond theorems: error: no theorem is named 'limmit'; did you mean 'limit'?; --list "
        "shows them all\n"
    )


@pytest.mark.parametrize("width", ["80", "60", "200"])
def test_names_of_theorems_are_whole(width, capsys, monkeypatch):
    from immucond.theorems import THEOREMS

    monkeypatch.setenv("COLUMNS", width)
    assert main(["theorems", "--instances", "2", "--quiet"]) == 0
    shown, told = capsys.readouterr()
    assert told == ""
    assert "…" not in shown
    for name in THEOREMS:
        assert re.search(rf"^{re.escape(name)} ", shown, re.MULTILINE), name


# ---- help ----


def test_defaults_are_shown_as_people_type_them():
    parser = Parser(prog="p", formatter_class=Formatter)
    for name, default in {
        "--a": 1e-6, "--b": 1e20, "--c": 0.005, "--d": 200_000, "--e": [0.0], "--f": None,
        "--g": ("x", "y"), "--h": 1.3e-05, "--i": Path("out"), "--j": 1.0,
    }.items():  # fmt: skip
        parser.add_argument(name, default=default, help="what 100%% is")
    parser.add_argument("--k", action="store_true", help="what")
    shown = dict(re.findall(r"^  (--\w).*?what.*?(\(default: .*\))?$", parser.format_help(), re.M))
    assert shown == {
        "--a": "(default: 1e-6)", "--b": "(default: 1e20)", "--c": "(default: 0.005)",
        "--d": "(default: 200000)", "--e": "(default: 0)", "--f": "", "--g": "(default: x y)",
        "--h": "(default: 1.3e-5)", "--i": "(default: out)", "--j": "(default: 1)", "--k": "",
    }  # fmt: skip


COMMANDS = [
    found.name.replace("_", "-")
    for found in pkgutil.iter_modules(_cli.__path__)
    if not found.name.startswith("_")
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_and_breaks_no_name(command, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert not re.search(r"\w-$", shown, re.MULTILINE)
    assert not re.search(r"default: (\)|\[|\(|False|True|None|[\d.]+e-0)", shown)


# ---- progress ----


def test_progress_in_a_pipe_is_lines(capsys):
    with progress(quiet=False) as report:
        for done in range(5):
            report("units", done, 4)
        for done in range(1001):
            report("steps", done, 1000)
    lines = [line.rpartition(",")[0] for line in capsys.readouterr().err.splitlines()]
    assert lines[:5] == [f"units: {done} of 4" for done in range(5)]
    assert {f"steps: {share}%" for share in range(0, 101, 10)} <= set(lines[5:])


def test_a_stage_of_many_names_is_one_line(capsys):
    stage = f"frozen blocks, data[{','.join(f'class{i}' for i in range(30))}] test"
    with progress(quiet=False) as report:
        report(stage, 1, 2)
        report("short", 1, 2)
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("frozen blocks, data[class0,class1,")
    assert "...] test: 1 of 2" in first
    assert len(first) < 79
    assert second.startswith("short: ")


def test_progress_in_a_pipe_goes_on_in_silence(monkeypatch):
    """A unit that takes long tells nothing itself: its line comes again, until the end."""
    monkeypatch.setattr(_output, "_SILENCE", 0.01)
    again = threading.Event()
    lines = []

    class Pipe(io.StringIO):
        def write(self, text):
            lines.append(text)
            if sum(line.startswith("units: 1 of 4, ") for line in lines) == 3:
                again.set()
            return len(text)

    monkeypatch.setattr(sys, "stderr", Pipe())
    with progress(quiet=False) as report:
        report("units", 1, 4)
        assert again.wait(60)
    count = len(lines)
    assert not [t for t in threading.enumerate() if "repeat" in t.name]
    assert len(lines) == count


def test_quiet_is_quiet(capsys):
    with progress(quiet=True) as report:
        report("units", 0, 4)
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_is_one_line(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    monkeypatch.setenv("TERM", "xterm")
    with progress(quiet=False) as report:
        for stage in ("first", "data[one,two]"):  # whose classes are no markup
            for done in range(4):
                report(stage, done, 3)
    shown = terminal.getvalue()
    assert "\n\n" not in shown
    assert "data[one,two]" in shown


@pytest.mark.parametrize("quiet", [False, True])
def test_commands_say_how_far_they_are(tmp_path, files, capsys, quiet):
    words = ["limit", *files, "--out", str(tmp_path / "out"), *(["--quiet"] if quiet else [])]
    assert main(words) == 0
    shown, told = capsys.readouterr()
    assert "Limit" in shown
    assert ("Wrote" in shown) is not quiet
    if quiet:
        assert told == ""
    else:
        for stage in (*files, "noise floor"):
            assert re.search(rf"^{re.escape(stage)}: .*100%|{stage}: \d+ of", told, re.MULTILINE)


def test_the_demo_opens_and_closes_with_a_sentence(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    words = ["demo", "--steps", "5", "--probe-steps", "50", "--out", str(tmp_path / "out")]
    for verb in ("Wrote", "Replaced"):
        assert main(words) == 0
        shown, told = capsys.readouterr()
        assert shown.startswith("Each task is to predict the target 1 from the pixels")
        last = " ".join(shown.rpartition("\n\n")[2].split())
        order = ("reducible loss left", "The primary loss", "least-squares solve", "rho", "RIR")
        assert re.fullmatch(rf"After 50 steps of {'.*'.join(['', *order, ''])}\.", last)
        assert f"{verb} results.json" in shown
        assert "units: 4 of 4" in told
    assert main([*words, "--quiet"]) == 0
    shown, told = capsys.readouterr()
    assert told == ""
    assert "What the attacker gets" in shown


def test_the_limit_does_not_overwrite_unasked(tmp_path, files, capsys):
    out = tmp_path / "out"
    words = ["limit", *files, "--out", str(out), "--quiet"]
    assert main(words) == 0
    before = (out / "limit.json").read_bytes()
    capsys.readouterr()
    assert main([*words, "--points", "3"]) == 2
    assert capsys.readouterr() == (
        "",
        f"immucond limit: error: --out {out}: it holds limit.json and limit.png: give another "
        "folder, or --overwrite\n",
    )
    assert (out / "limit.json").read_bytes() == before
    assert main([*words, "--points", "3", "--overwrite"]) == 0
    assert (out / "limit.json").read_bytes() != before


# ---- paths ----


def test_what_two_arguments_name_is_told_by_both(tmp_path, files, capsys):
    for words, told in (
        (["limit", *files, "--out", files[0]], f"PRIMARY and --out {files[0]}: a folder is needed"),
        (["limit", *files, "--out", files[1]], f"HARMFUL and --out {files[1]}: a folder is needed"),
        (["limit", *files, "--out", f"{files[1]}/x"], f"--out {files[1]}/x: Not a directory"),
    ):
        assert main([*words, "--quiet"]) == 2
        assert capsys.readouterr().err.startswith(f"immucond limit: error: {told}")


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("HARMFUL", ["limit", "a", ""]),
        ("--out", ["limit", "a", "b", "--out", ""]),
        ("--out", ["demo", "--out", ""]),
        ("--json", ["theorems", "--json", ""]),
        ("--markdown", ["theorems", "--markdown", ""]),
        ("--data-dir", ["mnist", "--data-dir", ""]),
        ("--out", ["house-price", "--out="]),
        ("--backbone", ["deep", "--backbone", ""]),
        ("--primary", ["deep", "--primary", ""]),
        ("--trainable", ["deep", "--trainable", "x", ""]),
    ],
)
def test_an_empty_path_is_told_by_option(option, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert f"argument {option}" in last
    assert last.endswith(": something is needed, got an empty text")
    assert not list(tmp_path.iterdir())


def test_a_report_that_cannot_be_written_is_shown(tmp_path, monkeypatch, capsys):
    from immucond._cli import theorems

    gone = tmp_path / "gone" / "a.json"
    examine = theorems._examine

    def and_then(*given):
        found = examine(*given)
        gone.parent.write_text("a file now")
        return found

    monkeypatch.setattr(theorems, "_examine", and_then)
    words = [*QUICK, "--quiet", "--json", str(gone), "--markdown", str(tmp_path / "a.md")]
    assert main(words) == 2
    shown, told = capsys.readouterr()
    assert "theorem-4.1-1 " in shown
    assert told.startswith(f"immucond theorems: error: --json {gone}: ")
    assert (tmp_path / "a.md").read_text().startswith("`immucond theorems")


def test_a_report_has_somewhere_to_go_before_it_is_made(tmp_path, monkeypatch, capsys):
    from immucond import _files
    from immucond._cli import theorems

    monkeypatch.setattr(theorems, "_examine", lambda *_: pytest.fail("computed"))
    access = os.access
    closed = tmp_path / "closed"
    closed.mkdir()
    monkeypatch.setattr(_files.os, "access", lambda p, m: p != closed and access(p, m))
    for option in ("--json", "--markdown"):
        file = closed / "deeper" / "a"
        assert main([*QUICK, option, str(file)]) == 2
        told = capsys.readouterr().err
        assert told == (
            f"immucond theorems: error: {option} {file}: nothing can be written in {closed}\n"
        )
    (tmp_path / "link").symlink_to("a")
    with pytest.raises(SystemExit) as left:
        main([*QUICK, "--json", str(tmp_path / "a"), "--markdown", str(tmp_path / "link")])
    assert left.value.code == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert told.endswith(f"--json and --markdown must be two files, got {tmp_path / 'a'} for both")


def test_both_reports_may_go_to_standard_output():
    done = run([*QUICK, "--quiet", "--json", "/dev/stdout", "--markdown", "/dev/stdout"],
               subprocess.PIPE)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert re.match(r"\{\n.*\n\}\n`immucond theorems.*\nstatement ", done.stdout, re.DOTALL)


@pytest.mark.parametrize("known", [{}, {"Build Dependencies": {"blas": {"name": "accelerate"}}}])
def test_info_of_a_scipy_that_does_not_know_its_blas(monkeypatch, capsys, known):
    monkeypatch.setattr("scipy.show_config", lambda mode: known)
    assert main(["info"]) == 0
    assert f"  {'accelerate' if known else 'unknown'} (SciPy's)\n" in capsys.readouterr().out
