import functools
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from oracles import barlow_twins_terms as oracle_terms
from oracles import load_formula_weights, weights_formula
from replica_run import smooth_model

from keras_bt import LARS, BarlowTwins, loss_floor, projector, resnet, warmup_cosine
from keras_bt.callbacks.diagnostics import Diagnostics
from keras_bt.objectives import Objective
from keras_bt.resnet import STAGES
from keras_bt.strategy import choose_strategy


def tiny_model(widths=(4, 4), **kwargs):
    """Of vectors of four numbers, with BatchNormalization in both parts."""
    keras.utils.set_random_seed(0)
    layers = [keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()]
    return BarlowTwins(keras.Sequential(layers), projector(widths, input_dim=3), **kwargs)


def pairs(count, seed=0):
    """`count` pairs of related images that differ as much as real ones, (2, count, 16, 16, 3)."""
    rng = np.random.default_rng(seed)
    color = rng.normal(size=(count, 1, 1, 3))
    patches = rng.normal(size=(count, 4, 4, 3)) * rng.uniform(0.2, 2, size=(count, 1, 1, 1))
    images = color + patches.repeat(4, axis=1).repeat(4, axis=2)
    return (images + 0.2 * rng.normal(size=(2, count, 16, 16, 3))).astype("float32")


def batches(count, batch_size, seed=0):
    return tf.data.Dataset.from_tensor_slices(tuple(pairs(count, seed))).batch(
        batch_size, drop_remainder=True
    )


@pytest.fixture
def policy(request):
    keras.config.set_dtype_policy(request.param)
    yield request.param
    keras.config.set_dtype_policy("float32")


class StepLosses(keras.callbacks.Callback):
    """The loss of every step, from the running means that Keras reports."""

    def on_train_begin(self, logs=None):
        self.losses = []

    def on_train_batch_end(self, batch, logs):
        # Only right within one epoch, which is all that these tests train.
        self.losses.append(float(logs["loss"]) * (batch + 1) - sum(self.losses))


class Loads(keras.optimizers.schedules.LearningRateSchedule):
    """The fixture's rate of kernels, 0.2 (t + 1) / 40."""

    def __call__(self, step):
        return 0.2 * (tf.cast(step, "float32") + 1) / 40


@pytest.mark.slow
def test_five_steps_equal_pytorch(fixture_arrays):
    reference = fixture_arrays("trajectory")
    backbone = resnet(18, input_shape=(64, 64, 3))
    head = projector((64, 64, 64), input_dim=512)
    positions = {f"linear{i + 1}": 3 * i for i in range(3)} | {"bn1": 1, "bn2": 4}
    load_formula_weights(backbone, "backbone.")
    load_formula_weights(head, "projector.", lambda name: str(positions[name]))
    model = BarlowTwins(backbone, head, redundancy_weight=0.0051)
    model.compile(LARS(Loads(), bias_rate_ratio=0.024, weight_decay=1e-6))

    # What PyTorch's own float32 leaves between itself and these float64 numbers grows like this.
    for t, tolerance in enumerate((1e-5, 1e-4, 2e-3, 5e-3, 3e-2)):
        view_a = weights_formula(f"view_a{t}", (16, 64, 64, 3))
        view_b = 0.9 * view_a + 0.4 * weights_formula(f"view_b{t}", (16, 64, 64, 3))
        model.reset_metrics()  # Keras 3.12 leaves that to its caller
        logs = model.train_on_batch(
            view_a.astype("float32"), view_b.astype("float32"), return_dict=True
        )
        assert logs["loss"] == pytest.approx(reference["loss"][t], rel=tolerance)
        assert logs["on_diagonal"] == pytest.approx(reference["on_diagonal"][t], rel=tolerance)
        assert logs["off_diagonal"] == pytest.approx(reference["off_diagonal"][t], rel=tolerance)

    kernel = backbone.get_layer("conv1").kernel.numpy()
    assert np.linalg.norm(kernel) == pytest.approx(
        reference["final_norm/backbone.conv1.weight"], rel=1.5e-3
    )
    torch_order = kernel.transpose(3, 2, 0, 1).ravel()[:8]
    np.testing.assert_allclose(
        torch_order, reference["final_head/backbone.conv1.weight"], rtol=2e-2, atol=2e-4
    )
    statistics = backbone.get_layer("bn1")
    np.testing.assert_allclose(
        statistics.moving_mean.numpy()[:8],
        reference["final_head/backbone.bn1.running_mean"],
        rtol=2e-2,
        atol=2e-4,
    )
    gamma = backbone.get_layer("layer4_1_bn2").gamma.numpy()
    assert np.linalg.norm(gamma) == pytest.approx(
        reference["final_norm/backbone.layer4.1.bn2.weight"], rel=1.5e-3
    )
    beta = head.get_layer("bn1").beta.numpy()
    assert np.linalg.norm(beta) == pytest.approx(reference["final_norm/projector.1.bias"], rel=5e-3)


