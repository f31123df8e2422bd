"""Devices on TensorFlow: `tf.distribute` strategies, and the collectives of the objective."""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterator

import tensorflow as tf

from keras_bt.messages import first_line
from keras_bt.objectives import OneReplica
from keras_bt.strategy.processors import cpu_has_bfloat16, gpu_has_bfloat16
from keras_bt.strategy.workers import SLURM_PORT, description, lost_worker, several_workers
from keras_bt.typing import Collectives, Tensor

STRATEGIES = ("auto", "one", "mirrored", "multiworker", "tpu")


def choose_strategy(name: str = "auto", one_process: bool = False) -> tf.distribute.Strategy:
    """Returns the `tf.distribute` strategy of that name.

    With several workers, call this before TensorFlow computes anything: a process joins the others
    when its devices are set up, and waits until all have joined.

    >>> describe(choose_strategy("one"))
    'one device (CPU)'

    Args:
        name: `"one"`, the default strategy on one device; `"mirrored"`, every GPU of this machine,
            or every logical CPU device if there is no GPU; `"multiworker"`, the same on every
            process that TF_CONFIG or SLURM names; `"tpu"`, the TPU of this machine or that of the
            environment variable TPU_NAME (no TensorFlow from 2.20 on is known to run on one); or
            `"auto"`: `"multiworker"` if the environment names several workers, else `"tpu"` if it
            names a TPU, else `"mirrored"` if there are several GPUs, else `"one"`.
        one_process: whether the caller can run in one process only.

    Raises:
        ValueError: for any other name, for a strategy that the environment does not provide, if
            TF_CONFIG or SLURM's variables cannot be understood, or if `"auto"` finds several
            workers despite `one_process`.
    """
    if name not in STRATEGIES:
        raise ValueError(
            f"strategy must be one of {', '.join(STRATEGIES)}. Received: strategy={name!r}."
        )
    if name == "auto" and one_process and several_workers():
        raise ValueError(
            "This runs in one process: use --strategy=one or mirrored. Received: --strategy=auto "
            "and an environment (TF_CONFIG, SLURM_STEP_NUM_TASKS) that names several workers."
        )
    name = resolved_name(name)
    if name == "multiworker":
        return _multi_worker()
    if name == "tpu":
        return _tpu(os.environ.get("TPU_NAME", "local"))
    if name == "one":
        return tf.distribute.get_strategy()
    gpus = tf.config.list_logical_devices("GPU")
    return _mirrored(tuple(d.name for d in gpus or tf.config.list_logical_devices("CPU")))


def resolved_name(name: str) -> str:
    """Returns the name of a strategy, with `"auto"` resolved for this process' environment."""
    if name != "auto":
        return name
    if several_workers():
        return "multiworker"
    if "TPU_NAME" in os.environ:
        return "tpu"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one"


@functools.cache
def _multi_worker():
    if not several_workers():
        raise ValueError(
            "strategy=multiworker needs several workers, named by TF_CONFIG or started by srun. "
            "Received: "
            + ("a TF_CONFIG of one worker." if "TF_CONFIG" in os.environ else "neither.")
        )
    try:
        resolver = None if "TF_CONFIG" in os.environ else _slurm()
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except KeyError as error:
        raise ValueError(f"srun must set {error.args[0]}. Received: nothing.") from error
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise ValueError(f"The workers could not be set up: {first_line(error)}") from error


def _slurm():
    """Resolves the workers that srun started; each uses the GPUs that SLURM lets it see.

    TensorFlow's `SlurmClusterResolver` sorts hosts by name, which SLURM's ranks do not, and fails
    without nvidia-smi.
    """
    from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver

    hosts = slurm_cluster_resolver.expand_hostlist(os.environ["SLURM_STEP_NODELIST"])
    tasks = slurm_cluster_resolver.expand_tasks_per_node(os.environ["SLURM_STEP_TASKS_PER_NODE"])
    workers = [
        f"{host}:{SLURM_PORT + place}"
        for host, count in zip(hosts, tasks, strict=True)
        for place in range(count)
    ]
    return tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec({"worker": workers}),
        task_type="worker",
        task_id=int(os.environ["SLURM_PROCID"]),
        num_accelerators={"GPU": len(tf.config.list_physical_devices("GPU"))},
        rpc_layer="grpc",
    )


@functools.cache
def _mirrored(devices):
    # One per process and set of devices: two MirroredStrategy number their collectives alike, and
    # TensorFlow then mistakes an operation of one for that of the other ("Shape mismatch in the
    # collective instance").
    return tf.distribute.MirroredStrategy(list(devices))


@functools.cache
def _tpu(name):
    # Not run: Keras tests TPUs with TensorFlow 2.19 at most, and this package needs 2.20. Without a
    # TPU this ends in the error below.
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(name)
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"strategy=tpu needs a TPU. Received: TPU_NAME={name} ({first_line(error)})"
        ) from error


def one_device() -> tf.distribute.Strategy:
    """Returns the default strategy, which has one device."""
    return tf.distribute.get_strategy()


