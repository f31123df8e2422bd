import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bt import fused, objectives
from keras_bt.fused import tensorflow as of_tensorflow


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


def rounded(x):
    """Rounds float32 numbers to TF32, 11 bits, as a GPU does with the factors of a product."""
    if x.dtype != tf.float32:
        return x
    bits = tf.bitcast(x, tf.int32) + 2**12
    return tf.bitcast(tf.bitwise.bitwise_and(bits, -(2**13)), tf.float32)


@pytest.fixture
def tf32(monkeypatch):
    """A GPU's products in TF32. Call it to let `fused.product` know."""
    exactly = tf.matmul
    monkeypatch.setattr(tf, "matmul", lambda x, y, **_: exactly(rounded(x), rounded(y)))
    return lambda: monkeypatch.setattr(of_tensorflow, "_tf32", lambda: True)


FAMILY = {
    **{
        f"{kind.__name__}, {form}": functools.partial(kind, form=form)
        for kind in (
            objectives.BarlowTwinsObjective,
            objectives.MixedBarlowTwins,
            objectives.VICReg,
        )
        for form in ("correlation", "gram")
    },
    "InfoNCE": objectives.InfoNCE,
}


@pytest.mark.parametrize("name", FAMILY)
def test_objectives_lose_no_digits_to_tf32(name, tf32):
    objective = FAMILY[name]()
    rng = np.random.default_rng(0)
    views = tf.constant(rng.normal(1, 1, (3, 24, 40)) + rng.normal(size=(24, 40)))

    def loss_and_gradients(dtype):
        za, zb, zm = given = [tf.cast(z, dtype) for z in views]
        with tf.GradientTape() as tape:
            tape.watch(given)
            terms = objective.terms(za, zb, objectives.OneReplica())
            if objective.mixing_seed is not None:
                mixing = objectives.Mixing(0.25, np.roll(np.arange(24), 1))
                terms |= objective.mixed_terms(za, zb, zm, mixing, objectives.OneReplica())
            loss = objective.loss(terms)
        gradients = tape.gradient(loss, given, unconnected_gradients="zero")
        return [tf.cast(x, "float64").numpy() for x in (loss, *gradients)]

    def error(found):
        pairs = zip(found, loss_and_gradients("float64"), strict=True)
        return max(np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-30) for a, b in pairs)

    coarse = error(loss_and_gradients("float32"))
    tf32()
    assert error(loss_and_gradients("float32")) < 1e-5 < 5e-5 < coarse
