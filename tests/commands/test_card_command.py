"""`immucond card`: what it writes, of runs of the other commands too, and without PyTorch."""

import json
import subprocess
import sys

import pytest
import torch
from card_cases import attacks, cost, leak, seed, written
from deep_cases import encoder_folder, sentences, transformers, write_csv

import immucond.deep as icd
from immucond._cli import main


@pytest.fixture
def runs(tmp_path):
    some = attacks(*(seed(number, 10 + number, 1, 500) for number in range(3)))
    return written(tmp_path / "runs", attack=some, leak=leak(), cost=cost())


def test_files_and_the_section(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["card", *map(str, runs), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == ["card.json", "card.md"]
    told = capsys.readouterr().out
    page = (out / "card.md").read_text()
    assert page.startswith("---\ntags:\n")
    assert "## How hard `my-model` is to misuse" in told
    assert told.split("Wrote card.json, card.md to")[0].strip() in page
    numbers = json.loads((out / "card.json").read_text())
    assert numbers["attack"]["factor"]["median"] == {"lower": 11.0, "upper": 11.0}
    assert str(tmp_path) not in page + json.dumps(numbers)


def test_the_same_bytes_from_a_folder_and_under_another_name(runs, tmp_path, capsys):
    for out, given in (("one", runs), ("two", runs[::-1]), ("three", [runs[0].parent])):
        words = ["card", *map(str, given), "--out", str(tmp_path / out), "--quiet", "--tamperbench"]
        assert main([*words, "--name", "it"]) == 0
    assert "Wrote" not in capsys.readouterr().out
    for name in ("card.json", "card.md", "tamperbench.json"):
        one, *others = ((tmp_path / out / name).read_bytes() for out in ("one", "two", "three"))
        assert [one, one] == others
    records = json.loads((tmp_path / "one" / "tamperbench.json").read_text())
    assert "it-release-seed-0/gd/optuna_single/best.json" in records
    assert len(records) == 9


def test_refused_runs_leave_what_was_there(runs, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["card", *map(str, runs), "--out", str(out), "--quiet"]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    other = written(tmp_path / "other", leak={**leak(), "fingerprints": {"release": "ff"}})
    capsys.readouterr()
    for given, told in (
        ([runs[0], *other], "contradict one another"),
        ([tmp_path / "none.json"], "RUN"),
        ([tmp_path], "none of leak.json, cost.json, attack.json"),
    ):
        assert main(["card", *map(str, given), "--out", str(out)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("immucond card: error: ")
        assert told in error
        assert error.count("\n") == 1
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_no_extra_is_needed(runs, tmp_path):
    code = f"""
import sys
for name in "torch transformers huggingface_hub yaml rich matplotlib sklearn pandas".split():
    sys.modules[name] = None
from immucond._cli import main
sys.exit(main({["card", *map(str, runs), "--out", str(tmp_path / "out"), "--quiet"]!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "card.md").is_file()


def test_what_the_commands_left_is_of_one_release(tmp_path, capsys):
    """Heads drawn for each task, and rows drawn from the data, do not make another release."""
    encoder_folder(tmp_path / "encoder")
    for name, classes in (("texts", ("greet", "pay")), ("others", ("travel", "cook"))):
        for part, count in (("train", 48), ("test", 24)):
            write_csv(tmp_path / name / f"{part}.csv", sentences(classes, count, count))
    common = ["--backbone", str(tmp_path / "encoder"), "--data-dir", str(tmp_path), "--harmful",
              "others", "--max-length", "10", "--quiet"]  # fmt: skip
    for command, *more in (
        ("leak", "--primary", "texts", "--train-size", "30"),
        ("cost", "--train-size", "12", "--products", "4", "--steps", "2", "--params", "head"),
    ):
        assert main([command, *common, *more, "--out", str(tmp_path / command)]) == 0
    made = [str(tmp_path / "leak"), str(tmp_path / "cost" / "cost.json")]
    assert main(["card", *made, "--out", str(tmp_path / "card")]) == 0
    numbers = json.loads((tmp_path / "card" / "card.json").read_text())
    profile = json.loads((tmp_path / "leak" / "leak.json").read_text())["profile"]
    assert numbers["leak"]["ceiling"] == profile["ceiling"]
    assert numbers["name"] == "encoder"
    assert numbers["release"]["fingerprint"] is not None
    assert "fingerprints" not in [lack["what"] for lack in numbers["lacks"]]
    # Another network of the same shape is another release.
    encoder = transformers.AutoModel.from_pretrained(tmp_path / "encoder")
    with torch.no_grad():
        encoder.embeddings.word_embeddings.weight[0, 0] += 1.0
    encoder.save_pretrained(tmp_path / "encoder")
    assert main(["cost", *common, "--train-size", "12", "--products", "4", "--steps", "2",
                 "--params", "head", "--out", str(tmp_path / "cost")]) == 0  # fmt: skip
    capsys.readouterr()
    assert main(["card", *made, "--out", str(tmp_path / "card")]) == 2
    assert "the fingerprint of release is" in capsys.readouterr().err


def test_reports_of_the_library_make_a_card():
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    batches = [(torch.randn(60, 4), torch.arange(60) % 3)]
    profile = icd.leak_profile(net, batches, primary=batches, held_out=batches)
    costs = [
        icd.attack_cost(net, batches, split="2", params=p, products=5) for p in ("full", "head")
    ]
    report = seed(0, 12, 1)
    found = icd.card(profile, *costs, report, name="mine")
    assert found.numbers["leak"]["ceiling"] == profile.ceiling
    assert [one["params"] for one in found.numbers["cost"]] == ["full", "head"]
    assert found.numbers["cost"][0]["steps"]["0.5"]["lower"] == costs[0].steps(0.5).lower
    assert found.numbers["attack"]["factor"]["median"] == {"lower": 12.0, "upper": 12.0}
    assert found.lacks.count("fingerprints") == 3
    assert found.json() == icd.card(report, costs[1], profile, costs[0], name="mine").json()
    assert repr(found).startswith("Card('mine', lacks seeds")