def on_accelerator() -> bool:
    """Returns whether TensorFlow has a device that is no CPU."""
    return any(device.device_type != "CPU" for device in tf.config.list_logical_devices())


def has_bfloat16(strategy: tf.distribute.Strategy) -> bool:
    """Returns whether this process' devices multiply in bfloat16, rather than only store it."""
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return True
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        return cpu_has_bfloat16()
    details = map(tf.config.experimental.get_device_details, gpus)
    return all(gpu_has_bfloat16(each.get("compute_capability")) for each in details)


def worker_count(strategy: tf.distribute.Strategy) -> int:
    """Returns the number of processes that run this program together."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    spec = strategy.cluster_resolver.cluster_spec().as_dict()
    return sum(len(spec.get(job, ())) for job in ("chief", "worker"))


def worker_number(strategy: tf.distribute.Strategy) -> int:
    """Returns this process' number among the workers; number 0, the chief, writes files."""
    resolver = strategy.cluster_resolver
    if worker_count(strategy) == 1 or resolver.task_type == "chief":
        return 0
    return resolver.task_id + ("chief" in resolver.cluster_spec().as_dict())


def describe(strategy: tf.distribute.Strategy) -> str:
    """Describes what a strategy runs on: "8 replicas (2 workers with 4 GPUs each)"."""
    replicas, workers = strategy.num_replicas_in_sync, worker_count(strategy)
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return f"{replicas} TPU cores"
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    return description(replicas, workers, kind)


def sum_over_workers(strategy: tf.distribute.Strategy, number: int) -> int:
    """Sums an integer over all workers, each of which must call this at the same point.

    >>> sum_over_workers(tf.distribute.get_strategy(), 7)  # one worker
    7

    Args:
        strategy: the strategy that the workers share.
        number: this worker's integer.
    """
    if worker_count(strategy) == 1:
        return number
    totals = strategy.experimental_local_results(_total(strategy)(tf.constant(number, tf.int64)))
    return int(totals[0]) * worker_count(strategy) // strategy.num_replicas_in_sync


@functools.cache
def _total(strategy):
    def on_replica(number):
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(number))  # placed here

    return tf.function(lambda number: strategy.run(on_replica, args=(number,)))


@contextlib.contextmanager
def lost_workers_reported(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Reports in one line that a worker is gone, if what the workers do together fails for that.

    Raises:
        OSError: if another worker has left or cannot be reached. TensorFlow cannot continue without
            it; all processes have to be started again.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if worker_count(strategy) == 1 or "ollective" not in str(error):
            raise
        found = re.findall(r"ollective ops is aborted by: (.*)|task:(\d+)", str(error))
        reason = "; ".join(dict.fromkeys(r or f"worker {task}" for r, task in found))
        raise lost_worker(reason) from error


def distribute_batches(
    strategy: tf.distribute.Strategy,
    pipeline: Callable[[int, int], tf.data.Dataset],
    batch_size: int,
) -> tf.data.Dataset:
    """Gives each worker its part of every batch, and each of its replicas a part of that.

    Keras would hand each worker the whole stream. Here a worker prepares only the images that its
    own replicas train on, so every image is prepared once.

    Args:
        strategy: the strategy that trains.
        pipeline: function (shard_index, num_shards) → that shard's part of each batch, such as
            `keras_bt.data.pretraining_views` makes.
        batch_size: images per batch, over all replicas.

    Returns:
        The data set for `model.fit`.
    """
    if strategy.num_replicas_in_sync == 1:
        return pipeline(0, 1)
    each = batch_size // strategy.num_replicas_in_sync

    def divide(*batch):
        return tf.nest.map_structure(lambda x: tf.reshape(x, (-1, each, *x.shape[1:])), batch)

    def of_worker(context):
        shard = pipeline(context.input_pipeline_id, context.num_input_pipelines)
        return shard.map(divide).unbatch().prefetch(2)

    return strategy.distribute_datasets_from_function(of_worker)


class Replicas:
    """The collectives of one replica among several.

    The members are those of `keras_bt.objectives.OneReplica`. The gradient of `sum` is the sum of
    the upstream gradients over replicas.

    Args:
        context: the replica's context, from `tf.distribute.get_replica_context`.
    """

    def __init__(self, context: tf.distribute.ReplicaContext):
        self._context = context
        self.count = context.num_replicas_in_sync
        self.index = context.replica_id_in_sync_group

    def sum(self, x: Tensor) -> Tensor:
        """Returns the sum of `x` over all replicas; same shape as `x`."""
        return self._context.all_reduce(tf.distribute.ReduceOp.SUM, x)

    def gather(self, x: Tensor) -> Tensor:
        """Returns the rows of `x` of all replicas, in replica order."""
        return self._context.all_gather(x, axis=0)


def current_replicas() -> Collectives:
    """Returns the collectives of the calling replica, or `OneReplica` outside any strategy."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return OneReplica()
    return Replicas(context)
