"""Whole runs on the digits that something happens to: what the user sees, and what was kept."""

import contextlib
import os
import shutil
import signal
import unittest.mock

import keras
import numpy as np
import pytest
import script
import small_network
import stress_resume
import tensorflow as tf
import undrawn
from full_disk import file_size_limit

from keras_bt import data
from keras_bt.callbacks.metrics_log import read_metrics
from keras_bt.checkpoint import VARIABLES, RunCheckpoint
from keras_bt.workdir import Workdir

STEPS = 1297 // 128  # per epoch
FLAGS = ["--projector=16-16", "--batch_size=128", "--epochs=3", "--noevaluate"]
FLAGS += ["--monitor_every=0", "--log_every=2", *small_network.PLAIN_VIEWS]

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
    """What all runs share: a small backbone, too, and nothing to be served or drawn."""
    backbone = small_network.save(tmp_path_factory.mktemp("backbone") / "small.keras")
    with (
        unittest.mock.patch.object(data, "pretraining_views", remembered_views),
        undrawn.runs(),
    ):
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
    """The folder of a run that nothing happens to; a copy beside it is of its third epoch."""
    workdir = tmp_path_factory.mktemp("runs") / "whole"
    with copied_in_the_third_epoch(workdir):
        script.call("pretrain", *flags, f"--workdir={workdir}")
    return workdir


def variables(workdir, step=3 * STEPS):
    return stress_resume.variables(workdir / "checkpoints" / f"{step:08}")


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
    metrics = read_metrics(workdir / "metrics.jsonl")
    return [(m["step"], m["loss"]) for m in metrics if "loss" in m]


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


def copied_in_the_third_epoch(workdir):
    """Keeps what a kill in the third epoch would leave of a run, beside it."""

    def copy():
        shutil.copytree(workdir, workdir.with_name("stopped"))

    return before("on_train_batch_end", copy, call=2 * STEPS + 5)


@pytest.fixture
def stopped(whole, tmp_path):
    """The folder of a run that was stopped in its third epoch."""
    return shutil.copytree(whole.with_name("stopped"), tmp_path / "run")


