"""Where training runs: the `tf.distribute` strategies, and collectives for the objective."""

import contextlib
import functools
import json
import os
import re

import tensorflow as tf

from keras_bt.objectives.barlow_twins import OneReplica

_SLURM_PORT = 8888  # of a node's first task, the others count on from there
STRATEGIES = ("auto", "one", "mirrored", "multiworker", "tpu")


def choose_strategy(name="auto", one_process=False):
    """Returns the `tf.distribute.Strategy` of that name.

    With several workers this must come before anything that TensorFlow computes, for a process
    joins the others when its devices are set up; it waits until all are there.

    Args:
        name: `"one"`, the default strategy on one device; `"mirrored"`, every GPU of this machine,
            or every logical device where there is no GPU; `"multiworker"`, these of every process
            that TF_CONFIG or SLURM names; `"tpu"`, the TPU of this machine or of the environment's
            TPU_NAME; or `"auto"`: `"multiworker"` where the environment names several workers,
            else `"tpu"` where it names a TPU, else `"mirrored"` where there are several GPUs, else
            `"one"`.
        one_process: whether the caller cannot work in several processes.

    Raises:
        ValueError: for any other name, for a strategy that the environment does not provide,
            where TF_CONFIG or SLURM's variables cannot be understood, and where `"auto"` finds
            several workers for `one_process`.
    """
    if name not in STRATEGIES:
        raise ValueError(
            f"strategy must be one of {', '.join(STRATEGIES)}. Received: strategy={name!r}."
        )
    if name == "auto" and one_process and several_workers():
        raise ValueError(
            "This runs in one process: take --strategy=one or mirrored. Received: --strategy=auto "
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


def resolved_name(name):
    """The name of a strategy; for `"auto"`, of that for what this process sees."""
    if name != "auto":
        return name
    if several_workers():
        return "multiworker"
    if "TPU_NAME" in os.environ:
        return "tpu"
    return "mirrored" if len(tf.config.list_physical_devices("GPU")) > 1 else "one"


def several_workers():
    """Whether TF_CONFIG or SLURM says that this process is one of several workers.

    Raises:
        ValueError: if TF_CONFIG or SLURM's number of tasks cannot be understood.
    """
    if "TF_CONFIG" in os.environ:
        return sum(len(_tf_config()["cluster"].get(job, [])) for job in ("chief", "worker")) > 1
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if not tasks.isdecimal():
        raise ValueError(f"SLURM_STEP_NUM_TASKS must be a number. Received: {tasks}")
    return int(tasks) > 1


def _tf_config():
    """TF_CONFIG as a dict, checked: TensorFlow's own errors about it are hard to read."""
    text = os.environ["TF_CONFIG"]
    rule = (
        'TF_CONFIG must be JSON such as {"cluster": {"worker": ["host0:2222", "host1:2222"]}, '
        '"task": {"type": "worker", "index": 0}}. '
    )
    try:
        config = json.loads(text)
        task = config["task"]
        config["cluster"][task["type"]][int(task["index"])]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise ValueError(f"{rule}Received: {text} ({error!r}).") from error
    return config


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
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"The workers could not be set up: {reason}") from error


