"""Training on several devices and in several processes is the training on one."""

import json

import numpy as np
import processes
import pytest
from places import HELPERS

PROGRAM = HELPERS / "replica_run.py"


def run(folder, workers=1, devices=1, task="compare", environments=None):
    """Runs `replica_run.py` and returns what its first worker found."""
    out = folder / f"{task}-{workers}-{devices}.npz"
    environments = environments or (processes.tf_configs(workers) if workers > 1 else [{}])
    started = [processes.start([PROGRAM, out, devices, task], e) for e in environments]
    said = [json.loads(processes.finish(p).splitlines()[-1]) for p in started]
    assert [line["chief"] for line in said] == [True] + [False] * (workers - 1)
    with np.load(out) as found:
        assert found["replicas"] == workers * devices
        return dict(found) | {"where": said[0]["where"]}


@pytest.fixture(scope="module")
def on_one(tmp_path_factory):
    return run(tmp_path_factory.mktemp("one"))


def assert_same_training(found, expected):
    """Losses to 1e-5, every weight and moving statistic to 1e-4, of their norms."""
    names = [name for name in expected if "/" in name]
    assert len(names) == 2 * (1 + 16 + 12)  # losses, weights, the state of the optimizer
    for name in names:
        difference = np.linalg.norm(found[name] - expected[name]) / np.linalg.norm(expected[name])
        assert difference <= (1e-5 if "losses" in name else 1e-4), name


@pytest.mark.parametrize("devices", [2, 4])
def test_logical_devices_equal_one(devices, on_one, tmp_path):
    found = run(tmp_path, devices=devices)
    assert found["where"] == f"{devices} replicas (CPUs of this machine)"
    assert_same_training(found, on_one)


@pytest.mark.parametrize(("workers", "devices"), [(2, 1), (3, 1)])
def test_processes_equal_one(workers, devices, on_one, tmp_path):
    found = run(tmp_path, workers, devices)
    each = f"{devices} CPU{'s'[: devices > 1]}"
    assert found["where"] == f"{workers * devices} replicas ({workers} workers with {each} each)"
    assert_same_training(found, on_one)


def test_processes_started_by_slurm(on_one, tmp_path, monkeypatch):
    # What srun --ntasks=2 sets on a single node; ports count up from 8888.
    same = {
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2",
    }
    environments = [same | {"SLURM_PROCID": str(rank)} for rank in range(2)]
    assert_same_training(run(tmp_path, 2, environments=environments), on_one)


@pytest.mark.parametrize(("workers", "devices"), [(1, 4), (2, 1)])
def test_an_overflow_on_the_last_replica_skips_the_step_on_all(workers, devices, tmp_path):
    found = run(tmp_path, workers, devices, "overflow")
    assert found["skipped"].tolist() == [1, 1]  # and each worker has compared its weights


def test_keras_still_needs_several_workers(tmp_path):
    """When this fails, Keras has learned it, and a part of keras_bt/model/keras_fixes.py can go."""
    found = run(tmp_path, 2, task="plain_keras")
    assert "PerReplica" in str(found["build"])  # averages a batch over workers
    assert "Invalid reduction dimension 0" in str(
        found["logs"]
    )  # averages numbers along their first axis


def test_keras_still_cannot_execute_several_steps_at_once(tmp_path):
    """When this fails, `keras_fixes.steps_per_execution` can go."""
    assert "must feed a value for placeholder" in str(
        run(tmp_path, devices=2, task="several_steps")["error"]
    )


def test_keras_still_looks_at_the_first_replica_only(tmp_path):
    """When this fails, `keras_fixes.skip_everywhere_unless` can go."""
    assert "Arrays are not equal" in str(run(tmp_path, devices=2, task="plain_overflow")["error"])
