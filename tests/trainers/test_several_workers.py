"""`trainers.pretrain` in two processes, one of which is lost, or told to leave."""

import json
import signal
import time

import numpy as np
import processes
import pytest
import script

from keras_bt.callbacks.metrics_log import read_metrics
from keras_bt.checkpoint import checkpoints
from trainers.runs import pretraining

TINY = ["--width=4", "--projector=16-16", "--batch_size=64", "--log_every=1", "--epochs=8"]
TINY += ["--noevaluate", "--checkpoint_minutes=0", "--monitor_every=8", "--monitor_images=100"]


def start(*workdirs):
    """Starts a worker for each of these folders, usually all the same; one is no cluster."""
    environments = processes.tf_configs(len(workdirs)) if len(workdirs) > 1 else [{}]
    return [
        processes.start(["-m", "trainers.pretrain", f"--workdir={workdir}", *TINY], environment)
        for workdir, environment in zip(workdirs, environments, strict=True)
    ]


def wait_for_a_step_after(step, workdir, workers):
    end = time.monotonic() + 300
    while newest(workdir) <= step and time.monotonic() < end:
        assert all(worker.poll() is None for worker in workers), workers[0].communicate()
        time.sleep(0.05)


def newest(workdir):
    return next((int(path.name) for path in checkpoints(workdir / "checkpoints")), 0)


def error_of(worker):
    """The one line that says what was wrong; TensorFlow adds notes of its own."""
    errors = processes.finish(worker, status=1)
    assert "Traceback" not in errors
    (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
    return line


def test_a_lost_worker_a_signal_and_the_rest_on_one_device(tmp_path):
    workdir = tmp_path / "run"

    first, second = start(workdir, workdir)
    wait_for_a_step_after(3, workdir, [first, second])
    second.kill()
    second.communicate()
    line = error_of(first)
    assert "Another worker has left or cannot be reached" in line
    assert "go on from the newest checkpoint" in line
    kept = newest(workdir)
    assert kept > 3

    first, second = start(workdir, workdir)
    wait_for_a_step_after(kept, workdir, [first, second])
    second.send_signal(signal.SIGTERM)  # one of them only
    outputs = [worker.communicate(timeout=300)[0] for worker in (first, second)]
    assert [worker.returncode for worker in (first, second)] == [128 + signal.SIGTERM] * 2
    for output in outputs:
        assert f"Stopped by SIGTERM after step {newest(workdir)};" in output
    epoch, done = divmod(kept, 1297 // 64)
    assert f"Continuing after epoch {epoch} and {done} of 20 steps" in outputs[0]
    assert "the first worker tells the rest" in outputs[1]

    (alone,) = start(workdir)
    assert "Continuing after epoch" in processes.finish(alone)
    steps = [m["step"] for m in read_metrics(workdir / "metrics.jsonl") if "loss" in m]
    assert steps == list(range(1, 8 * 20 + 1))
    assert np.isfinite(json.loads((workdir / "summary.json").read_text())["loss"])


def test_workers_that_do_not_share_the_workdir(tmp_path, capsys, monkeypatch):
    # As if another worker had found a checkpoint of step 20 and this one none.
    monkeypatch.setattr(pretraining, "sum_over_workers", lambda strategy, steps: steps + 20)
    flags = [flag for flag in TINY if "minutes" not in flag]
    line = script.mistake(
        capsys, "pretrain", f"--workdir={tmp_path / 'run'}", *flags, "--nodeterministic"
    )
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
def test_a_cluster_that_is_none(environment, words, tmp_path):
    flags = [f"--workdir={tmp_path / 'run'}", "--strategy=multiworker"]
    worker = processes.start(["-m", "trainers.pretrain", *flags], environment)
    line = error_of(worker)
    for word in words.split(".*"):
        assert word.removeprefix("--") in line
    assert not (tmp_path / "run").exists()
