import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bt.evaluation import finetune
from keras_bt.model.backend import prepare_batch_normalization
from keras_bt.resnet import resnet
from keras_bt.strategy import choose_strategy

CLASSES = 7


def small_backbone(name="conv"):
    images = keras.layers.Input((6, 6, 3))
    x = keras.layers.Conv2D(5, 3, name=name)(images)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    x = keras.layers.ReLU()(x)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x))


def images_and_labels(count):
    rng = np.random.default_rng(count)
    images = rng.normal(size=(count, 6, 6, 3)).astype("float32")
    return images, rng.integers(0, CLASSES, count)


def test_the_rates_of_both_published_schedules():
    cosine = finetune.epoch_rates("cosine", 0.5)
    expected = 0.25 * (1 + np.cos(np.pi * np.arange(20) / 20))
    np.testing.assert_allclose(cosine, expected, rtol=1e-12)
    step = finetune.epoch_rates("step", 0.002)
    np.testing.assert_allclose(step, [0.002] * 12 + [0.0004] * 4 + [0.00008] * 4, rtol=1e-12)
    # The same parts of another number of epochs.
    np.testing.assert_allclose(finetune.epoch_rates("step", 1, 5), [1, 1, 1, 0.2, 0.04])
    step = finetune.epoch_rates("step", 0.3, 28, (7, 14, 21), 0.1)
    np.testing.assert_allclose(step, np.repeat([0.3, 0.03, 0.003, 0.0003], 7))


