"""Labelled images to fit a probe on, and others to measure it on."""

import numpy as np


def labelled_halves(train, test, seed):
    """The labelled sources to fit and to measure on.

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
        return train, test, f"the test set, {test.num_examples:,} images"
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
