"""Operations that each backend has in a way of its own.

`norm` and `momentum_step` make one pass over memory where `keras.ops` makes several on TensorFlow:
the optimizer visits every weight of a wide projector, 150 million in the published one, and with
small batches its time is that of reading and writing them. `product` keeps all digits where
accelerators drop some.
"""

import keras

if keras.backend.backend() == "jax":
    from keras_bt.fused.jax import momentum_step, norm, product
else:
    from keras_bt.fused.tensorflow import momentum_step, norm, product

__all__ = ["momentum_step", "norm", "product"]