@pytest.mark.slow
def test_the_disk_is_full_again_and_again(mistake, pretrain, whole, tmp_path):
    run = tmp_path / "run"
    metrics = run / "metrics.jsonl"
    for method, call, limit, words in (
        ("restore", 1, 30_000, "File too large: "),  # a checkpoint fits, a picture does not
        ("on_epoch_begin", 2, None, "metrics.jsonl: File too large. Make room"),
        ("save", 1, 3_000, f"{STEPS:08} is kept. Make room and run the same command again."),
        ("save", 2, 5_000, "File too large"),
    ):
        with file_size_limit() as set_limit:

            def fill(limit=limit, set_limit=set_limit):  # None: room for half a line of the metrics
                set_limit(limit or metrics.stat().st_size + 20)

            with before(method, fill, call):
                line = mistake()
        assert words in line
        assert not list(run.rglob("*.partial*"))
        assert not (run / "summary.json").exists()
        if method == "on_epoch_begin":
            assert losses(run) == losses(whole)[: STEPS // 2]
            assert metrics.read_bytes().endswith(b"}\n")  # nothing half-written stays
    assert names(run) == [f"{STEPS:08}", f"{2 * STEPS:08}"]
    pretrain()
    assert_equal_runs(run, whole)


def summaries(*workdirs):
    """What the runs came to, without the clock."""
    return [Workdir(workdir).read_summary() | {"seconds_of_last_call": 0} for workdir in workdirs]


@pytest.mark.slow
def test_metrics_removed_between_two_calls(stopped, pretrain, whole):
    (stopped / "metrics.jsonl").unlink()
    pretrain()
    assert losses(stopped) == losses(whole)[2 * STEPS // 2 :]
    ours, theirs = summaries(stopped, whole)
    for name in ("loss", "excess", "floor"):
        assert ours[name] == theirs[name]
    assert_equal_weights(stopped, whole)


@pytest.mark.slow
def test_metrics_removed_after_the_last_step(pretrain, whole, tmp_path, capsys):
    workdir = shutil.copytree(whole, tmp_path / "run")
    for path in ("metrics.jsonl", "summary.json", "plots/loss.png"):
        (workdir / path).unlink()
    pretrain()
    assert "The loss is not known" in capsys.readouterr().out
    ours, theirs = summaries(workdir, whole)
    assert ours == theirs | {"loss": None, "excess": None, "images_per_second": None}
    assert (workdir / "plots" / "correlation.png").exists()
    assert not (workdir / "plots" / "loss.png").exists()


@pytest.mark.slow
def test_a_truncated_checkpoint(stopped, pretrain, whole, capsys):
    newest = stopped / "checkpoints" / f"{2 * STEPS:08}" / VARIABLES
    os.truncate(newest, newest.stat().st_size // 2)
    capsys.readouterr()
    pretrain()
    out = capsys.readouterr().out
    assert f"Passing over {newest.parent}, which cannot be read: " in out
    assert "Continuing after epoch 1" in out
    assert_equal_runs(stopped, whole)


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
    otherwise = ["--steps_per_execution=5", "--strategy=mirrored"]
    otherwise += ["--monitor_every=1", "--monitor_images=10"]  # which changes nothing
    for name, arguments in (("same", ()), ("otherwise", otherwise)):
        shutil.copytree(workdir, tmp_path / name)
        pretrain(*arguments, workdir=tmp_path / name)
        assert_close_runs(tmp_path / name, whole)
    # The metrics have other roundings: they are differences of means since the epoch, or the
    # call, began.
    assert_equal_weights(tmp_path / "same", whole)
    metrics = read_metrics(tmp_path / "otherwise" / "metrics.jsonl")
    assert {"linear_accuracy", "knn_accuracy", "dead_dimensions"} < set(metrics[-1])
    assert not any("linear_accuracy" in m for m in read_metrics(whole / "metrics.jsonl"))
    np.testing.assert_allclose(losses(tmp_path / "otherwise"), losses(whole), rtol=1e-3)


@pytest.mark.slow
def test_executions_of_steps_that_do_not_divide_an_epoch(pretrain, whole, tmp_path):
    pretrain("--steps_per_execution=4")
    assert_close_runs(tmp_path / "run", whole)
    assert [step for step, _ in losses(tmp_path / "run")] == list(range(2, 3 * STEPS + 1, 2))


@pytest.mark.slow
def test_monitors_measure_the_same_after_a_stop(pretrain, tmp_path):
    monitored = ["--monitor_every=1", "--monitor_images=100"]
    with copied_in_the_third_epoch(tmp_path / "whole"):
        pretrain(*monitored, workdir=tmp_path / "whole")
    pretrain(*monitored, workdir=tmp_path / "stopped")
    clocks = {"time": 0, "images_per_second": 0}
    found, expected = (
        [m | clocks for m in read_metrics(tmp_path / name / "metrics.jsonl")]
        for name in ("stopped", "whole")
    )
    assert [m["epoch"] for m in expected if "knn_accuracy" in m] == [1, 2, 3]
    assert found == expected
    assert_equal_weights(tmp_path / "stopped", tmp_path / "whole")


@pytest.mark.slow
def test_an_image_that_is_no_number(pretrain, mistake, whole, monkeypatch, tmp_path, capsys):
    views = tuple(part.copy() for part in _views["all"])
    views[0][STEPS + 3, 5] = np.nan
    monkeypatch.setitem(_views, "all", views)
    for steps, minutes, kept in ((5, 5, [0]), (1, 0, [1, 2, 3])):
        line = mistake(f"--steps_per_execution={steps}", f"--checkpoint_minutes={minutes}")
        assert names(tmp_path / "run") == [f"{STEPS + step:08}" for step in kept]
        for words in (
            "The loss or its gradient became nan.",
            "rate is too high (--rate)",
            "--on_nonfinite=skip",
            f"is kept: {tmp_path / 'run' / 'checkpoints' / f'{STEPS + kept[-1]:08}'}.",
        ):
            assert words in line
    newest = variables(tmp_path / "run", STEPS + 3)
    assert all(np.isfinite(value).all() for value in newest.values())
    pretrain("--on_nonfinite=skip")  # as the error says
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if "Warning" in line]
    assert f"Warning: 1 of the {STEPS - 3} steps of epoch 2 were skipped" in warning
    unknown = [step for step, loss in losses(tmp_path / "run") if not np.isfinite(loss)]
    assert unknown == [STEPS + 4]  # the only step since this call began
    metrics = [m for m in read_metrics(tmp_path / "run" / "metrics.jsonl") if m["step"] > STEPS + 3]
    assert [m["skipped_steps"] for m in metrics] == [1, 1, 1, 1, 0, 0, 0, 0, 0]
    assert all(np.isfinite(value).all() for value in variables(tmp_path / "run").values())
