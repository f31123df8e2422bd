"""Compiling a function that a model's variables take part in: `jax.jit`."""

from collections.abc import Callable

import jax
import keras
import numpy as np

from keras_bt.typing import Tensor


def compiled(
    function: Callable[[Tensor], tuple[Tensor, ...]], model: keras.Model, like: np.ndarray
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Returns a function of images, compiled for each number of them, on one device.

    Args:
        function: images (b, h, w, c) → tensors, without side effects.
        model: whose variables it reads, as they are when it is called.
        like: some images, of the size and type that it will be given.
    """
    variables = model.variables

    @jax.jit
    def run(values, images):
        with keras.StatelessScope(zip(variables, values, strict=True)):
            return function(images)

    def call(images):
        # Every device has all weights; this process may be the only one of several that calls.
        return run([v.value.addressable_data(0) for v in variables], images)

    return call
