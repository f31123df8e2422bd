"""Random numbers that depend on a seed alone, identical on every device and under XLA.

`fold_in` and `uniform` draw one stream, with Philox. Of images, each has a seed of its own, so that
what is drawn for it does not depend on the batch that it is in: `fold_in_each` and `uniform_each`
are a hash of the seed and of the number's place, SplitMix64 (Steele, Lea and Flood, "Fast
splittable pseudorandom number generators", 2014), for all rows at once.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from keras_bt.typing import Tensor

# Philox by name, because the automatic choice differs between devices.
_ALGORITHM = "philox"
_GOLDEN = 0x9E3779B97F4A7C15  # of SplitMix64: odd, and near 2⁶⁴ divided by the golden ratio


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


def fold_in_each(seeds: Tensor, number: int | Tensor) -> Tensor:
    """Derives new seeds from seeds, a row for each.

    >>> fold_in_each([[0, 1], [0, 2]], 3).shape
    TensorShape([2, 2])

    Args:
        seeds: integers (..., 2).
        number: an integer, or integers (...), one for each seed.

    Returns:
        int64 (..., 2).
    """
    key = tf.bitcast(_key(seeds), tf.int64)
    return tf.stack([key, tf.broadcast_to(tf.cast(number, tf.int64), tf.shape(key))], axis=-1)


def uniform_each(seeds: Tensor, places: Sequence[int]) -> Tensor:
    """Draws float32 numbers uniformly from [0, 1), a row for each seed.

    >>> uniform_each([[0, 1], [0, 2]], range(3)).shape
    TensorShape([2, 3])

    Args:
        seeds: integers (..., 2).
        places: of the k numbers to draw in the sequence of each seed, integers from 0.

    Returns:
        (..., k).
    """
    steps = np.uint64(_GOLDEN) * (np.asarray(places, np.uint64) + np.uint64(1))  # modulo 2⁶⁴
    bits = _mixed(_key(seeds)[..., None] + tf.constant(steps))
    return tf.cast(tf.bitwise.right_shift(bits, _unsigned(40)), tf.float32) * 2.0**-24


def _key(seeds):
    """Hashes pairs of integers (..., 2) to uint64 (...)."""
    seeds = tf.bitcast(tf.cast(seeds, tf.int64), tf.uint64)
    return _mixed(_mixed(seeds[..., 0] + _GOLDEN) + seeds[..., 1] + _GOLDEN)


def _mixed(z):
    """The finalizer of SplitMix64 (Stafford's variant 13 of MurmurHash3's), a bijection."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, _unsigned(shift)))
        z *= _unsigned(factor)
    return tf.bitwise.bitwise_xor(z, tf.bitwise.right_shift(z, _unsigned(31)))


def _unsigned(number):
    return tf.constant(number, tf.uint64)


def between(bounds: Sequence[float], uniform: Tensor) -> Tensor:
    """Maps numbers uniform in [0, 1) to numbers uniform between two bounds."""
    return bounds[0] + (bounds[1] - bounds[0]) * uniform
