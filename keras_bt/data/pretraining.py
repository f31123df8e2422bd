"""Pairs of views for pretraining, in the reproducible order of `keras_bt.data.sampler`."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_bt.data.decoding import DataError
from keras_bt.data.pipeline import SplitView, draws_of_views, rest_of_views, view_batches
from keras_bt.data.sampler import Order
from keras_bt.data.sources import Source
from keras_bt.typing import Size


def pretraining_views(
    source: Source,
    view_a: SplitView,
    view_b: SplitView,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    image_size: Size | None = None,
    shard_index: int = 0,
    num_shards: int = 1,
    augment_on: str = "host",
    compile_views: bool | None = None,
) -> tf.data.Dataset:
    """Makes an endless stream of batches of two views of the same images.

    An epoch takes `num_examples // batch_size` steps and contains no image twice; the images left
    over differ from epoch to epoch.

    An unreadable image is recorded in `source.unreadable`, and the next readable image of the
    same batch takes its place: batches stay full, and the order of all others does not change. If
    more than 1% are unreadable, the data set fails: read it inside
    `with keras_bt.data.reading(source)` to get the DataError that names them.

    All that is random about a view is drawn here, for each image from (seed, epoch, image) alone:
    neither the size of the batch nor shards, workers and devices change it. Crops are rounded to
    whole gray levels, as the reference's are. With `augment_on="device"` the host only decodes,
    crops and draws, and `BarlowTwins(..., views=(view_a.rest, view_b.rest))` makes the rest of the
    pixels in its training step: the same views, but for rounding.

    Args:
        source: the images.
        view_a: the first view.
        view_b: the second view.
        batch_size: images per batch, all shards together.
        seed: seed of the run, 0 to 2³¹ − 1.
        first_step: number of steps to skip; free, but for tfds records that do not fit in memory.
        image_size: (height, width), or one int for both, to which images of different sizes are
            resized and center-cropped if a view has no random crop to give them one size.
        shard_index: which part of each batch to make, 0 to num_shards − 1.
        num_shards: number of equal parts that batches are divided into, one per worker. All parts
            together hold the images of the whole batch. (If tfds records do not fit in memory,
            each worker reads its own files instead.)
        augment_on: "host", or "device" for batches of crops with their draws; all layers of the
            views must then be this package's.
        compile_views: whether XLA compiles the rest of the views on the host, which takes some
            seconds for every data set and changes the last bits at most. By default it does where
            that pays: for views of at least 64 × 64 pixels made only of this package's layers.

    Returns:
        Batches (view_a, view_b), each float32 (batch_size / num_shards, h, w, c). With
        `augment_on="device"`, each is a dict of "images", crops, uint8 (batch_size / num_shards,
        h, w, c), and "draws", those of `view.rest` for each image.

    Raises:
        DataError: as `check_pretraining`; or images have different sizes, but there is neither
            random crop nor image_size.
        ValueError: if seed, first_step or shard is out of range, augment_on is unknown, or a view
            for the device has layers of other packages.

    Example:
        >>> from keras_bt.augmentations import RandomFlip, RandomResizedCrop, View
        >>> view = View([RandomResizedCrop(8), RandomFlip()])
        >>> batches = pretraining_views(train, view, view, batch_size=4, seed=0)
        >>> first, second = next(iter(batches))
        >>> first.shape, bool(tf.reduce_all(first == second))   # separate draws
        (TensorShape([4, 8, 8, 3]), False)
    """
    if augment_on not in ("host", "device"):
        raise ValueError(f"augment_on must be one of host, device. Received: {augment_on!r}.")
    check_pretraining(source, batch_size)
    views, on_device = (view_a, view_b), augment_on == "device"
    if on_device and not all(view.rest.drawn for view in views):
        raise ValueError(
            'augment_on="device" takes views of keras_bt\'s layers alone, as others draw for '
            "themselves. Received: a view with layers of another package."
        )
    order = Order(source.num_examples, batch_size, seed, first_step, shard_index, num_shards)
    rest: Callable[..., Any] = rest_of_views(views, compile_views)

    def finish(crops, labels, readable, seeds):
        filled = tf.cond(
            tf.reduce_all(readable),
            lambda: crops,
            lambda: tuple(tf.gather(c, _next_readable(readable)) for c in crops),
        )
        if not on_device:
            return rest(filled, seeds)
        pairs = zip(filled, draws_of_views(views, seeds), strict=True)
        return tuple({"images": images, "draws": draws} for images, draws in pairs)

    batches = view_batches(source, views, order, finish, image_size, on_device)
    # Two batches ahead: more would only take memory, as a whole batch is made in parallel.
    return batches.prefetch(2)


def check_pretraining(source: Source, batch_size: int) -> None:
    """Checks what `pretraining_views` is given, and decodes what fits in memory.

    Raises:
        DataError: if batch_size < 2 or there are fewer images, or more than 1% of those that fit in
            memory are unreadable.
    """
    if batch_size < 2:
        raise DataError(
            "batch_size must be at least 2: the loss compares the images of a batch. "
            f"Received: batch_size={batch_size}."
        )
    if batch_size > source.num_examples:
        raise DataError(
            "batch_size must not exceed the number of images. Received: "
            f"batch_size={batch_size} for {source.num_examples} images in {source.name}."
        )
    source.cached()


def _next_readable(readable):
    """Finds for each place that of the first readable image from there on, wrapping around.

    If nothing is readable, an image stays in its place, as a black one.
    """
    n = tf.size(readable)
    places = tf.range(n)
    ahead = (places[None] - places[:, None]) % n
    return tf.argmin(tf.where(readable[None], ahead, ahead + n), axis=1)