def _slurm():
    """The workers that srun started; each uses the GPUs that SLURM lets it see.

    Not TensorFlow's `SlurmClusterResolver`: it sorts hosts by name, SLURM's ranks do not, and it
    fails without nvidia-smi.
    """
    from tensorflow.python.distribute.cluster_resolver import slurm_cluster_resolver

    hosts = slurm_cluster_resolver.expand_hostlist(os.environ["SLURM_STEP_NODELIST"])
    tasks = slurm_cluster_resolver.expand_tasks_per_node(os.environ["SLURM_STEP_TASKS_PER_NODE"])
    workers = [
        f"{host}:{_SLURM_PORT + place}"
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
    # TensorFlow then takes an operation of one for that of the other ("Shape mismatch in the
    # collective instance").
    return tf.distribute.MirroredStrategy(list(devices))


@functools.cache
def _tpu(name):
    # Not run on a TPU yet; elsewhere this ends in the error below.
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver.connect(name)
        return tf.distribute.TPUStrategy(resolver)
    except (tf.errors.OpError, OSError, ValueError, RuntimeError) as error:
        reason = str(error).partition(".")[0]
        raise ValueError(
            f"strategy=tpu needs a TPU. Received: TPU_NAME={name} ({reason})."
        ) from error


def worker_count(strategy):
    """Number of processes that run this program together."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return 1
    spec = strategy.cluster_resolver.cluster_spec().as_dict()
    return sum(len(spec.get(job, ())) for job in ("chief", "worker"))


def worker_number(strategy):
    """This process' number among the workers, from 0; that of the chief is 0."""
    if worker_count(strategy) == 1:
        return 0
    resolver = strategy.cluster_resolver
    if resolver.task_type == "chief":
        return 0
    return resolver.task_id + ("chief" in resolver.cluster_spec().as_dict())


def is_chief(strategy):
    """Whether this process is the one that writes files; with one worker it is."""
    return worker_number(strategy) == 0


def describe(strategy):
    """What a strategy runs on, in words: "8 replicas, 2 workers with 4 GPUs each"."""
    replicas, workers = strategy.num_replicas_in_sync, worker_count(strategy)
    if isinstance(strategy, tf.distribute.TPUStrategy):
        return f"{replicas} TPU cores"
    kind = "GPU" if tf.config.list_physical_devices("GPU") else "CPU"
    if replicas == 1:
        return f"one device ({kind})"
    each = replicas // workers
    if workers == 1:
        return f"{replicas} replicas ({kind}s of this machine)"
    return f"{replicas} replicas ({workers} workers with {each} {kind}{'s'[: each > 1]} each)"


def sum_over_workers(strategy, number):
    """Adds up an integer over all workers, each of which must call this at the same point.

    Args:
        strategy: the strategy.
        number: int of this worker.

    Returns:
        int.
    """
    if worker_count(strategy) == 1:
        return number
    totals = strategy.experimental_local_results(_total(strategy)(tf.constant(number, tf.int64)))
    return int(totals[0]) * worker_count(strategy) // strategy.num_replicas_in_sync


@functools.cache
def _total(strategy):
    """Compiled once: from this worker's number to the sum over replicas, on each of them."""

    def on_replica(number):
        context = tf.distribute.get_replica_context()
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.identity(number))  # placed here

    return tf.function(lambda number: strategy.run(on_replica, args=(number,)))


@contextlib.contextmanager
def lost_workers_reported(strategy):
    """Around what workers do together: says in one line that one of them is gone.

    Raises:
        OSError: if another worker has left or cannot be reached. TensorFlow cannot go on without
            it; all processes have to be started again.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if worker_count(strategy) == 1 or "ollective" not in str(error):
            raise
        found = re.findall(r"ollective ops is aborted by: (.*)|task:(\d+)", str(error))
        reason = "; ".join(dict.fromkeys(r or f"worker {task}" for r, task in found))
        raise OSError(
            "Another worker has left or cannot be reached"
            + (f" ({reason})" if reason else "")
            + ". Start all workers again with the same commands: they go on from the newest "
            "checkpoint."
        ) from error


def distribute_batches(strategy, pipeline, batch_size):
    """Gives each worker its part of every batch, and each of its replicas a part of that.

    Keras would hand each worker the whole stream. Here a worker makes only the images that its
    own replicas train on, so every image is made once.

    Args:
        strategy: the strategy.
        pipeline: function (shard_index, num_shards) → `tf.data.Dataset` of that shard's part of
            each batch, such as `keras_bt.data.pretraining_views` makes.
        batch_size: int, images per batch, on all replicas together.

    Returns:
        Data set for `model.fit`.
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
    """The collectives of the replica that this is called on.

    The members are those of `keras_bt.objectives.OneReplica`. `sum` can be differentiated: its
    gradient is the sum, over replicas, of the gradients that arrive.
    """

    def __init__(self, context):
        self._context = context
        self.count = context.num_replicas_in_sync

    def sum(self, x):
        """Returns the sum of `x` over all replicas; same shape as `x`."""
        return self._context.all_reduce(tf.distribute.ReduceOp.SUM, x)

    def gather(self, x):
        """Returns the rows of `x` of all replicas, in replica order."""
        return self._context.all_gather(x, axis=0)


def current_replicas():
    """Returns the collectives for where this is called: in a replica, or outside any strategy."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return OneReplica()
    return Replicas(context)
