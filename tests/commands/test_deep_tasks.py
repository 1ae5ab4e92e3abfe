"""Tasks from files: what is read, what is held out, and what is refused."""

import gzip
import json
import re

import numpy as np
import pytest
from deep_cases import pictures, sentences, write_csv, write_folder, write_json, write_zip

from immucond.experiments import deep
from immucond.experiments.deep import load, task
from immucond.experiments.deep._task import pixels

CLASSES = ("greet", "pay")
TRAIN, TEST = sentences(CLASSES, 20, 1), sentences(CLASSES, 10, 2)


def columns(rows):
    return [text for text, _ in rows], [label for _, label in rows]


def given():
    return columns(TRAIN), columns(TEST)


def check_texts(found):
    assert (found.kind, found.classes) == ("text", CLASSES)
    assert found.train.inputs == columns(TRAIN)[0]
    assert [found.classes[place] for place in found.test.labels] == columns(TEST)[1]


@pytest.mark.parametrize("header", [("text", "category"), ("utterance", "intent")])
def test_csv_parts(tmp_path, header):
    for part, rows in (("train", TRAIN), ("test", TEST)):
        write_csv(tmp_path / "task" / f"{part}.csv", rows, header)
    check_texts(load("task", tmp_path))
    check_texts(load(str(tmp_path / "task")))


def test_csv_of_a_spreadsheet(tmp_path):
    for part, rows in (("train", TRAIN), ("test", TEST)):
        write_csv(tmp_path / f"{part}.csv", rows)
        text = (tmp_path / f"{part}.csv").read_text()
        (tmp_path / f"{part}.csv").write_text(text, encoding="utf-8-sig")
    check_texts(load(str(tmp_path)))


def test_one_json_with_parts(tmp_path):
    write_json(tmp_path / "task" / "all.json", {"oos": [["?", "x"]], "train": TRAIN, "test": TEST})
    check_texts(load("task", tmp_path))
    check_texts(load("task/all.json", tmp_path))


def test_json_lines(tmp_path):
    for part, rows in (("train", TRAIN), ("test", TEST)):
        lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
        (tmp_path / f"{part}.jsonl").write_text("\n".join(lines))
    check_texts(load(str(tmp_path)))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_json_lines_end_at_line_feeds_alone(tmp_path, end):
    """JSON may hold other ends of lines as they are, as texts from the web do."""
    texts = ["one\u2028two", "one\u2029two", "one\x85two", "three four"] * 5
    lines = [
        json.dumps({"text": text, "label": f"{place % 2}"}, ensure_ascii=False)
        for place, text in enumerate(texts)
    ]
    for part in ("train", "test"):
        (tmp_path / f"{part}.jsonl").write_bytes((end.join(lines) + end).encode())
    assert list(load(str(tmp_path)).train.inputs) == texts


def test_import_path():
    check_texts(load("test_deep_tasks:given"))


def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    write_json(tmp_path / "task.json", {"train": TRAIN, "test": TEST})
    monkeypatch.setenv("IMMUCOND_DATA", str(tmp_path))
    check_texts(load("task.json"))


def test_without_parts_every_fifth_sample_of_a_class_is_held_out(tmp_path):
    write_csv(tmp_path / "all.csv", TRAIN)
    found = load("all.csv", tmp_path)
    assert (len(found.train.inputs), len(found.test.inputs)) == (16, 4)
    assert sorted(found.test.labels) == [0, 0, 1, 1]
    assert not set(found.test.inputs) & (set(found.train.inputs) - set(found.test.inputs))


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_images_by_class(tmp_path, write):
    suffix = ".zip" if write is write_zip else ""
    rows = pictures(("a", "b"), 6, 1)
    for part in ("train", "test"):
        write(tmp_path / "task" / f"{part}{suffix}", rows)
    found = load("task", tmp_path)
    assert (found.kind, found.classes) == ("image", ("a", "b"))
    by_class = sorted(rows, key=lambda row: row[0])
    for sample, place, (label, image) in zip(
        found.train.inputs, found.train.labels, by_class, strict=True
    ):
        assert found.classes[place] == label
        np.testing.assert_array_equal(pixels(sample), image)


def test_images_that_are_as_large_whatever_they_show_are_told_apart(tmp_path):
    from PIL import Image

    found = []
    for seed in (1, 2):
        for part in ("train", "test"):
            for number, (label, image) in enumerate(pictures(("a", "b"), 4, seed)):
                file = tmp_path / part / label / f"{number}.bmp"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image).save(file)
        found.append(load(str(tmp_path)).fingerprint)
    assert found[0] != found[1]


