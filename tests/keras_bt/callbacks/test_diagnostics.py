import dataclasses
import math

import keras
import numpy as np
import pytest
import tensorboard_log
import tensorflow as tf
from places import ROOT

from keras_bt import augmentations, data
from keras_bt.callbacks import advice, health
from keras_bt.callbacks.diagnostics import Diagnostics
from keras_bt.callbacks.health import Health, measure
from keras_bt.callbacks.metrics_log import MetricsLog, read_metrics
from keras_bt.evaluation.alpha_req import alpha_req
from keras_bt.evaluation.lidar import lidar
from keras_bt.evaluation.rankme import rankme
from keras_bt.model import BarlowTwins, projector
from keras_bt.objectives import BarlowTwinsObjective, VICReg
from keras_bt.objectives import barlow_twins as objective
from keras_bt.plots.evaluation import measures
from keras_bt.resnet import resnet
from keras_bt.strategy import choose_strategy

NAMES = [field.name for field in dataclasses.fields(Health)]
HEALTHY = Health(**dict.fromkeys(NAMES, 1.0))


def backbone():
    layers = [
        keras.layers.Input((8, 8, 3)),
        keras.layers.Conv2D(16, 3, strides=2),
        keras.layers.BatchNormalization(momentum=0.9),
        keras.layers.ReLU(),
        keras.layers.Flatten(),
        keras.layers.Dense(24),
    ]
    return keras.Sequential(layers)


def twins(redundancy_weight=0.01, rate=0.05):
    model = BarlowTwins(backbone(), projector((32, 32), 24), redundancy_weight)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9))
    return model


def fit(model, views, callbacks, epochs=2, steps=10, **kwargs):
    how = {"epochs": epochs, "steps_per_epoch": steps, "shuffle": False, "verbose": 0} | kwargs
    return model.fit(views, callbacks=callbacks, **how).history


# Of the views there is the crop alone: the others take long to trace, and do nothing here.
CROPS = {"flip": 0.0, "jitter": 0.0, "grayscale": 0.0, "blur": (0.0, 0.0), "solarize": (0.0, 0.0)}


@pytest.fixture(scope="module")
def views():
    train, _ = data.open_source("digits")
    views = augmentations.barlow_twins_views(8, area=(0.7, 1.0), **CROPS)
    return data.pretraining_views(train, *views, 128, seed=0)


@pytest.fixture(scope="module")
def pair(views):
    return tuple(view.numpy() for view in next(iter(views)))


def oracle(features, za, zb, redundancy_weight):
    """The same numbers by way of C itself and explicit loops."""
    n, d = za.shape
    za_standard = (za - za.mean(0)) / np.sqrt(za.var(0) + 1e-5)
    zb_standard = (zb - zb.mean(0)) / np.sqrt(zb.var(0) + 1e-5)
    c = np.einsum("ki,kj->ij", za_standard, zb_standard) / n
    diagonal = [c[i, i] for i in range(d)]
    others = [c[i, j] for i in range(d) for j in range(d) if i != j]
    loss = sum((1 - x) ** 2 for x in diagonal) + redundancy_weight * sum(x**2 for x in others)
    z = np.concatenate([za, zb])
    directions = np.array([row / np.sqrt(np.sum(row**2)) for row in z])
    deviations = [np.sqrt(np.mean((x - x.mean()) ** 2)) for x in directions.T]

    def dead(values):
        size = np.sqrt(np.mean(values**2))
        return sum(np.std(column) <= 1e-3 * size for column in values.T)

    return {
        "diagonal_mean": np.mean(diagonal),
        "diagonal_rms": np.sqrt(np.mean(np.square(diagonal))),
        "off_diagonal_mean": np.mean(others),
        "off_diagonal_rms": np.sqrt(np.mean(np.square(others))),
        "fixed_excess": loss - objective.loss_floor(n, d, redundancy_weight),
        "embedding_spread": np.sqrt(np.mean(np.square(deviations))) * np.sqrt(d),
        "feature_rankme": rankme(features),
        "embedding_rankme": rankme(z),
        "feature_lidar": lidar(np.array([[features[i], features[n + i]] for i in range(n)])),
        "embedding_lidar": lidar(np.array([[za[i], zb[i]] for i in range(n)])),
        "feature_alpha": alpha_req(features),
        "dead_features": dead(features),
        "dead_dimensions": dead(z),
    }


