"""Rematerialization changes memory, and no number."""

from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

from keras_bt import LARS, BarlowTwins, projector, resnet
from keras_bt.model.remat import rematerialized
from keras_bt.resnet import STAGES
from keras_bt.strategy import choose_strategy


def small_resnet():
    """With two of the eight blocks, of either kind, which are traced in a moment."""
    with mock.patch.dict(STAGES, {18: ((1, 1), False)}):
        backbone = resnet(18, stem="small", width=8, input_shape=(16, 16, 3))
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.gamma.assign(keras.random.uniform(layer.gamma.shape, 0.5, 1.5))  # some are zero
    return backbone


def smooth_network():
    """Without the kinks of a ReLU, for comparisons over several steps."""
    images = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, strides=2, use_bias=False)(images)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.Activation("softplus")(x)
    y = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
    y = layers.BatchNormalization(momentum=0.9)(y)
    x = layers.Activation("softplus")(layers.Add()([x, y]))
    return keras.Model(images, layers.GlobalAveragePooling2D(dtype="float32")(x))


def pictures(count=12, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, 4, 4, 3)) + rng.normal(size=(count, 1, 1, 3))
    return coarse.repeat(4, axis=1).repeat(4, axis=2).astype("float32")


def pass_through(backbone, encode, images, training=True):
    """Features, losses of layers, gradients of both, and all variables afterwards."""
    with tf.GradientTape() as tape:
        tape.watch(images)
        features = encode(images, training=training)
        losses = backbone.losses
        # Different per image, or BatchNormalization would leave no gradient but rounding errors.
        weights = tf.cos(tf.range(tf.cast(tf.size(features), tf.float32)))
        total = tf.reduce_sum(tf.reshape(weights, tf.shape(features)) * tf.square(features))
        total += sum(losses)
    gradients = tape.gradient(total, [images, *backbone.trainable_variables])
    # The reads of the variables come after the updates, in graphs too.
    return features, losses, gradients, [tf.identity(v.value) for v in backbone.variables]


def both(build, mode="eager", images=None):
    """What `pass_through` gives for twins, without and with rematerialization."""
    images = tf.constant(pictures() if images is None else images)
    results = []
    for wrap in (lambda backbone: backbone, rematerialized):
        keras.utils.set_random_seed(7)
        backbone = build()
        encode = wrap(backbone)

        def run(images, backbone=backbone, encode=encode):
            return pass_through(backbone, encode, images)

        if mode != "eager":
            run = tf.function(run)
        run(images)  # a second pass starts from the statistics that the first one left
        results.append(run(images))
    return results


def assert_alike(plain, ours, **tolerance):
    tf.nest.assert_same_structure(plain, ours)
    for expected, actual in zip(tf.nest.flatten(plain), tf.nest.flatten(ours), strict=True):
        if expected is None:  # no gradient
            assert actual is None
            continue
        if expected.dtype == tf.bfloat16:
            expected, actual = (tf.cast(x, tf.float32) for x in (expected, actual))
        if tolerance:
            scale = np.abs(expected).max()
            np.testing.assert_allclose(actual, expected, atol=tolerance["of_largest"] * scale)
        else:
            np.testing.assert_array_equal(actual, expected)


# The same numbers


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_features_gradients_and_statistics_are_the_same(mode):
    plain, ours = both(small_resnet, mode)
    gradients, variables = plain[2:]
    assert all(g is not None and np.abs(g).max() > 0 for g in gradients)
    assert np.std(variables[-1]) > 0
    assert_alike(plain, ours)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_in_mixed_precision_too(policy):
    keras.config.set_dtype_policy(policy)
    try:
        plain, ours = both(small_resnet, "graph")
    finally:
        keras.config.set_dtype_policy("float32")
    assert plain[0].dtype == tf.float32
    assert_alike(plain, ours)


def test_the_moving_statistics_move_once():
    backbone = small_resnet()
    images = tf.constant(pictures())
    mean = backbone.get_layer("bn1").moving_mean
    batch_mean = np.mean(backbone.get_layer("conv1")(images), axis=(0, 1, 2))
    pass_through(backbone, rematerialized(backbone), images)
    np.testing.assert_allclose(mean, 0.1 * batch_mean, rtol=1e-4, atol=1e-6)


