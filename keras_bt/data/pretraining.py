"""Pairs of views for pretraining, in the reproducible order of `keras_bt.data.sampler`."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from keras_bt.data.decoding import DataError
from keras_bt.data.pipeline import SplitView, rest_of_views, seeds_of_views, view_batches
from keras_bt.data.sampler import Order
from keras_bt.data.sources import Source
from keras_bt.randomness import fold_in
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

    With `augment_on="device"` the host only decodes and crops, and
    `BarlowTwins(..., views=(view_a.rest, view_b.rest))` does the rest in its training step. Crops
    of photographs are then rounded to whole gray levels, as the reference's are, and transferred
    as bytes. The seeds are the same: if a batch fits into one block (256 images of 32 × 32), a
    single device makes the same views of the crops as the host would have.

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
        augment_on: "host", or "device" for batches of crops.
        compile_views: whether XLA compiles the rest of the views on the host, which takes some
            seconds for every data set and changes the last bits at most. By default it does where
            that pays: for views of at least 64 × 64 pixels made only of this package's layers.

    Returns:
        Batches (view_a, view_b), each float32 (batch_size / num_shards, h, w, c). With
        `augment_on="device"`, each is a dict of "images", crops in 0..255, uint8 (float32 if they
        come from small images in memory), and "seed", int64 (batch_size / num_shards, 2): one per
        image, so that each replica has its own in its first row.

    Raises:
        DataError: as `check_pretraining`; or images have different sizes, but there is neither
            random crop nor image_size.
        ValueError: if seed, first_step or shard is out of range, or augment_on is unknown.

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
    order = Order(source.num_examples, batch_size, seed, first_step, shard_index, num_shards)
    rest: Callable[..., Any] = _for_device if on_device else rest_of_views(views, compile_views)

    def finish(crops, labels, readable, seed):
        filled = tf.cond(
            tf.reduce_all(readable),
            lambda: crops,
            lambda: tuple(tf.gather(c, _next_readable(readable)) for c in crops),
        )
        return rest(filled, seed)

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


def _for_device(crops, seed):
    """Pairs the crops with the seeds from which `BarlowTwins` makes views of them."""

    def batch(crops, seed):
        # The first seed is the one from which the host would have made the views.
        count = crops.shape[0] - 1
        others = tf.random.stateless_uniform(
            [count, 2], fold_in(seed, -2), None, None, tf.int64, alg="philox"
        )
        return {"images": crops, "seed": tf.concat([seed[None], others], axis=0)}

    return tuple(map(batch, crops, seeds_of_views(seed, 2)))