@pytest.mark.parametrize(("n", "d"), [(40, 12), (12, 40)])
def test_measures_agree_with_an_independent_computation(n, d):
    random = np.random.default_rng(n)
    za = random.standard_normal((n, d)) * np.geomspace(1, 0.1, d) + 0.3
    zb = za + 0.5 * random.standard_normal((n, d))
    za[:, 3] = zb[:, 3] = 0.7
    features = np.maximum(random.standard_normal((2 * n, 15)), 0)
    features[:, :2] = 0
    expected = oracle(features, za, zb, 0.02)
    found = dataclasses.asdict(measure(features, za, zb, BarlowTwinsObjective(0.02)))
    assert found == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert found["dead_features"] == 2
    assert found["dead_dimensions"] == 1


def test_spread_is_one_on_the_sphere_and_zero_for_equal_directions():
    random = np.random.default_rng(0)
    assert health.spread(random.standard_normal((2000, 50))) == pytest.approx(1, abs=0.01)
    line = np.outer(random.uniform(1, 2, 100), random.standard_normal(50))
    assert health.spread(line) == pytest.approx(0, abs=1e-7)
    assert health.spread(np.zeros((5, 3))) == 0


def test_what_is_not_finite_is_nan():
    z = np.ones((4, 3))
    z[0, 0] = np.nan
    numbers = dataclasses.asdict(
        measure(np.ones((8, 2)), z, np.ones((4, 3)), BarlowTwinsObjective())
    )
    assert all(math.isnan(value) for value in numbers.values())


@pytest.mark.slow
def test_logs_reach_history_metrics_and_tensorboard(tmp_path, views, pair, monkeypatch):
    monkeypatch.setattr("keras_bt.callbacks.diagnostics._BATCH", 50)  # the last one is shorter
    model = twins()
    diagnostics = Diagnostics(pair, every=2)
    callbacks = [
        diagnostics,
        MetricsLog(tmp_path / "metrics.jsonl", every=10),
        keras.callbacks.TensorBoard(tmp_path / "logs"),
    ]
    history = fit(model, views, callbacks, epochs=3)
    entries = [entry for entry in read_metrics(tmp_path / "metrics.jsonl") if NAMES[0] in entry]
    assert [entry["epoch"] for entry in entries] == [2, 3]  # every second, and the last
    tags = {tag for tag, _ in tensorboard_log.values(tmp_path / "logs" / "train")}
    for name in NAMES:
        assert len(history[name]) == 2
        assert entries[-1][name] == pytest.approx(history[name][-1], rel=1e-6)
        assert f"epoch_{name}" in tags
    # What was measured is what the model gives, in inference mode.
    za, zb = (np.asarray(model.embed(view, training=False)) for view in pair)
    features = np.concatenate([np.asarray(model(view, training=False)) for view in pair])
    expected = dataclasses.asdict(measure(features, za, zb, model.objective))
    found = {name: history[name][-1] for name in NAMES}
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-4)
    c = np.asarray(objective.cross_correlation(za, zb))
    np.testing.assert_allclose(diagnostics.latest.correlation, c, atol=1e-4)
    assert (diagnostics.before.epochs, diagnostics.latest.epochs) == (0, 3)


def test_every_measure_is_drawn_and_documented(tmp_path):
    drawn = measures(tmp_path / "m.png", [{"epoch": 1} | dataclasses.asdict(HEALTHY)])
    assert set(drawn) == set(NAMES)
    page = (ROOT / "docs" / "monitoring.md").read_text(encoding="utf-8")
    assert not [name for name in NAMES if f"`{name}`" not in page]


@pytest.mark.slow
def test_a_healthy_run_is_not_warned_about(views, pair, capsys):
    # Epochs of six steps at a high rate, without warm-up: moving statistics lag behind at first.
    model = twins(rate=0.2)
    history = fit(model, views, [Diagnostics(pair)], epochs=8, steps=6)
    assert capsys.readouterr().out == ""
    assert history["loss"][-1] < history["loss"][0]


