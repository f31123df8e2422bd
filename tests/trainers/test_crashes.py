"""Whole runs on the digits that something happens to: what the user sees, and what was kept."""

import contextlib
import json
import os
import resource
import shutil
import signal
import unittest.mock

import keras
import numpy as np
import pytest
import script
import small_network
import tensorflow as tf

from keras_bt import data
from keras_bt.callbacks.metrics_log import read_metrics
from keras_bt.checkpoint import VARIABLES, RunCheckpoint
from keras_bt.model import BarlowTwins

STEPS = 1297 // 128  # per epoch
FLAGS = ["--projector=16-16", "--batch_size=128", "--epochs=3", "--noevaluate"]
FLAGS += ["--monitor_every=0", "--log_every=2"]

made_views = data.pretraining_views
_views = {}


def remembered_views(source, view_a, view_b, batch_size, seed, first_step=0, **placement):
    """The views, which all runs share, are made once: to open the pipeline takes seconds."""
    if not _views:
        batches = made_views(source, view_a, view_b, batch_size, seed, **placement).take(3 * STEPS)
        _views["all"] = tuple(
            np.stack(part) for part in zip(*batches.as_numpy_iterator(), strict=True)
        )
    return tf.data.Dataset.from_tensor_slices(_views["all"]).skip(first_step)


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """What all runs share: a backbone, too, that is traced quickly."""
    backbone = small_network.save(tmp_path_factory.mktemp("backbone") / "small.keras")
    with unittest.mock.patch.object(data, "pretraining_views", remembered_views):
        yield [*FLAGS, backbone]


@pytest.fixture
def pretrain(flags, tmp_path):
    """Starts, or goes on with, the run of the test, in this process."""

    def start(*arguments, workdir=tmp_path / "run"):
        script.call("pretrain", *flags, f"--workdir={workdir}", *arguments)

    return start


@pytest.fixture
def mistake(flags, tmp_path, capsys):
    """The same for a call that must end with one line of error, which is returned."""
    workdir = f"--workdir={tmp_path / 'run'}"

    def start(*arguments):
        return script.mistake(capsys, "pretrain", *flags, workdir, *arguments)

    return start


@pytest.fixture(scope="module")
def whole(flags, tmp_path_factory):
    """The folder of a run that nothing happens to."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    script.call("pretrain", *flags, f"--workdir={workdir}")
    return workdir


def variables(workdir, step=3 * STEPS):
    """All that a checkpoint holds, by name."""
    reader = tf.train.load_checkpoint(str(workdir / "checkpoints" / f"{step:08}" / VARIABLES))
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    return {name: reader.get_tensor(name) for name in names}


def assert_equal_runs(ours, theirs):
    """The same to the last bit, in the metrics too."""
    assert_equal_weights(ours, theirs)
    assert losses(ours) == losses(theirs)


def assert_equal_weights(ours, theirs):
    """The same weights, optimizer and backbone to the last bit."""
    a, b = variables(ours), variables(theirs)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    for one, other in zip(backbone(ours), backbone(theirs), strict=True):
        np.testing.assert_array_equal(one, other)


def assert_close_runs(ours, theirs):
    """The same up to rounding: on several replicas sums have another order."""
    a, b = variables(ours), variables(theirs)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-5, err_msg=name)
    assert [step for step, _ in losses(ours)][-1] == 3 * STEPS


def backbone(workdir):
    return keras.models.load_model(workdir / "backbone.keras").get_weights()


def losses(workdir):
    return [(m["step"], m["loss"]) for m in read_metrics(workdir / "metrics.jsonl")]


def names(workdir):
    """What the folder of checkpoints holds, half-written ones included."""
    return sorted(path.name for path in (workdir / "checkpoints").iterdir())


@contextlib.contextmanager
def before(method, function, call):
    """Calls `function` before the so manieth call of a method of `RunCheckpoint`."""
    original, calls = getattr(RunCheckpoint, method), []

    def wrapped(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            function()
        return original(*args, **kwargs)

    with unittest.mock.patch.object(RunCheckpoint, method, wrapped):
        yield


@contextlib.contextmanager
def file_size_limit():
    """Gives a function that limits how large files may become."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def kill():
    """Ends the run as a kill would, without a word."""
    raise KeyboardInterrupt


@pytest.fixture
def stopped(pretrain, tmp_path):
    """The folder of a run that was stopped in its third epoch."""
    with before("on_train_batch_end", kill, call=2 * STEPS + 5), pytest.raises(KeyboardInterrupt):
        pretrain()
    return tmp_path / "run"


@pytest.mark.slow
def test_the_disk_is_full_at_the_second_checkpoint(pretrain, mistake, whole, tmp_path, capsys):
    with file_size_limit() as limit, before("save", lambda: limit(3_000), call=2):
        line = mistake()
    assert f"step {2 * STEPS} could not be written" in line
    assert "File too large. " in line
    assert line.endswith(f"{STEPS:08} is kept. Make room and run the same command again.")
    assert names(tmp_path / "run") == [f"{STEPS:08}"]
    pretrain()
    assert "Continuing after epoch 1" in capsys.readouterr().out
    assert_equal_runs(tmp_path / "run", whole)


