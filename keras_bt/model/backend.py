"""The parts of the models that each backend has in files of its own: TensorFlow's, or JAX's."""

import keras

if keras.backend.backend() == "jax":
    from keras_bt.model.jax import philox as randomness
    from keras_bt.model.jax.batch_normalization import prepare_batch_normalization
    from keras_bt.model.jax.remat import recomputed
    from keras_bt.model.jax.steps import Steps, at_least, is_known, steps_per_execution
else:
    from keras_bt import randomness
    from keras_bt.model.tensorflow.batch_normalization import prepare_batch_normalization
    from keras_bt.model.tensorflow.keras_fixes import steps_per_execution
    from keras_bt.model.tensorflow.remat import recomputed
    from keras_bt.model.tensorflow.steps import (
        Steps,
        at_least,
        is_known,
    )

__all__ = [
    "Steps",
    "at_least",
    "is_known",
    "prepare_batch_normalization",
    "randomness",
    "recomputed",
    "steps_per_execution",
]
