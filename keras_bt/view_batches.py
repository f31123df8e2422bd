"""Pairs of views for pretraining, in a reproducible order.

The order and the views are a pure function of (seed, epoch, place in the epoch). Nothing
depends on the number of parallel calls, and a run that starts at step k sees exactly what the
whole run sees from step k on.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_bt.decoding import DataError
from keras_bt.preprocessing import centre_crop
from keras_bt.randomness import fold_in
from keras_bt.sources import ArraySource, Source
from keras_bt.tfds_source import RecordSource

# Vectorised work is done on blocks of at most this many pixels: 8 images of 224 × 224. They stay
# in the cache of a core, which halves the time that blocks of 64 take, they keep all cores busy,
# and they bound the memory for any batch size.
_BLOCK = 8 * 224 * 224
_PARALLEL = tf.data.AUTOTUNE
_ENDLESS = np.iinfo(np.int64).max
_ORDER = -1  # what `_Run.draw` draws: an epoch's order, at 0 and above the views of an image


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
) -> tf.data.Dataset:
    """An endless stream of batches of two views of the same images.

    An epoch is `num_examples // batch_size` steps and contains no image twice; the images left
    over differ from epoch to epoch. Both views are made of one image in one map: it is decoded
    once and cut twice, and only the crops are batched. Small images in memory are batched first.

    An image that cannot be read is noted in `source.unreadable`, and the next readable image of
    the same batch takes its place: batches stay full, and the order of all others does not
    change. Where more than 1% are unreadable the data set fails; read it inside
    `with keras_bt.data.reading(source)` to get the DataError that names them.

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
        image_size: Side to which images of different sizes are resized and centre-cropped where
            a view has no random crop to make them alike.
        shard_index: Which part of each batch to make, 0 to num_shards − 1.
        num_shards: Into how many equal parts batches are divided, one per worker. All parts
            together hold the images of the whole batch. (Of tfds records that do not fit in
            memory each worker reads its own files instead.)

    Returns:
        Batches (view_a, view_b), each float32 (batch_size / num_shards, s, s, 3).

    Raises:
        DataError: The batch size does not fit the data; images of different sizes, but neither
            random crop nor image_size; more than 1% unreadable in a source that is cached.
        ValueError: seed, first_step or shard is out of range.
    """
    run = _Run(source.num_examples, batch_size, seed, first_step, shard_index, num_shards)
    run.check(source.name)
    source = source.cached()
    if isinstance(source, ArraySource) and source.is_small:
        block = run.block_size(source.image_shape)
        images = run.numbers(block).map(lambda _, numbers: source.batch(numbers), _PARALLEL)
        views = tf.data.Dataset.zip(run.block_seeds(block), images).map(
            lambda seed, images: (view_a(images, seed), view_b(images, _other(seed))), _PARALLEL
        )
    else:
        crops = _crops(run, source, view_a, view_b, image_size)
        block = run.block_size(crops.element_spec[0].shape)
        crops = crops.batch(block, drop_remainder=True, num_parallel_calls=_PARALLEL)
        views = tf.data.Dataset.zip(run.block_seeds(block), crops).map(
            lambda seed, crops: _finish(view_a, view_b, *crops, seed), _PARALLEL
        )
    if block < run.local_batch_size:
        views = views.batch(run.local_batch_size // block, drop_remainder=True).map(
            lambda *views: tuple(tf.concat(tf.unstack(view), axis=0) for view in views)
        )
    views = views.map(lambda *views: tuple(tf.cast(view, tf.float32) for view in views))
    options = tf.data.Options()
    options.deterministic = True
    if num_shards > 1:  # done already: each worker's batches are its own
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    # Two batches ahead: more would only take memory, a whole batch being made in parallel.
    return views.prefetch(2).with_options(options)


def _crops(run, source, view_a, view_b, image_size):
    """Data set of (crop of view A, crop of view B, whether the image could be read)."""
    crop_a, crop_b = (_crop_function(view, source, image_size) for view in (view_a, view_b))

    if isinstance(source, RecordSource):
        examples = run.records(source)
    else:
        examples = run.numbers(run.local_batch_size).unbatch()

    def crops(epoch, number, *reference):
        image, readable, _ = source.decode(*(reference or (number,)))
        seed = run.draw(epoch, number)
        return crop_a(image, readable, seed), crop_b(image, readable, _other(seed)), readable

    return examples.map(crops, _PARALLEL)


def _crop_function(view, source, image_size):
    """From (uint8 image, readable, seed) to an image of the size that all images get."""
    if view.crop is not None:
        return lambda image, readable, seed: view.crop({"images": image, "seed": seed})["images"]
    if image_size is not None:
        return lambda image, readable, seed: centre_crop(image, image_size, resize=image_size)
    if source.image_shape is not None:
        blank = tf.zeros(source.image_shape, tf.uint8)
        return lambda image, readable, seed: tf.ensure_shape(
            tf.where(readable, image, blank), source.image_shape
        )
    raise DataError(
        "Images of different sizes need views that begin with a random crop, or an image_size. "
        f"Received: {source.name} with neither."
    )


def _finish(view_a, view_b, crops_a, crops_b, readable, seed):
    """The rest of both views, after unreadable images were replaced."""

    def finish(view, crops, seed):
        crops = tf.cast(crops, tf.float32)
        crops = tf.cond(
            tf.reduce_all(readable),
            lambda: crops,
            lambda: tf.gather(crops, _next_readable(readable)),
        )
        return (view if view.crop is None else view.rest)(crops, seed)

    return finish(view_a, crops_a, seed), finish(view_b, crops_b, _other(seed))


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


@dataclasses.dataclass(frozen=True)
class _Run:
    """Which images come when, and the seed of each draw."""

    num_examples: int
    batch_size: int
    seed: int
    first_step: int
    shard_index: int
    num_shards: int

    @property
    def steps_per_epoch(self):
        return self.num_examples // self.batch_size

    @property
    def local_batch_size(self):
        return self.batch_size // self.num_shards

    def block_size(self, image_shape):
        """The largest divisor of the local batch size that keeps to `_BLOCK` pixels."""
        most = max(1, _BLOCK // int(np.prod(image_shape[:2])))
        sizes = range(min(most, self.local_batch_size), 0, -1)
        return next(size for size in sizes if self.local_batch_size % size == 0)

    def draw(self, epoch, what):
        """The seed of one random draw: int64 (2,), a hash of (seed, epoch, what)."""
        pair = tf.stack([self.seed * 2**32 + epoch, tf.cast(what, tf.int64)])
        return tf.random.stateless_uniform([2], pair, None, None, tf.int64, alg="philox")

    def block_seeds(self, block):
        """A seed for every block of views, all epochs through."""
        blocks_per_step = self.local_batch_size // block
        numbers = tf.data.Dataset.range(self.first_step * blocks_per_step, _ENDLESS)
        # Below _ORDER, where no image and no order has its number.
        return numbers.map(
            lambda number: self.draw(0, _ORDER - 1 - number * self.num_shards - self.shard_index)
        )

    def numbers(self, block):
        """Data set of (epochs, numbers) of the images of a block: int64 (block,) each.

        An epoch goes through a permutation of all images, the same for all shards.
        """

        def one_epoch(epoch):
            keys = tf.random.stateless_uniform(
                [self.num_examples], self.draw(epoch, _ORDER), None, None, tf.int64, alg="philox"
            )
            order = tf.argsort(keys)[: self.steps_per_epoch * self.batch_size]
            shards = tf.reshape(order, [self.steps_per_epoch, self.num_shards, -1])
            blocks = tf.reshape(shards[self._done(epoch) :, self.shard_index], [-1, block])
            epochs = tf.fill(tf.shape(blocks), epoch)
            return tf.data.Dataset.from_tensor_slices((epochs, tf.cast(blocks, tf.int64)))

        return self._epochs().flat_map(one_epoch)

    def records(self, source):
        """Data set of (epoch, number in the epoch, record …) of a source without numbers."""

        def one_epoch(epoch):
            records = source.shuffled(self.draw(epoch, _ORDER), self.shard_index, self.num_shards)
            records = records.take(self.steps_per_epoch * self.local_batch_size).enumerate()
            return records.skip(self._done(epoch) * self.local_batch_size).map(
                lambda place, record: (epoch, place * self.num_shards + self.shard_index, *record)
            )

        return self._epochs().flat_map(one_epoch)

    def _epochs(self):
        return tf.data.Dataset.range(self.first_step // self.steps_per_epoch, _ENDLESS)

    def _done(self, epoch):
        """Number of steps of an epoch that lie before the first step."""
        return tf.maximum(self.first_step - epoch * self.steps_per_epoch, 0)

    def check(self, name):
        """Raises where the numbers make no sense; `name` is that of the source."""
        if self.batch_size < 2:
            raise DataError(
                "batch_size must be at least 2: the loss compares the images of a batch. "
                f"Received: batch_size={self.batch_size}."
            )
        if self.batch_size > self.num_examples:
            raise DataError(
                "batch_size must not exceed the number of images. Received: "
                f"batch_size={self.batch_size} for {self.num_examples} images in {name}."
            )
        if self.num_shards < 1 or self.batch_size % self.num_shards:
            raise DataError(
                "batch_size must be divisible by the number of workers. "
                f"Received: batch_size={self.batch_size}, num_shards={self.num_shards}."
            )
        if not 0 <= self.shard_index < self.num_shards:
            raise ValueError(
                "shard_index must be from 0 to num_shards - 1. "
                f"Received: shard_index={self.shard_index}, num_shards={self.num_shards}."
            )
        if not 0 <= self.seed < 2**31:
            raise ValueError(f"seed must be from 0 to 2**31 - 1. Received: seed={self.seed}.")
        if self.first_step < 0:
            raise ValueError(f"first_step must be at least 0. Received: {self.first_step}.")
