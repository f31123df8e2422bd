"""BatchNormalization on JAX: Keras' own layer, unchanged."""

import keras


def prepare_batch_normalization(*models: keras.Model) -> None:
    """Does nothing: a compiled step sees the global batch, and so do its statistics.

    On several devices XLA adds up what each of them computes of its rows; Keras' arithmetic is
    fused by it. See `keras_bt.model.tensorflow.batch_normalization` for what TensorFlow needs.
    """
