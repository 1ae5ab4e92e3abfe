"""Files made to run code, as SECURITY.md tells of them: readers refuse, and nothing has run."""

import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from deep_cases import encoder_folder, pictures, sentences, torch, transformers, vit_folder
from PIL import Image

import immucond as ic
import immucond.deep as icd
from immucond.experiments import deep
from immucond.experiments.deep import _saved
from immucond.experiments.deep._task import pixels
from immucond.limit._rows import open_rows


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    mark = tmp_path / "has-run"
    yield mark
    assert not mark.exists()


def test_the_trap_works(tmp_path):
    mark = tmp_path / "has-run-here"
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists()


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_arrays_of_objects(tmp_path, mark, suffix):
    objects = np.array([[Trap(mark)]], dtype=object)
    path = tmp_path / f"rows{suffix}"
    (np.save if suffix == ".npy" else np.savez)(path, objects)
    with pytest.raises(ValueError, match="dtype object"):
        list(open_rows(str(path)).blocks())


def test_a_result_whose_array_is_a_pickle(tmp_path, mark):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 3))
    ic.immunize.closed_form(X, X[:, 0], X[:, ::-1] + 1.0).save(tmp_path / "result.npz")
    hostile = io.BytesIO()
    np.save(hostile, np.array([Trap(mark)], dtype=object), allow_pickle=True)
    with (
        zipfile.ZipFile(tmp_path / "result.npz") as given,
        zipfile.ZipFile(tmp_path / "other.npz", "w") as other,
    ):
        for name in given.namelist():
            content = hostile.getvalue() if name == "theta.npy" else given.read(name)
            other.writestr(name, content)
        assert "theta.npy" in given.namelist()
    with pytest.raises(ValueError, match="allow_pickle"):
        ic.immunize.ImmunizationResult.load(tmp_path / "other.npz")


def test_weights_of_a_saved_network(tmp_path, mark):
    net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    data = [torch.randn(40, 6)], [torch.randn(40, 6) * torch.arange(1.0, 7.0)]
    done = icd.immunize(net, split="2", primary=data[0], harmful=data[1], method="closed_form")
    icd.save(done, tmp_path / "saved")
    (weights,) = (f for f in (tmp_path / "saved").iterdir() if f.suffix != ".json")
    torch.save({"0.weight": Trap(mark)}, weights)
    with pytest.raises(ValueError, match="is no network saved by immucond"):
        icd.load_saved(tmp_path / "saved", net)


def test_a_checkpoint(tmp_path, mark):
    net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Tanh(), torch.nn.Linear(5, 3))
    path = tmp_path / "run.pt"
    torch.save({"settings": {}, "state": Trap(mark)}, path)
    y = torch.zeros(40, dtype=torch.long)
    data = [(torch.randn(40, 6), y)], [(torch.randn(40, 6), y)]
    with pytest.raises(ValueError, match="is not one of immucond"):
        icd.immunize(net, split="2", primary=data[0], harmful=data[1], epochs=1, checkpoint=path)


def task(kind):
    if kind == "text":
        rows = [(label, text) for text, label in sentences(("greet", "pay"), 8, 0)]
    else:
        rows = pictures(("circle", "square"), 8, 0)
    part = [sample for _, sample in rows], [label for label, _ in rows]
    return deep.task("data", part, part)


def with_code(folder, mark):
    """Code beside the configuration, and a kind of model that only it knows."""
    (folder / "evil.py").write_text(
        f"open({str(mark)!r}, 'w')\nclass Config: ...\nclass Model: ...\n"
    )
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model",
                          "AutoModelForImageClassification": "evil.Model"}  # fmt: skip
    path.write_text(json.dumps(config | {"model_type": "evil"}))


def test_code_in_a_folder_with_a_network(tmp_path, mark, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _: "y")  # whoever asks gets a yes
    folder = encoder_folder(tmp_path / "encoder")
    with_code(folder, mark)
    with pytest.raises(ValueError, match="model_type"):
        deep.load_network(str(folder), task("text"))


def test_code_in_a_folder_that_immucond_saved(tmp_path, mark, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda _: "y")
    folder = encoder_folder(tmp_path / "encoder")
    (folder / _saved.ABOUT_FILE).write_text(
        json.dumps({"folded": False, "kind": "text", "split": "head"})
    )
    _saved.safetensors.torch.save_file(
        {"weight": torch.zeros(2, 4), "bias": torch.zeros(2)}, folder / _saved.HEAD_FILE
    )
    with_code(folder, mark)
    with pytest.raises(ValueError, match=r"trust_remote_code|custom code|evil"):
        deep.load_saved(folder)


def test_weights_in_pickles_within_a_folder(tmp_path, mark):
    folder = vit_folder(tmp_path / "vit")
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    torch.save({"classifier.weight": Trap(mark)}, folder / "pytorch_model.bin")
    transformers.logging.set_verbosity_error()
    with pytest.raises(ValueError, match="does not load"):
        deep.load_network(str(folder), task("image"))


@pytest.mark.parametrize("kind", ["EPS", "GIF", "TIFF", "PDF"])
def test_images_of_other_formats_under_a_usual_name(kind):
    """Decoders of some formats start programs: EPS is run by Ghostscript."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind)
    sample = deep_image(file.getvalue())
    with pytest.raises(ValueError, match="its format is unknown"):
        pixels(sample)


@pytest.mark.parametrize("kind", ["BMP", "JPEG", "PNG", "PPM", "WEBP"])
def test_images_of_the_usual_formats(kind):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 255, 255)).save(file, kind)
    assert pixels(deep_image(file.getvalue())).min() > 250


def deep_image(content):
    from immucond.experiments.deep._task import ImageFile

    return ImageFile("picture.png", "stamp", lambda: content)
