"""The order in which a run takes the images, and the seed of every random draw.

Both are pure functions of (seed, epoch, place in the epoch). Nothing depends on the number of
parallel calls, and a run that starts at step k sees exactly what the whole run sees from step k on.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from keras_bt.data.as_written import as_written
from keras_bt.data.decoding import DataError
from keras_bt.randomness import fold_in_each
from keras_bt.typing import Tensor

_ENDLESS = np.iinfo(np.int64).max


@dataclasses.dataclass(frozen=True)
class Order:
    """The order of the images in a run.

    Attributes:
        num_examples: number of images.
        batch_size: images per step, all shards together.
        seed: seed of the run, 0 to 2³¹ − 1.
        first_step: number of steps to skip.
        shard_index: which part of each batch, 0 to num_shards − 1.
        num_shards: number of equal parts that each batch is divided into.
        keep_remainder: whether the images left over at the end of an epoch make a last batch,
            filled up with numbers that no image has, see `exists`. (With one shard only.)

    Raises:
        DataError: if the batch size is below 1 or not divisible by the number of shards.
        ValueError: if seed, first_step or shard is out of range.

    Example:
        >>> order = Order(num_examples=5, batch_size=2, seed=0)
        >>> for epochs, numbers in order.numbers(2).take(4):   # an image is left over per epoch
        ...     print(epochs.numpy(), numbers.numpy())
        [0 0] [4 1]
        [0 0] [2 0]
        [1 1] [4 2]
        [1 1] [0 3]
    """

    num_examples: int
    batch_size: int
    seed: int
    first_step: int = 0
    shard_index: int = 0
    num_shards: int = 1
    keep_remainder: bool = False

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        left_over = self.batch_size - 1 if self.keep_remainder else 0
        return (self.num_examples + left_over) // self.batch_size

    @property
    def local_batch_size(self) -> int:
        """Images per step in one shard."""
        return self.batch_size // self.num_shards

    def exists(self, number: Tensor) -> Tensor:
        """Tells an image's number (True) from one that only fills up an epoch's last batch."""
        return (number >= 0) & (number < self.num_examples)

    def seeds(self, epochs: Tensor, numbers: Tensor) -> Tensor:
        """Returns the seeds of images' draws: int64 (..., 2), a hash of (seed, epoch, number).

        Args:
            epochs: int64 (...).
            numbers: int64 (...), of the images; or, of records without numbers, in the epoch.
        """
        of_epochs = tf.stack(
            [tf.fill(tf.shape(epochs), tf.constant(self.seed, tf.int64)), epochs], -1
        )
        return fold_in_each(of_epochs, numbers)

    def _of_order(self, epoch):
        """Returns the seed of an epoch's order, int64 (2,), which no image has."""
        pair = tf.stack([self.seed * 2**32 + epoch, tf.constant(-1, tf.int64)])
        return tf.random.stateless_uniform([2], pair, None, None, tf.int64, alg="philox")

    def numbers(self, block: int) -> tf.data.Dataset:
        """Returns a data set of (epochs, numbers) of the images of a block: int64 (block,) each.

        An epoch goes through a permutation of all images, the same for all shards.
        """

        def one_epoch(epoch):
            keys = tf.random.stateless_uniform(
                [self.num_examples], self._of_order(epoch), None, None, tf.int64, alg="philox"
            )
            places = self.steps_per_epoch * self.batch_size
            order = tf.argsort(keys)[:places]
            fill = max(0, places - self.num_examples)
            order = tf.pad(order, [[0, fill]], constant_values=-1)
            shards = tf.reshape(order, [self.steps_per_epoch, self.num_shards, -1])
            blocks = tf.reshape(shards[self._done(epoch) :, self.shard_index], [-1, block])
            epochs = tf.fill(tf.shape(blocks), epoch)
            return tf.data.Dataset.from_tensor_slices((epochs, tf.cast(blocks, tf.int64)))

        return self._epochs().flat_map(as_written(one_epoch))

    def records(self, shuffled: Callable[[Tensor, int, int], tf.data.Dataset]) -> tf.data.Dataset:
        """Returns a data set of (epoch, number in the epoch, *record) of records without numbers.

        Args:
            shuffled: function (seed int64 (2,), shard_index, num_shards) → endless data set of a
                shard's records.
        """

        def one_epoch(epoch):
            records = shuffled(self._of_order(epoch), self.shard_index, self.num_shards)
            places = self.steps_per_epoch * self.local_batch_size
            if self.keep_remainder:
                # Empty ones fill up the last batch: reading on would start over with all files.
                empty = tuple(tf.zeros(s.shape, s.dtype) for s in records.element_spec)
                fill = tf.data.Dataset.from_tensors(empty).repeat()
                records = records.take(self.num_examples).concatenate(fill)
            records = records.take(places).enumerate()
            return records.skip(self._done(epoch) * self.local_batch_size).map(
                lambda place, record: (epoch, place * self.num_shards + self.shard_index, *record)
            )

        return self._epochs().flat_map(as_written(one_epoch))

    def _epochs(self):
        return tf.data.Dataset.range(self.first_step // self.steps_per_epoch, _ENDLESS)

    def _done(self, epoch):
        """Returns the number of steps of an epoch that lie before the first step."""
        return tf.maximum(self.first_step - epoch * self.steps_per_epoch, 0)

    def __post_init__(self):
        if self.batch_size < 1:
            raise DataError(
                f"batch_size must be at least 1. Received: batch_size={self.batch_size}."
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
