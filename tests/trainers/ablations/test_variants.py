"""The objectives and projectors of the paper's table 5, and optimizers, against formulas."""

import keras
import numpy as np
import pytest
import script
import tensorflow as tf
from oracles import barlow_twins_loss as oracle_loss
from oracles import barlow_twins_terms as oracle_terms

from keras_bt import BarlowTwins, model
from keras_bt.objectives import OneReplica
from keras_bt.objectives.barlow_twins import EPSILON
from keras_bt.optimizer import LARS
from trainers.ablations import variants
from trainers.ablations.run import AblationSettings
from trainers.ablations.variants import VARIANTS, AlongFeatures

WEIGHT = 0.3  # λ, large enough that neither term hides the other
N, INPUTS, D = 12, 8, 5
TINY = ["--data=digits", "--width=2", "--epochs=1", "--monitor_every=0"]


@pytest.fixture
def views():
    """Two views of N images of INPUTS pixels, related but not alike."""
    rng = np.random.default_rng(0)
    same = rng.normal(size=(N, 2, 2, 2)) + 0.5
    return (same + 0.7 * rng.normal(size=(2, N, 2, 2, 2))).astype("float32")


def linear_model(name):
    """A variant's model whose only layer is one linear projection: z = x W, x the pixels."""
    backbone = keras.Sequential([keras.layers.Input((2, 2, 2)), keras.layers.Flatten()])
    objective, projector, _ = VARIANTS[name]
    made = BarlowTwins(backbone, projector((D,), INPUTS), objective=objective(WEIGHT))
    made.compile(keras.optimizers.SGD(1.0))
    return made


def one_step(made, views):
    """Trains one step of rate 1: the logs, weights before, and the gradients, in float64."""
    before = [v.numpy().astype(np.float64) for v in made.trainable_variables]
    logs = made.train_on_batch(*views, return_dict=True)
    after = [v.numpy() for v in made.trainable_variables]
    return logs, before, [b - a for a, b in zip(after, before, strict=True)]


def differences(loss, weights, step=1e-6):
    """The gradient of loss(weights) by central differences in float64."""
    gradients = [np.zeros_like(w) for w in weights]
    for weight, gradient in zip(weights, gradients, strict=True):
        for place in np.ndindex(weight.shape):
            value = weight[place]
            around = []
            for weight[place] in (value + step, value - step):
                around.append(loss(weights))
            weight[place] = value
            gradient[place] = (around[0] - around[1]) / (2 * step)
    return gradients


def relative_error(value, reference):
    return np.linalg.norm(value - reference) / np.linalg.norm(reference)


def pixels(views):
    return [view.reshape(N, -1).astype(np.float64) for view in views]


def along_features(za, zb):
    """Both terms for rows standardized over their features, from the definition, row by row."""
    za, zb = (
        np.array([(row - row.mean()) / np.sqrt(row.var() + EPSILON) for row in z]) for z in (za, zb)
    )
    c = sum(np.outer(a, b) for a, b in zip(za, zb, strict=True)) / len(za)
    off = c[~np.eye(len(c), dtype=bool)]
    return np.sum((1 - np.diag(c)) ** 2), np.sum(off**2)


@pytest.mark.parametrize(
    ("name", "terms", "weights"),
    [
        ("published", oracle_terms, (1, WEIGHT)),
        ("invariance", oracle_terms, (1, 0)),
        ("redundancy", oracle_terms, (0, WEIGHT)),
        ("features", along_features, (1, WEIGHT)),
    ],
)
def test_a_step_follows_the_gradient_of_what_the_variant_minimizes(views, name, terms, weights):
    logs, before, (gradient,) = one_step(linear_model(name), views)
    xa, xb = pixels(views)

    def minimized(kernels):
        return np.dot(weights, terms(xa @ kernels[0], xb @ kernels[0]))

    (expected,) = differences(minimized, before)
    assert relative_error(gradient, expected) < 1e-4
    # Both terms are reported, whatever is minimized.
    on_diagonal, off_diagonal = terms(xa @ before[0], xb @ before[0])
    assert min(on_diagonal, WEIGHT * off_diagonal) > 0.1  # or a term that is missing hides
    assert logs["on_diagonal"] == pytest.approx(on_diagonal, rel=1e-4)
    assert logs["off_diagonal"] == pytest.approx(off_diagonal, rel=1e-4)
    assert logs["loss"] == pytest.approx(minimized(before), rel=1e-4)


def test_along_features_the_scale_and_offset_of_an_embedding_do_not_matter():
    rng = np.random.default_rng(1)
    za, zb = rng.normal(size=(2, N, D)).astype("float32")
    scales = rng.uniform(1, 9, (N, 1)).astype("float32")
    one, other = (
        list(AlongFeatures().terms(tf.constant(z), tf.constant(zb), OneReplica()).values())
        for z in (za, za * scales + 3)
    )
    np.testing.assert_allclose(one, other, rtol=1e-3)
    np.testing.assert_allclose(one, along_features(za, zb), rtol=1e-4)


