"""Where training runs: the `tf.distribute` strategies, and collectives for the objective."""

import functools
import os

import keras
import tensorflow as tf

from keras_bt.objective import OneReplica

STRATEGIES = ("auto", "one", "mirrored", "tpu")


def choose_strategy(name="auto"):
    """Returns the `tf.distribute.Strategy` of that name.

    Args:
        name: `"one"`, the default strategy on one device; `"mirrored"`, every GPU of this machine,
            or every logical device where there is no GPU; `"tpu"`, the TPU of this machine or of
            the environment's TPU_NAME; or `"auto"`, `"mirrored"` where there are several GPUs and
            `"one"` elsewhere.

    Raises:
        ValueError: for any other name, and for `"tpu"` where there is none.
    """
    if name not in STRATEGIES:
        raise ValueError(
            f"strategy must be one of {', '.join(STRATEGIES)}. Received: strategy={name!r}."
        )
    if name == "tpu":
        return _tpu(os.environ.get("TPU_NAME", "local"))
    gpus = tf.config.list_logical_devices("GPU")
    if name == "auto":
        name = "mirrored" if len(gpus) > 1 else "one"
    if name == "one":
        return tf.distribute.get_strategy()
    return _mirrored(tuple(d.name for d in gpus or tf.config.list_logical_devices("CPU")))


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
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        reason = str(error).partition(".")[0]
        raise ValueError(
            f"strategy=tpu needs a TPU. Received: TPU_NAME={name} ({reason})."
        ) from error


class Replicas:
    """The collectives of the replica that this is called on.

    The members are those of `keras_bt.objective.OneReplica`. `sum` can be differentiated: its
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


def synchronise_batch_normalisation(*models):
    """Makes each BatchNormalization of `models` use the statistics of the global batch, in place.

    Only where the current strategy has several replicas; on one, where there is nothing to
    synchronise, the plain computation is faster and `synchronized` is set to False.
    """
    several = tf.distribute.get_strategy().num_replicas_in_sync > 1
    for model in models:
        for layer in model._flatten_layers():
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.synchronized = several