@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 50])
def test_an_untrained_network_is_not_warned_about(pair, depth):
    network = resnet(depth, stem="small", width=8)
    head = projector((64, 64, 64), network.output_shape[-1])
    features = [np.asarray(network(view, training=False)) for view in pair]
    za, zb = (np.asarray(head(x, training=False)) for x in features)
    state = measure(np.concatenate(features), za, zb, BarlowTwinsObjective())
    assert state.embedding_spread < 0.8
    assert advice.constant(state, settled=True) is None
    assert advice.redundant(state, state, len(za), 64, 0.0051) is None
    assert advice.dead(state, features[0].shape[1], 64) is None


@pytest.mark.slow
def test_without_the_redundancy_term_the_warning_comes_within_an_epoch(views, pair, capsys):
    model = twins(redundancy_weight=0.0, rate=0.1)
    history = fit(model, views, [Diagnostics(pair)], epochs=1, steps=60)
    printed = capsys.readouterr().out
    assert printed.startswith("\nWarning: the embeddings have collapsed into a few directions")
    assert "larger redundancy_weight λ (now 0;" in printed
    assert history["off_diagonal_rms"][0] > 0.6


@pytest.mark.slow
def test_a_dead_projector_is_warned_about_once(views, pair, capsys):
    model = twins()
    model.projector.layers[-1].kernel.assign(np.zeros((32, 32)))
    model.projector.layers[-1].trainable = False
    identical = tf.data.Dataset.from_tensors((pair[0], pair[0])).repeat()
    fit(model, identical, [Diagnostics((pair[0], pair[0]))], epochs=3, steps=2)
    printed = capsys.readouterr().out
    assert printed.count("Warning") == 1
    assert "they are the same for every image (embedding_spread 0" in printed


@pytest.mark.slow
def test_dead_features_are_warned_about(views, pair, capsys):
    network = keras.Sequential([backbone(), keras.layers.Dense(24), keras.layers.ReLU()])
    network.layers[1].bias.assign(np.where(np.arange(24) < 9, -1e3, 0))  # 9 of 24 never fire
    model = BarlowTwins(network, projector((32, 32), 24))
    model.compile(keras.optimizers.SGD(0.0))
    model.optimizer.iterations.assign(1000)
    history = fit(model, views, [Diagnostics(pair)], epochs=2, steps=1)
    assert history["dead_features"] == [9, 9]
    printed = capsys.readouterr().out
    assert printed.count("Warning") == 1
    assert "9 of 24 features of the backbone are dead" in printed


@pytest.mark.parametrize(
    ("terms", "known"),
    [
        (["on_diagonal", "off_diagonal"], True),
        (["on_diagonal", "off_diagonal", "mixed"], False),
        (["alignment", "uniformity"], False),
    ],
)
def test_how_far_is_far_is_known_of_barlow_twins(terms, known):
    assert advice.knows_far(["loss", *terms, "excess"]) == known


def test_plateau():
    flat = [400.0] * 12
    for falling_or_short in ([400 * 0.97**epoch for epoch in range(14)], flat[1:]):
        assert advice.plateau(falling_or_short, 10, 512) is None
    assert "has not moved for 12 epochs" in advice.plateau(flat, 10, 512)
    assert "400 above" in advice.plateau([500.0, *flat], 10, 512)
    assert advice.plateau([100.0] * 30, 10, 512) is None  # the end of training
    assert advice.plateau([math.nan] * 12, 10, 512) is None
    assert advice.plateau([400 + 20 * (-1) ** epoch for epoch in range(12)], 10, 512) is not None


@pytest.mark.slow
@pytest.mark.parametrize("objective", [BarlowTwinsObjective(0.01), VICReg()])
def test_a_loss_that_does_not_move_is_warned_about_though_no_look_is_due(pair, capsys, objective):
    model = BarlowTwins(backbone(), projector((32, 32), 24), objective=objective)
    model.compile(keras.optimizers.SGD(0.0))
    noise = np.random.default_rng(0).standard_normal((2, 128, 8, 8, 3)).astype(np.float32)
    unrelated = tf.data.Dataset.from_tensors(tuple(noise)).repeat()
    fit(model, unrelated, [Diagnostics(pair, every=100)], epochs=12, steps=1)
    printed = capsys.readouterr().out
    # Of other losses it is not known what is far above the floor.
    known = isinstance(objective, BarlowTwinsObjective)
    assert printed.count("Warning: the loss has not moved for 12 epochs") == known


