"""A classification task: texts or images with their classes."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..._errors import extra

# A decoder is found by content, not by name, and some start programs: EPS does.
_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "WEBP")

Kind = Literal["text", "image"]
Labels = npt.NDArray[np.int64]
Samples = tuple[list[Any], list[str]]


@dataclass(frozen=True, eq=False)
class ImageFile:
    """An image in a file or in an archive, read when it is looked at.

    Attributes
    ----------
    name : str
        Of the file, for messages.
    stamp : str
        What changes with its content.
    read : callable
        Returns its bytes.
    """

    name: str
    stamp: str
    read: Callable[[], bytes]


@dataclass(frozen=True, eq=False)
class Part:
    """Samples with their classes.

    Attributes
    ----------
    inputs : sequence of str, or of `ImageFile` or (height, width, 3) arrays of bytes
    labels : (N,) array
        Places of their classes among those of the task.
    """

    inputs: Sequence[Any]
    labels: Labels

    @property
    def texts(self) -> bool:
        """Whether the samples are texts."""
        return isinstance(self.inputs[0], str)

    def some(self, size: int | None, seed: int) -> Part:
        """Return as many samples drawn at random, in their order; all where there are no more."""
        if size is None or size >= len(self.inputs):
            return self
        return self._at(np.random.default_rng(seed).permutation(len(self.inputs))[:size])

    def parted(self, first: int) -> tuple[Part, Part]:
        """Part in two at random, so many samples in the first: no sample is in both."""
        order = np.random.default_rng(1).permutation(len(self.inputs))
        return self._at(order[:first]), self._at(order[first:])

    def _at(self, places: Labels) -> Part:
        chosen = np.sort(places)
        return Part([self.inputs[i] for i in chosen], self.labels[chosen])


@dataclass(frozen=True, eq=False)
class Task:
    """Texts or images in classes.

    Attributes
    ----------
    name : str
        As it was asked for.
    kind : {"text", "image"}
    train, test : Part
        Samples to train on and those held out.
    classes : tuple of str
    """

    name: str
    kind: Kind
    train: Part
    test: Part
    classes: tuple[str, ...]

    def subset(self, train: int | None, test: int | None, seed: int = 0) -> Task:
        """Return the task with fewer samples."""
        return Task(
            self.name, self.kind, self.train.some(train, seed), self.test.some(test, seed),
            self.classes,
        )  # fmt: skip

    @property
    def fingerprint(self) -> str:
        """Of all samples and classes."""
        digest = hashlib.sha256(repr((self.kind, self.classes)).encode())
        for part in (self.train, self.test):
            digest.update(part.labels.tobytes())
            for sample in part.inputs:
                digest.update(_content(sample) + b"\0")
        return digest.hexdigest()[:16]


def task(
    name: str,
    train: tuple[Sequence[Any], Sequence[str]],
    test: tuple[Sequence[Any], Sequence[str]],
) -> Task:
    """Return a task from samples and names of their classes.

    Raises
    ------
    ValueError
        For no samples, samples and labels that differ in number, other samples than texts and
        images, fewer than two classes, or a class without training samples.
    """
    for (inputs, labels), what in ((train, "training"), (test, "test")):
        if len(inputs) != len(labels):
            raise ValueError(f"{name} has {len(inputs)} {what} samples and {len(labels)} labels")
        if len(inputs) < 2:
            raise ValueError(f"{name} needs at least two {what} samples, and has {len(inputs)}")
    kinds = {_kind(sample) for inputs, _ in (train, test) for sample in inputs}
    if len(kinds) != 1 or None in kinds:
        raise ValueError(
            f"the samples of {name} must be texts, or images as (height, width, 3) arrays of bytes"
        )
    classes = tuple(sorted(set(map(str, train[1]))))
    if len(classes) < 2:
        raise ValueError(f"{name} needs at least two classes, and has {', '.join(classes)}")
    places = {label: place for place, label in enumerate(classes)}
    unknown = sorted(set(map(str, test[1])) - set(classes))
    if unknown:
        raise ValueError(f"{name} has no training samples of its test class {unknown[0]!r}")
    first, second = (
        Part(inputs, np.array([places[str(label)] for label in labels], dtype=np.int64))
        for inputs, labels in (train, test)
    )
    kind: Kind = "text" if "text" in kinds else "image"
    return Task(name, kind, first, second, classes)


def pixels(sample: Any) -> npt.NDArray[np.uint8]:
    """Return an image as a (height, width, 3) array, decoded where it is a file.

    Raises
    ------
    ValueError
        For a file that is no image.
    """
    if not isinstance(sample, ImageFile):
        array: npt.NDArray[np.uint8] = sample
        return array
    with extra("deep"):
        from PIL import Image, UnidentifiedImageError
    try:
        with Image.open(io.BytesIO(sample.read()), formats=_FORMATS) as image:
            return np.asarray(image.convert("RGB"), dtype=np.uint8)
    except Exception as error:  # archives and decoders raise errors of many kinds
        reason = "its format is unknown" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(f"{sample.name} is not an image that can be read: {reason}") from error


def squared(sample: Any, side: int) -> npt.NDArray[np.uint8]:
    """Return an image as a (side, side, 3) array.

    Raises
    ------
    ValueError
        As `pixels`.
    """
    image = pixels(sample)
    if image.shape[:2] == (side, side):
        return image
    from PIL import Image

    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR))


def _content(sample: Any) -> bytes:
    if isinstance(sample, ImageFile):
        sample = sample.stamp
    return sample.encode() if isinstance(sample, str) else bytes(sample.tobytes())


def _kind(sample: Any) -> Kind | None:
    if isinstance(sample, str):
        return "text"
    if isinstance(sample, ImageFile):
        return "image"
    image = isinstance(sample, np.ndarray) and sample.dtype == np.uint8 and sample.ndim == 3
    return "image" if image and sample.shape[2] == 3 else None
