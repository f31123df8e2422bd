"""A step whose loss or gradient is not finite: reported as NaN, or left out without a trace."""

import contextlib
import math
import unittest.mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bt import LARS, BarlowTwins, projector, warmup_cosine
from keras_bt.callbacks.metrics_log import MetricsLog, read_metrics
from keras_bt.checkpoint import RunCheckpoint
from keras_bt.strategy import choose_strategy
from trainers.runs.running import NoteSkippedSteps, StopOnNonFinite

PRECISIONS = [
    pytest.param("float32", marks=pytest.mark.slow),
    "mixed_float16",  # whose optimizer has a scale; bfloat16 is float32 to all that is tested here
]
BATCH = 16


@pytest.fixture(autouse=True)
def _policy():
    yield
    keras.config.set_dtype_policy("float32")


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    color = rng.normal(size=(count, 1, 1, 3))
    return (color + 0.5 * rng.normal(size=(2, count, 8, 8, 3))).astype("float32")


def batches(steps, seed=0, bad=()):
    """`steps` batches; in those of `bad` one image of one view consists of NaN."""
    views = images(steps * BATCH, seed)
    for step in bad:
        views[1, step * BATCH + 3] = math.nan
    return tf.data.Dataset.from_tensor_slices(tuple(views)).batch(BATCH, drop_remainder=True)


