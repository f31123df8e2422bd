"""Batches for evaluation: every image once, resized and center-cropped for the network."""

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import tensorflow as tf

from keras_bt.data.as_written import as_written
from keras_bt.data.decoding import DataError
from keras_bt.data.looking import sizes
from keras_bt.data.sources import Source
from keras_bt.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    center_crop,
    check_channels,
    default_resize,
    height_and_width,
    normalization,
    normalize,
)
from keras_bt.typing import Size


def evaluation_resize(source: Source, image_size: Size) -> int:
    """Returns the `resize` with which evaluation crops the center, see `center_crop`.

    Args:
        source: the images.
        image_size: (height, width) of the center crop in pixels, or one int for both.

    Returns:
        256/224 of the crop's shorter side, but that side itself for data sets whose images all have
        one size, no larger than the crop in height or width (digits, MNIST, CIFAR): more would lose
        part of their content. Where files do not fit in memory, a sample of them is looked at.

    Example:
        >>> evaluation_resize(test, 14), evaluation_resize(test, 16)   # images of 16 × 16
        (16, 16)
    """
    # Of files, it takes a look to know.
    shapes = {source.image_shape[:2]} if source.image_shape else sizes(source)
    height, width = height_and_width(image_size)
    small = len(shapes) == 1 and all(h <= height or w <= width for h, w in shapes)
    return min(height, width) if small else default_resize(image_size)


def evaluation_batches(
    source: Source,
    image_size: Size,
    batch_size: int,
    resize: int | None = None,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    keys: bool = False,
    start: int | None = None,
) -> tf.data.Dataset:
    """Makes batches of all readable images of a source, each once and in order, for a network.

    Args:
        source: the images.
        image_size: (height, width) of the resulting images in pixels, or one int for both.
        batch_size: images per batch; the last batch may be shorter.
        resize: see `center_crop`; by default `evaluation_resize(source, image_size)`.
        mean: of each channel, see `normalize`.
        std: of each channel, see `normalize`.
        keys: whether each batch has a third part, what `source.names` takes to name the images.
        start: number of the first image in the source, of which those before are left out. If
            given, each batch has a last part, the numbers of its images, int64 (b,).

    Returns:
        Batches (images float32 (b, height, width, c), labels int64 (b,)); the labels
        are -1 without labels, and (b, classes) if the source is `multilabel`. With `keys`, batches
        (images, labels, keys int64 or string (b,)).

    Raises:
        DataError: if batch_size < 1, or more than 1% of a cached source is unreadable.
        ValueError: if there is not one mean and one deviation per channel, or resize is too small.

    Example:
        >>> for batch in evaluation_batches(test, image_size=32, batch_size=8):   # 12 images
        ...     print(batch[0].shape, batch[1].numpy())
        (8, 32, 32, 3) [0 1 2 0 1 2 0 1]
        (4, 32, 32, 3) [2 0 1 2]
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1. Received: batch_size={batch_size}.")
    check_channels(source.channels, mean, std)
    if resize is None:
        resize = evaluation_resize(source, image_size)

    def prepared(images):
        return normalize(center_crop(images, image_size, resize), mean, std)

    def parts(image, label, key, number):
        return (image, label, *[key] * keys, *[number] * (start is not None))

    source = source.cached()
    if source.is_small:
        numbers = source.in_order().skip(start or 0).batch(batch_size)
        batches = numbers.map(
            as_written(
                lambda numbers: parts(
                    prepared(source.batch(numbers)), source.label(numbers), numbers, numbers
                )
            ),
            tf.data.AUTOTUNE,
            deterministic=True,
        )
    else:

        def example(number, reference):
            reference = reference if isinstance(reference, tuple) else (reference,)
            image, readable, label = source.decode(*reference)
            return readable, *parts(prepared(image), label, source.key(*reference), number)

        numbered = source.in_order().enumerate().skip(start or 0)
        examples = numbered.map(as_written(example), tf.data.AUTOTUNE, deterministic=True)
        readable = examples.filter(as_written(lambda readable, *parts: readable))
        batches = readable.map(as_written(lambda readable, *parts: parts)).batch(batch_size)
    return batches.prefetch(tf.data.AUTOTUNE)


def raw_pixels(source: Source) -> tuple[np.ndarray, np.ndarray]:
    """Returns the pixels themselves, a baseline for features.

    Args:
        source: the images.

    Returns:
        pixels: float32 (n, h · w · c) in 0..1: every pixel of small images in memory; otherwise
            those of the readable images, resized to 32 × 32.
        labels: int64 (n,), -1 without labels.
    """
    if source.is_small:
        pixels = source.images.astype(np.float32) / 255
        return pixels.reshape(len(pixels), -1), source.label(np.arange(len(pixels))).numpy()
    batches = evaluation_batches(source, 32, 256, 32, *normalization("none", source.channels))
    images, labels = zip(*batches.as_numpy_iterator(), strict=True)
    pixels = np.concatenate(images)
    return pixels.reshape(len(pixels), -1), np.concatenate(labels)


@contextlib.contextmanager
def reading(*sources: Source) -> Iterator[None]:
    """Turns the failure of a data set with too many unreadable images into a DataError.

    TensorFlow reports an error inside a data set as its own; this restores the DataError.

    Args:
        *sources: the sources that are read inside the `with` statement.

    Raises:
        DataError: if more than 1% of a source was unreadable.

    Example:
        >>> with reading(test):
        ...     images, labels = next(iter(evaluation_batches(test, image_size=32, batch_size=2)))
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
