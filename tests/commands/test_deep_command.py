"""`immucond deep` on tiny networks: files, figures, resuming, and what it refuses."""

import json
import re
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress

import numpy as np
import pytest
from deep_cases import (
    decoder_folder,
    encoder_folder,
    pictures,
    resnet_folder,
    sentences,
    torch,
    transformers,
    vit_folder,
    write_csv,
    write_json,
    write_zip,
)

from immucond._cli import main
from immucond.experiments import deep
from immucond.experiments.deep import _experiment, _report

pytestmark = pytest.mark.usefixtures("undrawn")  # `done` alone is drawn

QUICK = [
    "--batch-size", "16", "--group-size", "12", "--groups", "3", "--probe-epochs", "2",
    "--probe-steps", "20", "--epochs", "1", "--seeds", "1",
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _quiet_transformers():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A folder with an encoder and two tasks."""
    folder = tmp_path_factory.mktemp("text")
    encoder_folder(folder / "encoder")
    for name, classes, seed in (("primary", ("greet", "pay", "cook"), 1),):
        write_json(
            folder / name / "data.json",
            {"train": sentences(classes, 60, seed), "test": sentences(classes, 24, seed + 10)},
        )
    for part, count in (("train", 48), ("test", 24)):
        write_csv(folder / "harmful" / f"{part}.csv", sentences(("travel", "pay"), count, count))
    return folder


def command(folder, *more, backbone="encoder", primary="primary", harmful="harmful"):
    short = ["--max-length", "10"] if backbone == "encoder" else []
    return [
        "deep", "--backbone", str(folder / backbone), "--primary", primary, "--harmful", harmful,
        "--data-dir", str(folder), *QUICK, *short, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def done(text, tmp_path_factory):
    """A whole run, by every method."""
    out = tmp_path_factory.mktemp("results")
    assert main(command(text, "--out", str(out))) == 0
    return out


def test_a_run_writes_tables_figures_and_numbers(done):
    drawn = ("attackers", "probe", "alignment", "spectra")
    names = {
        "results.json",
        "tables.md",
        *(f"{n}.{kind}" for n in drawn for kind in ("png", "svg")),
    }
    assert {path.name for path in done.iterdir() if path.is_file()} == names
    numbers = json.loads((done / "results.json").read_text())
    assert set(numbers["methods"]) == set(deep.METHODS)
    tables = (done / "tables.md").read_text()
    assert "RIR_theta0" in tables
    assert "34 to 41" in tables
    for method in numbers["methods"].values():
        (values,) = method["seeds"]
        assert "failure" not in values, values
        assert 0.0 <= values["accuracy"] <= 1.0
        rir = values["groups"]["exact"]
        assert rir["rir"]["mean"] > 0.0
        assert set(values["probe"]) == set(deep.ATTACKERS)
        descents = [curve for curve in values["probe"].values() if "lr" in curve]
        assert len(descents) == 6
        for curve in descents:
            assert len(curve["accuracy"]) == len(curve["loss"]) == 3
            assert curve["loss"][0] == pytest.approx(np.log(2))
            assert curve["loss"][-1] < curve["loss"][0]


def test_tables_say_first_what_attackers_get_and_last_what_rir_is(done):
    tables = (done / "tables.md").read_text()
    order = [
        "What attackers get of the harmful task", "What the primary task pays",
        "What undoes it", "Label alignment and RIR", "Immunity relative to theta_0",
    ]  # fmt: skip
    places = [tables.index(f"**{title}") for title in order]
    assert places == sorted(places)
    unaided = json.loads((done / "results.json").read_text())["unaided"]
    assert unaided["sees"] == "tf-idf"
    assert unaided["accuracy"] > 0.8  # the words of its sentences tell the class
    assert f"The same samples give {unaided['accuracy']:.1%} without any network" in tables


def test_fade_keeps_predictions_and_makes_the_labels_slow(done):
    numbers = json.loads((done / "results.json").read_text())
    (start,) = numbers["methods"]["identity"]["seeds"]
    (values,) = numbers["methods"]["fade"]["seeds"]
    assert values["changed_predictions"] == 0
    assert values["accuracy"] == start["accuracy"]
    rho = values["rho"]
    assert rho["before"] == start["rho"]["after"]
    assert rho["defender's rows"] < 0.01 * rho["before"]
    assert rho["after"] < rho["before"]  # on other rows, and few of them
    assert 0.0 < values["moved"] < 0.5
    assert values["kappa_A"] >= 100.0  # the square root of tau
    undone = [v["probe"]["least-squares"]["accuracy"] for v in (start, values)]
    assert undone[0] == undone[1]


def test_erasure_has_no_inverse_and_its_head_is_fitted_anew(done):
    numbers = json.loads((done / "results.json").read_text())
    (start,) = numbers["methods"]["identity"]["seeds"]
    (values,) = numbers["methods"]["leace"]["seeds"]
    assert values["kappa_A"] == "inf"
    assert values["rho"]["after"] < values["rho"]["before"]
    assert values["accuracy"] >= start["accuracy"] - 0.2


def test_numbers_of_the_defenders_rows(text, tmp_path, capsys):
    line = command(
        text, "--method", "identity", "closed-form", "fade", "--defender-rows", "12", "20",
        "--transfer", "primary", "--tau", "400", "--out", str(tmp_path),
    )  # fmt: skip
    assert main(line) == 0
    numbers = json.loads((tmp_path / "results.json").read_text())
    assert numbers["samples"]["H defender"] == 20
    assert numbers["samples"]["H attacker"] == 24
    found = numbers["methods"]
    assert list(found) == ["identity", "closed-form", "fade", "fade-12"]
    assert found["fade"]["parameters"] == {"tau": 400.0, "delta": 0.0, "rows": 20}
    assert found["fade-12"]["parameters"]["rows"] == 12
    assert found["fade-12"]["label"] == "fade, 12 rows"
    own = [found[name]["seeds"][0]["rho"]["defender's rows"] for name in ("fade", "fade-12")]
    assert own[0] != own[1]
    for method in found.values():
        assert set(method["seeds"][0]["transfer"]) == {"sgd", "adam"}
    assert "transfer" in numbers["fingerprints"]
    assert main([*line, "--defender-rows", "33"]) == 2
    told = "defender_rows must be at most 32, so that of the 48 training samples of harmful a batch"
    assert told in capsys.readouterr().err
    assert main([*line, "--train-size", "40", "40", "40"]) == 2
    assert "train_size must be one number, or that of benign tasks" in capsys.readouterr().err


def test_no_unit_is_of_other_rows_of_the_attackers(text, tmp_path):
    line = command(text, "--method", "identity", "fade", "--out", str(tmp_path), "--defender-rows")
    found = []
    for most in ("26", "32"):
        assert main([*line, "12", most]) == 0
        methods = json.loads((tmp_path / "results.json").read_text())["methods"]
        found.append([methods[n]["seeds"][0]["rho"]["before"] for n in methods])
    for same in found:
        assert len(set(same)) == 1
    assert found[0][0] != found[1][0]


def test_a_network_of_another_run_is_not_taken_for_this_ones(text, tmp_path, capsys):
    line = command(text, "--method", "fade", "--save", "fade", "--out", str(tmp_path), "--tau")
    for tau in ("100", "400", "400"):
        assert main([*line, tau]) == 0
    assert main([*line, "100"]) == 2
    told = f"{tmp_path / 'units' / 'models' / 'fade'} is the network of another run"
    assert told in capsys.readouterr().err
    (first,) = (f for f in (tmp_path / "units").glob("*.json") if '"tau": 100.0' in f.read_text())
    first.unlink()
    assert main([*line, "100"]) == 0


def test_a_rir_that_rises_while_the_probe_gets_easier_is_told():
    def values(sgd, adam, rho, i, rir):
        curves = {"sgd": {"accuracy": [0.1, sgd]}, "adam": {"accuracy": [0.1, adam]}}
        own = {"after": rho, "defender's rows": None}
        return [{"probe": curves, "rho": own, "all": {"i": i, "rir": rir}}]

    units = {
        "identity": values(0.71, 0.87, 0.2, 1.0, 1.0),
        "closed-form": values(0.93, 0.94, 0.3, 9e4, 8.7e4),
        "fade": values(0.19, 0.28, 1e-3, 2.0, 0.05),
    }
    methods = {name: deep.METHODS[name] for name in units}
    alone = deep.Unaided(0.5, 0.4, "pixels")
    counts = {"H test": 2000}
    table = _report._alignment(_experiment.Result(None, {}, counts, (), methods, units, alone))
    assert "RIR above 1, and the harmful probe easier: closed form, (ii) = 1." in table.note
    assert table.rows[1][-2:] == ["+22.0", "+7.0"]
    assert table.rows[2][-2:] == ["-52.0", "-59.0"]


def test_a_map_that_rounding_would_spoil_is_a_failure_that_is_told(text, tmp_path):
    line = command(text, "--method", "identity", "fade", "--tau", "1e16", "--out", str(tmp_path))
    assert main(line) == 0
    found = json.loads((tmp_path / "results.json").read_text())["methods"]["fade"]["seeds"]
    assert "would change primary logits" in found[0]["failure"]
    assert "fade failed: fade would change" in (tmp_path / "tables.md").read_text()


def test_where_every_method_fails_the_tables_say_so(text, tmp_path):
    line = command(text, "--method", "algorithm1", "--lr", "1e30", "--out", str(tmp_path))
    assert main(line) == 0
    assert "Algorithm 1 failed: " in (tmp_path / "tables.md").read_text()
    assert not list(tmp_path.glob("*.png"))


def test_terms_are_those_of_their_method(text, tmp_path):
    line = command(
        text, "--method", "algorithm1", "opt-kappa", "--terms", "0.5", "2", "--terms-opt-kappa",
        "0.1", "0.001", "--out", str(tmp_path),
    )  # fmt: skip
    assert main(line) == 0
    methods = json.loads((tmp_path / "results.json").read_text())["methods"]
    for name, (well, ill) in {"algorithm1": (0.5, 2.0), "opt-kappa": (0.1, 0.001)}.items():
        assert methods[name]["parameters"]["terms"] == [well, ill]
        history = methods[name]["seeds"][0]["history"]
        start = [
            history[f"lambda_{task}"]["value"][0] * abs(history[term]["value"][0])
            for task, term in (("P", "well"), ("H", "ill"))
        ]
        # Weights make the terms so large on the mean of some batches; these are of one batch.
        assert start == pytest.approx([well, ill], rel=0.9)


def test_theta_0_is_its_own_reference(done):
    numbers = json.loads((done / "results.json").read_text())
    (values,) = numbers["methods"]["identity"]["seeds"]
    for convention in values["groups"].values():
        assert convention["rir"] == {"mean": 1.0, "std": 0.0}
    assert values["all"]["rir"] == 1.0
    assert values["changed_predictions"] == 0


def test_the_closed_form_keeps_predictions(done):
    numbers = json.loads((done / "results.json").read_text())
    (start,) = numbers["methods"]["identity"]["seeds"]
    (values,) = numbers["methods"]["closed-form"]["seeds"]
    assert values["changed_predictions"] == 0
    assert values["accuracy"] == start["accuracy"]
    assert values["all"]["i"] > 1.0


def test_saved_networks_load_and_give_the_same_logits(text, done, tmp_path):
    inputs = {"input_ids": torch.tensor([[2, 5, 9, 3]]), "attention_mask": torch.ones(1, 4).long()}
    with torch.no_grad():
        folded = deep.load_saved(done / "units" / "models" / "closed-form")(**inputs)
        encoder = transformers.AutoModel.from_pretrained(text / "encoder")
        states = encoder(**inputs)[0].mean(1)
    assert folded.shape == (1, 3)
    model = deep.load_saved(done / "units" / "models" / "closed-form")
    map_, last = model.head[0].weight, model.head[1]
    merged = states @ (last.weight @ map_).T + last.bias
    np.testing.assert_allclose(folded, merged.detach(), rtol=1e-3, atol=1e-3)
    trained = deep.load_saved(done / "units" / "models" / "algorithm1")
    assert isinstance(trained.head, torch.nn.Linear)
    assert transformers.AutoTokenizer.from_pretrained(done / "units" / "models" / "algorithm1")
    with pytest.raises(FileNotFoundError, match=re.escape("immucond.json")):
        deep.load_saved(text / "encoder")


def test_the_files_are_read_back_and_say_who_sees_the_map(done):
    numbers = json.loads((done / "results.json").read_text())["methods"]
    for name in ("algorithm1", "closed-form", "fade", "fade-distilled"):
        (values,) = numbers[name]["seeds"]
        found = values["read_back"]
        assert found["accuracy"] == values["accuracy"]
        assert found["changed_predictions"] == 0
        assert found["i"] == pytest.approx(values["all"]["i"], rel=1e-4)
        assert (found["i_before_the_map"] == 1.0) == (name in ("closed-form", "fade"))
    tables = (done / "tables.md").read_text()
    assert "Networks that were kept" in tables
    folder = done / "units" / "models" / "closed-form"
    with pytest.raises((OSError, ValueError)):  # no random head in silence
        transformers.AutoModel.from_pretrained(folder)
    assert "protected" in json.loads((folder / "immucond.json").read_text())


def never(*_, **__):
    raise AssertionError("computed")


def test_a_finished_run_computes_nothing_again(text, done, monkeypatch):
    before = (done / "results.json").read_text()
    monkeypatch.setattr(_experiment, "compute", never)
    assert main(command(text, "--out", str(done))) == 0
    kept, again = json.loads(before), json.loads((done / "results.json").read_text())
    assert kept["methods"] == again["methods"]


def test_an_interrupted_run_goes_on(text, tmp_path, monkeypatch):
    compute, seen = _experiment.compute, []

    def interrupted(settings, folder, unit, **options):
        if seen:
            raise KeyboardInterrupt
        seen.append(unit["name"])
        return compute(settings, folder, unit, **options)

    line = command(text, "--out", str(tmp_path), "--method", "identity", "r-ill-only")
    monkeypatch.setattr(_experiment, "compute", interrupted)
    assert main(line) == 130
    assert len(list((tmp_path / "units").glob("identity-*.json"))) == 1
    assert not (tmp_path / "results.json").exists()
    monkeypatch.setattr(_experiment, "compute", compute)
    assert main(line) == 0
    assert (tmp_path / "results.json").exists()


KILLED = """
import os, signal, sys
from immucond._cli import main
from immucond.experiments.deep import _experiment

compute, left = _experiment.compute, [2]

def killed(*arguments, **options):
    left[0] -= 1
    if left[0] < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return compute(*arguments, **options)

_experiment.compute = killed
main(sys.argv[1:])
"""


def test_a_killed_run_says_how_far_it_was_and_goes_on(text, tmp_path, capsys):
    line = command(text, "--out", str(tmp_path / "out"), "--method", "identity", "closed-form",
                   "r-ill-only")  # fmt: skip
    killed = subprocess.run([sys.executable, "-c", KILLED, *line], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    told = [line.rpartition(",")[0] for line in killed.stderr.splitlines()]
    for stage in ("units: 0 of 3", "units: 1 of 3", "units: 2 of 3"):
        assert stage in told
    for stage in ("primary train: 60 of 60", "primary test", "harmful train", "harmful test"):
        assert any(line.startswith(f"frozen blocks, {stage}") for line in told), told
    assert len(list((tmp_path / "out" / "units").glob("*.json"))) == 2
    assert main(line) == 0
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("units: 2 of 3")  # from where it was
    assert {p.name for p in tmp_path.iterdir()} == {"out"}
    assert not list((tmp_path / "out").rglob(".*"))


def test_a_network_that_is_not_kept_lies_where_the_next_run_clears(text, tmp_path, monkeypatch):
    """A killed process, as those of --jobs are, would leave it in the system's folder for good."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    out = tmp_path / "out"
    quick = ["--out", str(out), "--method", "identity", "--save", "--quiet"]
    assert main(command(text, *quick)) == 0
    assert [path.suffix for path in (out / "units").iterdir()] == [".json"]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_quiet_is_quiet_for_any_number_of_processes(text, tmp_path, capfd, jobs):
    line = command(text, "--out", str(tmp_path), "--method", "identity", "closed-form")
    assert main([*line, "--jobs", jobs, "--quiet"]) == 0
    shown, told = capfd.readouterr()
    assert told == ""
    assert "RIR_theta0" in shown
    assert "Wrote" not in shown


def test_seeds_differ_and_one_seed_repeats(text, tmp_path):
    line = command(text, "--method", "algorithm1", "--seeds", "2", "--save")
    found = []
    for name in ("a", "b"):
        assert main([*line, "--out", str(tmp_path / name)]) == 0
        numbers = json.loads((tmp_path / name / "results.json").read_text())
        found.append([v["history"]["loss"] for v in numbers["methods"]["algorithm1"]["seeds"]])
        assert not (tmp_path / name / "units" / "models").exists()  # none was named
    assert found[0] == found[1]
    assert found[0][0] != found[0][1]


def test_images_with_the_classifiers_own_head(tmp_path, capsys):
    classes = ("circle", "square")
    vit_folder(tmp_path / "vit", classes[::-1])
    for name, labels, seed in (("primary", classes, 1), ("harmful", ("0", "1", "2"), 2)):
        for part, count in (("train", 48), ("test", 24)):
            write_zip(tmp_path / name / f"{part}.zip", pictures(labels, count, seed + count))
    line = command(
        tmp_path, "--method", "identity", "closed-form", "algorithm1", "--out",
        str(tmp_path / "out"), backbone="vit",
    )  # fmt: skip
    assert main(line) == 2
    assert "--image-size, --mean and --std" in capsys.readouterr().err
    line += ["--image-size", "8", "--mean", "0.5", "0.5", "0.5", "--std", "0.5", "0.5", "0.5"]
    assert main(line) == 0
    numbers = json.loads((tmp_path / "out" / "results.json").read_text())
    (values,) = numbers["methods"]["identity"]["seeds"]
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path / "vit")
    rows = pictures(classes, 24, 1 + 24)
    pixels = np.stack([image for _, image in rows]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        logits = model(torch.tensor(pixels / 255.0 * 2.0 - 1.0).float()).logits
    named = [model.config.id2label[int(place)] for place in logits.argmax(1)]
    right = [label == found for (label, _), found in zip(rows, named, strict=True)]
    assert values["accuracy"] == np.mean(right)
    saved = tmp_path / "out" / "units" / "models"
    again = transformers.ViTForImageClassification.from_pretrained(saved / "algorithm1")
    assert again.config.id2label == {0: "circle", 1: "square"}
    assert deep.load_saved(saved / "closed-form").classifier[0].weight.shape == (12, 12)


def test_a_residual_network(tmp_path):
    resnet_folder(tmp_path / "resnet")
    for name, labels, seed in (("primary", ("circle", "square"), 1), ("harmful", ("0", "1"), 2)):
        for part, count in (("train", 48), ("test", 24)):
            write_zip(tmp_path / name / f"{part}.zip", pictures(labels, count, seed + count, 16))
    line = command(
        tmp_path, "--method", "algorithm1", "--trainable", "resnet.encoder.stages.1", "--save",
        "algorithm1", "--image-size", "16", "--mean", "0.5", "0.5", "0.5", "--std", "0.5", "0.5",
        "0.5", "--out", str(tmp_path / "out"), backbone="resnet",
    )  # fmt: skip
    assert main(line) == 0
    folder = tmp_path / "out" / "units" / "models" / "algorithm1"
    kind = transformers.ResNetForImageClassification
    before, after = (kind.from_pretrained(path).state_dict() for path in (line[2], folder))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(name.startswith(("resnet.encoder.stages.1.", "classifier.")) for name in moved)
    assert any(name.startswith("resnet.encoder.stages.1.") for name in moved)
    assert not any("running" in name for name in moved)  # statistics stay as they are served


def test_a_decoder_without_a_padding_token(text, tmp_path):
    decoder_folder(tmp_path / "decoder")
    line = command(text, "--method", "identity", "closed-form", "--out", str(tmp_path / "out"))
    line[line.index("--backbone") + 1] = str(tmp_path / "decoder")
    assert main(line) == 0
    numbers = json.loads((tmp_path / "out" / "results.json").read_text())
    assert numbers["trainable"] == ["encoder.h.1"]
    (values,) = numbers["methods"]["closed-form"]["seeds"]
    assert values["changed_predictions"] == 0


# ---- what it refuses ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "none"}, "no backbone"),
        ({"primary": "none"}, "no data set 'none': looked for"),
        ({"harmful": "no_such_module:task"}, "there is no module no_such_module"),
        ({"harmful": "math:pi"}, r"math:pi must be \(\(samples, labels\)"),
        ({"more": ["--trainable", "encoder.none"]}, "there are"),
        ({"more": ["--max-length", "40"]}, "--max-length must be from 3 to 32 for .*, and is 40"),
        ({"more": ["--max-length", "2"]}, "--max-length must be from 3 to 32 for .*, and is 2"),
        ({"more": ["--trainable", "9"]}, "at most the 2 blocks"),
        ({"more": ["--group-size", "25"]}, "has 24 test samples, and a group"),
        ({"more": ["--batch-size", "50"]}, "has 48 training samples, and a batch"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_training(text, tmp_path, capsys, change, message):
    more = change.pop("more", [])
    assert main([*command(text, **change), *more, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_file_of_others_beside_a_network_is_told_before_any_work(
    text, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(_experiment, "compute", never)
    mine = tmp_path / "out" / "units" / "models" / "identity" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    more = ["--method", "identity", "--save", "identity", "--out", str(tmp_path / "out")]
    assert main([*command(text), *more]) == 2
    assert "immucond did not write, such as mine.txt" in capsys.readouterr().err
    assert mine.exists()


def test_a_part_of_one_class_is_told_before_any_work(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_experiment, "compute", never)
    rows = [("cook the soup", "cook"), *sentences(("pay",), 47, 1)]
    for part, some in (("train", rows), ("test", rows[:24])):
        write_csv(tmp_path / "rare" / f"{part}.csv", some)
    line = command(text, "--out", str(tmp_path / "out"), harmful=str(tmp_path / "rare"))
    assert main(line) == 2
    told = r"rare, the 24 of the (defender|attackers) are all of the class 'pay'"
    assert re.search(told, capsys.readouterr().err)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_backbone_that_does_not_load_is_named(text, tmp_path, capsys, file):
    broken = encoder_folder(tmp_path / "broken") / file
    broken.write_bytes(broken.read_bytes()[:-9])
    line = command(text, "--out", str(tmp_path / "out"), backbone=broken.parent)
    assert main(line) == 2
    error = capsys.readouterr().err
    assert re.search(f"backbone '{re.escape(str(broken.parent))}'", error), error
    assert error.count("\n") == 1


def test_results_that_can_go_nowhere_are_told_before_any_work(text, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(_experiment, "compute", never)
    (tmp_path / "file").write_text("")
    assert main(command(text, "--out", str(tmp_path / "file"))) == 2
    told = f"--out {tmp_path / 'file'}: a folder is needed, and this is a file"
    assert capsys.readouterr().err == f"immucond deep: error: {told}\n"


def test_tasks_of_two_kinds_are_refused(text, tmp_path, capsys):
    for part in ("train", "test"):
        write_zip(tmp_path / "images" / f"{part}.zip", pictures(("a", "b"), 24, 1))
    line = command(text, "--out", str(tmp_path / "out"), harmful=str(tmp_path / "images"))
    assert main(line) == 2
    assert "primary has texts" in capsys.readouterr().err


def test_missing_options_are_named(capsys):
    with pytest.raises(SystemExit):
        main(["deep", "--backbone", "x"])
    assert "give --primary, --harmful, or --preset" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(deep.PRESETS))
def test_a_preset_says_all_that_is_missing(name, tmp_path, capsys):
    weights = str(tmp_path / "weights")
    line = ["deep", "--preset", name, "--data-dir", str(tmp_path), "--backbone", weights]
    assert main([*line, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    for wanted in ("imagenet", deep.PRESETS[name].harmful, f"weights {weights}"):
        assert wanted in error


def test_a_preset_runs_where_all_is_there(tmp_path, monkeypatch):
    vit_folder(tmp_path / "vit")
    monkeypatch.setenv("IMMUCOND_MODELS", str(tmp_path))
    for name, labels, seed in (("imagenet", ("circle", "square"), 1), ("cars", ("0", "1"), 2)):
        for part, count in (("train", 64), ("test", 24)):
            write_zip(tmp_path / name / f"{part}.zip", pictures(labels, count, seed + count))
    line = [
        "deep", "--preset", "vit-cars", "--backbone", "vit", "--harmful", "cars[0,1]", "--data-dir",
        str(tmp_path), "--method", "algorithm1", "--out", str(tmp_path / "out"), *QUICK,
        "--image-size", "8", "--mean", "0.5", "0.5", "0.5", "--std", "0.5", "0.5", "0.5",
    ]  # fmt: skip
    assert main(line) == 0
    numbers = json.loads((tmp_path / "out" / "results.json").read_text())
    found = numbers["methods"]["algorithm1"]["parameters"]
    assert found["lambdas"] == [3e-6, 3e8]
    assert (found["lr"], found["label_smoothing"], found["epochs"]) == (1e-5, 0.1, 1)
    assert numbers["settings"]["batch_size"] == 16  # that of the command, not the published 32
    again = ["--batch-size", "64", "--trainable", "1", "--terms", "2", "3"]  # two are the defaults
    assert main([*line, *again]) == 0
    numbers = json.loads((tmp_path / "out" / "results.json").read_text())
    assert numbers["methods"]["algorithm1"]["parameters"]["terms"] == [2.0, 3.0]
    assert "lambdas" not in numbers["methods"]["algorithm1"]["parameters"]
    assert numbers["settings"]["batch_size"] == 64


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--lambdas", "1", "2", "--terms", "1", "2"], "--lambdas takes the place of --terms"),
        (["--method", "fade", "--save", "identity"], "save must name methods that run, and names"),
    ],
)
def test_options_that_would_go_without_effect_are_refused(text, tmp_path, capsys, more, message):
    line = command(text, "--out", str(tmp_path / "out"), *more)
    with suppress(SystemExit):
        assert main(line) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_kappa_is_over_the_eigenvalues_that_float32_determines(done):
    values = json.loads((done / "results.json").read_text())["methods"]["closed-form"]["seeds"][0]
    spectrum = np.array(values["spectra"]["H"]["value"])
    noise = (4.0 * np.sqrt(spectrum.size) * np.finfo(np.float32).eps) ** 2
    nonzero = spectrum[spectrum > noise * spectrum[0]]
    assert nonzero.size == 15  # layer norm leaves out one direction of 16
    assert values["all"]["kappa_H"] == pytest.approx(nonzero[0] / nonzero[-1], rel=1e-6)