def build(on_nonfinite="stop", policy="float32", strategy="one", optimizer=None):
    """A small convolutional network with BatchNormalization in both parts."""
    keras.config.set_dtype_policy(policy)
    keras.utils.set_random_seed(0)
    with choose_strategy(strategy).scope():
        layers = [
            keras.layers.Input((8, 8, 3)),
            keras.layers.Conv2D(6, 3, use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.Activation("softplus"),
            keras.layers.GlobalAveragePooling2D(),
        ]
        head = projector((12, 10), input_dim=6)
        model = BarlowTwins(keras.Sequential(layers), head, 0.01, on_nonfinite=on_nonfinite)
        model.compile(optimizer or LARS(warmup_cosine(0.5, 20, 2), weight_decay=1e-4))
        model.optimizer.build(model.trainable_variables)
    return model


def fit(model, data, callbacks=(), **kwargs):
    return model.fit(data, shuffle=False, verbose=0, callbacks=list(callbacks), **kwargs).history


@contextlib.contextmanager
def gradient_plus(amount):
    """Adds `amount(replica)` to the gradient of one kernel, in functions that are traced inside."""
    clean = tf.GradientTape.gradient

    def gradient(tape, target, sources):
        gradients = clean(tape, target, sources)
        gradients[3] += amount(tf.distribute.get_replica_context().replica_id_in_sync_group)
        return gradients

    with unittest.mock.patch.object(tf.GradientTape, "gradient", gradient):
        yield


@contextlib.contextmanager
def last_replica_plus():
    """Gives a variable that is added to the gradient of the last replica only."""
    amount = tf.Variable(0.0)

    def of(replica):
        last = replica == tf.distribute.get_strategy().num_replicas_in_sync - 1
        return tf.where(last, amount, 0.0)

    with gradient_plus(of):
        yield amount


class EachStep(keras.callbacks.Callback):
    """Records what Keras reports after each step."""

    def __init__(self):
        super().__init__()
        self.logs = []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append(dict(logs))


def state(model):
    """Every copy of all weights, statistics and variables of the optimizer."""
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    results = model.distribute_strategy.experimental_local_results
    return [
        copy.numpy()
        for variable in (*model.weights, *optimizer.variables)
        for copy in results(variable.value)
    ]


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


def differ(ours, theirs):
    return any((a != b).any() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("strategy", ["one", pytest.param("mirrored", marks=pytest.mark.slow)])
def test_stop_reports_a_bad_gradient_as_the_loss(strategy):
    model = build("stop", strategy=strategy)
    start = model.get_weights()
    steps = EachStep()
    with last_replica_plus() as amount:
        for value in (0.0, math.nan, math.inf):
            model.set_weights(start)
            amount.assign(value)
            fit(model, batches(1), [steps])
    good, *bad = (logs["loss"] for logs in steps.logs)
    assert math.isfinite(good)
    assert np.isnan(bad).all()
    assert all(np.isfinite(logs["on_diagonal"]) for logs in steps.logs)  # the loss was a number


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_stop_reports_a_bad_loss(value):
    model = build("stop")
    views = images(BATCH)
    views[0, 0] = value
    assert math.isnan(fit(model, tf.data.Dataset.from_tensors(tuple(views)))["loss"][0])


@pytest.mark.parametrize(
    ("policy", "strategy"),
    [
        ("mixed_float16", "one"),
        pytest.param("float32", "one", marks=pytest.mark.slow),
        pytest.param("mixed_bfloat16", "one", marks=pytest.mark.slow),
        pytest.param("float32", "mirrored", marks=pytest.mark.slow),
        pytest.param("mixed_float16", "mirrored", marks=pytest.mark.slow),
    ],
)
def test_skip_leaves_everything_as_it_was(policy, strategy):
    model = build("skip", policy, strategy)
    steps = EachStep()
    with last_replica_plus() as amount:
        fit(model, batches(12))  # float16 has found its scale
        before = state(model)
        amount.assign(math.nan)
        history = fit(model, batches(3), [steps])
        assert_same(state(model), before)
        amount.assign(0.0)
        # An image that is no number makes the statistics of every replica so.
        assert fit(model, batches(1, bad=[0]))["skipped_steps"] == [1]
        assert_same(state(model), before)
        fit(model, batches(1))
    assert differ(state(model), before)
    assert [logs["skipped_steps"] for logs in steps.logs] == [1, 2, 3]  # of steps, not of replicas
    assert history["skipped_steps"] == [3]
    assert np.isnan(history["loss"]).all()  # there was no step to speak of, and 0 would be a lie


@pytest.mark.slow
def test_metrics_are_means_over_the_good_steps():
    good, mixed = EachStep(), EachStep()
    model = build("skip")
    history = fit(model, batches(4, bad=[1, 3]), [mixed])
    other = build("skip")
    views = images(4 * BATCH).reshape(2, 4, BATCH, 8, 8, 3)[:, [0, 2]]
    expected = fit(other, tf.data.Dataset.from_tensor_slices(tuple(views)), [good])
    assert_same(state(model), state(other))
    for name in ("loss", "on_diagonal", "off_diagonal", "excess"):
        assert history[name] == expected[name]
        after = [logs[name] for logs in good.logs]
        assert [logs[name] for logs in mixed.logs] == [after[0], after[0], after[1], after[1]]
    assert history["skipped_steps"] == [2]


def test_logged_means_leave_bad_steps_out(tmp_path):
    model = build("skip", optimizer="sgd")
    logs = [MetricsLog(tmp_path / "one", every=1), MetricsLog(tmp_path / "four", every=4)]
    fit(model, batches(8, bad=(0, 3, 4, 7)), logs)
    lines = read_metrics(tmp_path / "one")
    assert [line["skipped_steps"] for line in lines] == [1, 1, 1, 2, 3, 3, 3, 4]
    skipped = [math.isnan(line["loss"]) for line in lines]
    assert skipped == [True, False, False, True, True, False, False, True]
    for line, steps in zip(read_metrics(tmp_path / "four"), (lines[:4], lines[4:]), strict=True):
        mean = np.nanmean([step["loss"] for step in steps])
        assert line["loss"] == pytest.approx(mean, rel=1e-5)


@pytest.mark.slow
def test_after_two_hundred_skipped_steps_training_goes_on_as_if_they_had_not_been():
    model, other = build("skip"), build("skip")
    for each in (model, other):
        fit(each, batches(3))
    assert fit(model, batches(1, bad=[0]).repeat(200))["skipped_steps"] == [200]
    histories = [fit(each, batches(3, seed=1)) for each in (model, other)]
    assert histories[0] == histories[1]
    assert_same(state(model), state(other))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("policy", "strategy"),
    [("float32", "one"), ("float32", "mirrored"), ("mixed_bfloat16", "one")],
)
def test_without_bad_steps_skip_changes_nothing(policy, strategy):
    models = [build(name, policy, strategy) for name in ("stop", "skip")]
    history, skipping = (fit(each, batches(4), epochs=2) for each in models)
    assert skipping.pop("skipped_steps") == [0, 0]
    assert history == skipping
    assert_same(*map(state, models))


def test_float16_finds_its_scale_and_keeps_the_statistics():
    model = build("stop", "mixed_float16")
    scale = model.optimizer.dynamic_scale
    with gradient_plus(lambda _: tf.where(scale.value >= 2.0**10, math.inf, 0.0)):
        # The scale begins at 2^15: six steps overflow, and then it fits.
        steps = EachStep()
        before = state(model)
        fit(model, batches(6), [steps])
        assert_same(state(model), before)
        fit(model, batches(4), [steps])
    assert [logs["skipped_steps"] for logs in steps.logs] == [1, 2, 3, 4, 5, 6, 0, 0, 0, 0]
    assert np.isfinite([logs["loss"] for logs in steps.logs]).all()
    assert all(np.isfinite(value).all() for value in state(model))
    assert float(keras.ops.convert_to_numpy(model.optimizer.dynamic_scale)) == 2.0**9


@pytest.mark.slow
@pytest.mark.parametrize("policy", PRECISIONS)
def test_a_saved_model_goes_on_skipping(policy, tmp_path):
    model = build("skip", policy)
    fit(model, batches(12))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    histories = [fit(each, batches(5, seed=1, bad=[2])) for each in (model, loaded)]
    assert histories[0] == histories[1]
    assert histories[0]["skipped_steps"] == [1]
    assert_same(state(loaded), state(model))


@pytest.mark.slow
@pytest.mark.parametrize("policy", PRECISIONS)
def test_a_run_goes_on_with_the_other_choice(policy, tmp_path):
    first, second = build("stop", policy), build("skip", policy)
    data = batches(4)
    fit(first, data, [RunCheckpoint(tmp_path / "a", first, steps_per_epoch=4)])
    there = RunCheckpoint(tmp_path / "a", second, steps_per_epoch=4)
    assert there.restore() == 4
    assert_same(state(second), state(first))
    fit(first, data)
    back = RunCheckpoint(tmp_path / "b", second, steps_per_epoch=4)
    fit(second, data, [back])
    assert_same(state(second), state(first))
    again = build("stop", policy)
    assert RunCheckpoint(tmp_path / "b", again, steps_per_epoch=4).restore() == 4
    assert_same(state(again), state(first))


@pytest.mark.slow
def test_a_loaded_model_can_have_checkpoints(tmp_path):
    # Its optimizer is built already; to build it again would give float16 a second, new scale.
    model = build("stop", "mixed_float16")
    fit(model, batches(4), [RunCheckpoint(tmp_path / "c", model, steps_per_epoch=4)])
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert RunCheckpoint(tmp_path / "c", loaded, steps_per_epoch=4).restore() == 4
    for each in (model, loaded):
        fit(each, batches(4, seed=1))
    assert_same(state(loaded), state(model))


def guard(in_a_row=4, **kwargs):
    return NoteSkippedSteps("Causes.", "nowhere", in_a_row, **kwargs)


def test_skipped_steps_are_told_at_the_end_of_the_epoch(capsys):
    model = build("skip")
    fit(model, batches(4, bad=[0, 2]), [guard()])
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert line.startswith("Warning: 2 of the 4 steps of epoch 1 were skipped")
    assert "Causes." in line
    fit(model, batches(4, bad=[0]), [guard(normal=1), guard(speaks=False)])
    fit(model, batches(4), [guard()])
    assert not capsys.readouterr().out


def test_a_run_of_which_nothing_is_left_ends():
    model = build("skip")
    fit(model, batches(4, bad=[0, 1, 2]), [guard()])
    with pytest.raises(ValueError, match=r"last 4 steps were all skipped.*Causes. No checkpoint"):
        fit(model, batches(4, bad=[0, 1, 2, 3]), [guard()])


@pytest.mark.slow
def test_bad_steps_in_a_row_are_counted_over_the_end_of_an_epoch():
    # A run that goes on with the last steps of an epoch must not end for these.
    model, watch = build("skip"), guard(in_a_row=4)
    fit(model, batches(1, bad=[0]), [watch])
    fit(model, batches(4, bad=[1, 2, 3]), [watch])
    with pytest.raises(ValueError, match="last 4 steps"):
        fit(model, batches(2, bad=[0, 1]), [watch])


@pytest.mark.slow
def test_executions_of_several_steps_are_watched_too(capsys):
    for bad, ends in (((1, 2, 3), False), ((0, 1, 2, 3), True)):
        model = build("skip")
        model.compile(model.optimizer, steps_per_execution=2)
        with pytest.raises(ValueError, match="last 4") if ends else contextlib.nullcontext():
            fit(model, batches(4, bad=bad), [guard()])
    assert "3 of the 4 steps" in capsys.readouterr().out


@pytest.mark.slow
def test_the_checkpoint_after_a_bad_last_step_is_the_good_one(tmp_path):
    model = build("stop")
    stop = StopOnNonFinite("Causes.", tmp_path)
    checkpoint = RunCheckpoint(tmp_path, model, steps_per_epoch=4)
    fit(model, batches(4), [stop, checkpoint])
    good = state(model)
    with pytest.raises(ValueError, match=r"became nan. Causes. .* is kept: .*00000004\."):
        fit(model, batches(4, bad=[3]), [stop, checkpoint], initial_epoch=1, epochs=2)
    assert differ(state(model), good)
    assert checkpoint.restore() == 4
    assert_same(state(model), good)
