import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bt import data
from keras_bt.augmentations import Normalize, View
from keras_bt.evaluation import linear_protocol
from keras_bt.evaluation.features import extract_features
from keras_bt.evaluation.finetune import epoch_rates
from keras_bt.strategy import choose_strategy

CLASSES, WIDTH = 7, 5


def problem(n=50, seed=0):
    random = np.random.default_rng(seed)
    return random.standard_normal((n, WIDTH)).astype(np.float32), random.integers(0, CLASSES, n)


def batches_of(features, labels, size):
    return tf.data.Dataset.from_tensor_slices((features, labels)).batch(size)


def oracle(kernel, features, labels, size, rates, decay, momentum=0.9):
    """SGD as PyTorch documents it, in float64, with the gradients written out."""
    w, b = kernel.astype(np.float64), np.zeros(CLASSES)
    moving_w, moving_b = np.zeros_like(w), np.zeros_like(b)
    for rate in rates:
        for start in range(0, len(features), size):
            x, y = features[start : start + size], labels[start : start + size]
            logits = x @ w + b
            p = np.exp(logits - logits.max(axis=1, keepdims=True))
            error = (p / p.sum(axis=1, keepdims=True) - np.eye(CLASSES)[y]) / len(x)
            moving_w = momentum * moving_w + x.T @ error + decay * w
            moving_b = momentum * moving_b + error.sum(axis=0) + decay * b
            w, b = w - rate * moving_w, b - rate * moving_b
    return w, b


