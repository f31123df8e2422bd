import json
import math
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_bt.callbacks import metrics_log
from keras_bt.callbacks.metrics_log import MetricsLog, read_metrics
from keras_bt.strategy import choose_strategy


class Replays(keras.Model):
    """A model whose loss is the batch's own number, so that every mean is known."""

    def __init__(self):
        super().__init__()
        self.weight = self.add_weight(shape=(), initializer="ones")
        self.tracker = keras.metrics.Mean(name="loss")
        self.maximum = self.add_weight(shape=(), initializer="zeros", trainable=False)
        self.built = True

    @property
    def metrics(self):
        return [self.tracker]

    def train_step(self, batch):
        value = tf.reduce_mean(batch)
        with tf.GradientTape() as tape:
            # A negative number stands for a step whose gradient overflows.
            loss = self.weight * tf.where(value < 0, math.inf, 1.0)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self.tracker.update_state(value)
        self.maximum.assign(tf.maximum(self.maximum, value))
        return {"loss": self.tracker.result(), "largest": self.maximum + 0.0}

    def test_step(self, batch):
        self.tracker.update_state(100 + tf.reduce_mean(batch))
        return {"loss": self.tracker.result()}


def replays(optimizer="sgd", **kwargs):
    model = Replays()
    model.compile(optimizer=optimizer, **kwargs)
    return model


def data(numbers, repeat=False):
    dataset = tf.data.Dataset.from_tensor_slices(np.asarray(numbers, np.float32)).batch(1)
    return dataset.repeat() if repeat else dataset


def fit(model, dataset, path, epochs=1, callbacks=(), **how):
    log = {name: how.pop(name) for name in ("every", "initial_step", "batch_size") if name in how}
    how = {"verbose": 0, "shuffle": False, "epochs": epochs} | how
    return model.fit(dataset, callbacks=[*callbacks, MetricsLog(path, **log)], **how)


def column(path, name):
    return [entry.get(name) for entry in read_metrics(path)]


NUMBERS = np.random.default_rng(0).uniform(10, 1000, 40)


def mean_lines(model, dataset, path, intervals, **kwargs):
    """Trains; the losses of the lines must be the means of these slices of NUMBERS."""
    fit(model, dataset, path, **kwargs)
    expected = [NUMBERS[j:k].mean() for j, k in intervals]
    np.testing.assert_allclose(column(path, "loss"), expected, rtol=1e-5)


def test_lines_hold_means_since_the_line_before(tmp_path):
    path = tmp_path / "logs" / "metrics.jsonl"
    intervals = [(0, 4), (4, 8), (8, 10), (0, 2), (2, 6), (6, 10)]
    mean_lines(replays(), data(NUMBERS[:10]), path, intervals, epochs=2, every=4)
    assert column(path, "step") == [4, 8, 10, 12, 16, 20]
    assert column(path, "epoch") == [1, 1, 1, 2, 2, 2]
    # What is no mean stands as it is.
    largest = np.maximum.accumulate(NUMBERS[:10])
    np.testing.assert_allclose(column(path, "largest"), largest[[3, 7, 9, 9, 9, 9]], rtol=1e-6)
    assert list(read_metrics(path)[0])[:4] == ["step", "epoch", "time", "loss"]


@pytest.mark.parametrize(("every", "steps"), [(1, range(1, 6)), (1000, [5])])
def test_every_step_or_only_the_epoch_has_a_line(tmp_path, every, steps):
    intervals = list(zip([0, *steps], steps, strict=False)) * 2
    mean_lines(replays(), data(NUMBERS[:5]), tmp_path / "log", intervals, epochs=2, every=every)
    assert column(tmp_path / "log", "step") == [*steps, *(5 + step for step in steps)]


@pytest.mark.filterwarnings("ignore:Your input ran out of data")  # said of any unknown size
@pytest.mark.parametrize("size_is_known", [True, False])
def test_several_steps_per_execution(tmp_path, size_is_known):
    # Ten batches by fours: Keras calls back for batches 3, 7 and 11, though the last had two.
    dataset = data(NUMBERS[:10])
    if not size_is_known:
        dataset = dataset.filter(lambda batch: True)
    intervals = [(0, 4), (4, 8), (8, 10)] * 2
    model = replays(steps_per_execution=4)
    mean_lines(model, dataset, tmp_path / "log", intervals, epochs=2, every=3)
    assert column(tmp_path / "log", "step") == [4, 8, 10, 14, 18, 20]


def test_executions_beyond_the_end_of_an_epoch_are_counted(tmp_path):
    # Of endless data Keras takes whole executions: twelve steps where ten were asked for.
    how = {"epochs": 2, "every": 6, "steps_per_epoch": 10}
    intervals = [(0, 8), (8, 12), (12, 20), (20, 24)]
    dataset = data(NUMBERS, repeat=True)
    mean_lines(replays(steps_per_execution=4), dataset, tmp_path / "log", intervals, **how)
    assert column(tmp_path / "log", "step") == [8, 12, 20, 24]


