"""BatchNormalization prepared for one replica: TensorFlow's fused operation, Keras' results."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bt.model.backend import prepare_batch_normalization

layers = keras.layers


def pair(shape, **arguments):
    """Two equal layers with random parameters and statistics, the second one prepared."""
    random = np.random.default_rng(0)
    result = []
    for _ in range(2):
        model = keras.Sequential([layers.Input(shape[1:]), layers.BatchNormalization(**arguments)])
        result.append(model)
    result[0].set_weights([random.uniform(0.5, 1.5, w.shape) for w in result[0].get_weights()])
    result[1].set_weights(result[0].get_weights())
    prepare_batch_normalization(result[1])
    return result


def trained(model, x, upstream):
    """Output, gradients and statistics of a step in training."""

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=True)
        sources = [x, *[v.value for v in model.trainable_variables]]
        return y, *tape.gradient(y, sources, tf.cast(upstream, y.dtype))

    return [*step(), *[v.value for v in model.non_trainable_variables]]


def operations(model, x, **arguments):
    """Types of the operations of a call."""
    graph = tf.function(lambda: model(x, **arguments)).get_concrete_function().graph
    return {operation.type for operation in graph.get_operations()}


@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (16, 7)])
@pytest.mark.parametrize(
    "arguments",
    [{}, {"epsilon": 1e-5, "momentum": 0.9}, {"scale": False}, {"center": False, "scale": False}],
)
def test_output_gradients_and_statistics_are_those_of_keras(shape, arguments):
    random = np.random.default_rng(1)
    x = tf.constant(random.normal(2, 3, shape), "float32")
    upstream = tf.constant(random.normal(size=shape), "float32")
    plain, fused = pair(shape, **arguments)
    for expected, result in zip(
        trained(plain, x, upstream), trained(fused, x, upstream), strict=True
    ):
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)
    assert "FusedBatchNormV3" in operations(fused, x, training=True)
    assert "FusedBatchNormV3" not in operations(plain, x, training=True)


def test_a_large_mean_costs_no_digits():
    x = tf.constant(np.random.default_rng(0).normal(1000, 0.1, (64, 8)), "float32")
    _, fused = pair(x.shape, epsilon=1e-5, center=False, scale=False)
    z = np.float64(x)
    expected = (z - z.mean(0)) / np.sqrt(z.var(0) + 1e-5)
    np.testing.assert_allclose(fused(x, training=True), expected, atol=3e-3)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_is_read_as_it_is(precision):
    x = tf.constant(np.random.default_rng(0).normal(2, 3, (32, 4, 4, 3)), "float32")
    upstream = tf.ones_like(x)
    half = precision.removeprefix("mixed_")
    plain, fused = pair(x.shape, dtype=precision)
    expected, result = (trained(model, x, upstream) for model in (plain, fused))
    assert result[0].dtype == half
    resolution = 2**-7 if half == "bfloat16" else 2**-10
    np.testing.assert_allclose(np.float32(result[0]), np.float32(expected[0]), atol=4 * resolution)
    for moving, other in zip(result[-2:], expected[-2:], strict=True):  # from float32 sums
        np.testing.assert_allclose(moving, other, rtol=2 * resolution)
    # One cast, of the input; the kernel takes halves.
    graph = tf.function(lambda: fused(x, training=True)).get_concrete_function().graph
    (kernel,) = [op for op in graph.get_operations() if op.type == "FusedBatchNormV3"]
    assert kernel.inputs[0].dtype == half


def test_inference_uses_the_moving_statistics():
    x = tf.constant(np.random.default_rng(0).normal(2, 3, (6, 5, 4, 3)), "float32")
    plain, fused = pair(x.shape)
    np.testing.assert_array_equal(plain(x, training=False), fused(x, training=False))


def test_a_frozen_layer_stays_in_inference():
    x = tf.constant(np.random.default_rng(0).normal(2, 3, (6, 3)), "float32")
    _, fused = pair(x.shape)
    expected = fused(x, training=False)
    for layer in fused.layers:
        layer.trainable = False
    np.testing.assert_array_equal(fused(x, training=True), expected)


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [((6, 5, 4, 3), {"axis": 1}), ((6, 5, 3), {}), ((6, 3), {"dtype": "float64"})],
)
def test_what_the_kernel_cannot_do_is_left_to_keras(shape, arguments):
    x = tf.constant(np.random.default_rng(0).normal(2, 3, shape), arguments.get("dtype", "float32"))
    plain, fused = pair(shape, **arguments)
    np.testing.assert_array_equal(plain(x, training=True), fused(x, training=True))


def test_a_mask_is_left_to_keras():
    random = np.random.default_rng(0)
    x, mask = random.normal(size=(20, 3)).astype("float32"), random.random(20) < 0.5
    expected, result = (m.layers[0](x, training=True, mask=mask) for m in pair(x.shape))
    np.testing.assert_array_equal(result, expected)


def test_a_subclass_with_its_own_arithmetic_is_left_alone():
    class Doubled(layers.BatchNormalization):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs, training=training, mask=mask)

    model = keras.Sequential([layers.Input((3,)), Doubled()])
    x = np.random.default_rng(0).normal(size=(8, 3)).astype("float32")
    expected = model(x, training=True)
    prepare_batch_normalization(model)
    np.testing.assert_array_equal(model(x, training=True), expected)


def test_layers_within_models_are_prepared_and_saved_as_before(tmp_path):
    inner = keras.Sequential([layers.Input((3,)), layers.BatchNormalization()])
    model = keras.Sequential([layers.Input((3,)), inner])
    before = model.get_config()
    prepare_batch_normalization(model)
    x = tf.constant(np.random.default_rng(0).normal(size=(8, 3)), "float32")
    assert "FusedBatchNormV3" in operations(model, x, training=True)
    assert model.get_config() == before
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert "FusedBatchNormV3" not in operations(loaded, x, training=True)
    np.testing.assert_array_equal(loaded(x), model(x))


def test_several_replicas_synchronize_instead():
    _, fused = pair((8, 3))
    with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
        prepare_batch_normalization(fused)
    assert fused.layers[0].synchronized
    assert "FusedBatchNormV3" not in operations(fused, tf.ones((8, 3)), training=True)
    prepare_batch_normalization(fused)
    assert not fused.layers[0].synchronized
    assert "FusedBatchNormV3" in operations(fused, tf.ones((8, 3)), training=True)