@pytest.mark.parametrize("schedule", finetune.SCHEDULES)
@pytest.mark.parametrize("epochs", [1, 5])
def test_the_rate_changes_between_epochs_only(schedule, epochs):
    rates = finetune.epoch_rates(schedule, 0.5, epochs)
    rate = finetune.rate_schedule(rates, steps_per_epoch=3)
    found = [float(rate(step)) for step in range(3 * epochs)]
    expected = np.repeat(rates, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert float(rate(3 * epochs)) == found[-1]


def test_rates_that_there_are_not():
    for arguments, message in (
        (("linear", 0.5), "schedule must be one of cosine, step. Received: schedule='linear'"),
        (("cosine", -1), "rate must be a number ≥ 0. Received: rate=-1"),
        (("cosine", float("nan")), "rate must be a number ≥ 0. Received: rate=nan"),
        (("cosine", 0.5, 0), "epochs must be at least 1. Received: epochs=0"),
        (("step", 0.3, 10, (3, 2)), "milestones must be increasing .* Received: 3, 2"),
        (("step", 0.3, 10, (0,)), "from 1 to 9, for 10 epochs"),
        (("step", 0.3, 10, (10,)), "Received: 10"),
        (("step", 0.3, 10, (2,), 1.5), "factor must be from 0 to 1"),
    ):
        with pytest.raises(ValueError, match=message):
            finetune.epoch_rates(*arguments)


@pytest.mark.parametrize(
    ("images", "batch_size", "epochs"),
    [
        (1, 1, 300),
        (10, 10, 300),
        (100, 25, 75),
        (600, 75, 38),
        (2_047, 228, 34),
        (2_048, 256, 38),
        (12_811, 256, 20),  # the paper's protocol: 1% and 10% of ImageNet
        (128_116, 256, 20),
    ],
)
def test_few_images_get_small_batches_and_many_epochs(images, batch_size, epochs):
    assert finetune.batch_for(images) == batch_size
    assert finetune.epochs_for(images, batch_size) == epochs
    assert epochs * -(-images // batch_size) >= finetune.LEAST_STEPS


@pytest.mark.parametrize(
    ("square", "classes", "expected"),
    [(1000, 10, 0.02), (400, 1000, 0.5), (40.0, 10, 0.5), (1280, 10, 0.016), (0, 10, 0.5)],
)
def test_large_features_get_a_low_rate(square, classes, expected):
    features = np.zeros((5, 4), "float32")
    features[:, 0] = np.sqrt(square)
    assert finetune.head_rate_for(features, classes) == expected


@pytest.mark.parametrize(
    ("losses", "finished", "expected"),
    [
        ([2.3], True, False),
        ([91.0], False, False),  # judged from the second epoch on
        ([91.0, 1.9], False, False),
        ([2.3, 24.0], False, True),
        ([2.3, 22.0], False, False),
        ([2.3, 22.0], True, True),
        ([2.3, 9.0, 4.0, 2.0, 1.0], True, False),
        ([2.3, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.6, 2.6], True, True),
        ([2.3, 2.31, 2.31, 2.31], True, False),  # as with too low a rate
        ([2.3, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.6, 2.6], False, False),
    ],
)
def test_a_rate_is_judged_by_the_later_epochs(losses, finished, expected):
    assert finetune.rate_was_too_high(losses, classes=10, finished=finished) is expected


@pytest.mark.parametrize("graph", [False, True], ids=["eager", "graph"])
def test_head_and_backbone_each_move_by_their_own_rate(graph):
    model = finetune.classifier(small_backbone(), CLASSES)
    variables = model.trainable_variables
    optimizer = finetune.TwoRateSGD(
        finetune.rate_schedule(finetune.epoch_rates("step", 0.5, epochs=5), 2), backbone_ratio=0.01
    )
    optimizer.build(variables)

    def apply(gradients):
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    if graph:
        apply = tf.function(apply)
    # An independent computation: every variable with its rate and a momentum of its own.
    rng = np.random.default_rng(0)
    expected = {v.path: v.numpy().astype("float64") for v in variables}
    momenta = {path: np.zeros_like(w) for path, w in expected.items()}
    for step in range(10):
        head_rate = 0.5 * (1 if step < 6 else 0.2 if step < 8 else 0.04)
        gradients = {path: rng.normal(size=w.shape) for path, w in expected.items()}
        apply([tf.constant(gradients[v.path], "float32") for v in variables])
        for path, gradient in gradients.items():
            rate = head_rate if path in ("head/kernel", "head/bias") else head_rate * 0.01
            momenta[path] = 0.9 * momenta[path] + gradient
            expected[path] -= rate * momenta[path]
    assert len(expected) == 6  # kernel, bias, gamma and beta; and those of the head
    for v in variables:
        np.testing.assert_allclose(v.numpy(), expected[v.path], rtol=1e-5, atol=1e-5)


def test_the_head_is_known_beside_a_layer_of_the_same_name():
    model = finetune.classifier(small_backbone(name="head"), CLASSES)
    finetune.compile_classifier(model, 1.0, backbone_ratio=0.0)
    model.run_eagerly = True  # which takes less time
    images, labels = images_and_labels(12)
    before = {v.path: v.numpy() for v in model.trainable_variables}
    model.fit(images, labels, verbose=0)
    moved = [v.path for v in model.trainable_variables if (v.numpy() != before[v.path]).any()]
    assert moved == ["head_/kernel", "head_/bias"]


@pytest.mark.slow
def test_the_optimizer_survives_saving(tmp_path):
    images, labels = images_and_labels(12)
    model = finetune.classifier(small_backbone(), CLASSES)
    schedule = finetune.rate_schedule(finetune.epoch_rates("cosine", 0.3, epochs=4), 1)
    finetune.compile_classifier(model, schedule, backbone_ratio=0.2)
    model.fit(images, labels, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    prepare_batch_normalization(loaded)  # as `classifier` does: for equality to the last bit
    for m in (model, loaded):
        m.fit(images, labels, epochs=2, verbose=0, shuffle=False)
    for ours, theirs in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_optimizers_that_cannot_be():
    for ratio in (-0.1, np.nan):
        with pytest.raises(ValueError, match=f"backbone_ratio must be ≥ 0. Received: {ratio}"):
            finetune.TwoRateSGD(backbone_ratio=ratio)
    model = finetune.classifier(small_backbone(), CLASSES)
    with pytest.raises(ValueError, match="A layer named 'top' must be among those to train"):
        finetune.TwoRateSGD(head="top").build(model.trainable_variables)


def test_the_classifier_starts_with_the_backbone_and_a_small_head():
    backbone = small_backbone()
    backbone.set_weights([w + 0.5 for w in backbone.get_weights()])
    model = finetune.classifier(backbone, 1000)
    kernel, bias = model.layers[-1].get_weights()
    assert kernel.std() == pytest.approx(0.01, rel=0.05)
    assert not bias.any()
    images, _ = images_and_labels(4)
    expected = keras.ops.convert_to_numpy(backbone(images)) @ kernel
    np.testing.assert_allclose(model(images, training=False), expected, atol=1e-6)


def test_the_whole_copy_is_trained_and_the_backbone_is_not():
    backbone = small_backbone()
    backbone.trainable = False  # as a linear probe leaves it
    before = backbone.get_weights()
    model = finetune.classifier(backbone, CLASSES)
    finetune.compile_classifier(model, 0.5, backbone_ratio=0.1)
    model.run_eagerly = True
    start = {v.path: v.numpy() for v in model.variables}
    images, labels = images_and_labels(12)
    model.fit(images, labels, epochs=2, verbose=0)
    for variable in model.variables:  # the moving statistics too: BatchNormalization trains
        # A bias before BatchNormalization has no gradient but rounding.
        if "conv/bias" not in variable.path:
            assert (variable.numpy() != start[variable.path]).any(), variable.path
    for old, new in zip(before, backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_from_scratch_is_the_same_network_newly_initialized():
    backbone = resnet(18, "small", width=4)
    rng = np.random.default_rng(0)
    backbone.set_weights([w + rng.normal(size=w.shape) for w in backbone.get_weights()])
    copy = finetune.classifier(backbone, CLASSES, from_scratch=True).get_layer("resnet18")
    fresh = resnet(18, "small", width=4)
    assert [v.path for v in copy.variables] == [v.path for v in fresh.variables]
    for new, start, trained in zip(
        copy.variables, fresh.variables, backbone.variables, strict=True
    ):
        if new.path.endswith("kernel"):
            assert new.numpy().std() == pytest.approx(start.numpy().std(), rel=0.25), new.path
            correlation = np.corrcoef(new.numpy().ravel(), trained.numpy().ravel())[0, 1]
            assert abs(correlation) < 0.3
        else:  # a block's last gamma is zero again, the others are one
            np.testing.assert_array_equal(new.numpy(), start.numpy(), new.path)


class OfOnesOwn(keras.Model):
    def call(self, images):
        return keras.ops.mean(images, axis=(1, 2))


def test_what_is_no_backbone_is_refused():
    with pytest.raises(ValueError, match=r"at least two classes\. Received: classes=1"):
        finetune.classifier(small_backbone(), 1)
    with pytest.raises(ValueError, match=r"sequential model\. Received: a OfOnesOwn"):
        finetune.classifier(OfOnesOwn(), CLASSES)


@pytest.mark.parametrize("k", [1, 5])
def test_top_k_counts_as_a_stable_sort_does_ties_included(k):
    rng = np.random.default_rng(k)
    logits = rng.integers(0, 4, (200, 10)).astype("float32")  # many ties: the lower class first
    labels = rng.integers(0, 10, 200)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    expected = (order == labels[:, None]).any(axis=1)
    np.testing.assert_array_equal(finetune.in_top_k(labels, logits, k), expected)


def test_a_network_that_fell_apart_is_never_right():
    logits = np.full((3, 10), np.nan, "float32")
    assert not np.asarray(finetune.in_top_k(np.array([0, 4, 9]), logits, 5)).any()


def test_the_loss_is_the_mean_cross_entropy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(9, CLASSES)), rng.integers(0, CLASSES, 9)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -log_p[np.arange(9), labels].mean()
    loss = finetune.CrossEntropy()(labels, logits.astype("float32"))
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_five_guesses_among_five_classes_are_not_counted():
    for classes, names in ((5, ["top1"]), (6, ["top1", "top5"])):
        model = finetune.classifier(small_backbone(), classes)
        finetune.compile_classifier(model, 0.5, 0.1)
        model.run_eagerly = True
        logs = model.evaluate(np.zeros((2, 6, 6, 3)), np.zeros(2), verbose=0, return_dict=True)
        assert [name for name in logs if name != "loss"] == names


@pytest.mark.slow
def test_two_devices_train_as_one_does_short_batches_included():
    images, labels = images_and_labels(23)  # batches of 8, 8 and 7
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(8)
    start = finetune.classifier(small_backbone(), CLASSES).get_weights()
    results = {}
    for name in ("one", "mirrored"):
        with choose_strategy(name).scope():
            model = finetune.classifier(small_backbone(), CLASSES)
            model.set_weights(start)
            schedule = finetune.rate_schedule(finetune.epoch_rates("step", 0.5, epochs=4), 3)
            finetune.compile_classifier(model, schedule, backbone_ratio=0.3)
        model.run_eagerly = name == "one"
        history = model.fit(
            data.repeat(),
            epochs=4,
            steps_per_epoch=3,
            validation_data=data,
            shuffle=False,
            verbose=0,
        ).history
        results[name] = model.get_weights(), history
    for one, two in zip(results["one"][0], results["mirrored"][0], strict=True):
        np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
    assert any(np.abs(a - b).max() > 0.1 for a, b in zip(start, results["one"][0], strict=True))
    for metric in ("top1", "top5", "val_top1", "val_top5"):
        np.testing.assert_allclose(results["mirrored"][1][metric], results["one"][1][metric])
