"""Random numbers that depend on a seed alone: on JAX those of `keras_bt.randomness`, to the bit.

Both are Philox4x32-10, a bijection of 128-bit counters for each 64-bit key (Salmon et al. 2011,
Parallel random numbers: as easy as 1, 2, 3). JAX has 32-bit integers unless told otherwise, so the
two 64-bit numbers of a seed are kept as (low, high) words.
"""

from collections.abc import Sequence

import jax.numpy as jnp

from keras_bt.typing import Tensor

_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85  # added to the key after each round
_SCRAMBLING_KEY = 0x3EC8F720, 0x02461E29  # TensorFlow's, by which seeds become keys


def fold_in(seed: Tensor, number: Tensor) -> Tensor:
    """Derives from `seed` a new seed for each number.

    Args:
        seed: integers, shape (2,), or what this function returned.
        number: integer scalar.

    Returns:
        uint32 array of shape (2, 2), the low and high words of a seed's two numbers.
    """
    key, counter = _key_and_counter(seed)
    drawn = _philox(key, (0, 0, *counter))[:2]
    return jnp.stack([jnp.stack(drawn), _words(number)])


def uniform(seed: Tensor, shape: Sequence[int]) -> Tensor:
    """Draws float32 numbers uniformly from [0, 1), given a seed of shape (2,) or (2, 2)."""
    count = 1
    for size in shape:
        count *= size
    key, counter = _key_and_counter(seed)
    blocks = jnp.arange(-(-count // 4), dtype=jnp.uint32)
    bits = jnp.stack(_philox(key, (blocks, 0, *counter)), axis=-1).reshape(-1)[:count]
    return (bits >> 8).astype(jnp.float32).reshape(shape) * 2.0**-24


def _words(number):
    """Returns the low and high words of an integer as a 64-bit one."""
    number = jnp.asarray(number)
    return jnp.stack([number.astype(jnp.uint32), jnp.where(number < 0, -1, 0).astype(jnp.uint32)])


def _key_and_counter(seed):
    """Scrambles a seed, which may be as simple as (0, 1), to a key and half a counter."""
    seed = jnp.asarray(seed)
    if seed.ndim == 1:
        seed = jnp.stack([_words(number) for number in seed])
    mixed = _philox(_SCRAMBLING_KEY, seed.reshape(-1))
    return mixed[:2], mixed[2:]


def _philox(key, counter):
    """Returns the four words, uint32 each, that a key makes of a counter of four words."""
    k0, k1 = (jnp.asarray(word, jnp.uint32) for word in key)
    c0, c1, c2, c3 = jnp.broadcast_arrays(*(jnp.asarray(word, jnp.uint32) for word in counter))
    for _ in range(10):
        (high0, low0), (high1, low1) = _product(_MULTIPLIERS[0], c0), _product(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + jnp.uint32(_WEYL[0]), k1 + jnp.uint32(_WEYL[1])
    return c0, c1, c2, c3


def _product(constant, x):
    """Returns the high and low words of a product, from those of its halves."""
    a1, a0 = jnp.uint32(constant >> 16), jnp.uint32(constant & 0xFFFF)
    x1, x0 = x >> 16, x & 0xFFFF
    middle = a1 * x0 + (a0 * x0 >> 16)  # at most 2^32 - 1
    other = a0 * x1 + (middle & 0xFFFF)
    return a1 * x1 + (middle >> 16) + (other >> 16), jnp.uint32(constant) * x
