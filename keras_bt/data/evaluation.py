"""Batches for evaluation: every image once, resized and cropped as a network is to see it."""

import contextlib

import numpy as np
import tensorflow as tf

from keras_bt.data.decoding import DataError
from keras_bt.data.sources import ArraySource, Source
from keras_bt.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    center_crop,
    default_resize,
    normalize,
)


def evaluation_resize(source: Source, image_size: int) -> int:
    """The length that evaluation gives to an image's shorter side before it cuts out the center.

    Args:
        source: The images.
        image_size: Side of the center crop.

    Returns:
        image_size · 256/224; for data sets whose images are all alike and no larger than image_size
        (digits, MNIST, CIFAR) image_size, as nothing can be cropped there without loss.
    """
    small = source.image_shape is not None and min(source.image_shape[:2]) <= image_size
    return image_size if small else default_resize(image_size)


def evaluation_batches(
    source: Source,
    image_size: int,
    batch_size: int,
    resize: int | None = None,
    mean=IMAGENET_MEAN,
    std=IMAGENET_STD,
) -> tf.data.Dataset:
    """All readable images of a source once, in its order, as a network is to see them.

    Args:
        source: The images.
        image_size: Side of the images to make.
        batch_size: Images per batch; the last batch may be shorter.
        resize: Length of the shorter side before the center crop; by default
            `evaluation_resize(source, image_size)`.
        mean: Of each channel, see `normalize`.
        std: Of each channel, see `normalize`.

    Returns:
        Batches (images float32 (b, image_size, image_size, 3), labels int64 (b,)); the labels
        are -1 where there are none, and (b, classes) where the source is `multilabel`.

    Raises:
        DataError: batch_size < 1, or more than 1% of a source that is cached are unreadable.
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1. Received: batch_size={batch_size}.")
    if resize is None:
        resize = evaluation_resize(source, image_size)

    def prepared(images):
        return normalize(center_crop(images, image_size, resize), mean, std)

    source = source.cached()
    if isinstance(source, ArraySource) and source.is_small:
        numbers = source.in_order().batch(batch_size)
        batches = numbers.map(
            lambda numbers: (prepared(source.batch(numbers)), source.label(numbers)),
            tf.data.AUTOTUNE,
            deterministic=True,
        )
    else:

        def example(*reference):
            image, readable, label = source.decode(*reference)
            return prepared(image), label, readable

        examples = source.in_order().map(example, tf.data.AUTOTUNE, deterministic=True)
        readable = examples.filter(lambda image, label, readable: readable)
        batches = readable.map(lambda image, label, readable: (image, label)).batch(batch_size)
    return batches.prefetch(tf.data.AUTOTUNE)


def raw_pixels(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """The pixels themselves, a baseline for features.

    Args:
        source: The images.

    Returns:
        pixels: float32 (n, h · w · c), 0..1: of images in memory and small, every pixel; of
            others, resized to 32 × 32 and without those that cannot be read.
        labels: int64 (n,), -1 without labels.
    """
    if isinstance(source, ArraySource) and source.is_small:
        pixels = source.images.astype(np.float32) / 255
        return pixels.reshape(len(pixels), -1), source.label(np.arange(len(pixels))).numpy()
    batches = evaluation_batches(source, 32, 256, resize=32, mean=(0, 0, 0), std=(1, 1, 1))
    pixels, labels = zip(*batches.as_numpy_iterator(), strict=True)
    return np.concatenate(pixels).reshape(-1, 32 * 32 * 3), np.concatenate(labels)


@contextlib.contextmanager
def reading(*sources: Source):
    """Turns the failure of a data set with too many unreadable images into a DataError.

    TensorFlow reports an error inside a data set as its own; this gives the user's.

    Args:
        *sources: Whose images are read inside the `with` statement.

    Example:
        >>> with reading(train):
        ...     model.fit(views)
    """
    try:
        yield
    except tf.errors.OpError as error:
        for source in sources:
            try:
                source.unreadable.check()
            except DataError as data_error:
                raise data_error from error
        raise
