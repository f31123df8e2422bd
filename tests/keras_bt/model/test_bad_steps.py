"""A step whose loss or gradient is not finite: reported as NaN, or left out without a trace."""

import contextlib
import functools
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


def network(on_nonfinite, policy, strategy):
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
        model.compile(LARS(warmup_cosine(0.5, 20, 2), weight_decay=1e-4))
        model.optimizer.build(model.trainable_variables)
    return model


def fit(model, data, callbacks=(), **kwargs):
    return model.fit(data, shuffle=False, verbose=0, callbacks=list(callbacks), **kwargs).history


@pytest.fixture(scope="module")
def _amount():
    amount, clean = tf.Variable(0.0), tf.GradientTape.gradient

    def gradient(tape, target, sources):
        gradients = clean(tape, target, sources)
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group
        last = replica == tf.distribute.get_strategy().num_replicas_in_sync - 1
        gradients[3] += tf.where(last, amount, 0.0)
        return gradients

    with unittest.mock.patch.object(tf.GradientTape, "gradient", gradient):
        yield amount


@pytest.fixture
def amount(_amount):
    """What is added to the gradient of one kernel, on the last replica only."""
    yield _amount
    _amount.assign(0.0)


@pytest.fixture(scope="module")
def _networks(_amount):
    def at_its_start(*kind):
        model = network(*kind)
        return model, [variable.numpy() for variable in variables(model)]

    return functools.cache(at_its_start)


@pytest.fixture
def build(_networks):
    """Gives a model of a kind, of which there is one, at its start: tracing it takes seconds."""

    def at_its_start(on_nonfinite="stop", policy="float32", strategy="one"):
        model, start = _networks(on_nonfinite, policy, strategy)
        keras.config.set_dtype_policy(policy)
        for variable, value in zip(variables(model), start, strict=True):
            variable.assign(value)
        return model

    yield at_its_start
    keras.config.set_dtype_policy("float32")


class EachStep(keras.callbacks.Callback):
    """Records what Keras reports after each step."""

    def __init__(self):
        super().__init__()
        self.logs = []

    def on_train_batch_end(self, batch, logs=None):
        self.logs.append(dict(logs))


def variables(model):
    """All weights, statistics and variables of the optimizer."""
    return [*model.weights, *model.optimizer.variables]


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
def test_stop_reports_a_bad_gradient_as_the_loss(build, amount, strategy):
    steps = EachStep()
    for value in (0.0, math.nan, math.inf):
        amount.assign(value)
        fit(build("stop", strategy=strategy), batches(1), [steps])
    good, *bad = (logs["loss"] for logs in steps.logs)
    assert math.isfinite(good)
    assert np.isnan(bad).all()
    assert all(np.isfinite(logs["on_diagonal"]) for logs in steps.logs)  # the loss was a number


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_stop_reports_a_bad_loss(build, value):
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
        pytest.param("float32", "mirrored", marks=pytest.mark.slow),  # float16: test_replicas.py
    ],
)
def test_skip_leaves_everything_as_it_was(build, amount, policy, strategy):
    model = build("skip", policy, strategy)
    steps = EachStep()
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
def test_metrics_are_means_over_the_good_steps(build):
    good, mixed = EachStep(), EachStep()
    history = fit(model := build("skip"), batches(4, bad=[1, 3]), [mixed])
    end = state(model)
    views = images(4 * BATCH).reshape(2, 4, BATCH, 8, 8, 3)[:, [0, 2]]
    expected = fit(build("skip"), tf.data.Dataset.from_tensor_slices(tuple(views)), [good])
    assert_same(state(model), end)
    for name in ("loss", "on_diagonal", "off_diagonal", "excess"):
        assert history[name] == expected[name]
        after = [logs[name] for logs in good.logs]
        assert [logs[name] for logs in mixed.logs] == [after[0], after[0], after[1], after[1]]
    assert history["skipped_steps"] == [2]


def test_logged_means_leave_bad_steps_out(build, tmp_path):
    model = build("skip")
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
def test_after_two_hundred_skipped_steps_training_goes_on_as_if_they_had_not_been(build):
    histories, ends = [], []
    for skipped in (0, 200):
        model = build("skip")
        fit(model, batches(3))
        if skipped:
            found = fit(model, batches(1, bad=[0]).repeat(skipped))["skipped_steps"]
            assert found == [skipped]
        histories.append(fit(model, batches(3, seed=1)))
        ends.append(state(model))
    assert histories[0] == histories[1]
    assert_same(*ends)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["one", "mirrored"])
