"""Compiling what a model's variables take part in: `jax.jit`."""

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


class Inference:
    """A network in inference mode with float32 output, compiled on one device.

    Its results are NumPy arrays: the rest of a pipeline of `tf.data` is not JAX's.

    Args:
        network: images (b, …) → features (b, d).
    """

    def __init__(self, network: keras.Model):
        self._run: Callable[[np.ndarray], Tensor] | None = None
        self._network, self._largest = network, 0

    def __call__(self, images: Tensor) -> np.ndarray:
        """Returns the features, float32 (b, d), with the network's current weights."""
        images = np.asarray(images)
        if self._run is None:
            self._run = compiled(self._forward, self._network, images)
        # The short last batch must not compile the network again.
        count, self._largest = len(images), max(self._largest, len(images))
        padding = [(0, self._largest - count), *[(0, 0)] * (images.ndim - 1)]
        return np.asarray(self._run(np.pad(images, padding)))[:count]

    def _forward(self, images):
        return keras.ops.cast(self._network(images, training=False), "float32")
