"""Pairs of views for pretraining, in the reproducible order of `keras_bt.data.sampler`."""

import numpy as np
import tensorflow as tf

from keras_bt.data.decoding import DataError
from keras_bt.data.sampler import Order
from keras_bt.data.sources import ArraySource, Source
from keras_bt.data.tfds import RecordSource
from keras_bt.preprocessing import center_crop
from keras_bt.randomness import fold_in

# Vectorized work is done on blocks of at most this many pixels: 8 images of 224 × 224. They stay
# in the cache of a core, which halves the time that blocks of 64 take, they keep all cores busy,
# and they bound the memory for any batch size.
_BLOCK = 8 * 224 * 224
_PARALLEL = tf.data.AUTOTUNE
# From here on a view is worth the seconds that XLA takes to compile it: it is then 7 times cheaper
# (0.8 instead of 6 ms of a core for 224 × 224 pixels), for XLA passes over the pixels once where
# TensorFlow does for every operation.
_WORTH_COMPILING = 64 * 64
PLACEMENTS = ("host", "device")


def pretraining_views(
    source: Source,
    view_a,
    view_b,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    image_size: int | None = None,
    shard_index: int = 0,
    num_shards: int = 1,
    augment_on: str = "host",
    compile_views: bool | None = None,
) -> tf.data.Dataset:
    """An endless stream of batches of two views of the same images.

    An epoch is `num_examples // batch_size` steps and contains no image twice; the images left
    over differ from epoch to epoch. Both views are made of one image in one map: it is decoded
    once and cut twice, and only the crops are batched. Small images in memory are batched first.

    An image that cannot be read is noted in `source.unreadable`, and the next readable image of
    the same batch takes its place: batches stay full, and the order of all others does not
    change. Where more than 1% are unreadable the data set fails; read it inside
    `with keras_bt.data.reading(source)` to get the DataError that names them.

    With `augment_on="device"` the views are left half made: the host decodes and crops, and
    `BarlowTwins(..., views=(view_a.rest, view_b.rest))` does the rest in its training step.
    Crops of photographs are rounded to whole levels then, as the reference's are, and travel as
    bytes. Draws come from the same seeds: where a batch fits into one block (256 images of
    32 × 32), one device makes of the crops what the host would have made.

    Args:
        source: The images.
        view_a: `view(images, seed)` makes the first view of a batch of images, 0..255.
            `view.crop` is its random crop, if it begins with one, else None: it takes
            `{"images": image, "seed": seed}` for one uint8 image of any size.
            `view.rest(images, seed)` is the view without it.
        view_b: Likewise, the second view.
        batch_size: Images per batch, in all shards together.
        seed: Seed of the run, 0 to 2³¹ − 1.
        first_step: Number of steps to leave out. This is free, but for tfds records that do not
            fit in memory it means reading a part of an epoch.
        image_size: Side to which images of different sizes are resized and center-cropped where
            a view has no random crop to make them alike.
        shard_index: Which part of each batch to make, 0 to num_shards − 1.
        num_shards: Into how many equal parts batches are divided, one per worker. All parts
            together hold the images of the whole batch. (Of tfds records that do not fit in
            memory each worker reads its own files instead.)
        augment_on: "host", or "device" for batches of crops.
        compile_views: Whether XLA compiles the rest of the views on the host, which takes some
            seconds for every data set and changes the last bits at most. Default: where it pays,
            for views of 64 × 64 pixels and more, made of this package's layers alone.

    Returns:
        Batches (view_a, view_b), each float32 (batch_size / num_shards, s, s, 3). With
        `augment_on="device"` each is a dict of "images", crops in 0..255, uint8 (float32 if they
        come from small images in memory), and of "seed", int64 (batch_size / num_shards, 2): one
        per image, so that each replica has its own in its first row.

    Raises:
        DataError: The batch size does not fit the data; images of different sizes, but neither
            random crop nor image_size; more than 1% unreadable in a source that is cached.
        ValueError: seed, first_step or shard is out of range, or there is no such placement.
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
    finish = _for_device if on_device else rest_of_views((view_a, view_b), compile_views)
    views = tf.data.Dataset.zip(run.block_seeds(block), examples).map(
        lambda seed, examples: finish(*crop(seed, *examples), seed), _PARALLEL
    )
    views = join_blocks(views, run.local_batch_size // block)
    options = tf.data.Options()
    options.deterministic = True
    if num_shards > 1:  # done already: each worker's batches are its own
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # Two batches ahead: more would only take memory, a whole batch being made in parallel.
    return views.prefetch(2).with_options(options)


def _batch_crops(source, view_a, view_b):
    """From (seed of a block, epochs, numbers) to the crops of both views, float32."""

    def crop(view, images, seed):
        return view.crop({"images": images, "seed": seed})["images"] if view.crop else images

    def crops(seed, epochs, numbers):
        images = source.batch(numbers)
        return crop(view_a, images, seed), crop(view_b, images, _other(seed))

    return crops


def _crops(run, source, view_a, view_b, image_size, whole_levels):
    """Data set of (crop of view A, crop of view B, whether the image could be read)."""
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
            pair = (tf.saturate_cast(tf.round(crop), tf.uint8) for crop in pair)
        return *pair, readable

    return examples.map(crops, _PARALLEL)


def crop_function(view, source, image_size):
    """From (uint8 image, readable, seed) to an image of the size that all images get.

    Args:
        view: See `pretraining_views`.
        source: The images.
        image_size: See `pretraining_views`.

    Raises:
        DataError: Neither the view nor image_size nor the source gives images one size.
    """
    if view.crop is not None:
        return lambda image, readable, seed: view.crop({"images": image, "seed": seed})["images"]
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


def block_size(run, image_shape):
    """Images per block: the largest divisor of the batch size that keeps to `_BLOCK` pixels."""
    most = max(1, _BLOCK // int(np.prod(image_shape[:2])))
    sizes = range(min(most, run.local_batch_size), 0, -1)
    return next(size for size in sizes if run.local_batch_size % size == 0)


def join_blocks(blocks, count):
    """Makes one batch of every `count` blocks."""
    if count == 1:
        return blocks
    return blocks.batch(count, drop_remainder=True).map(
        lambda *parts: tuple(tf.reshape(part, (-1, *part.shape[2:])) for part in parts)
    )


def rest_of_views(views, compile_views=None):
    """From (the crops of each view, …, seed) of a block to a tuple of its views.

    Args:
        views: One or two views.
        compile_views: See `pretraining_views`.
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
        # All views in one function: that compiles faster than one function for each.
        function = tf.function(rest, jit_compile=True) if compiled else rest
        return function(*crops_and_seed)

    return chosen


def _for_device(crops_a, crops_b, seed):
    """The crops and the seeds with which `BarlowTwins` makes views of them."""

    def batch(crops, seed):
        # The first is the seed with which the host would have made the views.
        count = crops.shape[0] - 1
        others = tf.random.stateless_uniform(
            [count, 2], fold_in(seed, -2), None, None, tf.int64, alg="philox"
        )
        return {"images": crops, "seed": tf.concat([seed[None], others], axis=0)}

    return batch(crops_a, seed), batch(crops_b, _other(seed))


def _other(seed):
    """The seed of view B: two views of the same layers are still to draw differently."""
    return fold_in(seed, -1)  # places within a view count from 0


def _next_readable(readable):
    """For each place that of the first readable image from there on, around the end.

    Where nothing is readable an image stays in its place, as a black one.
    """
    n = tf.size(readable)
    places = tf.range(n)
    ahead = (places[None] - places[:, None]) % n
    return tf.argmin(tf.where(readable[None], ahead, ahead + n), axis=1)


def _check(source, batch_size):
    """Raises where the loss could not be computed of such batches."""
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
