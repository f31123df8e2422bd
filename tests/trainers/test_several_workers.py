"""`trainers.pretrain` in two processes, one of which is lost, or told to leave."""

import json
import os
import signal
import time

import numpy as np
import processes
import pytest
import script
import small_network
import undrawn

from keras_bt.callbacks.metrics_log import read_metrics
from keras_bt.checkpoint import checkpoints
from trainers.runs import pretraining

TINY = ["--projector=16-16", "--batch_size=64", "--log_every=1", "--epochs=2", "--noevaluate"]
TINY += ["--checkpoint_minutes=0", "--monitor_every=2", "--monitor_images=100"]
TINY += ["--precision=float32"]  # also in processes of their own


@pytest.fixture(scope="module")
def flags(tmp_path_factory):
    """What all runs share."""
    path = tmp_path_factory.mktemp("backbone") / "small.keras"
    return [*TINY, *small_network.PLAIN_VIEWS, small_network.save(path)]


def start_two(flags):
    """Starts the two workers of a run."""
    return [
        processes.start(["-m", "trainers.pretrain", *flags], environment)
        for environment in processes.tf_configs(2)
    ]


def wait_for_a_step_after(step, workdir, workers):
    end = time.monotonic() + 300
    while newest(workdir) <= step and time.monotonic() < end:
        assert all(worker.poll() is None for worker in workers), workers[0].communicate()
        time.sleep(0.05)


def newest(workdir):
    return next((int(path.name) for path in checkpoints(workdir / "checkpoints")), 0)


def losses_of(workdir):
    """The steps of a run, and the loss of each."""
    lines = read_metrics(workdir / "metrics.jsonl")
    return zip(*((m["step"], m["loss"]) for m in lines if "loss" in m), strict=True)


def error_of(worker):
    """The one line that says what was wrong; TensorFlow adds notes of its own."""
    errors = processes.finish(worker, status=1)
    assert "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.slow
def test_a_lost_worker_a_signal_and_the_rest_on_one_device(flags, tmp_path, capsys):
    workdir = tmp_path / "run"
    shared, flags = flags, [*flags, f"--workdir={workdir}"]
    unwatched = "--monitor_every=0"

    first, second = start_two([*flags, "--augment_on=device", unwatched])
    wait_for_a_step_after(3, workdir, [first, second])
    second.kill()
    second.communicate()
    line = error_of(first)
    assert "Another worker has left or cannot be reached" in line
    assert "go on from the newest checkpoint" in line
    kept = newest(workdir)
    assert kept > 3

    first, second = start_two([*flags, "--augment_on=host"])
    wait_for_a_step_after(kept, workdir, [first, second])
    second.send_signal(signal.SIGTERM)  # one of them only
    outputs = [worker.communicate(timeout=300)[0] for worker in (first, second)]
    assert [worker.returncode for worker in (first, second)] == [128 + signal.SIGTERM] * 2
    for output in outputs:
        assert f"Stopped by SIGTERM after step {newest(workdir)};" in output
    epoch, done = divmod(kept, 1297 // 64)
    within = f" and {done} of 20 steps" if done else ""
    assert f"Continuing after epoch {epoch}{within}" in outputs[0]
    assert "the first worker reports the rest" in outputs[1]

    with undrawn.runs():  # which others look at
        script.call("pretrain", *flags, unwatched)
    assert "Continuing after epoch" in capsys.readouterr().out
    steps, losses = losses_of(workdir)
    assert list(steps) == list(range(1, 2 * 20 + 1))

    # Views and losses are those of a run that knew nothing of all this.
    with undrawn.runs():
        script.call("pretrain", *shared, f"--workdir={tmp_path / 'alone'}", unwatched)
    _, alone = losses_of(tmp_path / "alone")
    np.testing.assert_allclose(losses[:3], alone[:3], rtol=1e-5)
    np.testing.assert_allclose(losses, alone, rtol=1e-3)
    assert np.isfinite(json.loads((workdir / "summary.json").read_text())["loss"])


@pytest.mark.slow
def test_workers_that_do_not_share_the_workdir(flags, tmp_path, capsys, monkeypatch):
    # As if another worker had found a checkpoint of step 20 and this one none.
    # (The other number that workers compare, of their images, is large.)
    monkeypatch.setattr(
        pretraining, "sum_over_workers", lambda _, number: number + 20 * (number < 1000)
    )
    workdir = f"--workdir={tmp_path / 'run'}"
    line = script.mistake(capsys, "pretrain", *flags, workdir, "--nodeterministic")
    assert "All workers must see the same workdir" in line
    assert "here step 0" in line


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, "--strategy=multiworker needs several workers.*neither"),
        ({"TF_CONFIG": "{}"}, "TF_CONFIG must be JSON such as.*Received: {}"),
        ({"TF_CONFIG": "worker 1"}, "TF_CONFIG must be JSON such as.*Received: worker 1"),
    ],
)
def test_a_cluster_that_is_none(environment, words, tmp_path, capsys, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("TF_CONFIG", "SLURM"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    workdir = f"--workdir={tmp_path / 'run'}"
    line = script.mistake(capsys, "pretrain", workdir, "--strategy=multiworker")
    for word in words.split(".*"):
        assert word.removeprefix("--") in line
    assert not (tmp_path / "run").exists()
