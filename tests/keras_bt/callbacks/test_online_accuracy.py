import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bt import data
from keras_bt.callbacks.diagnostics import Diagnostics
from keras_bt.callbacks.labelled_subset import LabelledSubset
from keras_bt.callbacks.metrics_log import MetricsLog, read_metrics
from keras_bt.callbacks.online_knn import OnlineKNN
from keras_bt.callbacks.online_linear import OnlineLinear
from keras_bt.evaluation.features import extract_features
from keras_bt.evaluation.knn import knn_accuracy
from keras_bt.evaluation.linear import logistic_probe
from keras_bt.model import BarlowTwins, projector


def backbone():
    layers = [
        keras.layers.Input((8, 8, 3)),
        keras.layers.Conv2D(8, 3, strides=2),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.ReLU(),
        keras.layers.Dropout(0.2),
        keras.layers.Flatten(),
    ]
    return keras.Sequential(layers)


def twins():
    model = BarlowTwins(backbone(), projector((16, 16), 72), 0.01)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    return model


@pytest.fixture(scope="module")
def views():
    images = np.random.default_rng(0).standard_normal((2, 96, 8, 8, 3)).astype(np.float32)
    return tf.data.Dataset.from_tensor_slices(tuple(images)).batch(32)


@pytest.fixture(scope="module")
def digits():
    return data.open_source("digits")


@pytest.fixture
def subset(digits):
    return LabelledSubset.of(*digits, image_size=8, max_train=300, max_test=100)


def fit(model, views, callbacks, epochs=2, **kwargs):
    return model.fit(views, epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks, **kwargs)


@pytest.mark.slow
def test_the_numbers_are_those_of_the_evaluation(tmp_path, views, subset, monkeypatch):
    model, calls = twins(), []
    path = tmp_path / "metrics.jsonl"

    def counted(*arguments):
        calls.append(arguments)
        return extract_features(*arguments)

    monkeypatch.setattr("keras_bt.callbacks.labelled_subset.extract_features", counted)
    callbacks = [OnlineKNN(subset, every=2), OnlineLinear(subset, every=2), MetricsLog(path, 1)]
    history = fit(model, views, callbacks, epochs=3).history
    assert len(calls) == 2 * 2  # once after epochs 2 and 3, of two data sets
    features = subset.features(model.backbone)
    assert [len(x) for x in features] == [300, 300, 100, 100]
    knn, linear = history["knn_accuracy"], history["linear_accuracy"]
    assert len(knn) == len(linear) == 2  # every second epoch and the last
    assert knn[-1] == knn_accuracy(*features, k=20)
    assert linear[-1] == logistic_probe(*features, regularization=0.01).top1
    assert 0.5 < knn[-1] < 1
    assert 0.5 < linear[-1] < 1
    logged = [entry for entry in read_metrics(path) if "knn_accuracy" in entry]
    assert [entry["epoch"] for entry in logged] == [2, 3]
    assert [entry["linear_accuracy"] for entry in logged] == linear


@pytest.mark.slow
def test_every_look_sees_the_weights_of_its_epoch(views, digits):
    limits = {"max_train": 10, "max_test": 50}  # fewer than neighbors
    subset = LabelledSubset.of(*digits, image_size=8, **limits)
    seen = []

    class Keeps(OnlineKNN):
        def accuracy(self, features):
            seen.append((features[0], np.asarray(self.model.backbone.layers[0].kernel)))
            return super().accuracy(features)

    fit(twins(), views, [Keeps(subset)], epochs=2)
    (first, kernel), (second, later_kernel) = seen
    assert np.abs(first - second).max() > 1e-4
    assert np.abs(kernel - later_kernel).max() > 1e-6


@pytest.mark.slow
def test_training_is_the_same_to_the_bit_with_and_without(views, subset):
    """With every kind of randomness there is; diagnostics, too, leave no trace."""

    def train(callbacks):
        keras.utils.set_random_seed(3)
        model = twins()
        losses = fit(model, views.shuffle(3), callbacks, epochs=3).history["loss"]
        variables = model.variables + model.optimizer.variables
        draws = [tf.random.uniform([3]), np.random.rand(3), keras.random.normal([3])]
        return losses, [np.asarray(value) for value in variables + draws]

    loss, state = train([])
    watching = [Diagnostics(next(iter(views))), OnlineKNN(subset), OnlineLinear(subset)]
    watched_loss, watched_state = train(watching)
    assert loss == watched_loss
    for plain, watched in zip(state, watched_state, strict=True):
        np.testing.assert_array_equal(plain, watched)


@pytest.mark.slow
def test_any_keras_model_can_be_watched(digits, subset):
    train, _ = digits
    model = keras.Sequential([backbone(), keras.layers.Dense(10, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    batches = data.evaluation_batches(train, 8, 256).take(2)
    history = fit(model, batches, [OnlineKNN(subset, k=5)], epochs=1).history
    assert history["knn_accuracy"][0] > 0.2


def test_the_draw_is_balanced_seeded_and_capped(digits):
    train, test = digits

    def labels(seed, **limits):
        subset = LabelledSubset.of(train, test, image_size=8, seed=seed, **limits)
        return [
            np.concatenate([y for _, y in part.as_numpy_iterator()]) for part in subset._batches
        ]

    first, first_test = labels(0, max_train=200, max_test=50)
    np.testing.assert_array_equal(np.bincount(first), [20] * 10)
    np.testing.assert_array_equal(np.bincount(first_test), [5] * 10)
    np.testing.assert_array_equal(first, labels(0, max_train=200, max_test=50)[0])
    assert not np.array_equal(first, labels(1, max_train=200, max_test=50)[0])
    whole, whole_test = labels(0)
    assert (len(whole), len(whole_test)) == (train.num_examples, test.num_examples)


def test_features_that_are_not_finite_give_nan(views, subset, tmp_path):
    model = twins()
    model.backbone.layers[0].bias.assign([np.nan] * 8)
    path = tmp_path / "metrics.jsonl"
    fit(model, views, [OnlineKNN(subset), OnlineLinear(subset), MetricsLog(path)], epochs=1)
    (line,) = path.read_text().splitlines()
    assert json.loads(line)["knn_accuracy"] is None
    assert json.loads(line)["linear_accuracy"] is None


def test_mistakes_are_named(digits):
    train, test = digits
    unlabelled = data.ArraySource(train.images, name="pictures")
    zeros = train.subset(np.flatnonzero(train.labels() == 0))
    for sources, limits, words in (
        ((unlabelled, test), {}, "pictures, which has no labels"),
        ((train, unlabelled), {}, "pictures, which has no labels"),
        ((zeros, test), {}, "at least two classes. Received: .*one class in"),
        ((train, test), {"max_train": 0}, "at least one image. Received: 0"),
        ((train, test), {"max_test": -1}, "at least one image. Received: -1"),
    ):
        with pytest.raises(ValueError, match=words):
            LabelledSubset.of(*sources, image_size=8, **limits)
    subset = LabelledSubset.of(train, test, image_size=8)
    for make, words in (
        (lambda: OnlineKNN(subset, every=0), "every must be at least 1"),
        (lambda: OnlineKNN(subset, k=0), "k must be at least 1"),
        (lambda: OnlineKNN(subset, temperature=0), "temperature above 0"),
        (lambda: OnlineLinear(subset, regularization=0), "must be a number above 0"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
