"""`immucond leak` on tiny networks: what it writes, and what it refuses."""

import json

import numpy as np
import pytest
from deep_cases import reading, release_folder

from immucond._cli import main
from immucond.experiments.deep import _foreign

FILES = ["leak.json", "leak.md", "leak.png", "leak.svg"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return release_folder(tmp_path_factory.mktemp("leak"))


def command(folder, out, *more, backbone="encoder", primary="texts", harmful="others"):
    return [
        "leak", "--backbone", str(folder / backbone), "--primary", primary, "--harmful", harmful,
        "--data-dir", str(folder), "--out", str(out), *reading(primary), *more,
    ]  # fmt: skip


IMAGES = {"backbone": "resnet", "primary": "shapes", "harmful": "marks"}
SIZE = ["--image-size", "8", "--mean", "0", "0", "0", "--std", "1", "1", "1"]


def test_texts(folder, tmp_path, capsys):
    assert main(command(folder, tmp_path / "out")) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES
    found = json.loads((tmp_path / "out" / "leak.json").read_text())
    profile = found["profile"]
    cuts = profile["cuts"]
    assert [name for name in cuts if "layer" in name] == [
        "encoder.encoder.layer.0", "encoder.encoder.layer.1",
    ]  # fmt: skip
    assert profile["ceiling"] == max(cut["accuracy"] for cut in cuts.values()) > 0.9
    assert profile["rows"] == {"harmful": 48, "primary": 48, "held_out": 24}
    assert all(0.0 <= cut["untrained"]["accuracy"] <= 1.0 for cut in cuts.values())
    assert profile["logits"]["features"] == 2
    assert found["head"] == "a new one, fitted to texts"
    assert profile["unaided"]["sees"] == "tf-idf"
    assert found["command"].startswith("immucond leak --backbone ")
    assert {"immucond", "torch", "transformers"} <= found["versions"].keys()
    told = capsys.readouterr()
    assert "served logits" in told.out
    assert "Wrote leak.json, leak.md" in told.out
    assert "release, harmful: 1 of 1" in told.err
    page = (tmp_path / "out" / "leak.md").read_text()
    assert f"{profile['ceiling']:.1%}" in page
    assert f"{profile['ceiling']:.1%}, beside {profile['unaided']['accuracy']:.1%} without" in page
    assert "Both tasks are the same" not in page
    for name in FILES:
        assert (tmp_path / "out" / name).stat().st_size > 500


def test_one_task_for_both_is_told(folder, tmp_path, capsys):
    more = ["--no-untrained", "--cuts", "head"]
    assert main(command(folder, tmp_path / "out", "--harmful", "texts", *more)) == 0
    assert "Both tasks are the same data" in " ".join(capsys.readouterr().out.split())


def test_images_the_same_twice_and_without_untrained(folder, tmp_path, capsys):
    for name in ("one", "two"):
        more = [*SIZE, "--quiet", "--no-untrained", "--cuts", "resnet.encoder.stages.[01]"]
        assert main(command(folder, tmp_path / name, *more, **IMAGES)) == 0
    assert capsys.readouterr().err == ""
    one, two = (json.loads((tmp_path / n / "leak.json").read_text()) for n in ("one", "two"))
    assert one["head"] == "the network's own"  # its classes are those of the primary task
    assert one["profile"] == two["profile"]
    assert one["fingerprints"] == two["fingerprints"]
    cuts = one["profile"]["cuts"]
    assert list(cuts) == ["resnet.encoder.stages.0", "resnet.encoder.stages.1"]
    assert all(cut["untrained"] is None for cut in cuts.values())
    figure = (tmp_path / "one" / "leak.svg").read_bytes()
    assert figure == (tmp_path / "two" / "leak.svg").read_bytes()
    assert b"untrained" not in figure


@pytest.mark.usefixtures("undrawn")
def test_a_network_that_deep_saved_is_read_with_its_map(folder, tmp_path, capsys):
    out = tmp_path / "deep"
    assert main([
        "deep", "--backbone", str(folder / "resnet"), "--primary", "shapes", "--harmful", "marks",
        "--data-dir", str(folder), "--out", str(out), "--method", "closed-form", "--batch-size",
        "10", "--group-size", "10", "--groups", "2", "--probe-epochs", "1", "--probe-steps", "5",
        "--save", "closed-form", "--quiet", *SIZE,
    ]) == 0  # fmt: skip
    saved = out / "units" / "models" / "closed-form"
    profiles = {}
    for name, backbone in (("saved", saved), ("before", folder / "resnet")):
        more = command(folder, tmp_path / name, "--no-untrained", "--quiet", *SIZE, **IMAGES)
        more[2] = str(backbone)
        assert main(more) == 0
        profiles[name] = json.loads((tmp_path / name / "leak.json").read_text())["profile"]["cuts"]
    assert "classifier.1.1 (input)" in profiles["saved"]
    behind, before = profiles["saved"]["classifier.1.1 (input)"], profiles["before"]
    # A lock, in single precision: what is read is the same.
    assert behind["accuracy"] == pytest.approx(
        before["classifier.1 (input)"]["accuracy"], abs=0.051
    )
    assert behind["kappa"] != before["classifier.1 (input)"]["kappa"]
    for option, *other, told in (
        ("--image-size", "9", "--image-size is 9, and {} was made for 8"),
        ("--std", "1", "1", "0.5", "--std is (1.0, 1.0, 0.5), and {} was made for [1.0, 1.0, 1.0]"),
        ("--max-length", "9", "--max-length is of texts, and shapes has images"),
    ):
        more = command(folder, tmp_path / "other", "--quiet", *SIZE, option, *other, **IMAGES)
        more[2] = str(saved)
        assert main(more) == 2
        assert told.format(saved) in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--cuts", "stages"], "'stages' matches none; near are"),
        (["--train-size", "2", "--seed", "1"], "training samples"),
        (["--backbone", "nowhere"], "--backbone: no backbone 'nowhere'"),
        (["--backbone", "./nowhere"], "can be downloaded (there is no such folder)"),
        (["--test-size", "2"], "the 2 test samples of others have none of the class "),
        (["--harmful", "shapes"], "all tasks must be of one kind: texts has texts, shapes images"),
        (SIZE[:2], "--image-size is of images, and texts has texts"),
        (["--harmful", "missing"], "--harmful: no data set 'missing'"),
    ],
)
def test_what_is_refused(folder, tmp_path, capsys, monkeypatch, more, told):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # nobody waits for it
    assert main(command(folder, tmp_path / "out", "--quiet", *more)) == 2
    error = capsys.readouterr().err
    assert error.startswith("immucond leak: error: ")
    assert told in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_without_a_network_and_what_images_still_need(folder, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    more = ["--quiet", "--backbone", str(tmp_path / "empty")]
    assert main(command(folder, tmp_path / "out", *more)) == 2
    assert "can be downloaded (the folder has no config.json)" in capsys.readouterr().err
    assert main(command(folder, tmp_path / "out", "--quiet", *SIZE[2:6], **IMAGES)) == 2
    assert "images are prepared: give --image-size and --std\n" in capsys.readouterr().err
    more = command(folder, tmp_path / "out", "--quiet", *SIZE, "--max-length", "9", **IMAGES)
    assert main(more) == 2
    assert "--max-length is of texts, and shapes has images\n" in capsys.readouterr().err


def test_pixels_are_between_0_and_1(folder, tmp_path, capsys):
    """A mean of grey levels to 255 would make all features alike, and the network look safe."""
    with pytest.raises(SystemExit) as error:
        main(command(folder, tmp_path / "out", "--mean", "125.3", "123", "113.9", **IMAGES))
    assert error.value.code == 2
    assert "argument --mean: a finite number of at least 0 and at most 1" in capsys.readouterr().err


def test_a_task_is_needed(capsys):
    with pytest.raises(SystemExit) as error:
        main(["leak", "--backbone", "x"])
    assert error.value.code == 2
    assert "--primary, --harmful" in capsys.readouterr().err


def test_the_figure_is_of_all_cuts(folder, tmp_path):
    assert main(command(folder, tmp_path / "out", *SIZE, "--quiet", **IMAGES)) == 0
    figure = (tmp_path / "out" / "leak.svg").read_text()
    for text in ("resnet.embedder", "classifier.1 (input)", "served logits", "constant guess",
                 "release", "untrained"):  # fmt: skip
        assert text in figure
    assert np.all([name in figure for name in ("#0072b2", "#d55e00")])


def test_an_id_that_nobody_knows_is_asked_for_once(folder, tmp_path, capsys, monkeypatch):
    """What loads an id asks a hub that does not answer six times, half a minute in all."""
    asked = []

    def away(url, **_):
        asked.append(url)
        raise RuntimeError("no such host")  # of whichever library speaks to the hub

    monkeypatch.setattr(_foreign, "get_hf_file_metadata", away)
    monkeypatch.setattr(_foreign, "cached_file", None)
    assert main([*command(folder, tmp_path / "out"), "--backbone", "group/nowhere", "--quiet"]) == 2
    [url] = asked
    assert "group/nowhere" in url
    error = capsys.readouterr().err
    assert "--backbone: no backbone 'group/nowhere'" in error
    assert "can be downloaded (RuntimeError: no such host)" in error
    assert error.count("\n") == 1
