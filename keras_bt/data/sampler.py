"""In which order a run takes the images, and the seed of every random draw.

All is a pure function of (seed, epoch, place in the epoch). Nothing depends on the number of
parallel calls, and a run that starts at step k sees exactly what the whole run sees from step k on.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_bt.data.decoding import DataError

_ENDLESS = np.iinfo(np.int64).max
_ORDER = -1  # what `Order.draw` draws: an epoch's order, at 0 and above the views of an image


@dataclasses.dataclass(frozen=True)
class Order:
    """Which images come when.

    Attributes:
        num_examples: Number of images.
        batch_size: Images per step, in all shards together.
        seed: Seed of the run, 0 to 2³¹ − 1.
        first_step: Number of steps to leave out.
        shard_index: Which part of each batch, 0 to num_shards − 1.
        num_shards: Into how many equal parts batches are divided.
        keep_remainder: Whether the images left over at the end of an epoch make a last batch. It
            is filled up with numbers that no image has, see `exists`. (With one shard only.)

    Raises:
        DataError: The batch size cannot be divided by the number of shards.
        ValueError: seed, first_step or shard is out of range.
    """

    num_examples: int
    batch_size: int
    seed: int
    first_step: int = 0
    shard_index: int = 0
    num_shards: int = 1
    keep_remainder: bool = False

    @property
    def steps_per_epoch(self):
        """Batches in an epoch."""
        left_over = self.batch_size - 1 if self.keep_remainder else 0
        return (self.num_examples + left_over) // self.batch_size

    @property
    def local_batch_size(self):
        """Images per step in a shard."""
        return self.batch_size // self.num_shards

    def exists(self, number):
        """Whether there is an image of that number, or it only fills up an epoch's last batch."""
        return (number >= 0) & (number < self.num_examples)

    def draw(self, epoch, what):
        """The seed of one random draw: int64 (2,), a hash of (seed, epoch, what)."""
        pair = tf.stack([self.seed * 2**32 + epoch, tf.cast(what, tf.int64)])
        return tf.random.stateless_uniform([2], pair, None, None, tf.int64, alg="philox")

    def block_seeds(self, block):
        """Data set of a seed for every block of so many images, all epochs through.

        Blocks are counted through all shards, so that as many images with one seed make the same
        blocks however many shards there are.
        """
        here = self.local_batch_size // block  # blocks per step
        numbers = tf.data.Dataset.range(self.first_step * here, _ENDLESS)

        def seed(number):
            step, place = number // here, number % here
            block = (step * self.num_shards + self.shard_index) * here + place
            return self.draw(0, _ORDER - 1 - block)  # which no image and no order has

        return numbers.map(seed)

    def numbers(self, block):
        """Data set of (epochs, numbers) of the images of a block: int64 (block,) each.

        An epoch goes through a permutation of all images, the same for all shards.
        """

        def one_epoch(epoch):
            keys = tf.random.stateless_uniform(
                [self.num_examples], self.draw(epoch, _ORDER), None, None, tf.int64, alg="philox"
            )
            places = self.steps_per_epoch * self.batch_size
            order = tf.argsort(keys)[:places]
            fill = max(0, places - self.num_examples)
            order = tf.pad(order, [[0, fill]], constant_values=-1)
            shards = tf.reshape(order, [self.steps_per_epoch, self.num_shards, -1])
            blocks = tf.reshape(shards[self._done(epoch) :, self.shard_index], [-1, block])
            epochs = tf.fill(tf.shape(blocks), epoch)
            return tf.data.Dataset.from_tensor_slices((epochs, tf.cast(blocks, tf.int64)))

        return self._epochs().flat_map(one_epoch)

    def records(self, source):
        """Data set of (epoch, number in the epoch, record …) of a source without numbers.

        Args:
            source: A `RecordSource`.
        """

        def one_epoch(epoch):
            records = source.shuffled(self.draw(epoch, _ORDER), self.shard_index, self.num_shards)
            places = self.steps_per_epoch * self.local_batch_size
            if self.keep_remainder:
                # Empty ones fill up the last batch: to read on would begin with all files anew.
                empty = tuple(tf.zeros(s.shape, s.dtype) for s in records.element_spec)
                fill = tf.data.Dataset.from_tensors(empty).repeat()
                records = records.take(self.num_examples).concatenate(fill)
            records = records.take(places).enumerate()
            return records.skip(self._done(epoch) * self.local_batch_size).map(
                lambda place, record: (epoch, place * self.num_shards + self.shard_index, *record)
            )

        return self._epochs().flat_map(one_epoch)

    def _epochs(self):
        return tf.data.Dataset.range(self.first_step // self.steps_per_epoch, _ENDLESS)

    def _done(self, epoch):
        """Number of steps of an epoch that lie before the first step."""
        return tf.maximum(self.first_step - epoch * self.steps_per_epoch, 0)

    def __post_init__(self):
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
