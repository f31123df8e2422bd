"""Compiling a function that a model's variables take part in: `tf.function`."""

from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from keras_bt.typing import Tensor


def compiled(
    function: Callable[[Tensor], tuple[Tensor, ...]], model: keras.Model, like: np.ndarray
) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """Returns a function of images, compiled once for any number of them.

    Args:
        function: images (b, h, w, c) → tensors, without side effects.
        model: whose variables it reads, as they are when it is called.
        like: some images, of the size and type that it will be given.
    """
    signature = [tf.TensorSpec([None, *like.shape[1:]], like.dtype)]
    return tf.function(function, input_signature=signature, autograph=False)
