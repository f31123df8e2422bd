"""Batches of views or of features, with labels, to train a classifier on.

They come in the order of `keras_bt.data.sampler`: a pure function of (seed, epoch, place in the
epoch).
"""

import numpy as np
import tensorflow as tf

from keras_bt.data.decoding import DataError
from keras_bt.data.pretraining import (
    SplitView,
    block_size,
    crop_function,
    join_blocks,
    rest_of_views,
)
from keras_bt.data.sampler import Order
from keras_bt.data.sources import ArraySource, Integers, Source
from keras_bt.data.tfds import RecordSource

_PARALLEL = tf.data.AUTOTUNE


def labelled_views(
    source: Source,
    view: SplitView,
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
    image_size: int | None = None,
    compile_views: bool | None = None,
) -> tf.data.Dataset:
    """Makes an endless stream of batches of one view of each image, with labels.

    An epoch holds every image once and always takes ⌈num_examples / batch_size⌉ steps. Its last
    batch may be shorter, and so may batches with unreadable images: these are left out and
    recorded in `source.unreadable`. (A batch with no other images is itself left out.) If more
    than 1% are unreadable, the data set fails: read it inside `with keras_bt.data.reading(source)`
    to get the DataError that names them.

    Every epoch is a new permutation of all images; tfds records that do not fit in memory go
    through a shuffle buffer instead, see `RecordSource`.

    Args:
        source: The images, with one label each.
        view: The view to make of each image.
        batch_size: Images per batch.
        seed: Seed of the order and the views, 0 to 2³¹ − 1.
        first_epoch: Number of epochs to skip, at no cost. What follows is what the whole run sees
            from there on.
        image_size: As in `pretraining_views`.
        compile_views: As in `pretraining_views`.

    Returns:
        Batches (images float32 (b, s, s, 3), labels int64 (b,)), b ≤ batch_size.

    Raises:
        DataError: batch_size < 1; no labels, or several per image; images of different sizes, but
            neither random crop nor image_size; more than 1% unreadable in a cached source.
        ValueError: seed or first_epoch is out of range.

    Example:
        >>> from keras_bt.augmentations import RandomFlip, RandomResizedCrop, View
        >>> view = View([RandomResizedCrop(8), RandomFlip()])
        >>> batches = labelled_views(train, view, batch_size=5, seed=0)   # train: 12 images
        >>> [tuple(images.shape) for images, _ in batches.take(3)]   # one epoch
        [(5, 8, 8, 3), (5, 8, 8, 3), (2, 8, 8, 3)]
    """
    _check(source, batch_size)
    run = _order(source.num_examples, batch_size, seed, first_epoch)
    source = source.cached()
    if isinstance(source, ArraySource) and source.is_small:
        block = block_size(run, source.image_shape)
        examples, crop = run.numbers(block), _batch_crops(run, source, view)
    else:
        crops = _crops(run, source, view, image_size)
        block = block_size(run, crops.element_spec[0].shape)
        examples = crops.batch(block, drop_remainder=True, num_parallel_calls=_PARALLEL)

        def crop(seed, *examples):
            return examples

    rest = rest_of_views((view,), compile_views)

    def finished(seed, examples):
        images, labels, there = crop(seed, *examples)
        return *rest(images, seed), labels, there

    blocks = tf.data.Dataset.zip(run.block_seeds(block), examples).map(finished, _PARALLEL)
    batches = join_blocks(blocks, batch_size // block).map(_only_those_there)
    if not isinstance(source, ArraySource):  # where every image can be read no batch is empty
        batches = batches.filter(lambda images, labels: tf.size(labels) > 0)
    options = tf.data.Options()
    options.deterministic = True
    return batches.prefetch(2).with_options(options)


def labelled_features(
    features: np.ndarray, labels: Integers, batch_size: int, seed: int, first_epoch: int = 0
) -> tf.data.Dataset:
    """Makes an endless stream of batches of features, in the order of `labelled_views`.

    Args:
        features: (n, d), may be memory-mapped.
        labels: (n,).
        batch_size: Features per batch; the last batch of an epoch may be shorter.
        seed: Seed of the order, 0 to 2³¹ − 1.
        first_epoch: Number of epochs to skip.

    Returns:
        Batches (features float32 (b, d), labels int64 (b,)).

    Raises:
        DataError: batch_size < 1, or not one label per feature.
        ValueError: seed or first_epoch is out of range.

    Example:
        >>> for batch in labelled_features(features, labels, batch_size=8, seed=0).take(2):
        ...     print(batch[0].shape, batch[1].numpy())   # of 12 features
        (8, 16) [1 1 1 0 1 0 2 0]
        (4, 16) [2 2 0 2]
    """
    n, d = features.shape
    if np.shape(labels) != (n,):
        raise DataError(
            "There must be one label per feature. "
            f"Received: labels of shape {np.shape(labels)} for {n} features."
        )
    _check_batch_size(batch_size)
    run = _order(n, batch_size, seed, first_epoch)
    label_array = np.asarray(labels, np.int64)

    def gathered(_, numbers):
        numbers = numbers[run.exists(numbers)]
        # In NumPy, which reads no more of a memory-mapped file than it must.
        batch = tf.numpy_function(
            lambda n: (features[n].astype(np.float32, copy=False), label_array[n]),
            [numbers],
            (tf.float32, tf.int64),
            stateful=False,
        )
        return tf.ensure_shape(batch[0], [None, d]), tf.ensure_shape(batch[1], [None])

    return run.numbers(batch_size).map(gathered, _PARALLEL, deterministic=True).prefetch(2)


def _order(num_examples, batch_size, seed, first_epoch):
    if first_epoch < 0:
        raise ValueError(f"first_epoch must be at least 0. Received: first_epoch={first_epoch}.")
    order = Order(num_examples, batch_size, seed, keep_remainder=True)
    first_step = first_epoch * order.steps_per_epoch
    return Order(num_examples, batch_size, seed, first_step, keep_remainder=True)


def _batch_crops(run, source, view):
    """Returns a function: seed of a block, epochs, numbers → crops, labels, which of them exist."""

    def crops(seed, epochs, numbers):
        there, numbers = run.exists(numbers), tf.maximum(numbers, 0)
        images = source.batch(numbers)
        if view.crop is not None:
            images = view.crop({"images": images, "seed": seed})["images"]
        return images, source.label(numbers), there

    return crops


def _crops(run, source, view, image_size):
    """Returns a data set of (crop, label, whether there is such an image)."""
    crop = crop_function(view, source, image_size)

    if isinstance(source, RecordSource):
        examples = run.records(source)
    else:
        examples = run.numbers(run.batch_size).unbatch()

    def cropped(epoch, number, *reference):
        # A number that only fills up a batch is treated like an unreadable image.
        image, readable, label = tf.cond(
            run.exists(number),
            lambda: source.decode(*(reference or (number,))),
            lambda: (tf.zeros([1, 1, 3], tf.uint8), False, tf.constant(-1, tf.int64)),
        )
        image = tf.ensure_shape(image, [None, None, 3])
        return crop(image, readable, run.draw(epoch, number)), label, readable

    return examples.map(cropped, _PARALLEL)


def _only_those_there(images, labels, there):
    def without_the_others():
        kept = tf.where(there)[:, 0]
        return tf.gather(images, kept), tf.gather(labels, kept)

    images, labels = tf.cond(tf.reduce_all(there), lambda: (images, labels), without_the_others)
    return tf.ensure_shape(images, [None, *images.shape[1:]]), labels


def _check(source, batch_size):
    _check_batch_size(batch_size)
    if source.class_names is None or getattr(source, "multilabel", False):
        number = "no labels" if source.class_names is None else "several labels per image"
        raise DataError(
            "Training a classifier requires images with one label each. "
            f"Received: {source.name}, which has {number}."
        )


def _check_batch_size(batch_size):
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1. Received: batch_size={batch_size}.")
