"""Devices on JAX: `keras.distribution.DataParallel` over all of them, in all processes."""

import atexit
import contextlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import keras
import numpy as np

from keras_bt.messages import first_line
from keras_bt.objectives import OneReplica
from keras_bt.strategy import workers
from keras_bt.strategy.processors import gpu_has_bfloat16
from keras_bt.typing import Collectives

STRATEGIES = ("auto", "one")
# What errors of operations that several processes do together speak of.
_TOGETHER = "(?i)gloo|nccl|all-?(reduce|gather)|collective|coordination|heartbeat"


class Devices:
    """The devices that share each batch; it stands in for a strategy of `tf.distribute`.

    Args:
        distribution: how Keras divides batches, None for a single device.

    Attributes:
        num_replicas_in_sync: number of the devices, in all processes.
    """

    def __init__(self, distribution: keras.distribution.DataParallel | None):
        self._distribution = distribution
        self.num_replicas_in_sync = distribution.device_mesh.devices.size if distribution else 1

    @contextlib.contextmanager
    def scope(self) -> Iterator[None]:
        """Makes what is created and trained inside a `with` that of these devices."""
        before = keras.distribution.distribution()
        keras.distribution.set_distribution(self._distribution)
        try:
            yield
        finally:
            keras.distribution.set_distribution(before)


def choose_strategy(name: str = "auto", one_process: bool = False) -> Devices:
    """Returns the devices to train on, and makes them those of this process from here on.

    With several processes, call this before JAX computes anything, and after
    `keras.utils.set_random_seed`, with the same seed in all: a process joins the others here.

    Args:
        name: `"one"`, JAX's default device; or `"auto"`, all devices of all processes: those that
            TF_CONFIG, SLURM, Keras' own variables (KERAS_DISTRIBUTION_NUM_PROCESSES and so on) or
            a TPU's (TPU_WORKER_HOSTNAMES) name.
        one_process: whether the caller can run in one process only.

    Raises:
        ValueError: for any other name, if the environment's variables cannot be understood, if the
            processes do not find each other, or if `"auto"` finds several despite `one_process`.
    """
    if name not in STRATEGIES:
        raise ValueError(
            f"On JAX, strategy must be one of {', '.join(STRATEGIES)}; others are TensorFlow's. "
            f"Received: strategy={name!r}."
        )
    if name == "auto" and several_workers():
        if one_process:
            raise ValueError(
                "This runs in one process: use --strategy=one. Received: --strategy=auto and an "
                "environment that names several processes."
            )
        _join()
    several = resolved_name(name) == "auto"
    # Each process gives its own part of a batch, so Keras need not divide the data.
    found = keras.distribution.DataParallel(auto_shard_dataset=False) if several else None
    keras.distribution.set_distribution(found)
    return Devices(found)


def resolved_name(name: str) -> str:
    """Returns the name of a strategy: `"one"` for `"auto"` where there is one device only."""
    return "auto" if name == "auto" and (several_workers() or jax.device_count() > 1) else "one"


def several_workers() -> bool:
    """Returns whether the environment makes this process one of several.

    Raises:
        ValueError: if TF_CONFIG or SLURM's number of tasks cannot be understood.
    """
    # Keras and JAX read these themselves.
    known = int(os.environ.get("KERAS_DISTRIBUTION_NUM_PROCESSES", "1")) > 1
    return known or "," in os.environ.get("TPU_WORKER_HOSTNAMES", "") or workers.several_workers()


def _join():
    """Joins the other processes, once."""
    if jax.distributed.is_initialized():
        return
    try:
        if "TF_CONFIG" in os.environ:
            config = workers.tf_config()
            first, *others = workers.addresses(config)
            own = config["cluster"][config["task"]["type"]][int(config["task"]["index"])]
            _initialize(first, 1 + len(others), [first, *others].index(own))
        elif "SLURM_STEP_NUM_TASKS" in os.environ:
            first = f"{_first_host(os.environ['SLURM_STEP_NODELIST'])}:{workers.SLURM_PORT}"
            tasks, task = (os.environ[f"SLURM_{x}"] for x in ("STEP_NUM_TASKS", "PROCID"))
            _initialize(first, int(tasks), int(task))
        else:
            keras.distribution.initialize()
    except KeyError as error:
        raise ValueError(f"srun must set {error.args[0]}. Received: nothing.") from error
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"The processes could not be set up: {first_line(error)}") from error


