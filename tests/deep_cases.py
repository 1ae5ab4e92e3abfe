"""Tiny networks and data sets in the formats of real ones."""

import csv
import io
import json
import zipfile

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra torch is not installed")
transformers = pytest.importorskip("transformers", reason="the extra deep is not installed")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

WORDS = {
    "greet": "hello hi dear morning evening",
    "pay": "money bank card pay transfer",
    "travel": "train plane ticket hotel city",
    "cook": "salt bread oven soup recipe",
}
FILLING = "please now the a my in of"


def sentences(classes, count, seed):
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        label = classes[number % len(classes)]
        words = [*rng.choice(WORDS[label].split(), 3), *rng.choice(FILLING.split(), 3)]
        rows.append((" ".join(rng.permutation(words)), label))
    return rows


def encoder_folder(folder, width=16):
    """A BERT of two layers with a vocabulary of the words above."""
    words = " ".join([*WORDS.values(), FILLING]).split()
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *words]))
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words) + 4,
        hidden_size=width,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        initializer_range=0.3,
    )
    transformers.BertModel(config).save_pretrained(folder)
    return folder


def decoder_folder(folder):
    """A GPT-2 of two layers, whose tokenizer knows no padding."""
    encoder_folder(folder)
    tokenizer = transformers.BertTokenizer.from_pretrained(folder)
    size = len(tokenizer)
    plain = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="[SEP]", unk_token="[UNK]"
    )
    plain.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=size, n_embd=16, n_layer=2, n_head=2, n_positions=32, initializer_range=0.3
    )
    transformers.GPT2Model(config).save_pretrained(folder)
    return folder


def vit_folder(folder, classes=("circle", "square")):
    """A ViT of two blocks for 8 x 8 images."""
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
        initializer_range=0.3,
        id2label=dict(enumerate(classes)),
        label2id={label: place for place, label in enumerate(classes)},
    )
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    return folder


def write_csv(path, rows, header=("text", "category")):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_json(path, parts):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({name: [[*row] for row in rows] for name, rows in parts.items()}))


def pictures(classes, count, seed, side=8):
    """Images that differ by class, as (class, pixels)."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        place = number % len(classes)
        image = rng.integers(0, 120, size=(side, side, 3))
        image[:, : 2 + 2 * place] += 100
        rows.append((classes[place], image.astype(np.uint8)))
    return rows


def encoded(image):
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def write_zip(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for number, (label, image) in enumerate(rows):
            archive.writestr(f"{label}/{number:04d}.png", encoded(image))


def write_folder(path, rows):
    for number, (label, image) in enumerate(rows):
        (path / label).mkdir(parents=True, exist_ok=True)
        (path / label / f"{number:04d}.png").write_bytes(encoded(image))


def resnet_folder(folder, classes=("circle", "square")):
    """A residual network of two stages, with batch norms."""
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=4,
        hidden_sizes=[6, 8],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(classes)),
        label2id={label: place for place, label in enumerate(classes)},
    )
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    return folder


def release_folder(folder):
    """Networks that read texts and images, and two tasks of each, for commands on a release."""
    encoder_folder(folder / "encoder")
    resnet_folder(folder / "resnet")
    for name, classes in (("texts", ("greet", "pay")), ("others", ("travel", "cook"))):
        for part, count in (("train", 48), ("test", 24)):
            write_csv(folder / name / f"{part}.csv", sentences(classes, count, count))
    for name, classes in (("shapes", ("circle", "square")), ("marks", ("a", "b"))):
        for part, count in (("train", 40), ("test", 20)):
            write_zip(folder / name / f"{part}.zip", pictures(classes, count, count))
    return folder


def reading(task):
    """How a task of `release_folder` is read: its texts are short."""
    return [] if task in ("shapes", "marks") else ["--max-length", "10"]
