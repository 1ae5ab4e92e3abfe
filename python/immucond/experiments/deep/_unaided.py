"""What an attacker without any network learns of a task: no defence of one makes him pay more."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np

from ..._errors import extra
from .._units import Progress, silent
from ._task import Part, squared

with extra("sklearn"):  # not after minutes of work
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, RidgeClassifier
    from sklearn.pipeline import make_union

SIDE = 16  # of images: from more pixels a linear classifier learns less that holds
STEPS = 200  # at most; the accuracy stands still long before
STAGE = "without any network"


class Unaided(NamedTuple):
    """What plain classifiers of the samples themselves get of those held out.

    Attributes
    ----------
    accuracy : float
        By logistic regression.
    least_squares : float
        By least squares with a ridge, to compare the ceilings of leak profiles with.
    sees : str
        What of a sample they see.
    """

    accuracy: float
    least_squares: float
    sees: str

    def __str__(self) -> str:
        return (
            f"{self.accuracy:.1%} {STAGE} ({self.sees}, logistic regression; "
            f"{self.least_squares:.1%} by least squares)"
        )


def unaided(train: Part, held_out: Part, progress: Progress = silent) -> Unaided:
    """Classify texts by their words and characters (tf-idf), images by their pixels.

    With nothing to choose: a patient attacker gets more.
    """
    progress(STAGE, 0, 1)
    # What does well on texts and on images of any number, within a point or two.
    sees, C, ridge = ("tf-idf", 100.0, 3.0) if train.texts else ("pixels", 0.1, 30.0)
    see = _counted if train.texts else _flat
    X, X_test = see(train.inputs, held_out.inputs)

    def scored(model: Any) -> float:
        return float(model.fit(X, train.labels).score(X_test, held_out.labels))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        logistic = scored(LogisticRegression(C=C, max_iter=STEPS))
    found = Unaided(logistic, scored(RidgeClassifier(alpha=ridge, tol=0.01)), sees)
    progress(STAGE, 1, 1)
    return found


def _counted(*parts: Any) -> list[Any]:
    """Words, pairs of words and characters of texts, by the vocabulary of the first part."""
    vocabulary = make_union(*(
        TfidfVectorizer(
            analyzer=of, ngram_range=lengths, sublinear_tf=True,
            token_pattern=r"\w+|[^\w\s]" if of == "word" else None,  # no text is without a word
        )
        for of, lengths in (("word", (1, 2)), ("char_wb", (2, 5)))
    )).fit(parts[0])  # fmt: skip
    return [vocabulary.transform(part) for part in parts]


def _flat(*parts: Any) -> list[Any]:
    """Pixels of images, small, from 0 to 1."""
    return [
        np.stack([squared(image, SIDE).ravel() for image in part]).astype(np.float32) / 255.0
        for part in parts
    ]