def write_digits(folder, *shape):
    """Write images of a shape, of three digits, as MNIST is stored; return those held out."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("t10k", 8)):
        images = rng.integers(0, 256, size=(count, *shape), dtype=np.uint8)
        digits = (np.arange(count) % 3).astype(np.uint8)
        for kind, array in (("images-idx3", images), ("labels-idx1", digits)):
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes()
            name = folder / f"{part}-{kind}-ubyte.gz"
            name.parent.mkdir(exist_ok=True)
            name.write_bytes(gzip.compress(head + array.tobytes()))
    return images


def test_idx_files_as_rgb(tmp_path):
    images = write_digits(tmp_path / "mnist", 4, 9)  # as many as a square has
    found = load("mnist", tmp_path)
    assert (found.kind, found.classes) == ("image", ("0", "1", "2"))
    assert found.test.inputs[0].shape == (4, 9, 3)
    np.testing.assert_array_equal(found.test.inputs[7][:, :, 1], images[7])


def test_a_subset_is_drawn_alike_each_time():
    found = task("t", *given())
    few = found.subset(7, 3)
    assert (len(few.train.inputs), len(few.test.inputs)) == (7, 3)
    assert few.fingerprint == found.subset(7, 3).fingerprint
    assert few.fingerprint != found.subset(7, 3, seed=1).fingerprint
    assert found.subset(None, 100).fingerprint == found.fingerprint


# ---- what is refused ----


def csv_in_another_encoding(folder):
    (folder / "all.csv").write_bytes("text,label\ncafé,a\n".encode("latin-1"))


def csv_without_an_end(folder):
    (folder / "all.csv").write_text('text,label\n"' + "word " * 30_000)


def json_in_another_encoding(folder):
    (folder / "all.json").write_bytes('[["café", "a"]]'.encode("latin-1"))


def bad_csv(folder):
    write_csv(folder / "train.csv", TRAIN, ("words", "category"))
    write_csv(folder / "test.csv", TEST)


def no_test_part(folder):
    write_csv(folder / "train.csv", TRAIN)


def empty_text(folder):
    write_csv(folder / "all.csv", [*TRAIN, (" ", "pay")])


def empty_label(folder):
    write_csv(folder / "all.csv", [*TRAIN, ("pay up", "")])


def no_label(folder):
    write_json(folder / "all.json", {"train": [*TRAIN, ("pay up", float("nan"))], "test": TEST})


def no_json(folder):
    (folder / "all.json").write_text("{")


def json_without_a_part(folder):
    write_json(folder / "all.json", {"train": TRAIN, "val": TEST})


def broken_zip(folder):
    (folder / "all.zip").write_bytes(b"PK no zip")


def zip_without_images(folder):
    write_zip(folder / "all.zip", [])


def one_class(folder):
    write_csv(folder / "all.csv", [(text, "pay") for text, _ in TRAIN])


def unknown_class(folder):
    write_csv(folder / "train.csv", TRAIN)
    write_csv(folder / "test.csv", [*TEST, ("what", "else")])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (bad_csv, "needs a column text or sentence or utterance, and has words, category"),
        (csv_in_another_encoding, "all.csv is not CSV in UTF-8"),
        (csv_without_an_end, "all.csv is not CSV in UTF-8: field larger than"),
        (json_in_another_encoding, "all.json is not JSON"),
        (no_test_part, "has a part 'train', and no part 'test'"),
        (empty_text, "entry 21 has no text or no label"),
        (empty_label, "entry 21 has no text or no label"),
        (no_label, "entry 21 has no text or no label"),
        (no_json, "is not JSON"),
        (json_without_a_part, "has no 'test', only train, val"),
        (broken_zip, "is not a whole zip file"),
        (zip_without_images, "has no images"),
        (one_class, "at least two classes, and has pay"),
        (unknown_class, "no training samples of its test class 'else'"),
    ],
)
def test_bad_files(tmp_path, write, message):
    write(tmp_path)
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        load(str(tmp_path))


def test_one_part_of_two_is_no_task(tmp_path):
    for part in ("train", "test"):
        write_folder(tmp_path / part, pictures(("a", "b"), 4, 1))
    for part in ("train", "test"):
        told = f"{tmp_path / part} is one part of a data set: give the folder that holds both, "
        with pytest.raises(ValueError, match=re.escape(told + str(tmp_path))):
            load(str(tmp_path / part))


def test_a_file_that_is_no_image_is_named(tmp_path):
    for part in ("train", "test"):
        write_folder(tmp_path / part, pictures(("a", "b"), 4, 1))
    (tmp_path / "train" / "a" / "0000.png").write_bytes(b"no image")
    found = load(str(tmp_path))
    told = r"0000\.png is not an image that can be read: its format is unknown$"
    with pytest.raises(ValueError, match=told):
        pixels(found.train.inputs[0])


def test_an_archive_with_a_broken_image_names_it(tmp_path):
    for part in ("train", "test"):
        write_zip(tmp_path / f"{part}.zip", pictures(("a", "b"), 4, 1))
    content = bytearray((tmp_path / "train.zip").read_bytes())
    content[60:90] = bytes(30)
    (tmp_path / "train.zip").write_bytes(content)
    found = load(str(tmp_path))
    with pytest.raises(ValueError, match=r"a/0000\.png is not an image that can be read"):
        pixels(found.train.inputs[0])


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ((["a", "b", "c"], ["x", "y"]), "has 3 training samples and 2 labels"),
        ((["a"], ["x"]), "at least two training samples, and has 1"),
        (([1.0, 2.0], ["x", "y"]), "must be texts, or images"),
        ((["a", np.zeros((4, 4, 3), np.uint8)], ["x", "y"]), "must be texts, or images"),
        (([np.zeros((4, 4), np.uint8)] * 2, ["x", "y"]), "must be texts, or images"),
    ],
)
def test_bad_samples(train, message):
    with pytest.raises(ValueError, match=message):
        task("t", train, (["a", "b"], ["x", "y"]))


def test_what_is_public_is_there():
    assert all(getattr(deep, name) is not None for name in deep.__all__)
    assert deep.load_network is not deep.load
