import keras
import numpy as np
import tensorflow as tf

from keras_bt import fused


def test_norm():
    x = np.random.default_rng(0).normal(size=(30, 40)).astype("float32")
    for given in (x, tf.Variable(x)):
        np.testing.assert_allclose(fused.norm(given), np.linalg.norm(x), rtol=1e-6)


def test_momentum_step():
    w, m, g = np.random.default_rng(0).normal(size=(3, 4, 5)).astype("float32")
    variable, momentum = tf.Variable(w), keras.Variable(m)
    fused.momentum_step(variable, momentum, tf.constant(g), tf.constant(0.1), 0.9)
    np.testing.assert_allclose(momentum, 0.9 * m + g, rtol=1e-6)
    np.testing.assert_allclose(variable, w - 0.1 * (0.9 * m + g), rtol=1e-5, atol=1e-6)
