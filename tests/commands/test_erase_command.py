"""`immucond erase` on tiny networks: what it writes, goes on from, and refuses."""

import dataclasses
import json
import shutil
import sys
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from deep_cases import reading, release_folder, sentences, write_csv

import immucond as ic
import immucond.deep as icd
from immucond._cli import main
from immucond._cli.erase import METHODS
from immucond.experiments.deep import _erase, _erased, load, load_saved

FILES = ["erase.json", "erase.md", "erase.png", "erase.svg", "releases"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return release_folder(tmp_path_factory.mktemp("erase"))


def command(folder, out, *more, backbone="encoder", primary="texts", harmful="others"):
    return [
        "erase", "--backbone", str(folder / backbone), "--primary", primary, "--harmful", harmful,
        "--data-dir", str(folder), "--out", str(out), *reading(primary), *more,
    ]  # fmt: skip


SIZE = ["--image-size", "8", "--mean", "0", "0", "0", "--std", "1", "1", "1"]


def test_texts(folder, tmp_path, capsys):
    out = tmp_path / "out"
    more = ["--tols", "0.1", "0.4", "--methods", "erase", "primary", "pca"]
    assert main(command(folder, out, *more)) == 0
    assert sorted(p.name for p in out.iterdir()) == FILES
    found = json.loads((out / "erase.json").read_text())
    points = found["points"]
    assert [(p["method"], p["tol"]) for p in points] == [
        (method, tol) for method in ("erase", "primary", "pca") for tol in (0.1, 0.4)
    ]
    for p in points:
        assert p["kept"][0] < p["kept"][1]
        assert 0.0 <= p["fresh"] <= 1.0
        assert p["leak"]["rows"] == {"harmful": 24, "primary": 48, "held_out": 24}
    assert found["before"]["leak"]["ceiling"] > 0.6
    assert found["command"].startswith("immucond erase --backbone ")
    told = capsys.readouterr()
    assert "as it is" in told.out
    assert "erase-0.1, trial: 1 of 9" in told.err
    page = (out / "erase.md").read_text()
    assert "principal components" in page
    assert f"{found['unaided']['accuracy']:.1%} without any network" in page
    figure = (out / "erase.svg").read_text()
    for text in ("erasure", "as it is", "untrained", "no network", "constant guess"):
        assert text in figure


def test_what_was_made_is_read_by_the_other_commands(folder, tmp_path, capsys):
    out = tmp_path / "out"
    more = ["--quiet", "--no-untrained", "--tols", "0.2", "--transfer", "others"]
    assert main(command(folder, out, *more)) == 0
    first = json.loads((out / "erase.json").read_text())
    point = first["points"][0]
    saved = out / "releases" / "erase-0.2"
    kept = ["erase-0.2", "erase-0.2.json"]
    assert sorted(p.name for p in (out / "releases").iterdir()) == kept
    assert main([
        "leak", "--backbone", str(saved), "--primary", "texts", "--harmful", "others",
        "--data-dir", str(folder), "--out", str(tmp_path / "leak"), "--quiet", "--no-untrained",
    ]) == 0  # fmt: skip
    cuts = json.loads((tmp_path / "leak" / "leak.json").read_text())["profile"]["cuts"]
    assert cuts.keys() == point["leak"]["cuts"].keys()
    for name, cut in cuts.items():
        assert cut["rank"] == point["leak"]["cuts"][name]["rank"]
    # Another benign task; here it is the harmful one, whose probe at the head is measured above.
    assert point["transfer"] == cuts["head (input)"]["accuracy"]
    assert first["before"]["transfer"] >= point["transfer"]
    assert "transfer" in (out / "erase.md").read_text()
    # A run that is there goes on: the same numbers, by the network that is there or made again.
    (out / "releases" / "erase-0.2.pt").write_bytes(b"of a run that was killed once it was kept")
    assert main(command(folder, out, *more)) == 0
    assert sorted(p.name for p in (out / "releases").iterdir()) == kept
    assert json.loads((out / "erase.json").read_text())["points"] == [point]
    (out / "releases" / "erase-0.2.json").unlink()
    assert main(command(folder, out, *more)) == 0
    again = json.loads((out / "erase.json").read_text())["points"][0]
    assert {**again, "seconds": 0} == {**point, "seconds": 0}
    (out / "releases" / "erase-0.2.json").unlink()
    (saved / "mine.txt").write_text("mine")  # of others: it does not go with the network
    assert main(command(folder, out, *more)) == 2
    assert "immucond did not write, such as mine.txt" in capsys.readouterr().err
    assert (saved / "mine.txt").exists()


def test_what_others_do_stands_beside_it(folder, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    given = ["--tols", "0.5", "--steps", "3", "--trials", "2", "--no-untrained"]
    assert main(command(folder, out, *given, "--methods", "erase", "leace", "npo")) == 0
    found = json.loads((out / "erase.json").read_text())
    points = {p["method"]: p for p in found["points"]}
    assert list(points) == ["erase", "leace", "npo"]
    assert found["failures"] == {}
    assert points["leace"]["kept"][0] < points["leace"]["kept"][1]
    assert points["npo"]["kept"] == [0, 0]  # it trains weights: their ranks stay
    assert "npo-0.5, trial: 2 of 2" in capsys.readouterr().err
    rows = [line for line in (out / "erase.md").read_text().splitlines() if "NPO" in line]
    assert [cell.strip() for cell in rows[0].split("|")][1:4] == ["NPO", "0.5", ""]
    before, loaded = (
        load_saved(out / "releases" / name).state_dict() for name in ("erase-0.5", "npo-0.5")
    )
    assert before.keys() == loaded.keys()
    assert any(not torch.equal(before[name], loaded[name]) for name in before)

    # Where one method finds nothing, the others are told all the same; where none does, it is.
    def none(*_, **__):
        raise ic.ToleranceError(
            "of 2 trials of 'npo' none keeps the primary accuracy within tol=0.5"
        )

    monkeypatch.setattr("immucond.experiments.deep._erase.unlearn", none)
    assert main(command(folder, out, *given, "--quiet", "--methods", "erase", "leace", "npo")) == 0
    again = json.loads((out / "erase.json").read_text())  # what was made is not made again
    assert again["points"] == found["points"]
    assert main(command(folder, out, *given, "--quiet", "--methods", "npo", "--steps", "4")) == 2
    assert "is that of another run: steps is 3 there and 4 here" in capsys.readouterr().err
    shutil.rmtree(out / "releases" / "npo-0.5")  # as the message says
    more = [*given, "--quiet", "--methods", "erase", "npo"]
    assert main(command(folder, out, *more)) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "No network by npo-0.5: of 2 trials of 'npo' none keeps the primary accuracy" in told
    assert list(json.loads((out / "erase.json").read_text())["failures"]) == ["npo-0.5"]
    assert main(command(folder, tmp_path / "none", *given, "--quiet", "--methods", "npo")) == 2
    assert "none keeps the primary accuracy within tol=0.5" in capsys.readouterr().err
    assert not (tmp_path / "none" / "erase.json").exists()


def test_nobody_is_measured_by_rows_that_were_used(folder, tmp_path, monkeypatch):
    """The attacker has none of the defender's rows, and the fresh rows have chosen nothing."""
    given, loader_of = [], _erase.loader_of

    def noted(backbone, part, batch_size):
        given.append((loader_of(backbone, part, batch_size), set(part.inputs)))
        return given[-1][0]

    def spy(name):
        real, seen = getattr(_erase, name), {}

        def called(*args, **named):
            for key, value in [*enumerate(args), *named.items()]:
                for loader, rows in given:
                    if loader is value:
                        seen[key] = seen.get(key, set()) | rows  # of all calls
            return real(*args, **named)

        monkeypatch.setattr(_erase, name, called)
        return seen

    monkeypatch.setattr(_erase, "loader_of", noted)
    names = ("erase", "erasure_path", "unlearn", "leak_profile", "accuracy_of")
    erase, path, unlearn, leak, accuracy = map(spy, names)
    more = ["--quiet", "--no-untrained", "--tols", "0.5", "--methods", "erase", "npo"]
    assert main(command(folder, tmp_path / "out", *more, "--steps", "2", "--trials", "1")) == 0
    assert path["harmful"] == erase["harmful"] == unlearn[2]
    assert erase["held_out"] == unlearn["held_out"]
    assert path[1] == erase[1] == unlearn[1] == leak["primary"]
    assert leak["held_out"] == unlearn["harmful_held_out"]
    for one, other in ((leak[1], erase["harmful"]), (accuracy[2], erase["held_out"])):
        assert one
        assert other
        assert not one & other


def test_what_a_network_depends_on_is_what_it_is_kept_by():
    """More tolerances, methods or measures take up a network that is there; all else does not."""
    settings = _erased.EraseSettings(backbone="net", primary="texts", harmful="others")

    def tell_apart(method, **changed):
        other = dataclasses.replace(settings, **changed)
        return _erase._asked(other, method) != _erase._asked(settings, method)

    shared = {"seed": 1, "train_size": 5, "test_size": 5, "batch_size": 5, "backbone": "other",
              "primary": "some", "harmful": "some", "max_length": 5}  # fmt: skip
    never = {"data_dir": "there", "methods": ("pca",), "tols": (0.5,), "transfer": "some",
             "untrained": False}  # fmt: skip
    erasing = {"metric": "gram", "rounds": 2, "recover": 3}
    trained = {"steps": 5, "trials": 5}
    for method, counts, rest in (
        ("erase", {**shared, **erasing}, {**never, **trained}),
        ("npo", {**shared, **trained}, {**never, **erasing}),
        ("leace", shared, {**never, **erasing, **trained}),
    ):
        assert all(tell_apart(method, **{name: value}) for name, value in counts.items()), method
        assert not tell_apart(method, **rest)
    assert _erase._asked(settings, "erase") != _erase._asked(settings, "pca")


def test_labels_go_first(folder, tmp_path, monkeypatch):
    """Within half of the tolerance, and all that is told counts from the network as it was."""
    asked = []

    def unlearn(*args, **given):
        asked.append((given["method"], given["tol"]))
        return icd.unlearn(*args, **given)

    monkeypatch.setattr("immucond.experiments.deep._erase.unlearn", unlearn)
    more = ["--tols", "0.4", "--methods", "erase", "leace-erase", "leace", "--no-untrained"]
    assert main(command(folder, tmp_path / "out", *more, "--quiet")) == 0
    assert asked == [("leace", 0.2), ("leace", 0.4)]
    found = json.loads((tmp_path / "out" / "erase.json").read_text())
    points = {p["method"]: p for p in found["points"]}
    assert len({p["before"] for p in points.values()}) == 1
    assert all(p["before"] - p["chosen"] <= 0.4 for p in points.values())
    assert points["leace-erase"]["kept"][0] < points["leace"]["kept"][0]
    weights = [
        load_saved(tmp_path / "out" / "releases" / f"{name}-0.4").state_dict()
        for name in ("erase", "leace-erase")
    ]
    assert any(not torch.equal(x, weights[1][name]) for name, x in weights[0].items())

    def none(*_, **__):
        raise ic.ToleranceError("no layer bears it")

    monkeypatch.setattr("immucond.experiments.deep._erase.unlearn", none)
    more = ["--tols", "0.4", "--methods", "erase", "leace-erase", "--no-untrained"]
    assert main(command(folder, tmp_path / "alone", *more, "--quiet")) == 0
    found = json.loads((tmp_path / "alone" / "erase.json").read_text())
    assert [p["method"] for p in found["points"]] == ["erase"]
    assert found["failures"] == {"leace-erase-0.4": "no layer bears it"}


def test_every_method_has_a_label_and_a_function():
    assert tuple(_erased.METHODS) == METHODS
    assert len(set(_erased._STYLES.values())) == len(METHODS)
    rest = set(METHODS) - set(_erased.ERASING)
    assert rest == set(get_args(get_type_hints(icd.unlearn)["method"]))


def test_an_extra_that_is_missing_is_told_before_any_work(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    more = ["--methods", "erase", "repselect"]
    assert main(command(folder, tmp_path / "out", *more)) == 2
    told = capsys.readouterr()
    assert "peft is not installed" in told.err
    assert "trial" not in told.err


def test_a_network_that_tells_nothing(folder, tmp_path, capsys):
    given = {"backbone": "resnet", "primary": "shapes", "harmful": "marks"}
    assert main(command(folder, tmp_path / "out", *SIZE, "--quiet", "--no-untrained", **given)) == 2
    assert "in one class" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--train-size", "2"], "the 1 training samples of others have none of the class 'cook': "),
        (["--harmful", "texts"], "are the same rows"),
        (["--primary", "texts[greet,nobody]"], "must name classes of texts"),
        (["--backbone", "nowhere"], "--backbone: no backbone 'nowhere'"),
        (["--harmful", "shapes"], "all tasks must be of one kind"),
        (["--tols", "0.1", "0.10000000001"], "tols must be told apart by six digits"),
    ],
)
def test_what_is_refused(folder, tmp_path, capsys, monkeypatch, more, told):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # nobody waits for it
    assert main(command(folder, tmp_path / "out", "--quiet", "--no-untrained", *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("immucond erase: error: ")
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out" / "erase.json").exists()


def test_no_network_stands_beside_the_record_of_one_that_was_removed(folder, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(_erase, "write_whole", interrupt)
    place = tmp_path / "releases" / "erase-0.4"
    place.parent.mkdir()
    place.with_name("erase-0.4.json").write_text('{"of": {}, "made": {}}')
    assert main(command(folder, tmp_path, "--quiet", "--no-untrained", "--tols", "0.4")) == 130
    assert place.is_dir()
    assert not place.with_name("erase-0.4.json").exists()


@pytest.mark.parametrize("text", ["", "{}", "[]"])
def test_a_file_that_is_no_record_is_named(folder, tmp_path, text):
    place = tmp_path / "erase-0.1"
    place.mkdir()
    (tmp_path / "erase-0.1.json").write_text(text)
    with pytest.raises(ValueError, match=r"erase-0\.1\.json is not what immucond erase writes"):
        _erase._kept(place, {})


def test_a_tolerance_is_a_share(folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        main(command(folder, tmp_path / "out", "--tols", "2"))
    assert error.value.code == 2
    assert (
        "--tols: a finite number of at least 0 and at most 1 is needed" in capsys.readouterr().err
    )


def test_some_classes_of_a_task(tmp_path):
    classes = ("greet", "pay", "cook")
    for part, count in (("train", 30), ("test", 12)):
        write_csv(tmp_path / "all" / f"{part}.csv", sentences(classes, count, count))
    whole, some = (load(spec, tmp_path) for spec in ("all", "all[pay, cook]"))
    assert some.classes == ("cook", "pay")
    for part in ("train", "test"):
        mine, theirs = getattr(some, part), getattr(whole, part)
        kept = [i for i, y in enumerate(theirs.labels) if whole.classes[y] != "greet"]
        assert list(mine.inputs) == [theirs.inputs[i] for i in kept]
        names = [whole.classes[theirs.labels[i]] for i in kept]
        assert np.array_equal(mine.labels, [some.classes.index(name) for name in names])
    assert some.fingerprint != whole.fingerprint
    others = load("all[-greet]", tmp_path)
    assert others.classes == some.classes
    for part in ("train", "test"):
        mine, theirs = getattr(others, part), getattr(some, part)
        assert list(mine.inputs) == list(theirs.inputs)
        assert np.array_equal(mine.labels, theirs.labels)
    named = [f"class {i} of a name that is longer than others" for i in range(9)]
    write_csv(tmp_path / "many.csv", [(f"text {i}", named[i % 9]) for i in range(90)])
    spec = f"many.csv[{','.join(named[1:])}]"
    assert len(spec) > 255  # no file may have such a name
    assert load(spec, tmp_path).classes == tuple(named[1:])
    for spec in ("all[pay]", "all[pay,pay]", "all[pay,no]", "all[-pay,cook]", "all[-pay,-no]",
                 "all[-pay,-pay]", "all[-pay,-cook]", "all[-]"):  # fmt: skip
        with pytest.raises(ValueError, match="class"):
            load(spec, tmp_path)