def _initialize(first, processes, number):
    # Not keras.distribution.initialize: under srun, JAX would take the device numbered like the
    # task alone, even where a task has several, or sees its own as number 0.
    jax.distributed.initialize(first, processes, number, cluster_detection_method="deactivate")


def _first_host(nodes):
    """Returns the first of SLURM's hosts: "node2" of "node[2,10-12]"."""
    name, number = re.findall(r"([^\[,]*)(?:\[(\d+))?", nodes)[0]
    return name + number


def one_device() -> Devices:
    """Returns the default device, without making it that of this process."""
    return Devices(None)


def on_accelerator() -> bool:
    """Returns whether JAX computes on something else than CPUs."""
    return jax.default_backend() != "cpu"


def has_bfloat16(strategy: Devices) -> bool:
    """Returns whether this process' devices multiply in bfloat16, rather than only store it.

    Of CPUs never: XLA gains a tenth by it where oneDNN, TensorFlow's library, gains half.

    Args:
        strategy: what `choose_strategy` returned.
    """
    if jax.default_backend() == "tpu":
        return True
    devices = jax.local_devices()
    return all(gpu_has_bfloat16(getattr(d, "compute_capability", None)) for d in devices)


def worker_count(strategy: Devices) -> int:
    """Returns the number of processes that run this program together."""
    return jax.process_count() if strategy.num_replicas_in_sync > 1 else 1


def worker_number(strategy: Devices) -> int:
    """Returns this process' number among the workers; number 0 writes files."""
    return jax.process_index() if strategy.num_replicas_in_sync > 1 else 0


def describe(strategy: Devices) -> str:
    """Describes what a strategy runs on: "8 replicas (2 workers with 4 GPUs each)"."""
    kind = jax.default_backend().upper()
    return workers.description(strategy.num_replicas_in_sync, worker_count(strategy), kind)


def sum_over_workers(strategy: Devices, number: int) -> int:
    """Sums an integer over all workers, each of which must call this at the same point.

    Args:
        strategy: the strategy that the workers share.
        number: this worker's integer.
    """
    if worker_count(strategy) == 1:
        return number
    from jax.experimental import multihost_utils

    halves = np.asarray([number], np.int64).view(np.uint32)  # of 64 bits JAX would keep 32
    found = np.asarray(multihost_utils.process_allgather(halves))
    return int(found.view(np.int64).sum())


@contextlib.contextmanager
def lost_workers_reported(strategy: Devices) -> Iterator[None]:
    """Reports in one line that a process is gone, if what they do together fails for that.

    Args:
        strategy: the strategy that the workers share.

    Raises:
        OSError: if another process has left or cannot be reached. JAX cannot continue without it;
            all processes have to be started again.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if worker_count(strategy) == 1 or not re.search(_TOGETHER, str(error)):
            raise
        atexit.register(_leave)
        raise workers.lost_worker(first_line(error)) from error


def _leave():
    """Ends this process before JAX waits for the lost one, and aborts with pages of text."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def distribute_batches(
    strategy: Devices, pipeline: Callable[[int, int], Any], batch_size: int
) -> Any:
    """Gives each process its part of every batch; Keras gives each device a part of that.

    Args:
        strategy: the strategy that trains.
        pipeline: function (shard_index, num_shards) → that shard's part of each batch, a
            `tf.data.Dataset` such as `keras_bt.data.pretraining_views` makes.
        batch_size: images per batch, over all devices.

    Returns:
        The data set for `model.fit`.

    Raises:
        ValueError: if the devices do not divide the batch.
    """
    if batch_size % strategy.num_replicas_in_sync:
        raise ValueError(
            "batch_size must divide evenly across devices. "
            f"Received: batch_size={batch_size}, devices={strategy.num_replicas_in_sync}."
        )
    return pipeline(worker_number(strategy), worker_count(strategy))


def current_replicas() -> Collectives:
    """Returns the collectives of one replica: a compiled step sees the batch of all devices."""
    return OneReplica()
