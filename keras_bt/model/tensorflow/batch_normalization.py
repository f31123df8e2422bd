"""BatchNormalization for training: synchronized over replicas, or fused on a single one.

Keras' layer computes mean, variance and result with separate TensorFlow operations, each of which
reads the activations and most of which write an array of the same size. TensorFlow has a single
operation for all of it, and another for its gradient. They keep only the input for the backward
pass, and read half precision without a float32 copy; `python -m benchmarks.train_step --variants`
measures the gain.
"""

import types

import keras
import tensorflow as tf
from keras import ops

FUSED_TYPES = ("float32", "bfloat16", "float16")


def prepare_batch_normalization(*models: keras.Model) -> None:
    """Makes BatchNormalization in `models` correct and fast for the current strategy, in place.

    On several replicas the layers are synchronized: their statistics are those of the global batch.
    On one, which has nothing to synchronize, TensorFlow's fused operation replaces Keras'
    arithmetic in training. Results are the same up to rounding; configuration, variables and saved
    files are unaffected.
    """
    several = tf.distribute.get_strategy().num_replicas_in_sync > 1
    for model in models:
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = several
                if several:
                    vars(layer).pop("call", None)
                elif type(layer).call is keras.layers.BatchNormalization.call:
                    layer.call = types.MethodType(_call, layer)


def _call(layer, inputs, training=None, mask=None):
    """Calls BatchNormalization, fused in training where TensorFlow can."""
    if not (training and layer.trainable and mask is None and _can_be_fused(layer, inputs)):
        return type(layer).call(layer, inputs, training=training, mask=mask)
    channels = inputs.shape[-1]
    ones, zeros = tf.ones(channels), tf.zeros(channels)
    # The kernel takes images; to it, a projector's features are images of one pixel.
    images = inputs.shape.rank == 4
    x = inputs if images else tf.expand_dims(tf.expand_dims(inputs, 1), 1)
    y, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x,
        scale=ops.cast(layer.gamma, "float32") if layer.scale else ones,
        offset=ops.cast(layer.beta, "float32") if layer.center else zeros,
        mean=zeros,  # unused in training
        variance=zeros,
        epsilon=layer.epsilon,
        is_training=True,
    )
    # It returns Σ (x − mean)² / (n − 1); Keras, on any number of replicas, keeps Σ (x − mean)² / n.
    n = tf.cast(tf.size(x) // channels, "float32")
    momentum = layer.momentum
    for moving, new in (
        (layer.moving_mean, mean),
        (layer.moving_variance, variance * ((n - 1) / n)),
    ):
        old = ops.cast(moving, "float32")
        moving.assign(ops.cast(momentum * old + (1 - momentum) * new, moving.dtype))
    return ops.cast(y if images else tf.squeeze(y, [1, 2]), layer.compute_dtype)


def _can_be_fused(layer, inputs):
    return (
        inputs.shape.rank in (2, 4)
        and layer.axis in (-1, inputs.shape.rank - 1)
        and inputs.dtype.name in FUSED_TYPES
        and layer.compute_dtype in FUSED_TYPES
        and not getattr(layer, "renorm", False)  # absent from older Keras
    )
