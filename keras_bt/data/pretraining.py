"""Pairs of views for pretraining, in the reproducible order of `keras_bt.data.sampler`."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from keras_bt.data.decoding import DataError
from keras_bt.data.sampler import Order
from keras_bt.data.sources import ArraySource, Source
from keras_bt.data.tfds import RecordSource
from keras_bt.preprocessing import center_crop
from keras_bt.randomness import fold_in
from keras_bt.typing import Tensor, View

# Vectorized work is done on blocks of at most this many pixels: 8 images of 224 × 224. They stay
# in a core's cache, which halves the time that blocks of 64 take, keep all cores busy, and bound
# the memory for any batch size.
_BLOCK = 8 * 224 * 224
_PARALLEL = tf.data.AUTOTUNE
# From this size on, a view is worth the seconds that XLA takes to compile it. It is then 7 times
# cheaper (0.8 instead of 6 ms of a core for 224 × 224 pixels), because XLA passes over the pixels
# once, and TensorFlow once for every operation.
_WORTH_COMPILING = 64 * 64
PLACEMENTS = ("host", "device")


class SplitView(Protocol):
    """A view whose random crop can be made apart, such as `keras_bt.augmentations.View`."""

    @property
    def crop(self) -> Callable[[dict[str, Tensor]], dict[str, Tensor]] | None:
        """The random crop that the view begins with, or None.

        Takes `{"images": image, "seed": seed}` for one uint8 image of any size, or a batch.
        """

    @property
    def rest(self) -> View:
        """The view without `crop`."""

    def __call__(self, images: Tensor, seed: Tensor) -> Tensor:
        """Makes one view of a batch of images, 0..255."""


def pretraining_views(
    source: Source,
    view_a: SplitView,
    view_b: SplitView,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    image_size: int | None = None,
    shard_index: int = 0,
    num_shards: int = 1,
    augment_on: str = "host",
    compile_views: bool | None = None,
) -> tf.data.Dataset:
    """Makes an endless stream of batches of two views of the same images.

    An epoch takes `num_examples // batch_size` steps and contains no image twice; the images left
    over differ from epoch to epoch. Both views of an image are made in one map: it is decoded once
    and cropped twice, and only the crops are batched. Small images in memory are batched first.

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
        source: The images.
        view_a: The first view.
        view_b: The second view.
        batch_size: Images per batch, all shards together.
        seed: Seed of the run, 0 to 2³¹ − 1.
        first_step: Number of steps to skip. This is free, except that part of an epoch is read if
            tfds records do not fit in memory.
        image_size: Side to which images of different sizes are resized and center-cropped if a
            view has no random crop to give them one size.
        shard_index: Which part of each batch to make, 0 to num_shards − 1.
        num_shards: Number of equal parts that batches are divided into, one per worker. All parts
            together hold the images of the whole batch. (If tfds records do not fit in memory,
            each worker reads its own files instead.)
        augment_on: "host", or "device" for batches of crops.
        compile_views: Whether XLA compiles the rest of the views on the host, which takes some
            seconds for every data set and changes the last bits at most. By default it does where
            that pays: for views of at least 64 × 64 pixels made only of this package's layers.

    Returns:
        Batches (view_a, view_b), each float32 (batch_size / num_shards, s, s, 3). With
        `augment_on="device"`, each is a dict of "images", crops in 0..255, uint8 (float32 if they
        come from small images in memory), and "seed", int64 (batch_size / num_shards, 2): one per
        image, so that each replica has its own in its first row.

    Raises:
        DataError: The batch size does not fit the data; images of different sizes, but neither
            random crop nor image_size; more than 1% unreadable in a cached source.
        ValueError: seed, first_step or shard is out of range, or augment_on is unknown.

    Example:
        >>> from keras_bt.augmentations import RandomFlip, RandomResizedCrop, View
        >>> view = View([RandomResizedCrop(8), RandomFlip()])
        >>> batches = pretraining_views(train, view, view, batch_size=4, seed=0)
        >>> first, second = next(iter(batches))
        >>> first.shape, bool(tf.reduce_all(first == second))   # separate draws
        (TensorShape([4, 8, 8, 3]), False)
    """
    if augment_on not in PLACEMENTS:
        raise ValueError(
            f"augment_on must be one of {', '.join(PLACEMENTS)}. Received: {augment_on!r}."
        )
    on_device = augment_on == "device"
    _check(source, batch_size)
    run = Order(source.num_examples, batch_size, seed, first_step, shard_index, num_shards)
    source = source.cached()
    if isinstance(source, ArraySource) and source.is_small:
        block = run.local_batch_size if on_device else block_size(run, source.image_shape)
        examples, crop = run.numbers(block), _batch_crops(source, view_a, view_b)
    else:
        crops = _crops(run, source, view_a, view_b, image_size, whole_levels=on_device)
        shape = crops.element_spec[0].shape
        block = run.local_batch_size if on_device else block_size(run, shape)
        examples = crops.batch(block, drop_remainder=True, num_parallel_calls=_PARALLEL)
        crop = _replace_unreadable
    finish: Callable[..., Any] = (
        _for_device if on_device else rest_of_views((view_a, view_b), compile_views)
    )
    views = tf.data.Dataset.zip(run.block_seeds(block), examples).map(
        lambda seed, examples: finish(*crop(seed, *examples), seed), _PARALLEL
    )
    views = join_blocks(views, run.local_batch_size // block)
    options = tf.data.Options()
    options.deterministic = True
    if num_shards > 1:  # already done: each worker's batches are its own
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # Two batches ahead: more would only take memory, as a whole batch is made in parallel.
    return views.prefetch(2).with_options(options)


def _batch_crops(source, view_a, view_b):
    """Returns a function: seed of a block, epochs, numbers → crops of both views, float32."""

    def crop(view, images, seed):
        return view.crop({"images": images, "seed": seed})["images"] if view.crop else images

    def crops(seed, epochs, numbers):
        images = source.batch(numbers)
        return crop(view_a, images, seed), crop(view_b, images, _other(seed))

    return crops


def _crops(run, source, view_a, view_b, image_size, whole_levels):
    """Returns a data set of (crop of view A, crop of view B, whether the image is readable)."""
    crop_a, crop_b = (crop_function(view, source, image_size) for view in (view_a, view_b))

    if isinstance(source, RecordSource):
        examples = run.records(source)
    else:
        examples = run.numbers(run.local_batch_size).unbatch()

    def crops(epoch, number, *reference):
        image, readable, _ = source.decode(*(reference or (number,)))
        seed = run.draw(epoch, number)
        pair = crop_a(image, readable, seed), crop_b(image, readable, _other(seed))
        if whole_levels:
            return *(tf.saturate_cast(tf.round(crop), tf.uint8) for crop in pair), readable
        return *pair, readable

    return examples.map(crops, _PARALLEL)


def crop_function(
    view: SplitView, source: Source, image_size: int | None
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """Returns the function that gives all images one size.

    Args:
        view: See `pretraining_views`.
        source: The images.
        image_size: See `pretraining_views`.

    Returns:
        A function: uint8 image, readable, seed → image of the common size.

    Raises:
        DataError: Neither the view nor image_size nor the source gives images one size.
    """
    crop = view.crop
    if crop is not None:
        return lambda image, readable, seed: crop({"images": image, "seed": seed})["images"]
    if image_size is not None:
        return lambda image, readable, seed: center_crop(image, image_size, resize=image_size)
    if source.image_shape is not None:
        blank = tf.zeros(source.image_shape, tf.uint8)
        return lambda image, readable, seed: tf.ensure_shape(
            tf.where(readable, image, blank), source.image_shape
        )
    raise DataError(
        "Images of different sizes need views that begin with a random crop, or an image_size. "
        f"Received: {source.name} with neither."
    )


def _replace_unreadable(seed, crops_a, crops_b, readable):
    """Gives the places of unreadable images to their neighbors, in both views."""
    return tf.cond(
        tf.reduce_all(readable),
        lambda: (crops_a, crops_b),
        lambda: tuple(tf.gather(c, _next_readable(readable)) for c in (crops_a, crops_b)),
    )


def block_size(run: Order, image_shape: Sequence[int]) -> int:
    """Returns images per block: the largest divisor of the batch size within `_BLOCK` pixels."""
    most = max(1, _BLOCK // int(np.prod(image_shape[:2])))
    sizes = range(min(most, run.local_batch_size), 0, -1)
    return next(size for size in sizes if run.local_batch_size % size == 0)


def join_blocks(blocks: tf.data.Dataset, count: int) -> tf.data.Dataset:
    """Joins every `count` blocks into one batch."""
    if count == 1:
        return blocks
    return blocks.batch(count, drop_remainder=True).map(
        lambda *parts: tuple(tf.reshape(part, (-1, *part.shape[2:])) for part in parts)
    )


def rest_of_views(
    views: Sequence[SplitView], compile_views: bool | None = None
) -> Callable[..., tuple[Tensor, ...]]:
    """Returns the function that makes views from crops.

    Args:
        views: One or two views.
        compile_views: See `pretraining_views`.

    Returns:
        A function: the crops of each view, …, seed of a block → tuple of its views.
    """

    def rest(*crops_and_seed):
        *all_crops, seed = crops_and_seed
        seeds = (seed, _other(seed))[: len(views)]
        made = (
            (view if view.crop is None else view.rest)(tf.cast(crops, tf.float32), view_seed)
            for view, crops, view_seed in zip(views, all_crops, seeds, strict=True)
        )
        return tuple(tf.cast(view, tf.float32) for view in made)

    def chosen(*crops_and_seed):
        height, width = crops_and_seed[0].shape[1:3]
        ours = all(getattr(view.rest, "compilable", False) for view in views)
        worth_it = height * width >= _WORTH_COMPILING and ours
        compiled = worth_it if compile_views is None else compile_views
        # All views in one function, which compiles faster than one function for each.
        function = tf.function(rest, jit_compile=True) if compiled else rest
        return function(*crops_and_seed)

    return chosen


def _for_device(crops_a, crops_b, seed):
    """Pairs the crops with the seeds from which `BarlowTwins` makes views of them."""

    def batch(crops, seed):
        # The first seed is the one from which the host would have made the views.
        count = crops.shape[0] - 1
        others = tf.random.stateless_uniform(
            [count, 2], fold_in(seed, -2), None, None, tf.int64, alg="philox"
        )
        return {"images": crops, "seed": tf.concat([seed[None], others], axis=0)}

    return batch(crops_a, seed), batch(crops_b, _other(seed))


def _other(seed):
    """Returns the seed of view B: two views of the same layers must still draw differently."""
    return fold_in(seed, -1)  # places within a view count from 0


def _next_readable(readable):
    """Finds for each place that of the first readable image from there on, wrapping around.

    If nothing is readable, an image stays in its place, as a black one.
    """
    n = tf.size(readable)
    places = tf.range(n)
    ahead = (places[None] - places[:, None]) % n
    return tf.argmin(tf.where(readable[None], ahead, ahead + n), axis=1)


def _check(source, batch_size):
    """Raises if the loss could not be computed from such batches."""
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
