"""`immucond cost` on tiny networks: what it writes, and what it refuses."""

import json

import pytest
from deep_cases import reading, release_folder

from immucond._cli import main
from immucond.deep._attacked import PARAMS
from immucond.experiments import deep

FILES = ["cost.json", "cost.md", "cost.png", "cost.svg"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return release_folder(tmp_path_factory.mktemp("cost"))


def command(folder, out, *more, backbone="encoder", harmful="others"):
    return [
        "cost", "--backbone", str(folder / backbone), "--harmful", harmful, "--data-dir",
        str(folder), "--out", str(out), *reading(harmful), "--train-size", "16",
        "--products", "6", "--steps", "3", *more,
    ]  # fmt: skip


IMAGES = ["--image-size", "8", "--mean", "0", "0", "0", "--std", "1", "1", "1"]


def test_texts(folder, tmp_path, capsys):
    assert main(command(folder, tmp_path / "out")) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == FILES
    found = json.loads((tmp_path / "out" / "cost.json").read_text())
    assert found["rows"] == 16
    assert found["fingerprints"].keys() == {"harmful", "release"}
    assert found["costs"].keys() == {"release"}
    for params, cost in found["costs"]["release"].items():
        assert params in ("full", "head")
        assert cost["start"] == pytest.approx(cost["measured"][0], rel=1e-4)
        assert len(cost["measured"]) == 4
        assert not cost["certified"]
        lower, upper = (cost["loss"][side] for side in ("lower", "upper"))
        assert all(a <= b for a, b in zip(lower, upper, strict=True))
        assert lower[2] <= cost["measured"][1] * 1.5
    told = capsys.readouterr()
    assert "steps to 50%" in told.out
    assert "release, full: 1 of 16" in told.err
    assert "release, head: 16 of 16" in told.err
    assert "of the network as if it were linear" in (tmp_path / "out" / "cost.md").read_text()
    for name in FILES:
        assert (tmp_path / "out" / name).stat().st_size > 500


def test_images_beside_a_reference_the_same_twice(folder, tmp_path, capsys):
    pytest.importorskip("peft")
    more = [*IMAGES, "--quiet", "--reference", str(folder / "resnet"), "--params", *PARAMS]
    for name in ("one", "two"):
        arguments = command(folder, tmp_path / name, *more, backbone="resnet", harmful="marks")
        assert main(arguments) == 0
    assert capsys.readouterr().err == ""
    one, two = (json.loads((tmp_path / n / "cost.json").read_text()) for n in ("one", "two"))
    assert one["costs"] == two["costs"]
    costs = one["costs"]
    assert costs["release"] == costs["reference"]  # it is the same network
    assert list(costs["release"]) == list(PARAMS)
    assert costs["release"]["full"]["lambda_max"] > costs["release"]["head"]["lambda_max"]
    assert one["fingerprints"]["release"] == one["fingerprints"]["reference"]
    assert (tmp_path / "one" / "cost.svg").read_bytes() == (
        tmp_path / "two" / "cost.svg"
    ).read_bytes()


def test_bad_input_is_told(folder, tmp_path, capsys):
    for more, keywords, told in (
        (["--params", "all"], {}, "invalid choice: 'all'"),
        (["--products", "0"], {}, "--products"),
        ([], {"harmful": "nothing"}, "nothing"),
        ([], {"backbone": "absent"}, "absent"),
    ):
        with pytest.raises(SystemExit) if more else pytest.MonkeyPatch.context():
            assert main(command(folder, tmp_path / "bad", *more, **keywords)) != 0
        assert told in capsys.readouterr().err
        assert not (tmp_path / "bad" / "cost.json").exists()


def test_the_command_offers_what_the_library_knows():
    assert deep.PARAMS == PARAMS
