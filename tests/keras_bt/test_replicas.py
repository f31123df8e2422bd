"""Training on several devices and in several processes is the training on one."""

import json

import keras
import numpy as np
import processes
import pytest
import replica_run
from places import HELPERS

from keras_bt.strategy import choose_strategy

PROGRAM = HELPERS / "replica_run.py"


def run(folder, *tasks, devices=1, environments=({},)):
    """Runs `replica_run.py`, one worker in each environment; what the first of them found."""
    out, workers = folder / "found.npz", len(environments)
    started = [processes.start([PROGRAM, out, devices, *tasks], e) for e in environments]
    said = [json.loads(processes.finish(p).splitlines()[-1]) for p in started]
    assert [line["chief"] for line in said] == [True] + [False] * (workers - 1)
    with np.load(out) as found:
        assert found["replicas"] == workers * devices
        return dict(found) | {"where": said[0]["where"]}


@pytest.fixture(scope="module")
def on_three_devices(tmp_path_factory):
    return run(tmp_path_factory.mktemp("devices"), "correlation", "overflow", devices=3)


@pytest.fixture(scope="module")
def on_two_workers(tmp_path_factory):
    # What srun --ntasks=2 sets on a single node; ports count up from 8888.
    same = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2",
    }
    environments = [same | {"SLURM_PROCID": str(rank)} for rank in range(2)]
    tasks = ("gram", "overflow", "plain_keras")
    return run(tmp_path_factory.mktemp("workers"), *tasks, environments=environments)


def assert_same_training(found, form):
    """As on one device: losses to 1e-5, every weight and statistic to 1e-4, of their norms."""
    expected = dict(replica_run.compare(choose_strategy("one"), form))
    assert len(expected) == 1 + 11 + 9  # losses, weights, the state of the optimizer
    for name, value in expected.items():
        difference = np.linalg.norm(found[name] - value) / np.linalg.norm(value)
        assert difference <= (1e-5 if "losses" in name else 1e-4), name


# Both forms on two devices: see test_barlow_twins.py; and the first on two workers, whose losses
# are those of one: test_several_workers.py.
@pytest.mark.slow
def test_logical_devices_equal_one(on_three_devices):
    assert on_three_devices["where"] == "3 replicas (CPUs of this machine)"
    assert_same_training(on_three_devices, "correlation")


@pytest.mark.slow
def test_processes_started_by_slurm_equal_one(on_two_workers):
    assert on_two_workers["where"] == "2 replicas (2 workers with 1 CPU each)"
    assert_same_training(on_two_workers, "gram")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["on_three_devices", "on_two_workers"])
def test_an_overflow_on_the_last_replica_skips_the_step_on_all(where, request):
    found = request.getfixturevalue(where)
    assert found["skipped"].tolist() == [1, 1]  # and each worker has compared its weights


@pytest.mark.slow
def test_keras_still_needs_several_workers(on_two_workers):
    """When this fails, Keras has learned it, and a part of keras_fixes.py can go."""
    assert "PerReplica" in str(on_two_workers["build"])  # averages a batch over workers
    assert "Invalid reduction dimension 0" in str(
        on_two_workers["logs"]
    )  # averages numbers along their first axis


def test_keras_still_cannot_execute_several_steps_at_once():
    """When this fails, `keras_fixes.steps_per_execution` can go."""
    found = dict(replica_run.several_steps(choose_strategy("mirrored")))
    assert "must feed a value for placeholder" in found["error"]


@pytest.mark.slow
def test_keras_still_looks_at_the_first_replica_only():
    """When this fails, `keras_fixes.skip_everywhere_unless` can go."""
    try:
        found = dict(replica_run.plain_overflow(choose_strategy("mirrored")))
    finally:
        keras.config.set_dtype_policy("float32")
    assert "Arrays are not equal" in found["error"]
