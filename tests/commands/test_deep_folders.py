"""Odd and tampered folders for `immucond deep`: one line that names file and field."""

import json
import math
import shutil

import numpy as np
import pytest
from deep_cases import (
    encoder_folder,
    pictures,
    sentences,
    torch,
    transformers,
    vit_folder,
    write_csv,
    write_folder,
    write_json,
)

from immucond._cli import main
from immucond.experiments import deep
from immucond.experiments.deep import _backbone
from immucond.experiments.deep._foreign import check_config

ODD = [None, -1, 0, "x", [], {}, 1e400, {"a": [{"b": -1}]}, True, [[]], "12"]
PREPROCESSOR = {
    "image_processor_type": "ViTImageProcessor",
    "size": {"height": 8, "width": 8},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "do_resize": True,
    "resample": 2,
    "rescale_factor": 1 / 255,
}


@pytest.fixture(scope="module", autouse=True)
def _quiet_transformers():
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


@pytest.fixture(scope="module")
def texts():
    rows = sentences(("greet", "pay"), 8, 0)
    part = [text for text, _ in rows], [label for _, label in rows]
    return deep.task("texts", part, part)


@pytest.fixture(scope="module")
def images():
    rows = pictures(("circle", "square"), 8, 0)
    part = [image for _, image in rows], [label for label, _ in rows]
    return deep.task("images", part, part)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return encoder_folder(tmp_path_factory.mktemp("m") / "encoder")


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = vit_folder(tmp_path_factory.mktemp("m") / "vit")
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


def told(folder, task):
    """What the command would print in one line with exit status 2; None where it loads."""
    try:
        _backbone.load(str(folder), task, max_length=10 if task.kind == "text" else None)
    except (ValueError, OSError) as error:
        return str(error)
    return None


def mutations(source, file):
    fields = json.loads((source / file).read_text())
    for field in fields:
        for odd in ODD:
            yield field, odd, {**fields, field: odd}


def fuzz(source, file, task, tmp_path):
    """Every field by every odd value: what is refused names the folder, and mostly the field."""
    folder = tmp_path / "copy"
    shutil.copytree(source, folder)
    refused, named = 0, 0
    for field, odd, fields in mutations(source, file):
        (folder / file).write_text(json.dumps(fields))
        message = told(folder, task)
        if message is not None:
            refused += 1
            named += field in message
            assert str(folder) in message, (field, odd, message)
    return refused, named


def test_every_field_of_an_encoders_configuration(encoder, texts, tmp_path):
    refused, named = fuzz(encoder, "config.json", texts, tmp_path)
    assert refused > 100
    assert named > 0.9 * refused


def test_every_field_of_a_classifiers_configuration(vit, images, tmp_path):
    refused, named = fuzz(vit, "config.json", images, tmp_path)
    assert refused > 100
    assert named > 0.9 * refused


@pytest.mark.parametrize(
    "kind", ["bert", "deberta", "deberta-v2", "modernbert", "mistral", "vit", "resnet", "levit"]
)
def test_usual_configurations_are_no_errors(tmp_path, kind):
    """Such as have -1, lists of several kinds or nothing where another value is usual."""
    config = transformers.CONFIG_MAPPING[kind]()
    config.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    if kind == "mistral":
        fields["sliding_window"] = None
    (tmp_path / "config.json").write_text(json.dumps(fields))
    check_config(str(tmp_path), kind)


@pytest.mark.parametrize("file", ["tokenizer_config.json", "tokenizer.json"])
def test_every_field_of_a_tokenizer(encoder, texts, tmp_path, file):
    refused, _ = fuzz(encoder, file, texts, tmp_path)
    assert refused > 5


def test_every_field_of_the_preprocessor(vit, images, tmp_path):
    fuzz(vit, "preprocessor_config.json", images, tmp_path)