def train(remat, strategy, steps=3, **compiling):
    with strategy.scope():
        keras.utils.set_random_seed(0)
        model = BarlowTwins(smooth_network(), projector((16,), input_dim=8), remat=remat)
        model.compile(LARS(0.5), **compiling)
    pairs = [pictures(steps * 8, seed) for seed in (1, 2)]
    pairs[1] = pairs[0] + 0.3 * pairs[1]
    history = model.fit(*pairs, batch_size=8, epochs=2, shuffle=False, verbose=0).history
    return model, history["loss"]


@pytest.fixture(scope="module")
def trained():
    """A model without rematerialization, trained in a graph on one device, and its losses."""
    return train(False, choose_strategy("one"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("replicas", "compiling"),
    [
        pytest.param(1, {"run_eagerly": True}, id="eager"),
        pytest.param(1, {}, id="graph"),
        pytest.param(2, {}, id="two replicas"),
    ],
)
def test_training_is_the_same(trained, replicas, compiling):
    # That XLA compiles the same is tested in test_jit_compile.py.
    strategy = choose_strategy("mirrored" if replicas == 2 else "one")
    plain, losses = trained
    ours, losses_of_ours = train(True, strategy, **compiling)
    assert ours.distribute_strategy.num_replicas_in_sync == replicas
    np.testing.assert_allclose(losses_of_ours, losses, rtol=1e-5)
    for theirs, variable in zip(plain.weights, ours.weights, strict=True):
        difference = np.linalg.norm(variable.numpy() - theirs.numpy())
        assert difference <= 1e-4 * np.linalg.norm(theirs.numpy()), variable.path
        copies = [v.numpy() for v in strategy.experimental_local_results(variable.value)]
        assert all(np.array_equal(copy, copies[0]) for copy in copies)


def test_inference_is_the_backbone_itself():
    backbone = small_resnet()
    encode = rematerialized(backbone)
    for training in (False, None):
        ours = pass_through(backbone, encode, tf.constant(pictures()), training)
        assert_alike(pass_through(backbone, backbone, tf.constant(pictures()), training), ours)
        assert not np.any(backbone.get_layer("bn1").moving_mean)


# Networks of other kinds


def with_draws():
    images = keras.Input((16, 16, 3))
    x = layers.SpatialDropout2D(0.4)(layers.Conv2D(8, 3)(images))
    x = layers.Add()([x, layers.GaussianNoise(0.5)(layers.ReLU()(x))])
    x = layers.Dropout(0.5)(layers.Conv2D(8, 3)(x))
    return keras.Model(images, layers.GlobalAveragePooling2D()(x))


def with_shared_and_frozen_layers():
    images = keras.Input((16, 16, 3), dtype="uint8")
    shared = layers.Conv2D(3, 3, padding="same", kernel_regularizer="l2")
    normalized = layers.BatchNormalization()
    x = layers.ReLU()(normalized(shared(layers.Rescaling(1 / 255)(images))))
    x = layers.Add()([x, normalized(shared(ops.multiply(x, 2.0)))])
    frozen = layers.Conv2D(4, 3)
    frozen.trainable = False
    still = layers.BatchNormalization()
    still.trainable = False
    x = still(frozen(x))
    x = layers.Add()([x, keras.Sequential([layers.Input((14, 14, 4)), layers.ReLU()])(x)])
    x = layers.BatchNormalization()(x, training=False)  # which the call of a model overrides
    return keras.Model(images, layers.GlobalAveragePooling2D()(x))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("build", [with_draws, with_shared_and_frozen_layers])
def test_other_networks(build, mode):
    plain, ours = both(build, mode)
    # What several calls of a shared layer contribute is summed in another order.
    assert_alike(plain, ours, of_largest=1e-6)


@pytest.mark.slow
def test_a_network_of_keras_applications():
    def build():
        """Up to the second of its residual blocks, behind layers of all kinds."""
        network = keras.applications.MobileNetV2(
            input_shape=(32, 32, 3), alpha=0.35, include_top=False, weights=None
        )
        features = network.get_layer("block_4_add").output
        return keras.Model(network.inputs[0], layers.GlobalAveragePooling2D()(features))

    images = np.random.default_rng(0).normal(size=(8, 32, 32, 3)).astype("float32")
    assert_alike(*both(build, "eager", images))


# What is kept, and what is left alone


def convolutions(compiled):
    text = compiled.experimental_get_compiler_ir(tf.constant(pictures()))(stage="optimized_hlo")
    return text.count("convolution(") + text.count("__onednn$convolution")


@pytest.mark.slow
def test_xla_computes_twice_and_does_not_merge():
    backbone = smooth_network()

    def gradients(encode):
        @tf.function(jit_compile=True)
        def run(images):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(tf.square(encode(images, training=True)))
            return tape.gradient(loss, backbone.trainable_variables)

        return run

    extra = convolutions(gradients(rematerialized(backbone))) - convolutions(gradients(backbone))
    assert extra == len([x for x in backbone.layers if isinstance(x, layers.Conv2D)])


def ancestors(operation):
    """All operations that must be done before this one."""
    found, waiting = set(), [operation]
    while waiting:
        one = waiting.pop()
        for before in [*one.control_inputs, *(x.op for x in one.inputs)]:
            if before not in found:
                found.add(before)
                waiting.append(before)
    return found


def test_the_views_take_turns():
    backbone = smooth_network()

    def turns(encode):
        @tf.function
        def run(images):
            with tf.GradientTape() as tape:
                loss = sum(tf.reduce_sum(encode(images, training=True) ** 2) for _ in range(2))
            return tape.gradient(loss, backbone.trainable_variables)

        graph = run.get_concrete_function(tf.constant(pictures())).graph
        kernel = tuple(backbone.layers[1].kernel.shape)
        first, second = (
            op
            for op in graph.get_operations()
            if op.type == "Conv2DBackpropFilter" and op.outputs[0].shape == kernel
        )
        return first in ancestors(second) or second in ancestors(first)

    assert turns(rematerialized(backbone))
    assert not turns(backbone)


@pytest.mark.slow
def test_the_backbone_stays_as_it_is(tmp_path):
    model = BarlowTwins(small_resnet(), projector((8, 8), input_dim=16))
    weights, nodes = len(model.weights), [len(x._inbound_nodes) for x in model.backbone.layers]
    model.save(tmp_path / "before.keras")
    model.encode = rematerialized(model.backbone)
    model.encode(tf.constant(pictures()), training=True)
    assert len(model.weights) == weights
    assert [len(x._inbound_nodes) for x in model.backbone.layers] == nodes
    model.save(tmp_path / "after.keras")
    sizes = [(tmp_path / f"{name}.keras").stat().st_size for name in ("before", "after")]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)
    keras.models.load_model(tmp_path / "after.keras")


def two_inputs():
    inputs = [keras.Input((4,)), keras.Input((4,))]
    return keras.Model(inputs, layers.Add()(inputs))


def without_blocks():
    return keras.Sequential([layers.Input((4,)), layers.Dense(2)])


def with_a_way_around_the_block():
    images = keras.Input((4,))
    block = layers.Add()([images, layers.Dense(4)(images)])
    return keras.Model(images, layers.Concatenate()([images, block]))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (two_inputs, "one input and one output.*Received: <"),
        (keras.Sequential, "one input and one output.*Received: <"),
        (without_blocks, "after each of its residual blocks.*Received: sequential"),
        (with_a_way_around_the_block, "after each of its residual blocks"),
    ],
)
def test_what_cannot_be_cut_is_refused(build, words):
    with pytest.raises(ValueError, match=words):
        rematerialized(build())


def test_layers_that_add_losses_are_refused():
    images = keras.Input((4,))
    block = layers.Add()([images, layers.Dense(4, activity_regularizer="l1")(images)])
    encode = rematerialized(keras.Model(images, block))
    with pytest.raises(ValueError, match="activity regularizer"):
        encode(tf.ones((2, 4)), training=True)