def test_steps_skipped_by_loss_scaling_are_steps(tmp_path):
    numbers = NUMBERS[:8].copy()
    numbers[[0, 4]] *= -1
    model = replays(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.5)))
    fit(model, data(numbers), tmp_path / "log", every=2)
    assert int(model.optimizer.iterations) == 6
    assert column(tmp_path / "log", "step") == [2, 4, 6, 8]
    expected = numbers.reshape(4, 2).mean(axis=1)
    np.testing.assert_allclose(column(tmp_path / "log", "loss"), expected, rtol=1e-5)


def test_metrics_given_to_compile_are_means_too(tmp_path):
    random = np.random.default_rng(0)
    x, y = random.standard_normal((24, 3)), random.integers(0, 2, (24, 1))
    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1, "sigmoid")])
    model.compile(keras.optimizers.SGD(0.0), "binary_crossentropy", metrics=["accuracy"])
    fit(model, tf.data.Dataset.from_tensor_slices((x, y)).batch(4), tmp_path / "log", every=1)
    right = (model.predict(x, verbose=0) > 0.5) == y
    expected = right.reshape(6, 4).mean(axis=1)
    np.testing.assert_allclose(column(tmp_path / "log", "accuracy"), expected, atol=1e-5)


def test_under_a_strategy_with_two_replicas(tmp_path):
    with choose_strategy("mirrored").scope():
        model = replays()
    dataset = tf.data.Dataset.from_tensor_slices(NUMBERS[:12].astype(np.float32)).batch(2)
    mean_lines(model, dataset, tmp_path / "log", [(0, 4), (4, 8), (8, 12)], every=2)
    assert column(tmp_path / "log", "step") == [2, 4, 6]


def test_learning_rate_of_a_schedule(tmp_path):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([4], [0.5, 0.25])
    fit(replays(keras.optimizers.SGD(schedule)), data(NUMBERS[:8]), tmp_path / "log", every=2)
    assert column(tmp_path / "log", "learning_rate") == [0.5, 0.5, 0.25, 0.25]


def test_validation_comes_with_the_last_line_of_the_epoch(tmp_path):
    validation = {"validation_data": data([1, 3])}
    intervals = [(0, 4), (4, 6)]
    log = tmp_path / "log"
    mean_lines(replays(), data(NUMBERS[:6]), log, intervals, every=4, **validation)
    assert column(log, "val_loss") == [None, 102]


class Measures(keras.callbacks.Callback):
    """Puts a number into the logs at the end of every second epoch."""

    def on_epoch_end(self, epoch, logs=None):
        logs["text"] = "no number"
        if epoch % 2:
            logs["measured"] = 10.0 + epoch


@pytest.mark.parametrize("arguments", [{}, {"batch_size": 8}])
def test_what_callbacks_measure_comes_like_validation(tmp_path, arguments):
    path = tmp_path / "log"
    fit(replays(), data(NUMBERS[:5]), path, 4, [Measures()], every=4, **arguments)
    assert column(path, "step") == [4, 5, 8, 10, 12, 15, 16, 20, 20]
    assert column(path, "measured") == [None] * 3 + [11] + [None] * 4 + [13]
    # The line that stands alone repeats nothing of the steps.
    assert set(read_metrics(path)[-1]) == {"step", "epoch", "time", "measured"}
    np.testing.assert_allclose(column(path, "loss")[3], NUMBERS[3:5].mean(), rtol=1e-5)

    validation = {"validation_data": data([1, 3])}
    fit(replays(), data(NUMBERS[:6]), path, 2, [Measures()], every=3, **validation)
    assert column(path, "step") == [3, 6, 6, 9, 12, 12]
    assert column(path, "measured") == [None] * 5 + [11]
    assert column(path, "val_loss") == [None, None, 102, None, None, 102]


def test_neither_a_scheduled_rate_nor_a_text_makes_a_line_of_its_own(tmp_path):
    rate = keras.callbacks.LearningRateScheduler(lambda epoch: 0.1)
    fit(replays(), data(NUMBERS[:4]), tmp_path / "log", 1, [rate, Measures()], every=2)
    assert column(tmp_path / "log", "step") == [2, 4]


def test_what_is_not_finite_is_null_in_the_file_and_nan_when_read(tmp_path):
    path = tmp_path / "log"
    fit(replays(), data([1, np.inf, 3]), path, epochs=2, every=1)
    lines = path.read_text().splitlines()

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    records = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [record["loss"] for record in records] == [1, None, None] * 2
    assert records[1]["largest"] is None
    assert math.isnan(read_metrics(path)[1]["loss"])


