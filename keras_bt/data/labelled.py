"""Labeled views or features to train a classifier on, in the order of `keras_bt.data.sampler`."""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_bt.data.as_written import as_written
from keras_bt.data.decoding import DataError
from keras_bt.data.pipeline import SplitView, rest_of_views, view_batches
from keras_bt.data.sampler import Order
from keras_bt.data.sources import Integers, Source
from keras_bt.typing import Size


def labelled_views(
    source: Source,
    view: SplitView,
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
    image_size: Size | None = None,
    compile_views: bool | None = None,
) -> tf.data.Dataset:
    """Makes an endless stream of batches of one view of each image, with labels.

    An epoch holds every image once and takes ⌈num_examples / batch_size⌉ steps. Its last batch may
    be shorter, and so may batches with unreadable images: these are left out and recorded in
    `source.unreadable`. (A batch of nothing else is itself left out.) If more than 1% are
    unreadable, the data set fails: read it inside `with keras_bt.data.reading(source)`.

    Every epoch is a new permutation of all images; tfds records that do not fit in memory go
    through a shuffle buffer instead.

    Args:
        source: the images, with one label each.
        view: the view to make of each image.
        batch_size: images per batch.
        seed: seed of the order and the views, 0 to 2³¹ − 1.
        first_epoch: number of epochs to skip, at no cost.
        image_size: as in `pretraining_views`.
        compile_views: as in `pretraining_views`.

    Returns:
        Batches (images float32 (b, h, w, c), labels int64 (b,)), b ≤ batch_size.

    Raises:
        DataError: if batch_size < 1; as `check_labelled`; or images have different sizes, but
            there is neither random crop nor image_size.
        ValueError: if seed or first_epoch is out of range.

    Example:
        >>> from keras_bt.augmentations import RandomFlip, RandomResizedCrop, View
        >>> view = View([RandomResizedCrop(8), RandomFlip()])
        >>> batches = labelled_views(train, view, batch_size=5, seed=0)   # train: 12 images
        >>> [tuple(images.shape) for images, _ in batches.take(3)]   # one epoch
        [(5, 8, 8, 3), (5, 8, 8, 3), (2, 8, 8, 3)]
    """
    order = _order(source.num_examples, batch_size, seed, first_epoch)
    check_labelled(source)
    rest = rest_of_views((view,), compile_views)

    def finish(crops, labels, there, seeds):
        return *rest(crops, seeds), labels, there

    batches = view_batches(source, (view,), order, finish, image_size)
    there = batches.map(as_written(_only_those_there))
    return there.filter(as_written(lambda images, labels: tf.size(labels) > 0)).prefetch(2)


def check_labelled(source: Source) -> None:
    """Checks the images that `labelled_views` is given, and decodes what fits in memory.

    Raises:
        DataError: if there are no labels or several per image, or more than 1% of the images that
            fit in memory are unreadable.
    """
    if source.class_names is None or source.multilabel:
        number = "no labels" if source.class_names is None else "several labels per image"
        raise DataError(
            "Training a classifier requires images with one label each. "
            f"Received: {source.name}, which has {number}."
        )
    source.cached()


def labelled_features(
    features: np.ndarray, labels: Integers, batch_size: int, seed: int, first_epoch: int = 0
) -> tf.data.Dataset:
    """Makes an endless stream of batches of features, in the order of `labelled_views`.

    Args:
        features: (n, d), may be memory-mapped.
        labels: (n,).
        batch_size: features per batch; the last batch of an epoch may be shorter.
        seed: seed of the order, 0 to 2³¹ − 1.
        first_epoch: number of epochs to skip.

    Returns:
        Batches (features float32 (b, d), labels int64 (b,)).

    Raises:
        DataError: if batch_size < 1, or there is not one label per feature.
        ValueError: if seed or first_epoch is out of range.
    """
    n, d = features.shape
    if np.shape(labels) != (n,):
        raise DataError(
            "There must be one label per feature. "
            f"Received: labels of shape {np.shape(labels)} for {n} features."
        )
    order = _order(n, batch_size, seed, first_epoch)
    label_array = np.asarray(labels, np.int64)

    def gathered(_, numbers):
        numbers = numbers[order.exists(numbers)]
        # In NumPy, which reads no more of a memory-mapped file than it must.
        batch = tf.numpy_function(
            lambda n: (features[n].astype(np.float32, copy=False), label_array[n]),
            [numbers],
            (tf.float32, tf.int64),
            stateful=False,
        )
        return tf.ensure_shape(batch[0], [None, d]), tf.ensure_shape(batch[1], [None])

    numbers = order.numbers(batch_size)
    batches = numbers.map(as_written(gathered), tf.data.AUTOTUNE, deterministic=True)
    return batches.prefetch(2)


def _order(num_examples, batch_size, seed, first_epoch):
    if first_epoch < 0:
        raise ValueError(f"first_epoch must be at least 0. Received: first_epoch={first_epoch}.")
    order = Order(num_examples, batch_size, seed, keep_remainder=True)
    return dataclasses.replace(order, first_step=first_epoch * order.steps_per_epoch)


def _only_those_there(images, labels, there):
    images, labels = tf.cond(
        tf.reduce_all(there),
        lambda: (images, labels),
        lambda: (tf.boolean_mask(images, there), tf.boolean_mask(labels, there)),
    )
    return tf.ensure_shape(images, [None, *images.shape[1:]]), labels
