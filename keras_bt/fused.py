"""Operations of TensorFlow that do in one pass over memory what `keras.ops` does in several.

The optimizer goes over each number of a wide projector, 150 million in the published one; at small
batches its time is that of reading and writing them. For another backend of Keras write these in
`keras.ops`, as their docstrings say.
"""

import tensorflow as tf


def norm(x):
    """Returns √(Σ x²), reading `x` once: the squares are not written.

    Args:
        x: float tensor or variable of any shape.
    """
    return tf.sqrt(2 * tf.nn.l2_loss(tf.convert_to_tensor(x)))


def momentum_step(variable, momentum, gradient, rate, decay):
    """A step of momentum, in place: m ← decay · m + g, then w ← w − rate · m.

    Args:
        variable: `tf.Variable` w.
        momentum: `tf.Variable` m, of the same shape and type.
        gradient: tensor g.
        rate: scalar tensor.
        decay: float μ.
    """
    tf.raw_ops.ResourceApplyMomentum(
        var=variable.handle,
        accum=momentum.handle,
        lr=rate,
        grad=gradient,
        momentum=tf.cast(decay, gradient.dtype),
    )
