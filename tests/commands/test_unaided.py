"""What an attacker without any network gets: of words, of pixels, of what tells nothing."""

import numpy as np
import pytest

from immucond.experiments import deep


def _part(samples, labels):
    return deep.Part(samples, np.asarray(labels, dtype=np.int64))


def _halves(part):
    return part.parted(len(part.inputs) // 2)


def test_words_that_tell_the_class_are_enough():
    rng = np.random.default_rng(0)
    filler = ["the", "card", "was", "sent", "to", "my", "house", "again", "today", "please"]
    signs = ("refund", "pin", "rate")
    labels = rng.integers(3, size=120)
    texts = [" ".join([*rng.permutation(filler)[:5], signs[label]]) for label in labels]
    found = deep.unaided(*_halves(_part(texts, labels)))
    assert str(found) == (
        "100.0% without any network (tf-idf, logistic regression; 100.0% by least squares)"
    )


def test_pixels_that_tell_the_class_are_enough_at_any_size():
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=80)
    sizes = rng.integers(8, 40, size=(80, 2))
    images = [
        rng.integers(0, 60, size=(*size, 3), dtype=np.uint8) for size in sizes
    ]  # dark, with one bright half
    for image, label in zip(images, labels, strict=True):
        half = image.shape[1] // 2
        image[:, slice(half) if label else slice(half, None)] += 150
    found = deep.unaided(*_halves(_part(images, labels)))
    assert found == (1.0, 1.0, "pixels")


@pytest.mark.parametrize("kind", ["texts", "images"])
def test_what_tells_nothing_gives_a_guess(kind):
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=400)
    samples = (
        [" ".join(map(str, rng.integers(50, size=6))) for _ in labels]
        if kind == "texts"
        else list(rng.integers(256, size=(400, 8, 8, 3), dtype=np.uint8))
    )
    for accuracy in deep.unaided(*_halves(_part(samples, labels)))[:2]:
        assert abs(accuracy - 0.5) < 4 * np.sqrt(0.25 / 200)  # four standard errors


def test_texts_without_a_letter_are_read_too():
    labels = np.arange(40) % 2
    texts = ["!!" if label else "? ." for label in labels]
    assert deep.unaided(*_halves(_part(texts, labels))).accuracy == 1.0
    one_letter = ["a" if label else "b" for label in labels]
    assert deep.unaided(*_halves(_part(one_letter, labels))).accuracy == 1.0


def test_steps_are_told():
    part = _part(["one", "two"] * 4, [0, 1] * 4)
    told = []
    deep.unaided(part, part, lambda *step: told.append(step))
    assert told == [("without any network", 0, 1), ("without any network", 1, 1)]
