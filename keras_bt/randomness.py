"""Random numbers that are functions of a seed alone, the same on every device and under XLA."""

import tensorflow as tf

# Philox by name: the automatic choice differs between devices.
_ALGORITHM = "philox"


def fold_in(seed, number):
    """A seed of its own for each number.

    Args:
        seed: integer tensor of shape (2,).
        number: int or scalar integer tensor.

    Returns:
        int64 tensor of shape (2,).
    """
    seed, number = tf.cast(seed, tf.int64), tf.cast(number, tf.int64)
    return tf.random.experimental.stateless_fold_in(seed, number, alg=_ALGORITHM)


def uniform(seed, shape):
    """Numbers uniform in [0, 1), float32, from a seed of shape (2,)."""
    # XLA turns the same bits into other floats than TensorFlow does, so that is done here.
    bits = tf.random.stateless_uniform(
        shape, seed, minval=None, maxval=None, dtype=tf.uint32, alg=_ALGORITHM
    )
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24


def between(bounds, uniform):
    """Takes numbers uniform in [0, 1) to numbers uniform between two bounds."""
    return bounds[0] + (bounds[1] - bounds[0]) * uniform
