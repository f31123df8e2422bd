"""Where the time of a training step goes: `python -m benchmarks.step_profile`.

TensorFlow's profiler records every operation in some steps of `benchmarks.train_step`'s network on
the CPU, executed one after another so that their times add up. The times are summed by kind and
compared with the floating-point operations that the mathematics needs, at the speed of one large
matrix product on the same cores, which is the limit. Nothing else should be running on the machine.
`--logdir` keeps the profile for TensorBoard's profile plugin.
"""

import collections
import itertools
import math
import pathlib
import re
import tempfile
import time

from absl import app, flags, logging

from benchmarks.input_pipeline import available_cores, machine
from benchmarks.replicas import aligned
from benchmarks.train_step import NETWORKS, KerasStep, network_of
from trainers.cli import command

# The kinds of operations "scope/…/name:Type": the first pattern found in the name decides.
KINDS = {
    "convolutions, forward": r"Conv2D$",
    "convolutions, gradient of inputs": r"Conv2DBackpropInput",
    "convolutions, gradient of kernels": r"Conv2DBackpropFilter",
    "projector, products": r"linear\d.*MatMul$",
    "BatchNormalization": r"BatchNorm|_bn\d|/bn\d|downsample_1",
    "optimizer": r"lars",
    "objective": r"MatMul$",
    "sums of gradients": r":AddN$",
    "ReLU, shortcut": r"Relu|_add(_\d+)?/",
    "padding, pooling": r"Pad|Pool|/Slice|avgpool",
    "finite?": r"IsFinite|:All$|:Sum$",
    "other": r"",
}
_GIGA = 1e9


def kind(operation):
    """Returns the key of `KINDS` for "scope/…/name:Type"."""
    return next(name for name, pattern in KINDS.items() if re.search(pattern, operation))


def operation_seconds(logdir):
    """Returns the seconds of all operations in a profile, by "name:Type"."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    seconds = collections.Counter()
    for path in pathlib.Path(logdir).rglob("*.xplane.pb"):
        space = xplane_pb2.XSpace.FromString(path.read_bytes())
        for plane in space.planes:
            if plane.name != "/host:CPU":
                continue
            for event in itertools.chain.from_iterable(line.events for line in plane.lines):
                name = plane.event_metadata[event.metadata_id].name
                # Other events are the executor's, which contain operations.
                if re.fullmatch(r"[\w./-]+:_?[A-Z]\w*", name):
                    seconds[name] += event.duration_ps / 1e12
    return seconds


def multiply_adds(model, batch_size):
    """Counts a view's forward pass: a list for the convolutions, a sum for the projector."""
    import keras

    convolutions = [
        batch_size * math.prod(layer.output.shape[1:3]) * math.prod(layer.kernel.shape)
        for layer in model.backbone.layers
        if isinstance(layer, keras.layers.Conv2D)
    ]
    products = [
        batch_size * math.prod(layer.kernel.shape)
        for layer in model.projector.layers
        if isinstance(layer, keras.layers.Dense)
    ]
    return convolutions, sum(products)


def floor(model, batch_size):
    """Returns the floating-point operations of a step by key of `KINDS`, two per multiply-add.

    They count both views: forward, and backward once for the inputs (except the images) and once
    for the kernels. Everything else is of lower order.
    """
    from keras_bt.objectives import barlow_twins as objective
    from keras_bt.objectives import costs

    convolutions, products = multiply_adds(model, batch_size)
    views, d = 2, model.embedding_dim
    form = objective.choose_form(batch_size, d)
    return {
        "convolutions, forward": 2 * views * sum(convolutions),
        "convolutions, gradient of inputs": 2 * views * sum(convolutions[1:]),
        "convolutions, gradient of kernels": 2 * views * sum(convolutions),
        "projector, products": 3 * 2 * views * products,
        "objective": costs.objective_cost(batch_size, d, 1, form).work,
    }