def test_along_features_half_precision_is_computed_in_float32():
    za, zb = (z.astype("float16") for z in np.random.default_rng(2).normal(size=(2, 64, 32)))
    found = list(AlongFeatures().terms(tf.constant(za), tf.constant(zb), OneReplica()).values())
    assert [term.dtype for term in found] == ["float32"] * 2
    np.testing.assert_allclose(found, along_features(*(z.astype(float) for z in (za, zb))), 1e-4)


def test_along_features_is_for_one_replica():
    class Replicas(OneReplica):
        count = 3

    z = tf.ones((4, D))
    with pytest.raises(ValueError, match=r"one device: --strategy=one\. Received: 3 replicas"):
        AlongFeatures().terms(z, z, Replicas())


def test_the_choices_of_the_flag_are_the_variants(capsys):
    line = script.mistake(
        capsys, "run", "--variant=none", "--workdir=nowhere", package="trainers.ablations"
    )
    choices = line.partition("<")[2].partition(">")[0].split("|")
    assert choices == list(VARIANTS)


def test_the_unnormalized_projector_has_biases_and_the_widths_and_weights_of_the_other():
    found = variants.unnormalized_projector([64, 48, 5], 32)
    other = model.projector((64, 48, 5), 32)
    assert found.name == other.name == "projector"
    assert (found.input_shape, found.output_shape) == ((None, 32), (None, 5))
    kinds = [type(layer).__name__ for layer in found.layers]
    assert kinds == ["InputLayer", "Dense", "ReLU", "Dense", "ReLU", "Dense"]
    for number, limit in ((1, 32), (2, 64), (3, 48)):
        layer, same = (part.get_layer(f"linear{number}") for part in (found, other))
        assert layer.use_bias
        assert not same.use_bias
        assert layer.units == same.units
        assert (
            layer.kernel_initializer.get_config() == same.kernel_initializer.get_config()
        )  # uniform in ±1/√inputs
        largest = np.abs(layer.kernel.numpy()).max()
        assert 0.9 < largest * np.sqrt(limit) <= 1
        np.testing.assert_array_equal(layer.bias.numpy(), 0)
    # Two are two: no weights are shared with an earlier one.
    again = variants.unnormalized_projector([64, 48, 5], 32)
    assert np.abs(again.get_layer("linear1").kernel - found.get_layer("linear1").kernel).max() > 0


def test_a_step_behind_the_unnormalized_projector(views):
    """Value and gradient, those of the biases included, of the published objective."""
    backbone = keras.Sequential([keras.layers.Input((2, 2, 2)), keras.layers.Flatten()])
    objective, projector, _ = VARIANTS["unnormalized"]
    head = projector([7, 6, D], INPUTS)
    for number in (1, 2, 3):
        bias = head.get_layer(f"linear{number}").bias
        bias.assign(np.linspace(0.1, 0.4, bias.shape[0]))
    made = BarlowTwins(backbone, head, objective=objective(WEIGHT))
    made.compile(keras.optimizers.SGD(1.0))
    logs, before, gradients = one_step(made, views)
    xa, xb = pixels(views)

    def project(x, weights):
        w1, b1, w2, b2, w3, b3 = weights
        return np.maximum(np.maximum(x @ w1 + b1, 0) @ w2 + b2, 0) @ w3 + b3

    def loss(weights):
        return oracle_loss(project(xa, weights), project(xb, weights), WEIGHT)

    assert logs["loss"] == pytest.approx(loss(before), rel=1e-4)
    expected = differences(loss, before)
    # The objective does not see an offset: the last bias has no gradient.
    np.testing.assert_allclose(gradients[-1], 0, atol=1e-5)
    for gradient, reference in zip(gradients[:-1], expected[:-1], strict=True):
        assert relative_error(gradient, reference) < 2e-3
        assert np.linalg.norm(reference) > 1e-3


@pytest.mark.parametrize(
    ("name", "peak", "end", "averages"),
    [
        ("published", 2.0, 0.001, False),
        ("adam", 0.002, 0.001, False),
        ("high_end", 2.0, 0.1, False),
        ("averaged", 2.0, 0.1, True),
    ],
)
def test_optimizers_have_their_rates(name, peak, end, averages):
    settings = AblationSettings(workdir="runs/a", rate=4.0, batch_size=128, bias_rate_ratio=0.5)
    *_, build = VARIANTS[name]
    found = build(settings, 100, 20)
    rates = [float(found._learning_rate(t)) for t in (10, 20, 60, 100)]
    expected = [peak / 2, peak, peak * (1 + end) / 2, peak * end]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)
    assert isinstance(found, keras.optimizers.Adam if name == "adam" else LARS)
    assert found.use_ema == averages
    assert name == "adam" or found.bias_rate_ratio == 0.5


def test_fit_ends_with_the_average_of_the_weights(views):
    settings = AblationSettings(workdir="runs/a", rate=200.0)
    made = linear_model("published")
    made.compile(variants.averaging_lars(settings, 10, 1))
    (kernel,) = made.trainable_variables
    passed = []
    note = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: passed.append(kernel.numpy())
    )
    made.fit(*views, batch_size=4, shuffle=False, verbose=0, callbacks=[note])
    average = passed[0]
    for value in passed[1:]:
        average = 0.99 * average + 0.01 * value
    assert relative_error(passed[-1], passed[0]) > 0.01
    assert relative_error(kernel.numpy(), average) < 1e-6
