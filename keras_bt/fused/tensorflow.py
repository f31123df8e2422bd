"""The operations of this room as TensorFlow has them."""

import keras
import tensorflow as tf
from keras import ops

from keras_bt.typing import Tensor


def norm(x: Tensor) -> Tensor:
    """Returns √(Σ x²), reading `x` once: the squares are not written to memory.

    Args:
        x: float tensor or variable of any shape.
    """
    return tf.sqrt(2 * tf.nn.l2_loss(tf.convert_to_tensor(x)))


def product(x: Tensor, y: Tensor) -> Tensor:
    """Returns the matrix product x y in the precision of its factors, on any device.

    Where TF32 is allowed, a GPU rounds float32 factors to 11 bits. Then each is split in two parts
    that TF32 holds, x = x₁ + x₂, and x y = x₁ y₁ + x₁ y₂ + x₂ y₁, up to the 2^-22 of x₂ y₂. The
    products of the gradient are made likewise.

    Args:
        x: float (..., m, k).
        y: float (..., k, n), of the same dtype.
    """
    if x.dtype != tf.float32 or not _tf32():
        return ops.matmul(x, y)

    @tf.custom_gradient
    def split_product(x, y):
        (x1, x2), (y1, y2) = _parts(x), _parts(y)
        small = tf.matmul(x1, y2) + tf.matmul(x2, y1)

        def gradient(upstream):
            return product(upstream, _transposed(y)), product(_transposed(x), upstream)

        return tf.matmul(x1, y1) + small, gradient

    return split_product(x, y)


def _tf32():
    """Returns whether products of float32 may be made of factors with 11 bits."""
    allowed = tf.config.experimental.tensor_float_32_execution_enabled()
    return allowed and bool(tf.config.list_physical_devices("GPU"))


def _parts(x):
    """Returns the leading 11 bits of float32 numbers, and the rest."""
    mask = tf.constant(-(2**13), tf.int32)  # drops 13 of the 23 bits behind the leading one
    leading = tf.bitcast(tf.bitwise.bitwise_and(tf.bitcast(x, tf.int32), mask), tf.float32)
    return leading, x - leading


def _transposed(x):
    return tf.linalg.matrix_transpose(x)


def momentum_step(
    variable: tf.Variable, momentum: keras.Variable, gradient: Tensor, rate: Tensor, decay: float
) -> None:
    """Takes a step of momentum, in place: m ← μ m + g, then w ← w − ε m.

    Args:
        variable: w, which Keras' optimizers on TensorFlow hand on as TensorFlow's.
        momentum: m, of the same shape and dtype as w.
        gradient: g, of the same shape and dtype as w.
        rate: ε, a scalar.
        decay: μ.
    """
    tf.raw_ops.ResourceApplyMomentum(
        var=variable.handle,
        accum=momentum.value.handle,
        lr=rate,
        grad=gradient,
        momentum=tf.cast(decay, gradient.dtype),
    )
