"""Random numbers that depend on a seed alone, identical on every device and under XLA."""

from collections.abc import Sequence

import tensorflow as tf

from keras_bt.typing import Tensor

# Philox by name, because the automatic choice differs between devices.
_ALGORITHM = "philox"


def fold_in(seed: Tensor, number: Tensor) -> Tensor:
    """Derives from `seed` a new seed for each number.

    Args:
        seed: integers, shape (2,).
        number: integer scalar.

    Returns:
        int64 tensor of shape (2,).
    """
    seed, number = tf.cast(seed, tf.int64), tf.cast(number, tf.int64)
    return tf.random.experimental.stateless_fold_in(seed, number, alg=_ALGORITHM)


def uniform(seed: Tensor, shape: Sequence[int]) -> Tensor:
    """Draws float32 numbers uniformly from [0, 1), given a seed of shape (2,)."""
    # From the same bits XLA and TensorFlow make different floats, so that is done here.
    bits = tf.random.stateless_uniform(
        shape, seed, minval=None, maxval=None, dtype=tf.uint32, alg=_ALGORITHM
    )
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def between(bounds: Sequence[float], uniform: Tensor) -> Tensor:
    """Maps numbers uniform in [0, 1) to numbers uniform between two bounds."""
    return bounds[0] + (bounds[1] - bounds[0]) * uniform