@pytest.mark.parametrize(
    ("field", "odd"),
    [
        *(("size", odd) for odd in (
            0, -1, "8", [], {}, 8.5, True, {"height": "8", "width": "8"}, {"height": 0, "width": 0},
            {"height": 8, "width": 16}, {"shortest_edge": None}, {"side": 8}, math.inf,
        )),
        *(("image_mean", odd) for odd in ("x", [], {}, 0.5, [0.5], ["a", "b", "c"],
                                          [0.5, 0.5, math.inf], [math.nan] * 3, [[0.5]] * 3,
                                          [127.5] * 3)),
        *(("image_std", odd) for odd in ([0.5, 0.5, 0.0], [-1, 1, 1], ["0.5"] * 3, [None] * 3,
                                         [58.4] * 3)),
    ],
)  # fmt: skip
def test_odd_preparations_name_file_and_field(vit, images, tmp_path, field, odd):
    folder = tmp_path / "copy"
    shutil.copytree(vit, folder)
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({**PREPROCESSOR, field: odd}))
    message = told(folder, images)
    assert message is not None
    assert "preprocessor_config.json" in message
    assert field in message or "does not load" in message
    # What is given on the command line is not looked for in the file.
    given = {"image_size": 8, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert _backbone.load(str(folder), images, **given).preparation.image_size == 8


@pytest.mark.parametrize("size", [8, {"height": 8, "width": 8}, {"shortest_edge": 8}])
def test_usual_preparations(vit, images, tmp_path, size):
    folder = tmp_path / "copy"
    shutil.copytree(vit, folder)
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({**PREPROCESSOR, "size": size, "image_mean": [0, 0.5, 1]}))
    found = _backbone.load(str(folder), images).preparation
    assert (found.image_size, found.mean) == (8, [0.0, 0.5, 1.0])


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", '"x"', "[" * 100_000, "\x00"])
@pytest.mark.parametrize("file", ["config.json", "preprocessor_config.json"])
def test_files_that_hold_no_object(vit, images, tmp_path, file, text):
    folder = tmp_path / "copy"
    shutil.copytree(vit, folder)
    (folder / file).write_text(text)
    message = told(folder, images)
    assert message is not None
    assert str(folder / file) in message


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite(encoder, tmp_path, capsys, value):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "copy"
    shutil.copytree(encoder, folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    tensor = "encoder.layer.1.output.dense.weight"
    weights[tensor][3, 2] = value
    save_file(weights, file, metadata={"format": "pt"})
    for part in ("train", "test"):
        write_csv(tmp_path / "data" / f"{part}.csv", sentences(("greet", "pay"), 24, 1))
    words = ["deep", "--backbone", str(folder), "--out", str(tmp_path / "out"), "--batch-size", "8",
             "--group-size", "12", "--max-length", "10"]  # fmt: skip
    words += [word for task in ("primary", "harmful") for word in (f"--{task}", f"{tmp_path}/data")]
    assert main(words) == 2
    told = f"--backbone {file}: the tensor encoder.{tensor} holds {value}"
    assert capsys.readouterr().err == f"immucond deep: error: {told}\n"
    assert not (tmp_path / "out").exists()


def test_labels_that_number_no_classes(vit, images, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(vit, folder)
    fields = json.loads((folder / "config.json").read_text())
    for places in ({"circle": 0, "square": 5}, {"circle": 0, "square": 0}):
        (folder / "config.json").write_text(json.dumps({**fields, "label2id": places}))
        message = told(folder, images)
        assert message is not None
        assert "label2id" in message
        assert str(folder) in message


def test_code_in_a_folder_does_not_run(encoder, texts, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(encoder, folder)
    fields = json.loads((folder / "config.json").read_text())
    fields |= {"model_type": "own", "auto_map": {"AutoModel": "code.Own", "AutoConfig": "code.C"}}
    (folder / "config.json").write_text(json.dumps(fields))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    message = told(folder, texts)
    assert "model_type" in message
    assert not (tmp_path / "ran").exists()


# ---- data ----


def images_at_the_root(folder):
    write_folder(folder, pictures(("a", "b"), 10, 1))
    shutil.copy(folder / "a" / "0000.png", folder / "stray.png")


def deep_nesting(folder):
    (folder / "all.json").write_text("[" * 100_000)


def odd_labels(folder):
    rows = [["some text", label] for label in ("x", "y") * 5]
    (folder / "all.json").write_text(json.dumps([*rows, ["text", {"a": 1}]]))


def a_device(folder):
    (folder / "train.csv").symlink_to("/dev/null")
    write_csv(folder / "test.csv", sentences(("pay", "greet"), 9, 1))


def parts_that_are_numbers(folder):
    (folder / "all.json").write_text(json.dumps({"train": 3, "test": None}))


def parts_of_mixed_entries(folder):
    write_json(folder / "all.json", {"train": sentences(("pay", "greet"), 9, 1), "test": [[1, 2]]})


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (images_at_the_root, "stray.png lies in no folder that names its class"),
        (deep_nesting, "all.json is not JSON"),
        (odd_labels, "the label of entry 11 must be a text or a number, and is {'a': 1}"),
        (a_device, "train.csv must be a folder or a regular file"),
        (parts_that_are_numbers, "must be a list of texts with labels"),
        (parts_of_mixed_entries, "entry 1 has no text or no label"),
    ],
)
def test_odd_data(tmp_path, write, message):
    write(tmp_path)
    with pytest.raises((ValueError, OSError)) as caught:
        deep.load(str(tmp_path))
    assert message in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_the_trial_sample_is_told_where_it_is_broken(vit, tmp_path):
    for part in ("train", "test"):
        write_folder(tmp_path / part, pictures(("circle", "square"), 4, 1))
    (tmp_path / "train" / "circle" / "0000.png").write_bytes(b"no image")
    message = told(vit, deep.load(str(tmp_path)))
    assert "0000.png is not an image that can be read" in message
    assert "backbone" not in message


@pytest.mark.parametrize(("part", "place"), [("train", 4), ("test", 0), ("test", 5)])
def test_a_sample_that_is_broken_is_the_cause_that_is_told(vit, tmp_path, capsys, part, place):
    """Also where it is the second reading of samples that finds it."""
    for name in ("train", "test"):
        write_folder(tmp_path / name, pictures(("circle", "square"), 12, 1))
    file = tmp_path / part / ("circle" if place % 2 == 0 else "square") / f"{place:04d}.png"
    file.write_bytes(b"no image")
    words = ["--backbone", str(vit), "--primary", str(tmp_path), "--harmful", str(tmp_path),
             "--method", "identity", "--batch-size", "4", "--group-size", "4", "--quiet",
             "--out", str(tmp_path / "out")]  # fmt: skip
    assert main(["deep", *words]) == 2
    told = capsys.readouterr().err
    assert told.endswith(f"{file.name} is not an image that can be read: its format is unknown\n")
    assert "activations" not in told
    assert told.count("\n") == 1


def test_a_network_that_overflows_is_refused(vit, images, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "copy"
    shutil.copytree(vit, folder)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] = torch.full_like(weights["classifier.weight"], 3e38)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    message = told(folder, images)
    assert np.isfinite(3e38)
    assert "first sample of images: logits that are not finite" in message
