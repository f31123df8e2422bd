"""NumPy's functions for the arrays of three libraries: NumPy, TensorFlow and JAX.

What a view does to pixels is written once, against `namespace(images)`: NumPy itself, `jax.numpy`,
or the few of NumPy's functions below on TensorFlow's operations. `keras.ops` would not do, as it
computes with one library only, while a run on JAX also makes views in `tf.data`; nor would
`tf.experimental.numpy`, which turns Python's numbers into float64 and float32 images with them.
"""

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import tensorflow as tf

from keras_bt.typing import Tensor

_TENSORFLOW = SimpleNamespace(
    abs=tf.abs,
    any=tf.reduce_any,
    arange=lambda n, dtype: tf.range(tf.cast(n, dtype)),
    argsort=lambda x, axis: tf.argsort(x, axis),
    clip=tf.clip_by_value,
    concatenate=tf.concat,
    cos=tf.cos,
    einsum=tf.einsum,
    flip=lambda x, axis: tf.reverse(x, [axis]),
    float32=tf.float32,
    floor=tf.floor,
    int32=tf.int32,
    maximum=tf.maximum,
    mean=lambda x, axis, keepdims: tf.reduce_mean(x, axis, keepdims),
    minimum=tf.minimum,
    pad=tf.pad,
    reshape=tf.reshape,
    sin=tf.sin,
    sqrt=tf.sqrt,
    square=tf.square,
    stack=tf.stack,
    sum=lambda x, axis, keepdims=False: tf.reduce_sum(x, axis, keepdims),
    tan=tf.tan,
    transpose=tf.transpose,
    where=tf.where,
)


def namespace(array: Tensor) -> Any:
    """Returns the module with whose functions to compute, given an array of a library."""
    if tf.is_tensor(array):
        return _TENSORFLOW
    if isinstance(array, (np.ndarray, np.generic)):
        return np
    return _jax().numpy


def shape(array: Tensor) -> tuple[Any, ...]:
    """Returns the lengths of an array's axes: ints, or scalar tensors where TensorFlow's vary."""
    if not tf.is_tensor(array):
        return tuple(array.shape)
    dynamic = tf.shape(array)
    return tuple(dynamic[i] if n is None else n for i, n in enumerate(array.shape))


def cast(array: Tensor, dtype: str) -> Tensor:
    """Returns an array in another dtype."""
    if tf.is_tensor(array):
        return tf.cast(array, dtype)
    return array.astype(dtype)


def when(condition: Tensor, then: Any, otherwise: Any) -> Tensor:
    """Returns `then()` or `otherwise()`, and computes no other.

    Besides skipping idle work, a conditional is a barrier to XLA's fusion, which would otherwise
    recompute what comes before for each of its uses afterwards (measured on CPU: the jitter is 8
    times as slow, the blur twice).
    """
    if tf.is_tensor(condition):
        return tf.cond(condition, then, otherwise)
    if isinstance(condition, (np.ndarray, np.generic, bool)):
        return then() if condition else otherwise()
    return _jax().lax.cond(condition, then, otherwise)


def choose(chosen: Tensor, ours: Tensor, theirs: Tensor) -> Tensor:
    """Returns the rows of `ours` where `chosen`, bool (b,), and those of `theirs` elsewhere."""
    if tf.is_tensor(ours):
        # Version 1 of `where` takes one condition per row, and then copies whole rows.
        return tf.compat.v1.where(chosen, ours, theirs)
    rows = chosen.reshape(-1, *[1] * (ours.ndim - 1))
    return namespace(ours).where(rows, ours, theirs)


def take_rows(array: Tensor, indices: Tensor) -> Tensor:
    """Takes from each row of (b, n, c) the entries at indices (b, ...): (b, ..., c)."""
    if tf.is_tensor(array):
        # A gather, because TensorFlow's projective transform has no XLA kernel.
        return tf.gather(array, indices, batch_dims=1)
    rows = namespace(array).arange(array.shape[0]).reshape(-1, *[1] * (indices.ndim - 1))
    return array[rows, indices]


def _jax() -> ModuleType:
    import jax

    return jax
