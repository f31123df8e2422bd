"""Labeled images to fit a probe on, and others to measure it on."""

import re

import numpy as np

from keras_bt import data


def labelled_halves(train, test, seed):
    """The labeled sources to fit and to measure on.

    Args:
        train: `keras_bt.data.Source`.
        test: likewise, or None: then a fifth of `train` is held out.
        seed: int, of the choice of that fifth.

    Returns:
        (train, test, what is measured on in words), or (None, None, why nothing can be measured).
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
        f"{len(held_out):,} of the training images, for there is no test set: held out from the "
        "probes, but not from pretraining"
    )
    return train.subset(rest), train.subset(held_out), where


def labelled_part(subject, labels, seed, data_dir):
    """The images to train on.

    Args:
        subject: `trainers.cli.subject.Subject`.
        labels: a share such as "1%" or a number of images.
        seed: int, of the draw.
        data_dir: where the data sets of tfds lie, or None.

    Returns:
        A `keras_bt.data.Source`: of ImageNet, for 1% and 10%, the official subset; else as many
        images of each class, drawn from `subject.train`.

    Raises:
        ValueError: there is no such part, or images have several labels.
    """
    if subject.train.multilabel:
        raise ValueError(
            "Training a classifier needs images with one label each. "
            f"Received: {subject.data}, whose images have several."
        )
    official = {"1%": "1pct", "10%": "10pct"}.get(labels)
    if official and re.fullmatch(r"tfds:imagenet2012(:[\d.*]+)?(:train)?", subject.data):
        return data.open_source(f"tfds:imagenet2012_subset/{official}", data_dir)[0]
    share = re.fullmatch(r"(\d+(?:\.\d+)?)%", labels)
    if share and float(share[1]) / 100 * subject.train.num_examples < 0.5:
        raise ValueError(
            "labels must be at least one image. "
            f"Received: --labels={labels} of {subject.train.num_examples:,} images."
        )
    return data.labelled_subset(subject.train, labels, seed)