def largest_speed(size=4096):
    """Measures the FLOP/s of a product of float32 matrices, the best of five."""
    import tensorflow as tf

    x = tf.random.stateless_normal((size, size), (0, 0))
    product = tf.function(lambda x: tf.matmul(x, x))
    seconds = []
    for _ in range(6):
        started = time.perf_counter()
        product(x)
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds[1:])


def rows(seconds, work, wall, speed):
    """Formats the table: the time of one step by kind, and the time between operations."""
    lines = []
    rest = wall - sum(seconds.values())
    for name in [*KINDS, "between operations"]:
        spent = rest if name == "between operations" else seconds[name]
        giga = work.get(name, 0) / _GIGA
        share = f"{100 * giga * _GIGA / spent / speed:.0f}" if giga and spent else ""
        numbers = [f"{1000 * spent:.1f}", f"{100 * spent / wall:.0f}"]
        lines.append([name, *numbers, f"{giga:.1f}" if giga else "", share])
    total = sum(work.values()) / _GIGA
    share = f"{100 * total * _GIGA / wall / speed:.0f}"
    return [*lines, ["step", f"{1000 * wall:.1f}", "100", f"{total:.1f}", share]]


def main(_):
    """Profiles and prints."""
    args = flags.FLAGS
    logging.set_verbosity(logging.WARNING)
    with command.mistakes:
        network = network_of(args, args.network)
    batch_size = network.batch_sizes[0]
    with command.quiet_start():
        import tensorflow as tf
    tf.config.set_visible_devices([], "GPU")
    tf.config.threading.set_inter_op_parallelism_threads(1)
    step = KerasStep(network, batch_size, args.width, args.precision, args.threads)
    step.run(2)
    speed = largest_speed()
    with tempfile.TemporaryDirectory() as folder:
        logdir = args.logdir or folder
        tf.profiler.experimental.start(logdir)
        started = time.perf_counter()
        step.run(args.steps)
        wall = (time.perf_counter() - started) / args.steps
        tf.profiler.experimental.stop()
        operations = operation_seconds(logdir)
    seconds = collections.Counter()
    for name, spent in operations.items():
        seconds[kind(name)] += spent / args.steps
    print(machine(args.threads))
    print(
        f"ResNet-{network.depth}, {network.stem} stem, {network.image_size} pixels, batch "
        f"{batch_size}, projector {network.projector}, {args.precision}, on the CPU, mean of "
        f"{args.steps} steps; a product of 4096 × 4096 float32: {speed / _GIGA:.0f} GFLOP/s\n"
    )
    lines = rows(seconds, floor(step.model, batch_size), wall, speed)
    header = ["what", "ms", "% of the step", "GFLOP", "% of the product's speed"]
    print(aligned(header, lines))
    if args.operations:
        print()
        longest = operations.most_common(args.operations)
        lines = [[name, f"{1000 * spent / args.steps:.1f}", kind(name)] for name, spent in longest]
        print(aligned(["operation", "ms per step", "what"], lines))


if __name__ == "__main__":
    flags.DEFINE_enum(
        "network", "resnet50", list(NETWORKS), "Network of benchmarks.train_step to profile."
    )
    flags.DEFINE_list("batch_sizes", None, "Images per batch; only the first number is used.")
    flags.DEFINE_integer("image_size", None, "Image side in pixels. Default: the network's own.", 1)
    flags.DEFINE_integer(
        "projector", None, "Width of the projector's layers. Default: the network's own.", 1
    )
    flags.DEFINE_integer("width", 64, "Width of the ResNet.", 1)
    flags.DEFINE_enum("precision", "float32", ["float32", "bfloat16"], "Precision of the layers.")
    flags.DEFINE_integer("threads", available_cores(), "Threads within an operation.", 1)
    flags.DEFINE_integer("steps", 3, "Steps to record.", 1)
    flags.DEFINE_integer("operations", 0, "Number of the longest operations to list.", 0)
    flags.DEFINE_string("logdir", None, "Folder to keep the profile in. Default: not kept.")
    app.run(main)
