"""Labeled images to fit a probe on and others to measure it on."""

import re

import numpy as np

from keras_bt import data
from trainers.runs.opening import open_data


def labelled_halves(train, test, seed):
    """Chooses the labeled sources to fit on and to measure on.

    If `test` is None, a fifth of `train` is held out, which the seed determines.

    Returns:
        (train, test, description of `test`), or (None, None, why nothing can be measured).
    """
    if train.class_names is None or (test is not None and test.class_names is None):
        return None, None, "not measured: the images have no labels"
    if test is not None:
        return train, test, f"{test.role}, {test.num_examples:,} images"
    labels = train.labels()
    order = np.random.RandomState(seed).permutation(len(labels))
    held_out, rest = np.sort(order[: len(order) // 5]), np.sort(order[len(order) // 5 :])
    if len(np.unique(labels[rest])) < 2 or not len(held_out):
        return None, None, "not measured: too few images or only one class"
    where = (
        f"{len(held_out):,} of the training images, as there is no test set: held out from the "
        "probes, but not from pretraining"
    )
    return train.subset(rest), train.subset(held_out), where


def labelled_part(subject, settings):
    """Chooses the images to train a classifier on.

    Returns:
        A `keras_bt.data.Source`: the official subset for 1% and 10% of ImageNet, otherwise the same
        number of images from each class, drawn from `subject.train`.

    Raises:
        ValueError: if there is no such part.
    """
    official = {"1%": "1pct", "10%": "10pct"}.get(settings.labels)
    if official and re.fullmatch(r"tfds:imagenet2012(:[\d.*]+)?(:train)?", subject.data):
        return open_data(f"tfds:imagenet2012_subset/{official}", settings, subject.reading)[0]
    return data.labelled_subset(subject.train, settings.labels, settings.seed)