@pytest.mark.parametrize("measures", [(), (Measures(),)])
def test_a_resumed_run_writes_what_an_uninterrupted_one_does(tmp_path, measures):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    fit(replays(), data(NUMBERS[:10]), whole, 4, measures, every=4)

    # Stopped in the middle of the third epoch and of a line, after a checkpoint at step 20.
    fit(replays(), data(NUMBERS[:10]), resumed, 3, measures, every=4)
    with open(resumed, "ab") as file:
        file.write(b'{"step": 24, "epoch": 3, "ti')
    model = replays()
    model.optimizer.iterations.assign(20)
    model.maximum.assign(NUMBERS[:10].max())
    fit(model, data(NUMBERS[:10]), resumed, 4, measures, every=4, initial_epoch=2)
    lines = [[{**entry, "time": 0} for entry in read_metrics(path)] for path in (resumed, whole)]
    assert lines[0] == lines[1]
    assert [p.name for p in tmp_path.iterdir() if "partial" in p.name] == []


def test_initial_step_overrides_the_optimizer_and_a_new_run_empties_the_file(tmp_path):
    path = tmp_path / "log"
    fit(replays(), data(NUMBERS[:4]), path, every=1)
    fit(replays(), data(NUMBERS[:2]), path, every=1, initial_step=3)
    assert column(path, "step") == [1, 2, 3, 4, 5]
    fit(replays(), data(NUMBERS[:1]), path, every=1)
    assert column(path, "step") == [1]


def test_a_second_fit_goes_on(tmp_path):
    path = tmp_path / "log"
    model, callback = replays(), MetricsLog(path, every=2)
    for callbacks in ([callback], [callback], [MetricsLog(path, every=2)]):
        model.fit(data(NUMBERS[:4]), verbose=0, shuffle=False, callbacks=callbacks)
    assert column(path, "step") == [2, 4, 6, 8, 10, 12]


