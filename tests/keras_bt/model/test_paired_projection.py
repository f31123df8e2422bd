"""The projector for all views at once: what a call for each gives."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bt import projector
from keras_bt.model import paired_projection
from keras_bt.model.paired_projection import can_be_stacked, project_together

layers = keras.layers


def features(n=12, width=5):
    random = np.random.default_rng(0)
    # The views differ in mean and spread, so that statistics of all together would be seen.
    return [tf.constant(random.normal(m, m + 1, (n, width)), "float32") for m in (0, 3, 1)]


def a_call_each(model, views, training):
    return [model(x, training=training) for x in views]


def trained(function, model):
    """Embeddings, gradients and statistics after a step in training."""
    views = features()
    with tf.GradientTape() as tape:
        tape.watch(views)
        za, zb, zc = z = function(model, views, training=True)
        loss = tf.reduce_sum(tf.sin(za) * tf.cos(2 * zb) * zc)
    weights = [v.value for v in model.trainable_variables]
    return [*z, *tape.gradient(loss, [*views, *weights]), *model.non_trainable_weights]


@pytest.mark.parametrize("widths", [(4,), (8, 6), (8, 8, 4)])
def test_one_pass_gives_what_a_call_each_gives(widths):
    models = [projector(widths, input_dim=5) for _ in range(2)]
    models[1].set_weights(models[0].get_weights())
    expected, result = map(trained, (a_call_each, project_together), models)
    for theirs, ours in zip(expected, result, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    for training in (False, True):
        ours, theirs = (f(models[0], features(), training) for f in (project_together, a_call_each))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def products(model, **arguments):
    graph = tf.function(lambda *views: project_together(model, views, **arguments))
    operations = graph.get_concrete_function(*features()).graph.get_operations()
    return sum(operation.type == "MatMul" for operation in operations)


def test_each_weight_is_read_once():
    assert products(projector((8, 8, 4), input_dim=5), training=True) == 3


@pytest.mark.parametrize(
    "other",
    [
        lambda: layers.Dropout(0.5),  # draws
        lambda: layers.Lambda(lambda x: x - keras.ops.mean(x, axis=0)),  # looks at other rows
        lambda: layers.Dense(5, activity_regularizer="l2"),  # has a loss of its own for each call
        lambda: projector((5,), input_dim=5),  # a model, which may contain anything
    ],
)
def test_other_layers_see_one_view_at_a_time(other):
    model = keras.Sequential([layers.Input((5,)), layers.Dense(5), other(), layers.Dense(3)])
    assert not can_be_stacked(model)
    assert products(model, training=True) >= 4


def test_a_subclass_may_do_anything():
    class Centered(layers.Dense):
        def call(self, inputs, training=None):
            return super().call(inputs - keras.ops.mean(inputs, axis=0))

    assert not can_be_stacked(keras.Sequential([layers.Input((5,)), Centered(3)]))
    assert paired_projection.can_be_stacked(keras.Sequential([layers.Input((5,)), layers.Dense(3)]))