def test_metrics_are_the_terms_of_the_objective():
    model = smooth_model(redundancy_weight=0.02)
    model.compile("sgd")
    view_a, view_b = pairs(24)
    on_diagonal, off_diagonal = oracle_terms(
        *(model.embed(view, training=True).numpy() for view in (view_a, view_b))
    )
    logs = model.train_on_batch(view_a, view_b, return_dict=True)
    loss = on_diagonal + 0.02 * off_diagonal
    assert logs["on_diagonal"] == pytest.approx(on_diagonal, rel=1e-4)
    assert logs["off_diagonal"] == pytest.approx(off_diagonal, rel=1e-4)
    assert logs["loss"] == pytest.approx(loss, rel=1e-4)
    assert logs["excess"] == pytest.approx(loss - loss_floor(24, 48, 0.02), rel=1e-3)


def test_each_view_has_its_own_batch_statistics():
    # One pass over both views together would move the running means once, to the mean of both.
    model = smooth_model()
    model.compile(keras.optimizers.SGD(0.0))
    view_a, view_b = pairs(16)
    convolution, layer, *_ = model.backbone.layers
    means = [np.mean(convolution(view), axis=(0, 1, 2)) for view in (view_a, view_b + 1)]
    model.train_on_batch(view_a, view_b + 1)
    expected = 0.9 * (0.1 * means[0]) + 0.1 * means[1]
    np.testing.assert_allclose(layer.moving_mean.numpy(), expected, atol=1e-5)


def train(build, strategy, batch_size=24, steps=5):
    with strategy.scope():
        model = build()
        model.compile(LARS(warmup_cosine(0.5, 20, 2), weight_decay=1e-4))
    record = StepLosses()
    data = batches(steps * batch_size, batch_size)
    model.fit(data, shuffle=False, callbacks=[record], verbose=0)
    return model, record.losses


def assert_trained_alike(build, loss_tolerance, weight_tolerance):
    one, losses = train(build, tf.distribute.get_strategy())
    two, losses_of_two = train(build, choose_strategy("mirrored"))
    assert two.distribute_strategy.num_replicas_in_sync == 2
    np.testing.assert_allclose(losses_of_two, losses, rtol=loss_tolerance)
    start = np.concatenate([v.numpy().ravel() for v in build().weights])
    end = np.concatenate([v.numpy().ravel() for v in one.weights])
    assert np.linalg.norm(end - start) > 1e-2 * np.linalg.norm(start)  # it does train
    for ours, theirs in zip(two.weights, one.weights, strict=True):  # moving statistics included
        difference = np.linalg.norm(ours.numpy() - theirs.numpy())
        assert difference <= weight_tolerance * np.linalg.norm(theirs.numpy()), ours.path
    return one, two


@pytest.mark.slow
def test_two_replicas_equal_one():
    models = assert_trained_alike(
        lambda: smooth_model("correlation"), loss_tolerance=1e-5, weight_tolerance=1e-4
    )
    one, two = (model.evaluate(batches(48, 24, seed=1), verbose=0) for model in models)
    np.testing.assert_allclose(two, one, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["float64"], indirect=True)
def test_two_replicas_equal_one_for_a_resnet(policy):
    # In float64, because five steps of a ResNet on two dozen images multiply a rounding error by
    # 1e5: in float32 one device differs from itself as much when its weights are shaken by 1e-7.
    def build():
        keras.utils.set_random_seed(0)  # the same start
        with mock.patch.dict(STAGES, {18: ((1,), False)}):
            backbone = resnet(18, stem="small", width=8, input_shape=(16, 16, 3))
        return BarlowTwins(backbone, projector((48,), input_dim=8), form="gram")

    assert_trained_alike(build, loss_tolerance=1e-6, weight_tolerance=1e-6)


def test_batch_normalization_is_synchronized_only_on_several_replicas():
    def flags(model):
        return {
            layer.synchronized
            for layer in model._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization)
        }

    with choose_strategy("mirrored").scope():
        assert flags(tiny_model()) == {True}
    assert flags(tiny_model()) == {False}


