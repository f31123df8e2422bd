"""A strict test world: warnings are errors, two logical CPU devices, fixed seeds."""

import ctypes
import gc
import os
from unittest import mock

import numpy as np
import pytest
from places import FIXTURES

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("MPLBACKEND", "Agg")


def pytest_sessionstart(session):
    """Two logical CPU devices in one process stand in for two GPUs.

    That is settled before anything initializes TensorFlow's devices. A process that only hands
    out tests to others does without TensorFlow, for the start of which they would wait.
    """
    if session.config.getoption("dist", "no") == "no":
        import tensorflow as tf

        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
        )


# Files that take half a minute or more, the longest first: of the slow ones, and of the others.
LONGEST = ("test_backends", "test_on_jax", "test_replicas", "test_pretrain")
LONGEST += ("test_several_workers", "test_barlow_twins", "test_placement", "test_crashes")
LONGEST += ("test_docstrings",)


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, above all the longest: two processes end together."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    order = {name: place for place, name in enumerate(LONGEST)}

    def place(item):
        long = order.get(item.path.stem, len(order))
        return item.path not in slow, long, "trainers" not in item.path.parts

    items.sort(key=place)


def pytest_collection_finish():
    """All is imported: a million objects that no collection of garbage need look at again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _fixed_seeds():
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _the_same_precision_everywhere():
    """Runs that leave it open compute in float32 on all CPUs, also those with bfloat16."""
    from keras_bt.strategy import tensorflow as strategy

    with mock.patch.object(strategy, "cpu_has_bfloat16", return_value=False):
        yield


@pytest.fixture(autouse=True, scope="module")
def _determinism_ends_with_the_module():
    """A script that runs in this process switches it on for good; XLA then refuses to compile."""
    import tensorflow as tf
    from tensorflow.python.framework import config as tf_config

    yield
    tf_config.disable_op_determinism()
    tf.config.optimizer.set_experimental_options({"arithmetic_optimization": True})


@pytest.fixture(autouse=True, scope="module")
def _memory_is_free_again_after_the_module():
    """TensorFlow keeps every custom gradient, and with it the graph of every step of training."""
    import keras
    from tensorflow.python.framework import ops

    yield
    gradients = ops.gradient_registry._registry
    for name in [name for name in gradients if name.startswith("CustomGradient-")]:
        del gradients[name]
    keras.backend.clear_session()  # which collects garbage
    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


@pytest.fixture
def fixture_arrays():
    """Reads `fixtures/NAME.npz`, or the part of it below `PREFIX/`."""

    def read(name, prefix=""):
        prefix = f"{prefix}/" if prefix else ""
        with np.load(FIXTURES / f"{name}.npz") as arrays:
            return {key[len(prefix) :]: arrays[key] for key in arrays if key.startswith(prefix)}

    return read