def test_without_bad_steps_skip_changes_nothing(build, strategy):
    models = [build(name, strategy=strategy) for name in ("stop", "skip")]
    history, skipping = (fit(each, batches(4), epochs=2) for each in models)
    assert skipping.pop("skipped_steps") == [0, 0]
    assert history == skipping
    assert_same(*map(state, models))


def test_float16_finds_its_scale_and_keeps_the_statistics(build, amount):
    model = build("stop", "mixed_float16")
    scale = model.optimizer.dynamic_scale
    overflow = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda _, logs: amount.assign(math.inf if scale >= 2.0**10 else 0)
    )
    # The scale begins at 2^15: six steps overflow, and then it fits.
    steps = EachStep()
    before = state(model)
    fit(model, batches(6), [steps, overflow])
    assert_same(state(model), before)
    fit(model, batches(4), [steps, overflow])
    assert [logs["skipped_steps"] for logs in steps.logs] == [1, 2, 3, 4, 5, 6, 0, 0, 0, 0]
    assert np.isfinite([logs["loss"] for logs in steps.logs]).all()
    assert all(np.isfinite(value).all() for value in state(model))
    assert float(keras.ops.convert_to_numpy(scale)) == 2.0**9


@pytest.mark.slow
@pytest.mark.parametrize("policy", PRECISIONS)
def test_a_saved_model_goes_on_skipping(build, policy, tmp_path):
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
def test_a_run_goes_on_with_the_other_choice(build, policy, tmp_path):
    first, second = build("stop", policy), build("skip", policy)
    data = batches(4)
    fit(first, data, [RunCheckpoint(tmp_path / "a", first, steps_per_epoch=4)])
    there = RunCheckpoint(tmp_path / "a", second, steps_per_epoch=4)
    assert there.restore() == 4
    assert_same(state(second), state(first))
    fit(first, data)
    back = RunCheckpoint(tmp_path / "b", second, steps_per_epoch=4)
    fit(second, data, [back])
    assert_same(end := state(second), state(first))
    again = build("stop", policy)
    assert RunCheckpoint(tmp_path / "b", again, steps_per_epoch=4).restore() == 4
    assert_same(state(again), end)


@pytest.mark.slow
def test_a_loaded_model_can_have_checkpoints(build, tmp_path):
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


def test_skipped_steps_are_told_at_the_end_of_the_epoch(build, capsys):
    model = build("skip")
    fit(model, batches(4, bad=[0, 2]), [guard()])
    (line,) = capsys.readouterr().out.strip().splitlines()
    assert line.startswith("Warning: 2 of the 4 steps of epoch 1 were skipped")
    assert "Causes." in line
    fit(model, batches(4, bad=[0]), [guard(normal=1), guard(speaks=False)])
    fit(model, batches(4), [guard()])
    assert not capsys.readouterr().out


def test_a_run_of_which_nothing_is_left_ends(build):
    model = build("skip")
    fit(model, batches(4, bad=[0, 1, 2]), [guard()])
    with pytest.raises(ValueError, match=r"last 4 steps were all skipped.*Causes. No checkpoint"):
        fit(model, batches(4, bad=[0, 1, 2, 3]), [guard()])


@pytest.mark.slow
def test_bad_steps_in_a_row_are_counted_over_the_end_of_an_epoch(build):
    # A run that goes on with the last steps of an epoch must not end for these.
    model, watch = build("skip"), guard(in_a_row=4)
    fit(model, batches(1, bad=[0]), [watch])
    fit(model, batches(4, bad=[1, 2, 3]), [watch])
    with pytest.raises(ValueError, match="last 4 steps"):
        fit(model, batches(2, bad=[0, 1]), [watch])


@pytest.mark.slow
def test_executions_of_several_steps_are_watched_too(capsys):
    model = network("skip", "float32", "one")  # not the one that other tests go on with
    model.compile(model.optimizer, steps_per_execution=2)
    for bad, ends in (((1, 2, 3), False), ((0, 1, 2, 3), True)):
        with pytest.raises(ValueError, match="last 4") if ends else contextlib.nullcontext():
            fit(model, batches(4, bad=bad), [guard()])
    assert "3 of the 4 steps" in capsys.readouterr().out


@pytest.mark.slow
def test_the_checkpoint_after_a_bad_last_step_is_the_good_one(build, tmp_path):
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
