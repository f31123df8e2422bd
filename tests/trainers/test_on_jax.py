"""Commands on JAX, and runs that go on with the other backend and on other numbers of devices."""

import keras
import numpy as np
import processes
import pytest
import script
import small_network
import stress_resume
import tensorflow as tf
import undrawn
from jax_runs import STEPS, copied_at
from places import HELPERS

from keras_bt.workdir import Workdir, read_record

pytest.importorskip("jax", reason="JAX is not installed: pip install 'keras_bt[jax]'")

FLAGS = ["--projector=16-16", "--batch_size=64", "--epochs=2", "--noevaluate", "--monitor_every=2"]
FLAGS += ["--monitor_images=100", *small_network.PLAIN_VIEWS]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of runs, some of which one backend has begun and the other ended."""
    folder = tmp_path_factory.mktemp("runs")
    flags = [*FLAGS, small_network.save(folder / "small.keras")]
    unwatched = [*flags, "--monitor_every=0"]
    with undrawn.runs(), copied_at(STEPS + 7, folder / "begun"):
        whole = f"--workdir={folder / 'on tensorflow'}"
        script.call("pretrain", *unwatched, whole, "--checkpoint_minutes=0")
    command = ["-m", "trainers.pretrain", *flags, f"--workdir={folder / 'begun'}"]
    two = processes.on_jax(devices=2)
    workers = [processes.start(command, two | each) for each in processes.tf_configs(2)]
    for worker in workers:
        processes.finish(worker, timeout=900)
    program = processes.start([HELPERS / "jax_runs.py", folder, *unwatched], two)
    processes.finish(program, timeout=900)
    with undrawn.runs():
        script.call("pretrain", *unwatched, f"--workdir={folder / 'left'}")
    return folder


def variables(run):
    return stress_resume.variables(run / "checkpoints" / f"{2 * STEPS:08}")


@pytest.mark.slow
@pytest.mark.parametrize(("name", "whole"), [("begun", "on tensorflow"), ("left", "whole")])
def test_a_run_goes_on_with_the_other_backend(name, whole, runs):
    # Of the backend that began it, whose initial weights are its own.
    ours, theirs = variables(runs / name), variables(runs / whole)
    assert ours.keys() == theirs.keys()
    assert len(ours) > 8
    for variable, value in theirs.items():
        np.testing.assert_allclose(ours[variable], value, rtol=2e-3, atol=1e-4, err_msg=variable)


@pytest.mark.slow
def test_it_leaves_all_that_a_run_does(runs):
    run = Workdir(runs / "begun")
    assert run.read_summary()["loss"] > 0
    assert run.report.exists()
    images = np.random.default_rng(0).integers(0, 255, (3, 8, 8, 3), "uint8")
    loaded = tf.saved_model.load(run.saved_model / "1")
    backbone = keras.models.load_model(run.backbone)
    expected = backbone(loaded.preprocess(images)["images"], training=False)
    np.testing.assert_allclose(loaded.serve(images)["features"], expected, rtol=1e-4, atol=1e-5)
    accuracies = read_record(run.path / "evaluation" / "knn_k=1.json")["accuracies"]
    assert accuracies["backbone"]["1"]["top1"] > 0.2


@pytest.mark.slow
def test_a_resumed_run_is_the_uninterrupted_one(runs):
    ours, theirs = variables(runs / "killed"), variables(runs / "whole")
    for variable, value in theirs.items():
        np.testing.assert_array_equal(ours[variable], value, err_msg=variable)
    assert read_record(runs / "whole" / "config.json")["versions"]["jax"] != "unknown"
