"""From a source to batches of views: what pretraining and classifiers share."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Self

import numpy as np
import tensorflow as tf

from keras_bt.data.as_written import as_written
from keras_bt.data.decoding import DataError
from keras_bt.data.sampler import Order
from keras_bt.data.sources import Source
from keras_bt.preprocessing import center_crop, height_and_width
from keras_bt.randomness import fold_in_each
from keras_bt.typing import Size, Tensor

# Vectorized work is done on blocks of at most this many pixels: 8 images of 224 × 224. They stay
# in a core's cache, which halves the time that blocks of 64 take, keep all cores busy, and bound
# the memory for any batch size.
_BLOCK = 8 * 224 * 224
_PARALLEL = tf.data.AUTOTUNE
# From this size on, a view is worth the seconds that XLA takes to compile it. It is then 7 times
# cheaper (0.8 instead of 6 ms of a core for 224 × 224 pixels), because XLA passes over the pixels
# once, and TensorFlow once for every operation.
_WORTH_COMPILING = 64 * 64


class SplitView(Protocol):
    """A view whose random crop can be made apart, such as `keras_bt.augmentations.View`."""

    @property
    def crop(self) -> Callable[[dict[str, Tensor]], dict[str, Tensor]] | None:
        """The random crop that the view begins with, or None.

        Takes `{"images": image, "seed": seed}` for one uint8 image of any size and a seed (2,), or
        for a batch and seeds (b, 2).
        """

    @property
    def rest(self) -> Self:
        """The view without `crop`."""

    @property
    def drawn(self) -> bool:
        """True if `draw` decides everything about the view, and XLA can compile `apply`."""

    def draw(self, seeds: Tensor) -> Any:
        """Draws what is random about the view of each image, given seeds (b, 2)."""

    def apply(self, images: Tensor, draws: Any) -> Tensor:
        """Makes the view of a batch of images, 0..255, that was drawn."""


def view_batches(
    source: Source,
    views: Sequence[SplitView],
    order: Order,
    finish: Callable[..., Any],
    image_size: Size | None = None,
    whole_batches: bool = False,
) -> tf.data.Dataset:
    """Makes an endless stream of batches, from the images in their order to what `finish` returns.

    All views of an image are made in one map: it is decoded once and cropped once for each, and
    only the crops are batched. Small images in memory are batched first.

    Args:
        source: the images.
        views: one or two views.
        order: the order, with the shard of the batches to make.
        finish: function of a block of b images: crops of each view, (uint8 (b, h, w, c), …);
            labels (b,); whether there is such an image and it can be read, bool (b,); and the
            seeds of the images, int64 (b, 2) → tensors (b, …).
        image_size: see `keras_bt.data.pretraining_views`.
        whole_batches: whether blocks are whole batches.

    Raises:
        DataError: if there is neither random crop nor image_size to give images one size.
    """
    source = source.cached()

    if source.is_small:
        block = _block_size(order, source.images.shape[1:3], whole_batches)
        examples, crop = order.numbers(block), _crops_of_batches(source, views, order)
    else:
        crops = _crops(source, views, order, image_size)
        block = _block_size(order, crops.element_spec[0][0].shape[:2], whole_batches)
        examples = crops.batch(block, drop_remainder=True, num_parallel_calls=_PARALLEL)

        def crop(*examples):
            return examples

    # AutoGraph is for functions of the user's in a view, which may branch on tensors.
    traced = as_written if _drawn(views) else lambda function: function
    blocks = examples.map(traced(lambda *examples: finish(*crop(*examples))), _PARALLEL)
    options = tf.data.Options()
    options.deterministic = True
    if order.num_shards > 1:  # already done: each worker's batches are its own
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    count = order.local_batch_size // block
    if count > 1:
        # As `rebatch`, which takes 57 instead of 40 ms for 256 pairs of 224 × 224 pixels.
        blocks = blocks.batch(count, drop_remainder=True).map(
            as_written(
                lambda *parts: tf.nest.map_structure(
                    lambda part: tf.reshape(part, (-1, *part.shape[2:])), parts
                )
            )
        )
    return blocks.with_options(options)


def _crops_of_batches(source, views, order):
    """Returns a function: epochs, numbers → crops, labels, which images exist, their seeds."""

    def crops(epochs, numbers):
        seeds = order.seeds(epochs, numbers)
        there, numbers = order.exists(numbers), tf.maximum(numbers, 0)
        images = source.batch(numbers)
        made = tuple(
            _whole_levels(view.crop({"images": images, "seed": view_seeds})["images"])
            if view.crop
            else images
            for view, view_seeds in zip(views, seeds_of_views(seeds, len(views)), strict=True)
        )
        return made, source.label(numbers), there, seeds

    return crops


def _crops(source, views, order, image_size):
    """Returns a data set of (crops, label, whether there is such an image to be read, seed)."""
    crop_functions = [_crop_function(view, source, image_size) for view in views]

    def decode(number, reference):
        if not order.keep_remainder:
            return source.decode(*reference)
        # A number that only fills up a batch is treated like an unreadable image.
        image, readable, label = tf.cond(
            order.exists(number),
            lambda: source.decode(*reference),
            lambda: (
                tf.zeros([1, 1, source.channels], tf.uint8),
                False,
                tf.constant(-1, tf.int64),
            ),
        )
        return tf.ensure_shape(image, [None, None, source.channels]), readable, label

    def crops(epoch, number, *reference):
        image, readable, label = decode(number, reference)
        seed = order.seeds(epoch, number)
        made = tuple(
            _whole_levels(crop(image, readable, view_seed))
            for crop, view_seed in zip(
                crop_functions, seeds_of_views(seed, len(views)), strict=True
            )
        )
        return made, label, readable, seed

    return source.in_run(order).map(as_written(crops), _PARALLEL)


def _whole_levels(images):
    """Rounds crops, as Pillow does; so the device is given bytes, and what the host would have."""
    if images.dtype == tf.uint8:
        return images
    return tf.saturate_cast(tf.round(images), tf.uint8)


def _crop_function(view, source, image_size):
    """Returns the function that gives all images one size: image, readable, seed → image."""
    crop = view.crop
    if crop is not None:
        return lambda image, readable, seed: crop({"images": image, "seed": seed})["images"]
    if image_size is not None:
        resize = min(height_and_width(image_size))
        return lambda image, readable, seed: center_crop(image, image_size, resize)
    if source.image_shape is not None:
        blank = tf.zeros(source.image_shape, tf.uint8)
        return lambda image, readable, seed: tf.ensure_shape(
            tf.where(readable, image, blank), source.image_shape
        )
    raise DataError(
        "Images of different sizes need views that begin with a random crop, or an image_size. "
        f"Received: {source.name} with neither."
    )


def _block_size(order, side, whole):
    """Returns images per block: the largest divisor of the batch size within `_BLOCK` pixels."""
    if whole:
        return order.local_batch_size
    most = max(1, _BLOCK // int(np.prod(side)))
    sizes = range(min(most, order.local_batch_size), 0, -1)
    return next(size for size in sizes if order.local_batch_size % size == 0)


def draws_of_views(views: Sequence[SplitView], seeds: Tensor) -> tuple[Any, ...]:
    """Returns what is random about each view after the crop, given seeds of images (b, 2)."""
    return tuple(
        view.rest.draw(view_seeds)
        for view, view_seeds in zip(views, seeds_of_views(seeds, len(views)), strict=True)
    )


def rest_of_views(
    views: Sequence[SplitView], compile_views: bool | None = None
) -> Callable[..., tuple[Tensor, ...]]:
    """Returns the function that makes views from crops; `compile_views` as in `pretraining_views`.

    It takes the crops of each view, (tensor (b, h, w, c), …), and the seeds of the images, and
    returns the views, each float32 (b, h', w', c).
    """

    def chosen(all_crops, seeds):
        height, width = all_crops[0].shape[1:3]
        worth_it = height * width >= _WORTH_COMPILING and _drawn(views)
        compiled = worth_it if compile_views is None else compile_views
        rest = _compiled_rest(tuple(views)) if compiled else functools.partial(_rest, views)
        # The draws are made outside: they are the same bit for bit however the pixels are made.
        return rest(all_crops, draws_of_views(views, seeds))

    return chosen


def _drawn(views):
    """Tells whether all layers of the views after their crops are this package's."""
    return all(view.rest.drawn for view in views)


def _rest(views, all_crops, all_draws):
    return tuple(
        view.rest.apply(tf.cast(crops, tf.float32), draws)
        for view, crops, draws in zip(views, all_crops, all_draws, strict=True)
    )


@functools.lru_cache(maxsize=1)  # a run that is continued opens its batches twice
def _compiled_rest(views):
    """Compiles all views in one function, which is faster than one function for each."""
    rest = functools.partial(_rest, views)
    return tf.function(rest, jit_compile=True, autograph=not _drawn(views))


def seeds_of_views(seeds: Tensor, count: int) -> tuple[Tensor, ...]:
    """Returns seeds (..., 2) for each of `count` views: of the same layers they draw differently.

    Those of the first are `seeds`; view n folds in -n, as places within a view count from 0.
    """
    return (seeds, *(fold_in_each(seeds, -view) for view in range(1, count)))
