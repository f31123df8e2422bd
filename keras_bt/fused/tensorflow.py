"""The operations of this room as TensorFlow has them."""

import keras
import tensorflow as tf

from keras_bt.typing import Tensor


def norm(x: Tensor) -> Tensor:
    """Returns √(Σ x²), reading `x` once: the squares are not written to memory.

    Args:
        x: float tensor or variable of any shape.
    """
    return tf.sqrt(2 * tf.nn.l2_loss(tf.convert_to_tensor(x)))


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
