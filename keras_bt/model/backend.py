"""The parts of the models that each backend has in files of its own: TensorFlow's, or JAX's."""

import keras

if keras.backend.backend() == "jax":
    from keras_bt.model.jax.batch_normalization import prepare_batch_normalization
    from keras_bt.model.jax.inference import compiled
    from keras_bt.model.jax.philox import fold_in, uniform
    from keras_bt.model.jax.remat import recomputed
    from keras_bt.model.jax.steps import Steps, at_least, is_known, steps_per_execution
elif keras.backend.backend() == "tensorflow":
    from keras_bt.model.tensorflow.batch_normalization import prepare_batch_normalization
    from keras_bt.model.tensorflow.inference import compiled
    from keras_bt.model.tensorflow.keras_fixes import steps_per_execution
    from keras_bt.model.tensorflow.remat import recomputed
    from keras_bt.model.tensorflow.steps import (
        Steps,
        at_least,
        is_known,
    )
    from keras_bt.randomness import fold_in, uniform
else:
    raise ValueError(
        "Keras must run on TensorFlow or JAX: KERAS_BACKEND=tensorflow or jax. "
        f"Received: KERAS_BACKEND={keras.backend.backend()}."
    )

__all__ = [
    "Steps",
    "at_least",
    "compiled",
    "fold_in",
    "is_known",
    "prepare_batch_normalization",
    "recomputed",
    "steps_per_execution",
    "uniform",
]
