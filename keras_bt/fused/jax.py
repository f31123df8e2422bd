"""The operations of this room in `keras.ops`, whose passes XLA fuses by itself."""

import jax.numpy as jnp
import keras
from keras import ops

from keras_bt.typing import Tensor


def norm(x: Tensor) -> Tensor:
    """Returns √(Σ x²).

    Args:
        x: float tensor or variable of any shape.
    """
    return ops.sqrt(ops.sum(ops.square(x)))


def product(x: Tensor, y: Tensor) -> Tensor:
    """Returns the matrix product x y in the precision of its factors, on any device.

    A GPU would round the factors to 11 bits (TF32) and a TPU to 8 (bfloat16). The products of the
    gradient are exact as well.

    Args:
        x: float (..., m, k).
        y: float (..., k, n), of the same dtype.
    """
    return jnp.matmul(x, y, precision="highest")


def momentum_step(
    variable: keras.Variable, momentum: keras.Variable, gradient: Tensor, rate: Tensor, decay: float
) -> None:
    """Takes a step of momentum, in place: m ← μ m + g, then w ← w − ε m.

    Args:
        variable: w.
        momentum: m, of the same shape and dtype as w.
        gradient: g, of the same shape and dtype as w.
        rate: ε, a scalar.
        decay: μ.
    """
    momentum.assign(decay * momentum + gradient)
    variable.assign(variable - rate * momentum)