@pytest.mark.parametrize("strategy", ["one", pytest.param("mirrored", marks=pytest.mark.slow)])
def test_steps_are_those_of_sgd_written_out(strategy):
    # 49 = 16 + 16 + 16 + 1: of the last batch one of two replicas has no image at all.
    features, labels = problem(49)
    rates = [0.3, 0.03, 0.2]  # with the rate inside the momentum the second epoch would differ
    with choose_strategy(strategy).scope():
        model = linear_protocol.linear_classifier(WIDTH, CLASSES, weight_decay=0.1)
    start = model.get_weights()[0]
    batches = batches_of(features, labels, 16)
    linear_protocol.train(model, batches, batches, rates)
    expected = oracle(start, features, labels, 16, rates, decay=0.1)
    for found, wanted in zip(model.get_weights(), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_the_classifier_begins_as_published():
    model = linear_protocol.linear_classifier(2000, 50)
    kernel, bias = model.get_weights()
    assert kernel.std() == pytest.approx(0.01, rel=0.02)
    assert abs(kernel.mean()) < 1e-4
    assert not bias.any()
    other = linear_protocol.linear_classifier(2000, 50, seed=1)
    assert (other.get_weights()[0] != kernel).any()
    assert model.optimizer.momentum == 0.9


def test_accuracies_are_measured_after_every_epoch_on_the_test_set():
    test_features, test_labels = problem(33, seed=1)
    model = linear_protocol.linear_classifier(WIDTH, CLASSES)
    test = batches_of(test_features, test_labels, 10)
    rates = epoch_rates("cosine", 0.3, 4)
    history = linear_protocol.train(model, batches_of(*problem(), 10), test, rates)
    kernel, bias = model.get_weights()
    right = np.argsort(-(test_features @ kernel + bias), axis=1) == test_labels[:, None]
    assert len(history["val_top1"]) == len(history["val_top5"]) == 4
    assert history["val_top1"][-1] == pytest.approx(right[:, 0].mean(), abs=1e-6)
    assert history["val_top5"][-1] == pytest.approx(right[:, :5].any(axis=1).mean(), abs=1e-6)


def test_summary():
    history = {"val_top1": [0.2, 0.5, 0.5, 0.4], "val_top5": [0.7, 0.8, 0.9, 0.6]}
    assert linear_protocol.summarize(history) == {
        "top1": 0.4,
        "top5": 0.6,
        "best_top1": 0.5,
        "best_top5": 0.9,
        "best_epoch": 2,
        "epochs": 4,
    }
    few = linear_protocol.summarize({"val_top1": [0.5], "loss": [1.0]})
    assert few["top5"] is few["best_top5"] is None
    names = [metric.name for metric in linear_protocol.linear_classifier(4, 5).metrics]
    assert "top5" not in names


def backbone_with_everything(size=16):
    """Dropout, and BatchNormalization with moving statistics of its own."""
    layers = keras.layers
    images = keras.Input((size, size, 3))
    x = layers.Conv2D(12, 3, strides=2)(layers.Dropout(0.5)(images))
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    backbone = keras.Model(images, layers.GlobalAveragePooling2D()(x))
    random = np.random.default_rng(0)
    for variable in backbone.weights:
        variable.assign(variable + np.abs(0.1 * random.standard_normal(variable.shape)))
    return backbone


def digits(n=70):
    train, test = data.open_source("digits")
    return train.subset(range(n)), test.subset(range(40))


@pytest.mark.slow
def test_cached_features_give_what_the_backbone_gives():
    train, test = digits()
    backbone = backbone_with_everything()
    plain = View([Normalize(data.IMAGENET_MEAN, data.IMAGENET_STD)])
    test_images = data.evaluation_batches(test, 16, 32, resize=16)
    features, labels = extract_features(backbone, data.evaluation_batches(train, 16, 32, resize=16))

    def enlarged(images, labels):
        return data.center_crop(images, 16, 16), labels

    unnormalized = data.labelled_views(train, View([lambda images: images]), 32, seed=3)
    images = unnormalized.map(enlarged).map(lambda images, labels: (plain(images), labels))
    cached = data.labelled_features(features, labels, 32, seed=3)
    cached_test = batches_of(*extract_features(backbone, test_images), 32)

    def trained(strategy, inputs, batches, test_batches):
        with choose_strategy(strategy).scope():
            model = linear_protocol.linear_classifier(inputs, 10)
        model.run_eagerly = strategy == "mirrored"  # which takes less time
        rates = epoch_rates("cosine", 0.3, 3)
        result = linear_protocol.train(model, batches, test_batches, rates, 3)
        return [variable.numpy() for variable in model.trainable_variables], result

    expected, expected_result = trained("one", features.shape[1], cached, cached_test)
    assert all(np.abs(weights).max() > 0.01 for weights in expected)
    for strategy in ("one", "mirrored"):
        found, result = trained(strategy, backbone, images, test_images)
        for weights, same in zip(found, expected, strict=True):
            np.testing.assert_allclose(weights, same, atol=1e-5)
        for name in ("val_top1", "val_top5"):
            assert result[name] == expected_result[name]


@pytest.mark.slow
def test_nothing_of_the_backbone_changes(tmp_path):
    train, test = digits()
    backbone = backbone_with_everything(8)
    trainable = [variable.trainable for variable in backbone.variables]
    model = linear_protocol.linear_classifier(backbone, 10)
    before = {variable.path: variable.numpy() for variable in model.non_trainable_variables}
    own = [variable.numpy() for variable in backbone.variables]
    assert any("moving_variance" in path for path in before)
    assert len(model.trainable_variables) == 2
    batches = data.labelled_views(
        train, View([Normalize(data.IMAGENET_MEAN, data.IMAGENET_STD)]), 32, seed=0
    )
    linear_protocol.train(model, batches, data.evaluation_batches(test, 8, 32), [10.0, 10.0], 3)
    for variable in model.non_trainable_variables:
        np.testing.assert_array_equal(variable.numpy(), before[variable.path])
    # The backbone that was passed in is not even frozen.
    assert [variable.trainable for variable in backbone.variables] == trainable
    for a, b in zip(own, backbone.variables, strict=True):
        np.testing.assert_array_equal(a, b.numpy())
    # Also a call in training mode is one in inference mode.
    images = tf.random.normal([8, 8, 8, 3])
    np.testing.assert_array_equal(model(images, training=True), model(images, training=False))
    # And so it is when it comes back from disk.
    model.save(tmp_path / "classifier.keras")
    loaded = keras.models.load_model(tmp_path / "classifier.keras")
    assert len(loaded.trainable_variables) == 2
    np.testing.assert_array_equal(loaded(images, training=True), model(images))


def test_every_epoch_gets_its_rate():
    used = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda epoch, logs: used.append(
            (epoch, float(model.optimizer.learning_rate))
        )
    )
    model = linear_protocol.linear_classifier(WIDTH, CLASSES)
    model.run_eagerly = True  # which takes less time
    batches = batches_of(*problem(), 25)
    rates = [0.3, 0.2, 0.1]
    linear_protocol.train(model, batches, batches, rates, first_epoch=1, callbacks=[look])
    np.testing.assert_allclose(used, [(1, 0.2), (2, 0.1)], atol=1e-7)


def test_impossible_classifiers_are_refused():
    with pytest.raises(ValueError, match=r"at least two classes\. Received: classes=1"):
        linear_protocol.linear_classifier(4, 1)
    with pytest.raises(ValueError, match=r"weight_decay must be .* Received: -1"):
        linear_protocol.linear_classifier(4, 2, weight_decay=-1)

    class Own(keras.Model):
        def __init__(self, size):
            super().__init__()

    with pytest.raises(ValueError, match=r"functional or a sequential model\. Received: a Own"):
        linear_protocol.linear_classifier(Own(3), 2)
