"""Memory and time of training with and without rematerialization: `python -m benchmarks.remat`.

One step is `train_step` of Barlow Twins on random images: two forward passes, the backward pass and
the LARS update. Each measurement runs in its own process, whose peak memory the system reports
(`getrusage`); it includes Python with keras_bt and TensorFlow, and what the first step needed for
tracing. The CPU is used even where there is a GPU, whose memory the system does not count.
"""

import statistics
import subprocess
import sys
import time

import numpy as np
from absl import app, flags

from benchmarks.knn import machine, peak_gib
from trainers.cli import command

WAYS = {False: "kept", True: "recomputed"}


def measure(args):
    """Trains; prints GiB before the first step and at the peak, and the median step in seconds."""
    with command.quiet_start():
        import tensorflow as tf

        from keras_bt import LARS, BarlowTwins, projector, resnet

    tf.config.set_visible_devices([], "GPU")
    side = args.image_size
    backbone = resnet(int(args.depth), args.stem, args.width, (side, side, 3))
    head = projector([args.projector] * 3, input_dim=backbone.output_shape[-1])
    model = BarlowTwins(backbone, head, remat=args.remat)
    model.compile(LARS(0.2), jit_compile=args.jit_compile)
    random = np.random.default_rng(0)
    views = [random.standard_normal((args.batch_size, side, side, 3), np.float32) for _ in range(2)]
    start = peak_gib()
    model.train_on_batch(*views)
    seconds = []
    for _ in range(args.steps):
        started = time.perf_counter()
        model.train_on_batch(*views)
        seconds.append(time.perf_counter() - started)
    print(start, peak_gib(), statistics.median(seconds))


def measured(args, remat):
    """Runs `measure` in a fresh process and returns what it prints."""
    own = [flag for flag in args.get_key_flags_for_module(sys.argv[0]) if flag.name != "remat"]
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "benchmarks.remat",
            *[flag.serialize() for flag in own],
            f"--remat={remat}",
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return [float(number) for number in result.stdout.split()]


def main(_):
    """Measures and prints."""
    args = flags.FLAGS
    if args.remat is not None:
        measure(args)
        return
    print(machine())
    print(
        f"ResNet-{args.depth} of width {args.width}, {args.stem} stem, batches of {args.batch_size}"
        f" images of {args.image_size} pixels{', compiled by XLA' if args.jit_compile else ''}\n"
    )
    print("| activations | GiB before training | GiB at the peak | seconds per step |")
    print("| --- | ---: | ---: | ---: |")
    for remat, name in WAYS.items():
        start, peak, seconds = measured(args, remat)
        print(f"| {name} | {start:.2f} | {peak:.2f} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    flags.DEFINE_enum("depth", "50", ["18", "34", "50", "101", "152"], "Depth of the ResNet.")
    flags.DEFINE_enum("stem", "imagenet", ["imagenet", "small"], "Stem of the ResNet.")
    flags.DEFINE_integer("width", 64, "Width of the ResNet.", 1)
    flags.DEFINE_integer("projector", 2048, "Width of the projector's three layers.", 1)
    flags.DEFINE_integer("image_size", 224, "Side of the images, in pixels.", 1)
    flags.DEFINE_integer("batch_size", 16, "Images per batch.", 2)
    flags.DEFINE_integer("steps", 3, "Timed steps after the first; their median counts.", 1)
    flags.DEFINE_bool("jit_compile", False, "Compile the step with XLA.")
    flags.DEFINE_bool("remat", None, "Set by the benchmark itself, for one measurement.")
    app.run(main)