@pytest.mark.slow
def test_what_lags_behind_is_not_judged_before_it_settles(pair, views):
    lagging = dataclasses.replace(HEALTHY, embedding_spread=3e-3)
    assert advice.constant(lagging, settled=False) is None
    assert "collapsed" in advice.constant(lagging, settled=True)
    equal = dataclasses.replace(HEALTHY, embedding_spread=1e-8)
    assert "collapsed" in advice.constant(equal, settled=False)
    # With a momentum of 0.9 in BatchNormalization they settle within 30 steps.
    model, diagnostics = twins(rate=0.0), Diagnostics(pair)
    model.optimizer.iterations.assign(28)
    fit(model, views, [diagnostics], epochs=1, steps=1)
    assert not diagnostics._statistics_have_settled()
    fit(model, views, [diagnostics], epochs=1, steps=1)
    assert diagnostics._statistics_have_settled()


def test_redundancy_that_was_there_before_training_and_falls_is_no_collapse():
    def warned(now, before, images=64):
        states = [
            dataclasses.replace(HEALTHY, off_diagonal_rms=off, diagonal_rms=on)
            for off, on in (now, before)
        ]
        return advice.redundant(*states, images, 16, 0.01) is not None

    assert warned((0.7, 0.8), (0.3, 0.3))
    assert not warned((0.7, 0.8), (0.9, 0.9))
    assert not warned((0.7, 0.95), (0.3, 0.3))
    assert not warned((0.5, 0.5), (0.3, 0.3))
    assert not warned((0.7, 0.8), (0.3, 0.3), images=8)


@pytest.mark.slow
def test_the_line_survives_the_progress_bar(views, pair, capsys):
    model = twins(rate=0.0)
    model.projector.layers[-1].kernel.assign(np.zeros((32, 32)))
    fit(model, views, [Diagnostics(pair)], epochs=1, steps=2, verbose=1)
    lines = [line.split("\r")[-1].strip("\b") for line in capsys.readouterr().out.split("\n")]
    (warning,) = [line for line in lines if "Warning" in line]
    assert warning.startswith("Warning: the embeddings have collapsed")
    assert warning.endswith("left of the images.")
    assert "embedding_spread: " in lines[lines.index(warning) + 1]


@pytest.mark.slow
def test_on_two_replicas_as_on_one(views, pair):
    def numbers(strategy):
        keras.utils.set_random_seed(1)
        with strategy.scope():
            model = twins(rate=0.05)
        return fit(model, views, [Diagnostics(pair)], epochs=2, steps=3)

    one, two = numbers(choose_strategy("one")), numbers(choose_strategy("mirrored"))
    for name in NAMES:
        assert two[name] == pytest.approx(one[name], rel=1e-3, abs=1e-3), name


@pytest.mark.slow
def test_crops_for_the_device(capsys):
    train, _ = data.open_source("digits")
    views = augmentations.barlow_twins_views(8, **CROPS)
    rest = tuple(view.rest for view in views)
    model = BarlowTwins(backbone(), projector((32,), 24), views=rest)
    model.compile("sgd")
    batches = data.pretraining_views(train, *views, 64, seed=0, augment_on="device")
    diagnostics = Diagnostics(next(iter(batches)))
    history = fit(model, batches, [diagnostics], epochs=2, steps=2)
    assert len(history["embedding_rankme"]) == 2
    assert diagnostics.before.za.shape == (64, 32)


def test_mistakes_are_named(pair, views):
    with pytest.raises(ValueError, match=r"every must be at least 1\. Received: every=0"):
        Diagnostics(pair, every=0)
    other = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    other.compile("sgd", "mse")
    with pytest.raises(ValueError, match=r"needs a BarlowTwins model. Received: Sequential"):
        other.fit(np.ones((2, 3)), np.ones(2), verbose=0, callbacks=[Diagnostics(pair)])
    with pytest.raises(ValueError, match="two views of the same images"):
        fit(twins(), views, [Diagnostics(pair[0])])
