"""Operations that make one pass over memory where `keras.ops` makes several on TensorFlow.

The optimizer visits every weight of a wide projector, 150 million in the published one; with small
batches its time is that of reading and writing them.
"""

import keras

if keras.backend.backend() == "jax":
    from keras_bt.fused.jax import momentum_step, norm
else:
    from keras_bt.fused.tensorflow import momentum_step, norm

__all__ = ["momentum_step", "norm"]