@pytest.mark.slow
def test_the_disk_is_full_when_metrics_are_written(pretrain, mistake, whole, tmp_path):
    metrics = tmp_path / "run" / "metrics.jsonl"
    with file_size_limit() as limit:

        def leave_room_for_half_a_line():
            limit(metrics.stat().st_size + 20)

        with before("on_epoch_begin", leave_room_for_half_a_line, call=2):
            line = mistake()
    assert "metrics could not be written" in line
    assert "metrics.jsonl: File too large. Make room" in line
    assert losses(tmp_path / "run") == losses(whole)[: STEPS // 2]
    assert metrics.read_bytes().endswith(b"}\n")  # nothing half-written stays
    pretrain()
    assert_equal_runs(tmp_path / "run", whole)


@pytest.mark.slow
def test_the_disk_is_full_at_the_end(pretrain, mistake, whole, tmp_path):
    with file_size_limit() as limit, before("save", lambda: limit(5_000), call=3):
        line = mistake()
    assert "File too large" in line
    with file_size_limit() as limit:
        limit(30_000)  # the checkpoint fits, a picture does not
        line = mistake()
    assert "File too large: " in line
    assert str(tmp_path / "run") in line
    assert not (tmp_path / "run" / "summary.json").exists()
    assert not list((tmp_path / "run").rglob("*.partial*"))
    pretrain()
    assert_equal_runs(tmp_path / "run", whole)


@pytest.mark.slow
def test_metrics_removed_between_two_calls(stopped, pretrain, whole):
    (stopped / "metrics.jsonl").unlink()
    pretrain()
    assert losses(stopped) == losses(whole)[2 * STEPS // 2 :]
    ours, theirs = (json.loads((w / "summary.json").read_text()) for w in (stopped, whole))
    for name in ("loss", "excess", "floor"):
        assert ours[name] == theirs[name]
    for one, other in zip(backbone(stopped), backbone(whole), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_metrics_removed_after_the_last_step(pretrain, whole, tmp_path, capsys):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    for path in ("metrics.jsonl", "summary.json", "plots/loss.png"):
        (workdir / path).unlink()
    pretrain()
    assert "The loss is not known" in capsys.readouterr().out
    ours, theirs = (json.loads((w / "summary.json").read_text()) for w in (workdir, whole))
    clock = {"seconds_of_last_call": 0}
    unknown = {"loss": None, "excess": None, "images_per_second": None}
    assert ours | clock == theirs | unknown | clock
    assert (workdir / "plots" / "correlation.png").exists()
    assert not (workdir / "plots" / "loss.png").exists()


@pytest.mark.slow
def test_a_truncated_checkpoint(stopped, pretrain, whole, capsys):
    (newest,) = (stopped / "checkpoints" / f"{2 * STEPS:08}").glob("variables.data*")
    os.truncate(newest, newest.stat().st_size // 2)
    capsys.readouterr()
    pretrain()
    out = capsys.readouterr().out
    assert f"Passing over {newest.parent}, which cannot be read: " in out
    assert "Continuing after epoch 1" in out
    assert_equal_runs(stopped, whole)


@pytest.mark.slow
def test_no_checkpoint_can_be_read(stopped, mistake):
    for path in stopped.glob("checkpoints/*/contents.json"):
        path.write_text("[")
    line = mistake()
    assert "None of the checkpoints in" in line
    assert "Remove it to begin anew" in line


@pytest.mark.slow
def test_a_signal_within_an_epoch_and_other_ways_to_go_on(pretrain, whole, tmp_path, capfd):
    def terminate():
        os.kill(os.getpid(), signal.SIGTERM)

    workdir = tmp_path / "killed"
    with before("on_train_batch_end", terminate, call=14), pytest.raises(SystemExit) as left:
        pretrain(workdir=workdir)
    assert left.value.code == 128 + signal.SIGTERM
    out, err = capfd.readouterr()
    assert "after this step" in err
    assert "Stopped by SIGTERM after step 14;" in out
    assert "run the same command again" in out
    assert names(workdir) == ["00000010", "00000014"]
    for name, *arguments in (
        ("same",),
        ("steps", "--steps_per_execution=5"),
        ("strategy", "--strategy=mirrored"),
    ):
        shutil.copytree(workdir, tmp_path / name)
        pretrain(*arguments, workdir=tmp_path / name)
        assert_close_runs(tmp_path / name, whole)
    # The metrics have other roundings: they are differences of means since the epoch, or the
    # call, began.
    assert_equal_weights(tmp_path / "same", whole)


@pytest.mark.slow
@pytest.mark.parametrize("number", [3, 4])
def test_executions_of_steps_that_do_not_divide_an_epoch(number, pretrain, whole, tmp_path):
    pretrain(f"--steps_per_execution={number}")
    assert_close_runs(tmp_path / "run", whole)
    assert [step for step, _ in losses(tmp_path / "run")] == list(range(2, 3 * STEPS + 1, 2))


@pytest.mark.slow
def test_monitors_measure_the_same_after_a_stop(pretrain, tmp_path):
    pretrain("--monitor_every=1", workdir=tmp_path / "whole")
    with before("on_train_batch_end", kill, call=2 * STEPS + 5), pytest.raises(KeyboardInterrupt):
        pretrain("--monitor_every=1")
    pretrain("--monitor_every=1")
    clocks = {"time": 0, "images_per_second": 0}
    found, expected = (
        [m | clocks for m in read_metrics(tmp_path / name / "metrics.jsonl")]
        for name in ("run", "whole")
    )
    assert [m["epoch"] for m in expected if "knn_accuracy" in m] == [1, 2, 3]
    assert found == expected
    assert_equal_weights(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_monitors_run_on_several_replicas_and_change_nothing(pretrain, whole, tmp_path):
    pretrain("--strategy=mirrored", "--monitor_every=1", "--monitor_images=10")
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert {"linear_accuracy", "knn_accuracy", "dead_dimensions"} < set(metrics[-1])
    # Nothing was measured of the other: each of its lines has a loss.
    expected = [loss for _, loss in losses(whole)]
    assert [m["loss"] for m in metrics if "loss" in m] == pytest.approx(expected, rel=1e-3)


@contextlib.contextmanager
def bad_gradients(*steps):
    """In these steps of a run, counted from 1, a gradient is NaN. A skipped one is no step."""
    clean, apply = tf.GradientTape.gradient, BarlowTwins.train_step
    models = []

    def train_step(model, batch):
        models.append(model)
        return apply(model, batch)

    def gradient(tape, target, sources):
        gradients = clean(tape, target, sources)
        # `iterations` are the good steps.
        done = tf.cast(models[-1].optimizer.iterations.value, tf.int64)
        bad = tf.reduce_any(done + 1 == tf.constant(steps, tf.int64))
        gradients[0] += tf.where(bad, float("nan"), 0.0)
        return gradients

    with (
        unittest.mock.patch.object(BarlowTwins, "train_step", train_step),
        unittest.mock.patch.object(tf.GradientTape, "gradient", gradient),
    ):
        yield


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bad", "minutes", "kept"),
    [(2 * STEPS, 5, [STEPS]), (STEPS + 4, 0, [STEPS + 1, STEPS + 2, STEPS + 3])],
    ids=["last of an epoch", "within an epoch"],
)
def test_a_bad_gradient(bad, minutes, kept, pretrain, mistake, whole, tmp_path):
    with bad_gradients(bad):
        line = mistake(f"--checkpoint_minutes={minutes}")
    for words in (
        "The loss or its gradient became nan.",
        "rate is too high (--rate)",
        "--on_nonfinite=skip",
        f"is kept: {tmp_path / 'run' / 'checkpoints' / f'{kept[-1]:08}'}.",
    ):
        assert words in line
    assert names(tmp_path / "run") == [f"{step:08}" for step in kept]
    newest = variables(tmp_path / "run", kept[-1])
    assert all(np.isfinite(value).all() for value in newest.values())
    pretrain()
    assert_equal_weights(tmp_path / "run", whole)


@pytest.mark.slow
def test_nothing_but_bad_gradients(mistake, pretrain, whole, tmp_path):
    # Where nothing is changed, the number of good steps stays what it is, and so does the gradient.
    with bad_gradients(STEPS + 5):
        line = mistake("--on_nonfinite=skip")
    assert f"The last {STEPS} steps were all skipped" in line
    assert "rate is too high (--rate)" in line
    assert names(tmp_path / "run") == [f"{STEPS:08}", f"{2 * STEPS:08}"]
    kept = variables(tmp_path / "run", 2 * STEPS)
    assert all(np.isfinite(value).all() for value in kept.values())


@pytest.mark.slow
def test_an_image_that_is_no_number(pretrain, mistake, monkeypatch, tmp_path, capsys):
    views = tuple(part.copy() for part in _views["all"])
    views[0][STEPS + 3, 5] = np.nan
    monkeypatch.setitem(_views, "all", views)
    for steps_per_execution in (1, 5):
        line = mistake(f"--steps_per_execution={steps_per_execution}")
        assert "The loss or its gradient became nan." in line
        assert names(tmp_path / "run") == [f"{STEPS:08}"]
    pretrain("--on_nonfinite=skip")  # as the error says
    warnings = [line for line in capsys.readouterr().out.splitlines() if "Warning" in line]
    (warning,) = warnings
    assert f"Warning: 1 of the {STEPS} steps of epoch 2 were skipped" in warning
    assert np.isfinite([loss for _, loss in losses(tmp_path / "run")]).all()
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")[STEPS // 2 :]
    assert [m["skipped_steps"] for m in metrics] == [0, 1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert all(np.isfinite(value).all() for value in variables(tmp_path / "run").values())
