"""Batches of views with their labels, or of features, to train a classifier on.

They come in the order of `keras_bt.data.sampler`: a pure function of (seed, epoch, place in the
epoch).
"""

import numpy as np
import tensorflow as tf

from keras_bt.data.decoding import DataError
from keras_bt.data.pretraining import block_size, crop_function, join_blocks, rest_of_views
from keras_bt.data.sampler import Order
from keras_bt.data.sources import ArraySource, Source
from keras_bt.data.tfds import RecordSource

_PARALLEL = tf.data.AUTOTUNE


def labelled_views(
    source: Source,
    view,
    batch_size: int,
    seed: int,
    first_epoch: int = 0,
    image_size: int | None = None,
    compile_views: bool | None = None,
) -> tf.data.Dataset:
    """An endless stream of batches of one view of each image, with the labels.

    An epoch holds every image once and is always ⌈num_examples / batch_size⌉ steps. Its last batch
    may be shorter, and so is one with images that cannot be read: these are left out, and noted in
    `source.unreadable`. (Should a batch have no other images, it is left out itself.) Where more
    than 1% are unreadable the data set fails: read it inside `with keras_bt.data.reading(source)`
    to get the DataError that names them.

    An epoch is a permutation of its own, of all images; of tfds records that do not fit in memory
    it is what a shuffling buffer makes of them, see `RecordSource`.

    >>> train, _ = keras_bt.data.open_source("digits")
    >>> view = View([RandomResizedCrop(32, interpolation="bilinear"), RandomFlip(), Normalize()])
    >>> batches = labelled_views(train, view, 256, seed=0)
    >>> model.fit(batches, epochs=100, steps_per_epoch=6)   # ⌈1297 / 256⌉

    Args:
        source: The images, with one label each.
        view: As in `pretraining_views`.
        batch_size: Images per batch.
        seed: Of the order and the views, 0 to 2³¹ − 1.
        first_epoch: Number of epochs to leave out, which is free. What follows is what the whole
            run sees from there on.
        image_size: As in `pretraining_views`.
        compile_views: As in `pretraining_views`.

    Returns:
        Batches (images float32 (b, s, s, 3), labels int64 (b,)), b ≤ batch_size.

    Raises:
        DataError: batch_size < 1; no labels, or several per image; images of different sizes, but
            neither random crop nor image_size; more than 1% unreadable in a source that is cached.
        ValueError: seed or first_epoch is out of range.
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
    features, labels, batch_size: int, seed: int, first_epoch: int = 0
) -> tf.data.Dataset:
    """An endless stream of batches of features, in the order that `labelled_views` has.

    Args:
        features: (n, d), may be memory-mapped.
        labels: int (n,).
        batch_size: Features per batch; the last batch of an epoch may be shorter.
        seed: Of the order, 0 to 2³¹ − 1.
        first_epoch: Number of epochs to leave out.

    Returns:
        Batches (features float32 (b, d), labels int64 (b,)).

    Raises:
        DataError: batch_size < 1, or not one label per feature.
        ValueError: seed or first_epoch is out of range.
    """
    n, d = features.shape
    if np.shape(labels) != (n,):
        raise DataError(
            "There must be one label per feature. "
            f"Received: labels of shape {np.shape(labels)} for {n} features."
        )
    _check_batch_size(batch_size)
    run = _order(n, batch_size, seed, first_epoch)
    labels = np.asarray(labels, np.int64)

    def gathered(_, numbers):
        numbers = numbers[run.exists(numbers)]
        # In NumPy, which reads no more of a memory-mapped file than it must.
        batch = tf.numpy_function(
            lambda numbers: (features[numbers].astype(np.float32, copy=False), labels[numbers]),
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
    """From (seed of a block, epochs, numbers) to crops, labels and which of them there are."""

    def crops(seed, epochs, numbers):
        there, numbers = run.exists(numbers), tf.maximum(numbers, 0)
        images = source.batch(numbers)
        if view.crop is not None:
            images = view.crop({"images": images, "seed": seed})["images"]
        return images, source.label(numbers), there

    return crops


def _crops(run, source, view, image_size):
    """Data set of (crop, label, whether there is such an image)."""
    crop = crop_function(view, source, image_size)

    if isinstance(source, RecordSource):
        examples = run.records(source)
    else:
        examples = run.numbers(run.batch_size).unbatch()

    def cropped(epoch, number, *reference):
        # What only fills up a batch is treated like an image that cannot be read.
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
            "Images with one label each are needed here. "
            f"Received: {source.name}, which has {number}."
        )


def _check_batch_size(batch_size):
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1. Received: batch_size={batch_size}.")
