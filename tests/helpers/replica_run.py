"""Trains five steps on some replicas: a program of its own, for `test_replicas.py`.

    python tests/helpers/replica_run.py OUT.npz LOGICAL_DEVICES TASK …

With TF_CONFIG or SLURM's variables in the environment it is one of several workers. The number of
logical devices must be set before TensorFlow starts, and a cluster before it computes anything.
"""

import functools
import json
import os
import sys
import unittest.mock

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"

import keras
import numpy as np
import tensorflow as tf

from keras_bt import LARS, BarlowTwins, projector, strategy
from keras_bt.model.tensorflow import steps as model_module

BATCH, STEPS = 24, 5


def smooth_model(form="auto", redundancy_weight=0.01, objective=None):
    """Small, and without the kinks of a ReLU, whose flips are noise on top of what is compared."""
    keras.utils.set_random_seed(0)
    backbone = keras.Sequential([keras.layers.Input((16, 16, 3))])
    backbone.add(keras.layers.Conv2D(16, 3, strides=2, use_bias=False))
    backbone.add(keras.layers.BatchNormalization(momentum=0.9))
    backbone.add(keras.layers.Activation("softplus"))
    backbone.add(keras.layers.GlobalAveragePooling2D())
    head = projector((32, 48), input_dim=16)
    if objective is not None:
        return BarlowTwins(backbone, head, objective=objective)
    return BarlowTwins(backbone, head, redundancy_weight, form)


def images():
    """Pairs of related images for all steps, (2, STEPS, BATCH, 16, 16, 3)."""
    rng = np.random.default_rng(0)
    shape = (STEPS, BATCH, 16, 16, 3)
    same = rng.normal(size=(STEPS, BATCH, 1, 1, 3)) + rng.normal(size=shape)
    return (same + 0.3 * rng.normal(size=(2, *shape))).astype("float32")


def part(shard_index, num_shards):
    """A worker's rows of every batch, as `pretraining_views` divides them."""
    rows = BATCH // num_shards
    a, b = images()[:, :, shard_index * rows : (shard_index + 1) * rows]
    return tf.data.Dataset.from_tensor_slices((a, b)).repeat()


def train(where, form, precision="float32", epochs=STEPS):
    """The model after so many steps, and what `fit` says of each."""
    keras.config.set_dtype_policy(precision)
    with where.scope():
        model = smooth_model(form)
        model.compile(LARS(0.2))
    return model, fit(model, where, epochs)


def fit(model, where, epochs):
    batches = strategy.distribute_batches(where, part, BATCH)
    settings = {"epochs": epochs, "steps_per_epoch": 1, "shuffle": False, "verbose": 0}
    return model.fit(batches, **settings).history


def weights(model):
    """All weights, which must be the same on all replicas of this process."""
    found = {}
    for i, v in enumerate(model.weights + model.optimizer.variables):
        first, *others = model.distribute_strategy.experimental_local_results(v.value)
        for other in others:
            np.testing.assert_array_equal(other.numpy(), first.numpy(), err_msg=v.path)
        found[f"{i:02}{v.path}"] = first.numpy()
    return found


def compare(where, form):
    """A form of the loss, in float32."""
    model, history = train(where, form)
    yield f"{form}/losses", history["loss"]
    for number, value in enumerate(weights(model).values()):  # names depend on earlier models
        yield f"{form}/weights/{number}", value


correlation, gram = (functools.partial(compare, form=form) for form in ("correlation", "gram"))


def overflow(where):
    """An overflow on the last replica only: all skip the step, and nothing changes."""
    clean = tf.GradientTape.gradient
    spoiling = tf.Variable(False)  # so that the step need not be traced a second time

    def spoilt(tape, target, sources):
        gradients = clean(tape, target, sources)
        context = tf.distribute.get_replica_context()
        last = context.replica_id_in_sync_group == context.num_replicas_in_sync - 1
        gradients[3] += tf.where(last & spoiling, float("inf"), 0.0)
        return gradients

    with unittest.mock.patch.object(tf.GradientTape, "gradient", spoilt):
        model, history = train(where, "gram", "mixed_float16", epochs=8)
        assert history["skipped_steps"][-1] == 0  # the scale, at first too large, has come down
        before = weights(model)
        spoiling.assign(True)
        history = fit(model, where, epochs=2)
    after = weights(model)
    for name, value in before.items():
        assert np.isfinite(value).all(), name
        if name.endswith("dynamic_scale"):
            assert after[name] == value / 4  # halved by each of the two steps
        elif "step_counter" not in name:
            np.testing.assert_array_equal(after[name], value, err_msg=name)
    yield "skipped", history["skipped_steps"]


def plain_overflow(where):
    """The same with what Keras does by itself: its error, or what became different."""
    plain = unittest.mock.patch.object(
        model_module, "skip_everywhere_unless", lambda finite, gradients: gradients
    )
    try:
        with plain:
            list(overflow(where))
        yield "error", ""
    except AssertionError as error:
        yield "error", str(error)


def plain_keras(where):
    """Keras' own errors without each of the two fixes for several workers."""
    for name, owner, attribute, plain in (
        ("build", BarlowTwins, "_maybe_symbolic_build", keras.Model._maybe_symbolic_build),
        ("logs", model_module, "as_logs", lambda logs: logs),
    ):
        with unittest.mock.patch.object(owner, attribute, plain):
            try:
                train(where, "gram")
                yield name, ""
            except Exception as error:
                yield name, f"{type(error).__name__}: {error}"


def several_steps(where):
    """Keras' own error when it is to execute several steps at once."""
    with where.scope():
        model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", steps_per_execution=2)
    x = np.ones((8, 4), "float32")
    data = tf.data.Dataset.from_tensor_slices((x, x[:, :1])).batch(4, drop_remainder=True)
    try:
        model.fit(data.repeat(), steps_per_epoch=2, shuffle=False, verbose=0)
        yield "error", ""
    except Exception as error:
        yield "error", f"{type(error).__name__}: {error}"


def main():
    out, devices, *tasks = sys.argv[1:]
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0],
        [tf.config.LogicalDeviceConfiguration()] * int(devices),
    )
    several = strategy.several_workers()
    where = strategy.choose_strategy(
        "multiworker" if several else "mirrored" if int(devices) > 1 else "one"
    )
    found = {}
    for task in tasks:
        found |= globals()[task](where)
    found["replicas"] = where.num_replicas_in_sync
    print(
        json.dumps({"chief": strategy.worker_number(where) == 0, "where": strategy.describe(where)})
    )
    strategy.sum_over_workers(where, 1)  # nobody leaves before all are done
    if strategy.worker_number(where) == 0:
        np.savez(out, **found)


if __name__ == "__main__":
    main()