@pytest.mark.slow
def test_fit_takes_arrays_and_predict_gives_features():
    model = smooth_model()
    model.compile("adam")
    before = [v.numpy() for v in model.trainable_variables]
    view_a, view_b = pairs(32)
    model.fit(view_a, view_b, batch_size=16, verbose=0)
    for old, variable in zip(before, model.trainable_variables, strict=True):
        assert not np.array_equal(old, variable.numpy()), variable.path
    features = model.predict(view_a, batch_size=10, verbose=0)
    assert features.shape == (32, 16)
    np.testing.assert_allclose(features, model.backbone(view_a), rtol=1e-4, atol=1e-5)
    assert set(model.evaluate(view_a, view_b, verbose=0, return_dict=True)) == {
        "loss",
        "on_diagonal",
        "off_diagonal",
        "excess",
    }


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16"], indirect=True)
def test_a_loaded_model_continues_exactly(policy, tmp_path):
    # In float32 and float16: test_bad_steps.py.
    model = smooth_model(form="gram", redundancy_weight=0.013)
    model.compile(LARS(warmup_cosine(0.5, 20, 2)))
    model.fit(batches(48, 16), shuffle=False, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.objective.get_config() == {"redundancy_weight": 0.013, "form": "gram"}
    assert int(loaded.optimizer.iterations) == 3
    histories = [
        m.fit(batches(48, 16, seed=1), shuffle=False, epochs=2, verbose=0) for m in (model, loaded)
    ]
    assert histories[0].history == histories[1].history
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@keras.saving.register_keras_serializable("tests")
class Distance(Objective):
    """Σ ‖a − b‖² / n pulls the views together; half of Σ ‖a + b‖² / n is there to be weighted."""

    def __init__(self, weight=0.5):
        self.weight = weight

    def terms(self, za, zb, replicas):
        n = replicas.sum(ops.cast(ops.shape(za)[0], za.dtype))
        return {
            "apart": ops.sum(ops.square(za - zb)) / n,
            "size": ops.sum(ops.square(za + zb)) / n,
        }

    def loss(self, terms):
        return terms["apart"] + self.weight * terms["size"]

    def floor(self, batch_size, dim):
        return 0.25 * dim

    def get_config(self):
        return {"weight": self.weight}


@pytest.mark.slow
def test_another_objective_is_trained_reported_diagnosed_and_saved(tmp_path):
    model = smooth_model(objective=Distance(0.25))
    model.compile(keras.optimizers.SGD(0.01))
    view_a, view_b = (view[:16] for view in pairs(16))
    za, zb = (model.embed(view, training=True).numpy() for view in (view_a, view_b))
    apart, size = (np.sum((za + sign * zb) ** 2) / 16 for sign in (-1, 1))
    look = Diagnostics((view_a, view_b))
    history = model.fit(
        view_a, view_b, batch_size=16, epochs=2, verbose=0, shuffle=False, callbacks=[look]
    ).history
    assert history["apart"][0] == pytest.approx(apart, rel=1e-4)
    assert history["size"][0] == pytest.approx(size, rel=1e-4)
    loss = apart + 0.25 * size
    assert history["loss"][0] == pytest.approx(loss, rel=1e-4)
    assert history["excess"][0] == pytest.approx(loss - 0.25 * za.shape[1], rel=1e-4)
    assert history["loss"][1] < history["loss"][0]
    za, zb = (model.embed(view, training=False).numpy() for view in (view_a, view_b))
    apart, size = (np.sum((za + sign * zb) ** 2) / 16 for sign in (-1, 1))
    expected = apart + 0.25 * size - 0.25 * za.shape[1]
    assert look.health.fixed_excess == pytest.approx(expected, rel=1e-4)
    model.save(tmp_path / "model.keras")
    assert keras.models.load_model(tmp_path / "model.keras").objective.weight == 0.25


@pytest.mark.slow
def test_another_objective_on_two_replicas_equals_one():
    views = np.random.default_rng(0).normal(size=(2, 64, 4)).astype("float32")
    losses = []
    for strategy in map(choose_strategy, ("one", "mirrored")):
        with strategy.scope():
            model = tiny_model(widths=(4,), objective=Distance())
            model.compile(keras.optimizers.SGD(0.01))
        history = model.fit(*views, batch_size=16, shuffle=False, verbose=0, epochs=2).history
        losses.append(history["loss"])
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
def test_mixed_precision(policy):
    model = smooth_model()
    model.compile(LARS(0.2))
    assert model.backbone.layers[0].compute_dtype == policy.removeprefix("mixed_")
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled == (policy == "mixed_float16")
    history = model.fit(batches(64, 16), shuffle=False, epochs=3, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.slow
def test_backbone_of_keras_applications():
    backbone = keras.applications.MobileNet(
        input_shape=(32, 32, 3), alpha=0.25, include_top=False, weights=None, pooling="avg"
    )
    model = BarlowTwins(backbone, projector((32, 32), input_dim=256))
    model.compile("adam", run_eagerly=True)  # its thirty layers would take long to trace
    view_a, view_b = np.random.default_rng(0).normal(size=(2, 8, 32, 32, 3)).astype("float32")
    history = model.fit(view_a, view_b, batch_size=8, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert model.predict(view_a, verbose=0).shape == (8, 256)


def test_regularizers_of_the_backbone_count():
    def trained(strength):
        keras.utils.set_random_seed(0)
        images = keras.layers.Input((16, 16, 3))
        features = keras.layers.Flatten()(images)
        dense = keras.layers.Dense(8, kernel_regularizer=keras.regularizers.L2(strength))
        model = BarlowTwins(keras.Model(images, dense(features)), projector((8,), input_dim=8))
        model.compile(keras.optimizers.SGD(0.1))
        start = dense.kernel.numpy()
        return start, dense.kernel, model.train_on_batch(*pairs(16), return_dict=True)

    start, kernel, logs = trained(0.5)
    _, without, _ = trained(0.0)
    terms = logs["on_diagonal"] + 5.1e-3 * logs["off_diagonal"]
    assert logs["loss"] == pytest.approx(terms + 0.5 * np.sum(start**2), rel=1e-5)
    np.testing.assert_allclose(kernel - without, -0.1 * start, rtol=1e-3, atol=1e-6)


def flat_backbone():
    return keras.Sequential([keras.layers.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: BarlowTwins(flat_backbone(), projector((4,), 4)), "one vector per image"),
        (lambda: BarlowTwins(keras.Sequential(), projector((4,), 4)), "must be a built"),
        (
            lambda: BarlowTwins(tiny_model().backbone, projector((4,), input_dim=32)),
            "3 features, a projector for 32",
        ),
        (lambda: tiny_model(redundancy_weight=-1), "redundancy_weight must be"),
        (lambda: tiny_model(form="full"), "form must be one of"),
        (lambda: tiny_model(form="gram", objective=Distance()), "default objective's.*form='gram'"),
        (lambda: projector(()), "at least one"),
        (lambda: projector((64, 0)), r"positive integers.* Received: \(64, 0\)"),
        (lambda: tiny_model().compile("adam", loss="mse"), "brings its own loss"),
        (
            lambda: tiny_model().compile(keras.optimizers.SGD(gradient_accumulation_steps=2)),
            "gradient_accumulation_steps must be None.*=2",
        ),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_single_images_instead_of_pairs():
    model = smooth_model()
    model.compile("adam")
    with pytest.raises(ValueError, match=r"batches \(view_a, view_b\).*Received: 1"):
        model.fit(pairs(16)[0], verbose=0)


@pytest.mark.parametrize("method", ["fit", "evaluate"])
def test_a_last_batch_of_one_image_is_refused(method):
    """Its loss would be NaN."""
    model = tiny_model()
    model.compile(LARS(0.1))
    run = functools.partial(model.fit, shuffle=False) if method == "fit" else model.evaluate
    views = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices(tuple(views)).batch(4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="must hold at least two images"):
        run(batches, verbose=0)
    with pytest.raises(ValueError, match="batch with drop_remainder=True"):
        model.train_step(tuple(views[:, :1]))
    weights = model.get_weights()
    assert all(np.isfinite(weight).all() for weight in weights)
    run(batches.take(1), verbose=0)


@pytest.mark.slow
def test_a_replica_without_images_says_so():
    strategy = choose_strategy("mirrored")
    with strategy.scope():
        model = tiny_model()
        model.compile(LARS(0.1))
    views = np.random.default_rng(0).normal(size=(2, 1, 4)).astype("float32")
    batches = tf.data.Dataset.from_tensor_slices(tuple(views)).batch(4)
    with pytest.raises(tf.errors.InvalidArgumentError, match="at least one for each replica"):
        model.evaluate(batches, verbose=0)
