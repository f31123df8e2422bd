"""Subsets of a data set's labels for the semi-supervised protocol, class-balanced and seeded."""

import re
from collections.abc import Sequence

import numpy as np

from keras_bt.data.decoding import DataError
from keras_bt.data.sources import Integers, Source


def balanced_indices(labels: Integers, per_class: int, seed: int | Sequence[int]) -> np.ndarray:
    """Draws the same number of examples of every class, e.g. for `source.subset`.

    Args:
        labels: (n,).
        per_class: how many of each class that occurs.
        seed: seed of the draw; one integer or several, such as (seed, number of the draw).

    Returns:
        int64 (classes · per_class,), sorted.

    Raises:
        DataError: if per_class < 1, or a class has fewer examples.

    Example:
        >>> chosen = balanced_indices([7, 7, 7, 9, 9, 9], per_class=2, seed=0)
        >>> np.array([7, 7, 7, 9, 9, 9])[chosen]
        array([7, 7, 9, 9])
    """
    labels = np.asarray(labels)
    if per_class < 1:
        raise DataError(f"Labels per class must be at least 1. Received: {per_class}.")
    classes, counts = np.unique(labels, return_counts=True)
    if (counts < per_class).any():
        smallest = counts.argmin()
        raise DataError(
            "Every class must have at least as many training images as labels to draw. "
            f"Received: {counts[smallest]} of class {classes[smallest]}, {per_class} wanted."
        )
    return _draw(labels, classes, per_class, seed)


def subset_indices(labels: Integers, wanted: str, seed: int | Sequence[int]) -> np.ndarray:
    """Draws a class-balanced subset of a data set.

    The same number is drawn from each class: ⌊N / classes⌋ for N images in all, but at least one,
    and all images of a class that has fewer. `100%` means all images, balanced or not.

    Args:
        labels: (n,); values below 0 mean no label and are never drawn.
        wanted: a share such as `1%` or a number of images N such as `600`.
        seed: as in `balanced_indices`.

    Returns:
        int64, sorted.

    Raises:
        DataError: if `wanted` is neither, or is zero or more than all images, or images have
            several labels each.
    """
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise DataError(
            "A subset of the labels is drawn class by class and needs one label per image. "
            "Received: several labels per image."
        )
    number = _number(wanted, len(labels))
    if number == len(labels):
        return np.flatnonzero(labels >= 0)
    classes = np.unique(labels[labels >= 0])
    if not len(classes):
        raise DataError("A subset of the labels needs labeled images. Received: none.")
    return _draw(labels, classes, max(1, number // len(classes)), seed)


def labelled_subset(source: Source, labels: str, seed: int) -> Source:
    """Draws a class-balanced subset of a labeled source, see `subset_indices`.

    Args:
        source: the images, with one label each.
        labels: a share such as `1%` or a number of images such as `600`; `100%` returns `source`.
        seed: seed of the draw.

    Returns:
        The images drawn, in the order of the source.

    Raises:
        DataError: if the source has no labels, or as in `subset_indices`.

    Example:
        >>> train, _ = keras_bt.data.open_source("digits")
        >>> keras_bt.data.labelled_subset(train, "10%", seed=0).num_examples   # 13 of each class
        130
    """
    if _number(labels, source.num_examples) == source.num_examples:
        return source
    return source.subset(subset_indices(source.labels(), labels, seed))


def _number(wanted, total):
    """Converts a share, rounded, or a number of images to a number of images."""
    rule = "labels must be a share such as 1% or a number of images such as 600"
    text = str(wanted).strip()
    if not re.fullmatch(r"\d+(\.\d+)?%|\d+", text):
        raise DataError(f"{rule}. Received: labels={wanted}.")
    share = float(text[:-1]) / 100 if text.endswith("%") else int(text) / total
    number = round(share * total)
    if number == 0:
        raise DataError(f"{rule}, not of 0 images. Received: labels={wanted}.")
    if share > 1:
        raise DataError(f"{rule}, here of {total} at most. Received: labels={wanted}.")
    return number


def _draw(labels, classes, per_class, seed):
    random = np.random.default_rng(seed)
    chosen = [random.permutation(np.flatnonzero(labels == c))[:per_class] for c in classes]
    return np.sort(np.concatenate(chosen))
