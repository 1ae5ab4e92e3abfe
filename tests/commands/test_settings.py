"""What experiment commands share: the defaults of their settings, and where data come from."""

from dataclasses import fields

import pytest
import sklearn.datasets

from immucond import limit
from immucond._cli import _results, build_parser, main
from immucond.experiments import deep, digits, house_price, mnist

FILES = ["primary.npy", "harmful.npy"]
# With what each command must be given, the settings of which the rest are the defaults.
COMMANDS = {
    "demo": (digits, "run", [], {}),
    "house-price": (house_price, "run", [], {}),
    "mnist": (mnist, "run", [], {}),
    "limit": (limit, "run", FILES, dict(zip(("primary", "harmful"), FILES, strict=True))),
    "deep": (
        deep,
        "run",
        ["--backbone", "a", "--primary", "b", "--harmful", "c"],
        {
            "backbone": "a",
            "primary": "b",
            "harmful": "c",
            "save": ("algorithm1", "closed-form", "fade", "fade-distilled"),
        },
    ),
}


class BegunError(Exception):
    """The run began."""


@pytest.mark.parametrize("command", COMMANDS)
def test_defaults_of_a_command_are_those_of_its_settings(tmp_path, monkeypatch, command):
    package, name, words, given = COMMANDS[command]
    if package is deep:
        pytest.importorskip("transformers", reason="the extra deep is not installed")

    def run(settings, *_, **__):
        raise BegunError(settings)

    monkeypatch.setitem(vars(package), name, run)
    with pytest.raises(BegunError) as seen:
        main([command, *words, "--quiet", "--out", str(tmp_path / "out")])
    (settings,) = seen.value.args
    assert settings == package.Settings(**given)


def test_an_option_reaches_the_field_of_its_name(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        _results, "run_experiment", lambda args, experiment, settings, *_: seen.append(settings)
    )
    for command in ("house_price", "mnist"):
        monkeypatch.setattr(f"immucond._cli.{command}.run_experiment", _results.run_experiment)
    words = ["--data-dir", str(tmp_path), "--seeds", "7", "--probe-steps", "9", "--methods",
             "identity"]  # fmt: skip
    assert main(["house-price", *words, "--rows", "70", "--delta", "0.5"]) == 0
    assert main(["mnist", *words, "--pairs", "4-9", "0-1", "4-9", "--protocol", "mini-batch"]) == 0
    common = {"data_dir": tmp_path, "seeds": 7, "probe_steps": 9, "methods": ("identity",)}
    assert seen == [
        house_price.Settings(**common, rows=70, delta=0.5),
        mnist.Settings(**common, pairs=((4, 9), (0, 1)), protocol="mini-batch"),
    ]


@pytest.mark.parametrize("package", [digits, house_price, mnist, limit, deep])
def test_every_field_but_a_few_is_an_option(package):
    command = next(name for name, (other, *_) in COMMANDS.items() if other is package)
    parser = build_parser()._subparsers._group_actions[0].choices[command]
    options = {action.dest for action in parser._actions}
    apart = {"ranks", "parameters"}  # made of several options
    assert {field.name for field in fields(package.Settings)} - apart <= options


@pytest.mark.parametrize(
    ("command", "file"), [("house-price", "D_P.csv"), ("mnist", "train-images-idx3-ubyte")]
)
def test_without_data_and_download_the_message_says_what_to_give(
    tmp_path, monkeypatch, capsys, command, file
):
    def fetch(*_, **__):
        raise OSError("no network")

    monkeypatch.delenv("IMMUCOND_DATA", raising=False)
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    assert main([command, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    for word in ("--data-dir", "IMMUCOND_DATA", file, "no network"):
        assert word in error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("command", "options", "told"),
    [
        ("house-price", ["--methods", "magic"], "argument --methods: invalid choice: 'magic'"),
        ("house-price", ["--seeds", "0"], "argument --seeds: a whole number of at least 1"),
        ("house-price", ["--jobs", "x"], "argument --jobs: a whole number of at least 1"),
        ("house-price", ["--rows", "1"], "argument --rows: a whole number of at least 2"),
        ("house-price", ["--delta", "0"], "argument --delta: a finite number above 0"),
        ("mnist", ["--pairs", "0"], "argument --pairs: two digits such as 0-5 are needed, got '0'"),
        (
            "mnist",
            ["--pairs", "3-3"],
            "argument --pairs: two different digits are needed, got '3-3'",
        ),
        ("mnist", ["--pairs", "a-3"], "argument --pairs: two digits"),
        ("mnist", ["--pairs", "-3"], "--pairs"),
        ("mnist", ["--protocol", "online"], "argument --protocol: invalid choice: 'online'"),
        ("mnist", ["--noise", "0"], "argument --noise: a finite number above 0"),
    ],
)
def test_wrong_options(capsys, command, options, told):
    with pytest.raises(SystemExit) as left:
        main([command, *options])
    assert left.value.code == 2
    assert told in capsys.readouterr().err
