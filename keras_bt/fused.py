"""TensorFlow operations that make one pass over memory where `keras.ops` makes several.

The optimizer visits every weight of a wide projector, 150 million in the published one; with small
batches its time is that of reading and writing them. For another Keras backend, write these in
`keras.ops` as their docstrings state.
"""

import tensorflow as tf

from keras_bt.typing import Tensor


def norm(x: Tensor) -> Tensor:
    """Returns √(Σ x²), reading `x` once: the squares are not written to memory.

    Args:
        x: float tensor or variable of any shape.
    """
    return tf.sqrt(2 * tf.nn.l2_loss(tf.convert_to_tensor(x)))


def momentum_step(
    variable: tf.Variable, momentum: tf.Variable, gradient: Tensor, rate: Tensor, decay: float
) -> None:
    """Takes a step of momentum, in place: m ← μ m + g, then w ← w − ε m.

    Args:
        variable: w.
        momentum: m, of the same shape and dtype as w.
        gradient: g, of the same shape and dtype as w.
        rate: ε, a scalar.
        decay: μ.
    """
    tf.raw_ops.ResourceApplyMomentum(
        var=variable.handle,
        accum=momentum.handle,
        lr=rate,
        grad=gradient,
        momentum=tf.cast(decay, gradient.dtype),
    )
