"""The Siamese network: loss, metrics, threshold, and that training is as on one device."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from replica_run import smooth_model

from keras_bt import Siamese
from keras_bt.strategy import choose_strategy


def network():
    return smooth_model().backbone  # (b, 16, 16, 3) → (b, 16), smooth, with BatchNormalization


def head(width=8):
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((16,)), keras.layers.Dense(width)])


def pairs(n=24, seed=0):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, n, 16, 16, 3)).astype("float32")
    same = (np.arange(n) % 3 == 0).astype("float32")
    b[same == 1] = a[same == 1] + 0.1 * b[same == 1]
    return a, b, same


def batches(n, batch_size, seed=0):
    return tf.data.Dataset.from_tensor_slices(pairs(n, seed)).batch(batch_size)


@pytest.mark.parametrize("form", ["contrastive", "cosine"])
def test_loss_and_metrics_are_exact_means_over_pairs(form):
    model = Siamese(network(), head(), margin=0.5 if form == "contrastive" else 1.0, form=form)
    model.compile("sgd")
    a, b, same = pairs(22)
    za, zb = (model.predict(images, verbose=0).astype(float) for images in (a, b))
    np.testing.assert_allclose(np.linalg.norm(za, axis=1), 1, rtol=1e-5)
    d = np.linalg.norm(za - zb, axis=1)
    if form == "contrastive":
        losses = np.where(same == 1, d**2, np.maximum(0, 0.5 - d) ** 2) / 2
    else:
        losses = (np.sum(za * zb, axis=1) - (2 * same - 1)) ** 2 / 2
    # Batches of 8, 8 and 6: the last counts less.
    found = model.evaluate(batches(22, 8), verbose=0, return_dict=True)
    assert found["loss"] == pytest.approx(losses.mean(), rel=1e-4)
    assert found["distance_same"] == pytest.approx(d[same == 1].mean(), rel=1e-4)
    assert found["distance_different"] == pytest.approx(d[same == 0].mean(), rel=1e-4)
    np.testing.assert_allclose(model.distance(a, b), d, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_training_tells_pairs_apart_also_in_steps_executed_at_once():
    results = []
    for steps_per_execution in (1, 3):
        keras.utils.set_random_seed(0)
        model = Siamese(network(), head())
        model.compile(keras.optimizers.Adam(0.01), steps_per_execution=steps_per_execution)
        history = model.fit(batches(48, 16), epochs=4, shuffle=False, verbose=0).history
        results.append(history["loss"])
    assert history["loss"][-1] < 0.7 * history["loss"][0]
    assert history["distance_different"][-1] > 2 * history["distance_same"][-1]
    np.testing.assert_allclose(results[1], results[0], rtol=1e-4)


@pytest.mark.slow
def test_two_replicas_equal_one():
    found = []
    for strategy in map(choose_strategy, ("one", "mirrored")):
        with strategy.scope():
            model = Siamese(network(), head(), margin=0.8)
            model.compile(keras.optimizers.SGD(0.5))
        # The last batch has 9 pairs, which do not divide evenly.
        history = model.fit(batches(41, 16), shuffle=False, epochs=2, verbose=0).history
        evaluation = model.evaluate(batches(24, 24, seed=1), verbose=0)
        found.append((history, evaluation, [w.numpy() for w in model.weights]))
    assert model.distribute_strategy.num_replicas_in_sync == 2
    (one, evaluated, weights), (two, evaluated_too, weights_too) = found
    for name in ("loss", "distance_same", "distance_different"):
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5)
    np.testing.assert_allclose(evaluated_too, evaluated, rtol=1e-5)
    for ours, theirs in zip(weights_too, weights, strict=True):  # moving statistics included
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_a_frozen_backbone_stays_as_it_is():
    backbone = network()
    backbone.trainable = False
    model = Siamese(backbone, head())
    model.compile("adam")
    before, of_head = backbone.get_weights(), model.head.get_weights()
    model.fit(batches(16, 8), shuffle=False, verbose=0)
    for old, new in zip(before, backbone.get_weights(), strict=True):  # moving statistics included
        np.testing.assert_array_equal(new, old)
    assert not (model.head.get_weights()[0] == of_head[0]).all()
    with pytest.raises(ValueError, match="weights to train"):
        Siamese(backbone).compile("adam")


@pytest.mark.slow
def test_threshold_and_training_state_are_saved(tmp_path):
    a, b, _ = pairs(16)
    model = Siamese(network(), head(), margin=0.7)
    model.compile("adam")
    model.fit(batches(32, 16), shuffle=False, verbose=0)
    with pytest.raises(ValueError, match=r"calibrate\(threshold\). Received: none"):
        model.same(a, b)
    in_graph = tf.function(model.same)
    assert not in_graph(a, b).numpy().any()
    with pytest.raises(ValueError, match=r"from 0 to 2. Received: threshold=nan"):
        model.calibrate(float("nan"))
    distances = model.distance(a, b).numpy()
    model.calibrate(np.median(distances))
    assert (in_graph(a, b).numpy() == (distances <= np.median(distances))).all()
    model.save(tmp_path / "siamese.keras")
    loaded = keras.models.load_model(tmp_path / "siamese.keras")
    assert loaded.threshold == model.threshold == pytest.approx(np.median(distances))
    assert (loaded.same(a, b).numpy() == (distances <= np.median(distances))).all()
    assert (loaded.margin, loaded.form) == (0.7, "contrastive")
    histories = [m.fit(batches(32, 16), shuffle=False, verbose=0).history for m in (model, loaded)]
    assert histories[0] == histories[1]


@pytest.mark.slow
def test_an_overflow_in_half_precision_skips_the_step():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = Siamese(network(), head())
        model.compile("adam")
    finally:
        keras.config.set_dtype_policy("float32")
    a, b, same = pairs(16)
    assert model.predict(a, verbose=0).dtype == np.float32
    before = model.backbone.get_weights()
    logs = model.fit(np.full_like(a, np.inf), b, sample_weight=same, verbose=0).history
    assert logs["skipped_steps"] == [1]
    for old, new in zip(before, model.backbone.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


def test_a_loss_that_is_not_finite_shows():
    model = Siamese(network())
    model.compile("sgd")
    a, b, same = pairs(8)
    history = model.fit(np.full_like(a, np.nan), b, sample_weight=same, verbose=0).history
    assert np.isnan(history["loss"]).all()


MISTAKES = {
    "a head for others": (lambda: Siamese(network(), head_of(9)), "must take"),
    "no vector": (
        lambda: Siamese(keras.Sequential([keras.Input((4, 4, 3)), keras.layers.ReLU()])),
        "one vector",
    ),
    "a form": (lambda: Siamese(network(), form="triplet"), "one of contrastive, cosine"),
    "no margin": (lambda: Siamese(network(), margin=0.0), "> 0 and at most 2"),
    "a margin without use": (lambda: Siamese(network(), margin=0.5, form="cosine"), "no margin"),
    "a loss": (lambda: Siamese(network()).compile("sgd", loss="mse"), "its own loss"),
    "two arrays": (lambda: compiled().fit(*pairs(8)[:2], verbose=0), "image_b, same"),
}


def head_of(inputs):
    return keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(2)])


def compiled():
    model = Siamese(network())
    model.compile("sgd")
    return model


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_told_in_one_line(case):
    wrong, message = MISTAKES[case]
    with pytest.raises(ValueError, match=message) as mistake:
        wrong()
    assert "\n" not in str(mistake.value)
