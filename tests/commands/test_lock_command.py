"""`immucond lock` on tiny networks: the same outputs, read back, and what attackers see of it."""

import json

import numpy as np
import pytest
import torch
import transformers
from deep_cases import reading, release_folder, sentences, write_csv

import immucond.deep as icd
from immucond._cli import main
from immucond.deep.parts import FoldedHead, Inserted, replace_module
from immucond.experiments.deep import _backbone, _saved, load, load_saved
from immucond.experiments.deep._release import fit_head, loader_of

SIZE = ["--image-size", "8", "--mean", "0", "0", "0", "--std", "1", "1", "1"]
IMAGES = {"backbone": "resnet", "primary": "shapes", "size": SIZE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return release_folder(tmp_path_factory.mktemp("lock"))


def command(folder, out, *more, name="lock", backbone="encoder", primary="texts", size=()):
    return [
        name, "--backbone", str(folder / backbone), "--primary", primary, "--data-dir", str(folder),
        "--out", str(out), *reading(primary), "--quiet", *size, *more,
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["specdef", "gauges"])
@pytest.mark.parametrize("what", [{}, IMAGES], ids=["texts", "images"])
def test_the_outputs_stay_and_the_weights_do_not(folder, tmp_path, capsys, kind, what):
    out = tmp_path / "out"
    assert main(command(folder, out, "--kind", kind, "--strength", "50", **what)) == 0
    assert sorted(p.name for p in out.iterdir()) == ["lock.json", "lock.md", "release"]
    found = json.loads((out / "lock.json").read_text())
    assert found["error"] < 1e-4
    assert found["accuracy"][0] == found["accuracy"][1]
    assert (found["inserted"] > 5) == (kind == "specdef")
    assert ("SpecDef" if kind == "specdef" else "random gauges") in capsys.readouterr().out
    release = _saved.saved_release(str(out / "release"))
    assert sum(isinstance(m, Inserted) for m in release.model.modules()) == found["inserted"]
    inner = release.model if what else release.model.encoder
    if kind == "specdef":
        with pytest.raises(TypeError, match=r"does not know the layers that gauge\.lock inserted"):
            inner.save_pretrained(tmp_path / "again")
        assert not (tmp_path / "again").exists()
        ids = torch.randint(5, 20, (4, 10))
        words = [{"input_ids": ids, "attention_mask": torch.ones_like(ids)}]
        merged = icd.gauge.equalize(release.model, data=None if what else words, merge=True).model
        inner = merged if what else merged.encoder
        assert not any(isinstance(m, Inserted) for m in merged.modules())
    inner.save_pretrained(tmp_path / "again")  # ordinary layers
    if what:
        kind_of = transformers.AutoModelForImageClassification
        original = kind_of.from_pretrained(folder / "resnet").eval()
        read = kind_of.from_pretrained(tmp_path / "again").eval()
        batch = torch.randn(3, 3, 8, 8)
        with torch.no_grad():
            expected = original(batch).logits
            for model in (load_saved(out / "release"), read):
                torch.testing.assert_close(model(batch).logits, expected, rtol=1e-3, atol=1e-4)
        changed = [
            not torch.equal(x, original.state_dict()[name])
            for name, x in release.model.state_dict().items()
            if name in original.state_dict() and name.endswith("weight")
        ]
        assert any(changed) or kind == "specdef"


@pytest.mark.parametrize("what", [{}, IMAGES], ids=["texts", "images"])
def test_what_was_locked_is_locked_again_in_its_place(folder, tmp_path, what):
    """Its layers are two, each of which becomes two; what is read computes what was written."""
    out, batch = tmp_path / "out", torch.randn(3, 3, 8, 8)
    if not what:
        batch = torch.randint(5, 20, (4, 10))
    arguments = (batch,) if what else (batch, torch.ones_like(batch))
    assert main(command(folder, out, "--strength", "10", **what)) == 0
    once = load_saved(out / "release")
    again = command(folder, out, "--strength", "10", **({} if not what else IMAGES))
    again[again.index("--backbone") + 1] = str(out / "release")
    assert main(again) == 0
    twice = load_saved(out / "release")
    count = [sum(isinstance(m, Inserted) for m in x.modules()) for x in (once, twice)]
    assert count[1] == 3 * count[0]
    with torch.no_grad():
        one, other = (x(*arguments) for x in (once, twice))
    one, other = (x if isinstance(x, torch.Tensor) else x.logits for x in (one, other))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_a_folder_with_files_of_others_is_not_made_anew(folder, tmp_path, capsys):
    mine = tmp_path / "out" / "release" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert main(command(folder, tmp_path / "out")) == 2
    assert "has files that immucond did not write" in capsys.readouterr().err
    assert [*mine.parent.iterdir()] == [mine]


def test_a_file_of_others_beside_a_release_stays(folder, tmp_path, capsys):
    """What was locked before is made anew, and what somebody put beside it is not removed."""
    out = tmp_path / "out"
    assert main(command(folder, out)) == 0
    assert main(command(folder, out, backbone="resnet", primary="shapes", size=SIZE)) == 0
    names = {"config.json", "head.safetensors", "immucond.json", "locked.safetensors"}
    assert {p.name for p in (out / "release").iterdir()} == names  # the tokenizer went
    mine = out / "release" / "logs" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert main(command(folder, out)) == 2
    error = capsys.readouterr().err
    assert "has files that immucond did not write, such as logs/mine.txt" in error
    assert {p.name for p in (out / "release").iterdir()} == {*names, "logs"}
    about = out / "release" / "immucond.json"
    told = json.loads(about.read_text())
    del told["files"]  # older releases do not say what is theirs
    about.write_text(json.dumps(told))
    assert main(command(folder, out)) == 0
    assert not mine.exists()


def test_texts_cut_to_nothing_give_no_head(folder, tmp_path, capsys):
    """Below what marks their begin and end, tokenizers cut nothing at all."""
    out = tmp_path / "out"
    for length in ("1", "2"):
        assert main([*command(folder, out), "--max-length", length]) == 2
        error = capsys.readouterr().err
        assert f"error: --max-length must be from 3 to 32 for '{folder}/encoder'" in error
        assert f"and is {length}" in error
    for part, count in (("train", 48), ("test", 24)):
        rows = [(f"hello {text}", label) for text, label in sentences(("greet", "pay"), count, 1)]
        write_csv(tmp_path / "alike" / f"{part}.csv", rows)
    alike = command(folder, out, primary=str(tmp_path / "alike"))
    assert main([*alike, "--max-length", "3"]) == 2
    told = "what enters the head is the same for all 48 training samples"
    assert told in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.filterwarnings("ignore::immucond.AccuracyWarning")
@pytest.mark.parametrize(("kind", "strength"), [("specdef", "1e30"), ("gauges", "1e300")])
def test_a_strength_beyond_all_weights_leaves_no_release(folder, tmp_path, capsys, kind, strength):
    out = tmp_path / "out"
    assert main(command(folder, out, "--kind", kind, "--strength", strength)) == 2
    told = f"strength {float(strength):g} is more than the network's weights bear: "
    assert told in capsys.readouterr().err
    assert not out.exists()


def test_a_saved_network_that_is_damaged_or_does_not_fit_is_told(folder, tmp_path, capsys):
    assert main(command(folder, tmp_path / "out", "--kind", "gauges")) == 0
    write_csv(folder / "three" / "all.csv", sentences(("travel", "cook", "pay"), 60, 1))
    release = tmp_path / "out" / "release"
    for task, told in (("three", f"three has 3 classes, and the head of {release} has 2"),
                       ("shapes", f"{release} reads texts, and shapes has images")):  # fmt: skip
        words = command(folder, tmp_path / "again", backbone=release, primary=task)
        assert main(words) == 2
        assert told in capsys.readouterr().err
    for name in ("immucond.json", "head.safetensors", "model.safetensors"):
        file = release / name
        whole = file.read_bytes()
        for part in (whole[:30], b"{}"):
            file.write_bytes(part)
            assert main(command(folder, tmp_path / "again", backbone=release)) == 2
            error = capsys.readouterr().err
            assert f"backbone '{release}': the files that immucond wrote there do not" in error
            assert error.count("\n") == 1
        file.write_bytes(whole)


def test_attackers_find_what_was_inserted_and_freeze_it(folder, tmp_path):
    out = tmp_path / "lock"
    assert main(command(folder, out, "--strength", "1e3", **IMAGES)) == 0
    more = ["--harmful", "marks", "--attackers", "gd", "lstsq", "--trials", "2", "--steps", "3"]
    name = out / "release"
    words = command(folder, tmp_path / "attack", *more, "--no-scratch", name="attack", **IMAGES)
    words[words.index("--backbone") + 1] = str(name)
    assert main([*words, "--reference", str(folder / "resnet")]) == 0
    (run,) = json.loads((tmp_path / "attack" / "attack.json").read_text())["runs"]
    starts = {network: {a["start"] for a in found} for network, found in run["attacks"].items()}
    assert "frozen" in starts["release"]
    assert "frozen" not in starts["reference"]


def test_what_holds_a_map_is_locked_and_erased_too(folder, tmp_path):
    """The head of such a network is the second of two: where it is saved, both are."""
    task = load("texts", folder)
    backbone = _backbone.load(str(folder / "encoder"), task, max_length=10)
    fit_head(backbone, loader_of(backbone, task.train, 16), lambda *_: None)
    head = backbone.model.head
    folded = FoldedHead(head, np.diag(np.arange(1.0, 1.0 + head.in_features)))
    replace_module(backbone.model, "head", folded)
    mapped = tmp_path / "mapped"
    mapped.mkdir()
    _saved.save(backbone, backbone.model, mapped)
    for name, more in (("lock", []), ("erase", ["--harmful", "others", "--tols", "0.5"])):
        words = command(folder, tmp_path / name, *more, name=name)
        words[words.index("--backbone") + 1] = str(mapped)
        assert main(words) == 0
        place = tmp_path / name / ("release" if name == "lock" else "releases/erase-0.5")
        release = _saved.saved_release(str(place))
        assert release.split == ("head.1.1" if name == "lock" else "head.1")
        rows = torch.randint(5, 20, (4, 10))
        release.model(rows, torch.ones_like(rows))


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--strength", "0.5"], "strength"),
        (["--top", "0"], "top"),
        (["--kind", "rot13"], "kind"),
    ],
)
def test_what_is_refused(folder, tmp_path, capsys, more, told):
    try:
        status = main(command(folder, tmp_path / "out", *more))
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