def test_lines_are_on_disk_as_soon_as_they_are_written_and_whole(tmp_path):
    path = tmp_path / "log"
    seen = []

    class Stops(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            content = path.read_bytes()
            seen.append(content.count(b"\n"))
            assert content.endswith(b"\n")
            if batch == 4:
                raise KeyboardInterrupt

    callbacks = [MetricsLog(path, every=1), Stops()]
    with pytest.raises(KeyboardInterrupt):
        replays().fit(data(NUMBERS), verbose=0, shuffle=False, callbacks=callbacks)
    assert seen == [1, 2, 3, 4, 5]


class Clock:
    """Stands in for the time module. Time passes only where a test says so."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        module = types.SimpleNamespace(perf_counter=lambda: self.now, time=lambda: 1e9 + self.now)
        monkeypatch.setattr(metrics_log, "time", module)

    def passes(self, first, step, after_epoch):
        def after_step(batch, logs):
            self.now += step if self.now else first

        def at_end(epoch, logs):
            self.now += after_epoch

        return keras.callbacks.LambdaCallback(on_train_batch_end=after_step, on_epoch_end=at_end)


def test_images_per_second_leave_out_compilation_and_the_time_between_epochs(tmp_path, monkeypatch):
    clock = Clock(monkeypatch)
    passes, log = clock.passes(first=60.0, step=0.5, after_epoch=100.0), tmp_path / "log"
    history = fit(replays(), data(NUMBERS[:5]), log, 2, [passes], every=2, batch_size=32)
    assert column(log, "step") == [2, 4, 5, 6, 8, 10]
    assert column(log, "images_per_second") == [64] * 6
    assert column(log, "time")[0] == 1e9 + 60.5
    assert history.history["images_per_second"] == [64, 64]


def test_images_per_second_are_null_until_measured_and_absent_without_a_batch_size(tmp_path):
    path = tmp_path / "log"
    fit(replays(), data(NUMBERS[:2]), path, every=1, batch_size=8)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert lines[0]["images_per_second"] is None
    assert lines[1]["images_per_second"] > 0
    fit(replays(), data(NUMBERS[:2]), path, every=1)
    assert "images_per_second" not in read_metrics(path)[1]


def test_the_progress_bar_shows_the_latest_speed(tmp_path, monkeypatch, capsys):
    clock = Clock(monkeypatch)
    speeds = []

    class Follows(keras.callbacks.ProgbarLogger):
        def on_train_batch_end(self, batch, logs=None):
            speeds.append(logs.get("images_per_second"))
            super().on_train_batch_end(batch, logs)

    log = MetricsLog(tmp_path / "log", every=2, batch_size=32)
    callbacks = [clock.passes(60.0, 0.5, 0.0), log, Follows()]
    replays().fit(data(NUMBERS[:6]), shuffle=False, verbose=1, callbacks=callbacks)
    assert speeds == [None, 64, 64, 64, 64, 64]
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert "images_per_second: 64.0000" in last_line
    assert "loss:" in last_line


def test_with_the_barlow_twins_model(tmp_path):
    from keras_bt.model import BarlowTwins, projector

    backbone = keras.Sequential([keras.layers.Input((4, 4, 3)), keras.layers.Flatten()])
    model = BarlowTwins(backbone, projector((16,), input_dim=48), redundancy_weight=0.01)
    model.compile("sgd")
    views = np.random.default_rng(0).standard_normal((2, 32, 4, 4, 3)).astype(np.float32)
    fit(model, tf.data.Dataset.from_tensor_slices(tuple(views)).batch(8), tmp_path / "log", every=2)
    first, second = read_metrics(tmp_path / "log")
    assert (first["step"], second["step"]) == (2, 4)
    for entry in (first, second):
        terms = entry["on_diagonal"] + 0.01 * entry["off_diagonal"]
        assert entry["loss"] == pytest.approx(terms, rel=1e-5)
    floor = pytest.approx(first["loss"] - first["excess"], abs=1e-4)
    assert second["loss"] - second["excess"] == floor


def test_reading(tmp_path):
    path = tmp_path / "log"
    path.write_text('{"step": 1, "loss": null}\n{"step": 2}\n{"step": 3, "lo')
    first, second = read_metrics(path)
    assert math.isnan(first["loss"])
    assert second == {"step": 2}
    path.write_text("")
    assert read_metrics(path) == []
    with pytest.raises(FileNotFoundError):
        read_metrics(tmp_path / "none")


LINES = [b'{"step": 1, "loss": 3.5}', b'{"step": 2, "loss": 2.5}', b'{"step": 3, "loss": 1.5}']


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"", "it is not JSON"),
        (b"[3]", "not a JSON object"),
        (b'{"step": 2, "loss": \xff}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"loss": 2.5}', "its step is not 1 or more"),
        (b'{"step": 0}', "its step is not 1 or more"),
        (b'{"step": 2.0}', 'its "step" is no whole number'),
        (b'{"step": 2, "epoch": 1.5}', 'its "epoch" is no whole number'),
        *(
            (b'{"step": 2, "loss": %s}' % v, '"loss" is no number')
            for v in (b'"2"', b"NaN", b"1e999")
        ),
        *((b'{"step": 2, "loss": %s}' % v, '"loss" is no number') for v in (b"9" * 400, b"true")),
    ],
)
def test_a_damaged_line_is_named(line, words, tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"\n".join([LINES[0], line, LINES[2], b""]))
    with pytest.raises(ValueError, match=f"log, line 2: .*{words}.*Restore the file, or remove it"):
        read_metrics(path)


def test_what_was_changed_is_noticed(tmp_path):
    path = tmp_path / "log"
    fit(replays(), data(NUMBERS[:5]), path, every=1)
    first, second, *rest = lines = path.read_bytes().splitlines(keepends=True)
    right = read_metrics(path)
    assert "crc32" not in right[0]
    for changed, number in (
        ([first, second.replace(b'"step": 2', b'"step": 3'), *rest], 2),
        ([first, *rest], 2),
        ([first, first, second, *rest], 2),
        ([second, *rest], 1),
        ([first, second.replace(b"crc32", b"crc33"), *rest], 2),
        ([first.replace(b"crc32", b"crc33"), second, *rest], 1),
    ):
        path.write_bytes(b"".join(changed))
        with pytest.raises(ValueError, match=f"line {number}: "):
            read_metrics(path)
    # The end may be missing, and the beginning may be of a version that wrote no checksums.
    path.write_bytes(b"".join(lines[:3]) + lines[3][:-9])
    assert read_metrics(path) == right[:3]
    path.write_bytes(LINES[0] + b"\n")
    fit(replays(), data(NUMBERS[:2]), path, every=1, initial_step=1)
    assert column(path, "step") == [1, 2, 3]


def test_only_single_numbers_are_written():
    logs = {
        "vector": np.ones(2),
        "text": "a",
        "array": np.array([3.0]),
        "half": tf.constant(2, "half"),
    }
    assert metrics_log._numbers(logs) == {"array": 3.0, "half": 2.0}


def test_mistakes_are_named(tmp_path):
    for arguments, message in (
        ({"every": 0}, "every must be at least 1. Received: every=0"),
        ({"initial_step": -1}, "initial_step must be at least 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            MetricsLog(tmp_path / "log", **arguments)
    # Files of something else are not overwritten.
    for text in ('{\n "epochs": 3\n}\n', "a,b\n1,2\n", "[1]\n[2]\n", '{"loss": 1}\n{"step": 2}\n'):
        path = tmp_path / "other"
        path.write_text(text)
        with pytest.raises(ValueError, match="other, line 1") as error:
            fit(replays(), data([1.0]), path)
        assert "\n" not in str(error.value)
        assert path.read_text() == text
