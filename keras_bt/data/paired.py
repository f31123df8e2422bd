"""Batches of pairs of images to train a Siamese network on, in a reproducible order."""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_bt.data.as_written import as_written
from keras_bt.data.decoding import DataError
from keras_bt.data.pairs import Pairs, draw_pairs
from keras_bt.data.pipeline import SplitView, rest_of_views, view_batches
from keras_bt.data.sampler import Order
from keras_bt.data.sources import Integers, Source
from keras_bt.typing import Size

# Fifty labels are fifty images but thousands of pairs: an epoch of fifty pairs would be one step.
LEAST_PAIRS = 1_000


def pairs_per_epoch(count: int, batch_size: int) -> int:
    """Returns how many pairs an epoch has: whole batches of as many as `count`, or 1,000.

    >>> pairs_per_epoch(50, 64), pairs_per_epoch(42_000, 64)
    (960, 41984)

    Args:
        count: number of images whose pairs are drawn anew in every epoch, or of pairs of a file.
        batch_size: pairs per batch.
    """
    return max(1, max(count, LEAST_PAIRS) // batch_size) * batch_size


def paired_views(
    source: Source,
    view: SplitView,
    batch_size: int,
    seed: int,
    first_step: int = 0,
    pairs: Pairs | None = None,
    image_size: Size | None = None,
    compile_views: bool | None = None,
) -> tf.data.Dataset:
    """Makes an endless stream of batches of pairs, every image in a view of its own.

    An epoch has `pairs_per_epoch` pairs. Of labeled images they are drawn anew in every epoch, by
    `draw_pairs`, half of them of one class; pairs of a file come in a new order, those left over
    at the end of an epoch being others each time, and more than once where there are few.

    A pair with an unreadable image is left out, and the image recorded in `source.unreadable`:
    batches may be smaller, and a batch of nothing else is itself left out. If more than 1% of the
    images are unreadable, the data set fails: read it inside `with keras_bt.data.reading(source)`.

    Args:
        source: the images.
        view: the view to make of each image.
        batch_size: pairs per batch.
        seed: seed of pairs, order and views, 0 to 2³¹ − 1.
        first_step: number of steps to skip, at no cost.
        pairs: the pairs to train on; None to draw them from the labels of `source`.
        image_size: as in `keras_bt.data.pretraining_views`.
        compile_views: as in `keras_bt.data.pretraining_views`.

    Returns:
        Batches (image_a, image_b, same): float32 (b, h, w, c) twice, and float32 (b,), 1 where both
        show the same thing and 0 where they do not; b ≤ batch_size.

    Raises:
        DataError: if batch_size < 1, the images cannot be read by number, there are no pairs of
            either kind, or images have different sizes, but there is neither random crop nor
            image_size.
        ValueError: if seed or first_step is out of range.

    Example:
        >>> from keras_bt.augmentations import RandomResizedCrop, View
        >>> batches = paired_views(train, View([RandomResizedCrop(8)]), batch_size=4, seed=0)
        >>> image_a, image_b, same = next(iter(batches))
        >>> image_a.shape, image_b.shape, same.dtype.name
        (TensorShape([4, 8, 8, 3]), TensorShape([4, 8, 8, 3]), 'float32')
    """
    if batch_size < 1:
        raise DataError(f"batch_size must be at least 1. Received: batch_size={batch_size}.")
    check_paired(source, pairs)
    count = pairs_per_epoch(source.num_examples if pairs is None else len(pairs), batch_size)
    order = PairedOrder(
        num_examples=source.num_examples,
        batch_size=2 * batch_size,
        seed=seed,
        first_step=first_step,
        pairs=pairs,
        labels=source.labels() if pairs is None else (),
        pairs_per_epoch=count,
    )
    rest = rest_of_views((view,), compile_views)

    def finish(crops, labels, readable, seeds):
        return *rest(crops, seeds), readable

    def divided(batch, same):
        images, readable = batch
        a, b = images[0::2], images[1::2]
        there = readable[0::2] & readable[1::2]
        a, b, same = tf.cond(
            tf.reduce_all(there),
            lambda: (a, b, same),
            lambda: tuple(tf.boolean_mask(part, there) for part in (a, b, same)),
        )
        shape = [None, *images.shape[1:]]
        return tf.ensure_shape(a, shape), tf.ensure_shape(b, shape), same

    images = view_batches(source, (view,), order, finish, image_size)
    batches = tf.data.Dataset.zip(images, order.answers()).map(as_written(divided))
    return batches.filter(as_written(lambda a, b, same: tf.size(same) > 0)).prefetch(2)


def check_paired(source: Source, pairs: Pairs | None) -> None:
    """Checks what `paired_views` is given, and decodes what fits in memory.

    Raises:
        DataError: see `paired_views`; or more than 1% of the images that fit in memory are
            unreadable.
    """
    if not source.cached().random_access:
        raise DataError(
            "Pairs need images that can be read by number: in memory, or in files. "
            f"Received: {source.name}, which is read in its own order."
        )
    if pairs is None:
        draw_pairs(source.labels(), 2, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class PairedOrder(Order):
    """The order of the images of pairs, one after the other: a, b of a pair, a, b of the next.

    What `Order` calls an epoch of an image is its place in the run here, so that the seed of an
    image's view is a function of (seed, place): an image has other views in each of its pairs.

    Attributes:
        pairs: the pairs of an epoch, in a new order in each; None to draw them from the labels.
        labels: (num_examples,), the class of each image, to draw pairs from.
        pairs_per_epoch: number of pairs, a multiple of half the batch size.
    """

    pairs: Pairs | None = None
    labels: Integers = ()
    pairs_per_epoch: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """Batches in an epoch."""
        return 2 * self.pairs_per_epoch // self.batch_size

    def pairs_of(self, epoch: int) -> Pairs:
        """Returns the pairs of an epoch in their order, a function of (seed, epoch)."""
        count, seed = self.pairs_per_epoch, (self.seed, int(epoch))
        if self.pairs is None:
            return draw_pairs(self.labels, count, seed)
        random, every = np.random.default_rng(seed), len(self.pairs)
        orders = [random.permutation(every) for _ in range(-(-count // every))]
        return self.pairs[np.concatenate(orders)[:count]]

    def numbers(self, block: int) -> tf.data.Dataset:
        """Returns a data set of (places, numbers) of the images of a block: int64 (block,) each."""

        def one_epoch(epoch, first, second, same):
            numbers = tf.reshape(tf.stack([first, second], axis=1), [-1])
            places = epoch * 2 * self.pairs_per_epoch + tf.range(tf.size(numbers, tf.int64))
            done = self._done(epoch) * self.batch_size
            blocks = (tf.reshape(x[done:], [-1, block]) for x in (places, numbers))
            return tf.data.Dataset.from_tensor_slices(tuple(blocks))

        return self._pairs().flat_map(as_written(one_epoch))

    def answers(self) -> tf.data.Dataset:
        """Returns a data set of whether the pairs of each batch are of the same thing, 1 or 0."""

        def one_epoch(epoch, first, second, same):
            batches = tf.reshape(tf.cast(same, tf.float32), [self.steps_per_epoch, -1])
            return tf.data.Dataset.from_tensor_slices(batches[self._done(epoch) :])

        return self._pairs().flat_map(as_written(one_epoch))

    def _pairs(self):
        def drawn(epoch):
            pairs = self.pairs_of(epoch)
            return pairs.first, pairs.second, pairs.same

        def of_epoch(epoch):
            kinds = (tf.int64, tf.int64, tf.bool)
            parts = tf.numpy_function(drawn, [epoch], kinds, stateful=False)
            return epoch, *(tf.ensure_shape(part, [self.pairs_per_epoch]) for part in parts)

        return self._epochs().map(as_written(of_epoch))
