"""Does an accelerator wait for the host? `python -m benchmarks.end_to_end`.

From JPEG files on disk to trained steps, by `trainers.pretrain`: it runs in separate processes with
clocks around its input (see `benchmarks.watched_pretrain`), and these take turns.

1. Training on this machine's device, as a user runs it. Clocks around each fetch measure how long
   the loop waits for the next batch. If the device is the CPU itself, training and input share its
   cores: the loop waits little, but each step takes longer. The same steps are therefore run again,
   fed with one batch from memory. The difference is the total cost of the input.
2. The host's part alone: steps that take no time, by the number of host cores that the process may
   use and by where views are augmented. Still with `model.fit` and its callbacks.
3. A simulated accelerator of given speed: a step sleeps for batch/speed seconds, which takes no
   host core. With a real one the host also launches its operations.

Unless `--data=folder:DIR` says otherwise, the files are about 500 × 375 pixels, cut from the two
photographs that come with scikit-learn; decoded images are not cached, because these stand for more
than fits in memory. The system itself does cache so few files: the speed of a disk is measured only
with files of your own that do not fit. Nothing else should be running on the machine. The two
trainings of part 1 take about 8 GB of memory each with ResNet-50 and the published projector.
"""

import itertools
import math
import os
import pathlib
import statistics
import sys
import tempfile

import numpy as np
from absl import flags

from benchmarks.input_pipeline import available_cores, write_photographs
from benchmarks.knn import machine
from benchmarks.replicas import aligned
from benchmarks.watched_pretrain import Options, Order
from benchmarks.watched_processes import in_turns, progress, started
from trainers.cli import command

PLACEMENTS = ("host", "device")
ACCELERATORS = ["V100=110", "assumed A=400", "assumed B=1200"]
FOREVER = 10**6  # epochs; a run ends when it has been measured
# Steps to skip: those fed from what a process has buffered when its turn comes, two batches and
# what the parallel stages of its pipeline hold. Afterwards the buffers are those of the steady
# state, because accelerators follow in order of decreasing speed.
STOCK = 8
FIRST = 1
FEEDS = "the files", "one batch in memory"


def accelerator_speeds(texts):
    """Parses texts NAME=SPEED into a dict from name to source images per second.

    Raises:
        ValueError: a text has another form, or a name occurs twice.
    """
    speeds = {}
    for text in texts:
        name, _, number = (part.strip() for part in text.rpartition("="))
        try:
            speed = float(number)
        except ValueError:
            speed = math.nan
        if not name or not 0 < speed < math.inf:
            raise ValueError(
                "An accelerator must be NAME=SPEED, with a positive number of images per second. "
                f"Received: {text}"
            )
        if name in speeds:
            raise ValueError(f"Accelerators must have different names. Received: {name} twice.")
        speeds[name] = speed
    return speeds


def core_counts(texts, available):
    """Returns the numbers of cores to measure, ascending; by default 1, 2, 4 … and all available.

    Raises:
        ValueError: a text is not a number from 1 to `available`.
    """
    if not texts:
        return sorted({2**i for i in range(available.bit_length())} | {available})
    for text in texts:
        if not (text.isdecimal() and 1 <= int(text) <= available):
            raise ValueError(
                f"Cores must be numbers from 1 to {available}, the number available. "
                f"Received: {text}"
            )
    return sorted({int(text) for text in texts})


def rate_per_core(rates):
    """Fits the images per second of each core by least squares of rate = cores · rate per core.

    Args:
        rates: dict, number of cores → images per second.
    """
    return sum(n * rate for n, rate in rates.items()) / sum(n * n for n in rates)


def exponent(rates):
    """Fits the a of rate ∝ coresᵃ by least squares in the logarithms; NaN for one core count.

    Args:
        rates: dict, number of cores → images per second.
    """
    if len(rates) < 2:
        return math.nan
    slope, _ = np.polyfit(np.log(list(rates)), np.log(list(rates.values())), 1)
    return float(slope)


def predicted_wait(cores, per_core, speed):
    """Predicts the fraction of time an accelerator waits: max(0, 1 − cores · per_core / speed)."""
    return max(0.0, 1 - cores * per_core / speed)


def cores_needed(per_core, speed):
    """Returns the smallest number of host cores for which `predicted_wait` is 0."""
    return math.ceil(speed / per_core)


def trainer_arguments(args, spec, folder, **settings):
    """Returns the trainer's command line for a run that neither ends nor writes a checkpoint.

    Compared with a user's run, the monitoring of the representation and the final evaluation are
    missing.
    """
    settings |= {"data": spec, "workdir": folder, "image_size": args.image_size}
    settings |= {"strategy": "one", "epochs": FOREVER, "checkpoint_every": FOREVER}
    settings |= {"checkpoint_minutes": FOREVER, "seed": 0}
    return [f"--{name}={value}" for name, value in settings.items()]


def spread(values, digits=0):
    """Formats median (min–max)."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def percent(part):
    """Formats a fraction as a percentage."""
    return f"{100 * part:.0f}%"


def images_per_second(readings, batch_size):
    """Returns the images per second of each reading."""
    return [batch_size * r.steps / r.elapsed for r in readings]


def print_training(args, spec, folder, cache):
    """Measures and prints part 1."""
    same = {name: getattr(args, name) for name in ("backbone", "stem", "width", "projector")}
    same |= {"precision": args.precision, "augment_on": args.augment_on}
    same["batch_size"] = args.train_batch_size
    settings = {}
    for i, feed in enumerate(FEEDS):
        options = Options(cache=cache, from_memory=feed != FEEDS[0])
        settings[feed] = options, trainer_arguments(args, spec, f"{folder}/train{i}", **same)
    with started(settings) as processes:
        ready = processes[FEEDS[0]].ready
        orders = {"train": Order(FIRST, args.train_steps, args.train_seconds)}
        readings = in_turns(processes, orders, args.rounds)
    print(
        f"## Training on this machine\n\nMeasured on {ready['device']} in {ready['precision']}: "
        f"{args.backbone}, projector {args.projector}, batches of {args.train_batch_size}, "
        f"augmentation on the {args.augment_on}\n"
    )
    rows, medians = [], []
    for feed in FEEDS:
        found = readings[feed, "train"]
        rates = images_per_second(found, args.train_batch_size)
        medians.append(statistics.median(rates))
        rows.append(
            [
                feed,
                spread(rates, 2),
                spread([1000 * r.elapsed / r.steps for r in found]),
                spread([100 * r.waited / r.elapsed for r in found], 1),
            ]
        )
    header = ["fed from", "images/s", "ms per step", "% of it waiting for the batch"]
    print(aligned(header, rows))
    print(f"\nTotal cost of the input: {percent(1 - medians[0] / medians[1])} of the images/s\n")
    sys.stdout.flush()


def named(placement, cores):
    """Names a process of parts 2 and 3."""
    return f"augmentation on the {placement}, {cores} host core{'s' * (cores > 1)}"


def simulated_readings(args, spec, folder, cache, cores, speeds):
    """Measures parts 2 and 3: (name of process, name of accelerator or None) → readings."""
    settings = {}
    tiny = {"backbone": "resnet18", "width": 1, "projector": "8"}
    for placement, count in itertools.product(args.placements, cores):
        arguments = trainer_arguments(
            args,
            spec,
            f"{folder}/{placement}{count}",
            **tiny,
            augment_on=placement,
            batch_size=args.batch_size,
            deterministic=False,  # as on an accelerator, where determinism costs time
        )
        options = Options(count, simulated=True, cache=cache)
        settings[named(placement, count)] = options, arguments
    orders = {None: Order(STOCK, args.steps, args.seconds)}
    for name, speed in sorted(speeds.items(), key=lambda item: -item[1]):
        orders[name] = Order(FIRST, args.steps, args.seconds, args.batch_size / speed)
    with started(settings) as processes:
        return in_turns(processes, orders, args.rounds)


def print_host(args, readings, cores):
    """Prints part 2; returns the fitted rate per core of each placement."""
    pinned = (
        "the process runs on" if hasattr(os, "sched_setaffinity") else "tf.data has threads for"
    )
    print(
        "## The host's part alone\n\nMeasured: steps that take no time, batches of "
        f"{args.batch_size}; {pinned} the given number of host cores\n"
    )
    rows, fits, per_core = [], [], {}
    for placement in args.placements:
        rates = {}
        for count in cores:
            found = readings[named(placement, count), None]
            values = images_per_second(found, args.batch_size)
            rates[count] = statistics.median(values)
            cpu = [1000 * r.cpu / r.steps / args.batch_size for r in found]
            waits = [100 * r.waited / r.elapsed for r in found]
            rows.append([placement, str(count), spread(values), spread(cpu, 1), spread(waits)])
        per_core[placement] = rate_per_core(rates)
        growth = exponent(rates)
        grows = "" if math.isnan(growth) else f"; images/s grow as cores^{growth:.2f}"
        fits.append(f"- {placement}: {per_core[placement]:.1f} images/s per core{grows}")
    header = ["augmentation", "host cores", "images/s", "CPU ms per image", "% waiting"]
    print(aligned(header, rows))
    print("\nFitted:\n\n" + "\n".join(fits) + "\n")
    return per_core


def print_accelerators(args, readings, cores, speeds, per_core):
    """Prints part 3."""
    print(
        "## An accelerator of given speed\n\nMeasured with steps that sleep for batch/speed "
        f"seconds, batches of {args.batch_size}. Predicted: 1 − cores · images/s per core / speed, "
        "at least 0\n"
    )
    rows = []
    for placement, (name, speed), count in itertools.product(
        args.placements, speeds.items(), cores
    ):
        found = readings[named(placement, count), name]
        rows.append(
            [
                placement,
                name,
                f"{speed:g}",
                str(count),
                spread(images_per_second(found, args.batch_size)),
                spread([100 * r.waited / r.elapsed for r in found]),
                spread([100 * (1 - r.asleep / r.elapsed) for r in found]),
                percent(predicted_wait(count, per_core[placement], speed)),
            ]
        )
    header = ["augmentation", "accelerator", "its images/s", "host cores", "images/s reached"]
    header += ["% waiting for batches", "% idle in all", "predicted"]
    print(aligned(header, rows))
    print("\nHost cores needed so that it never waits: extrapolated, not measured\n")
    rows = [
        [name, f"{speed:g}", *(str(cores_needed(per_core[p], speed)) for p in args.placements)]
        for name, speed in speeds.items()
    ]
    titles = [f"host cores, augmentation on the {p}" for p in args.placements]
    print(aligned(["accelerator", "its images/s", *titles], rows))


def check_data(args, spec):
    """Opens the data to find mistakes before anything starts; returns the number of images.

    Raises:
        ValueError: the data cannot be read or are fewer than a batch.
    """
    with command.quiet_start():
        from keras_bt import data
    source, _ = data.open_source(spec)
    largest = max(args.batch_size, args.train_batch_size if args.train else 0)
    if source.num_examples < largest:
        raise ValueError(
            "A batch must not exceed the number of images. "
            f"Received: batches of {largest} for {source.num_examples} images."
        )
    return source.num_examples


def main():
    """Measures and prints."""
    args = flags.FLAGS
    with command.mistakes, tempfile.TemporaryDirectory() as folder:
        speeds = accelerator_speeds(args.accelerators)
        cores = core_counts(args.cores, available_cores())
        unknown = set(args.placements) - set(PLACEMENTS)
        if unknown or not args.placements:
            raise ValueError(
                f"Placements must be among {', '.join(PLACEMENTS)}. "
                f"Received: {', '.join(args.placements) or 'none'}."
            )
        spec = args.data
        if spec is not None and not spec.startswith("folder:"):
            raise ValueError(f"data must be folder:DIR, a folder of images. Received: {spec}")
        if spec is None:
            progress(f"writing {args.images} photographs")
            photographs = pathlib.Path(folder) / "photographs"
            photographs.mkdir()
            write_photographs(photographs, args.images)
            spec = f"folder:{photographs}"
        number = check_data(args, spec)
        cache = args.data is not None
        print(machine())
        what = "JPEG files of 500 × 375" if args.data is None else f"images of {args.data}"
        print(
            f"{number:,} {what}; two views of {args.image_size} × {args.image_size} of each. "
            f"Medians of {args.rounds} rounds (min–max)\n",
            flush=True,
        )
        if args.train:
            print_training(args, spec, folder, cache)
        readings = simulated_readings(args, spec, folder, cache, cores, speeds)
        per_core = print_host(args, readings, cores)
        print_accelerators(args, readings, cores, speeds, per_core)


if __name__ == "__main__":
    flags.DEFINE_string(
        "data", None, "Your own images, folder:DIR. Default: photographs are written."
    )
    flags.DEFINE_integer("images", 512, "Number of photographs to write.", 2)
    flags.DEFINE_integer("image_size", 224, "Side of the views, in pixels.", 1)
    flags.DEFINE_integer("rounds", 3, "Measurements of each setting.", 1)
    flags.DEFINE_bool("train", True, "Also train on this machine (part 1).")
    flags.DEFINE_string("backbone", "resnet50", "Backbone of part 1, as in trainers.pretrain.")
    flags.DEFINE_string("stem", "imagenet", "Stem of part 1's ResNet, as in trainers.pretrain.")
    flags.DEFINE_integer("width", 64, "Width of part 1's ResNet, as in trainers.pretrain.", 1)
    flags.DEFINE_string("projector", "8192-8192-8192", "Widths of part 1's projector.")
    flags.DEFINE_string("precision", "float32", "Precision of part 1, as in trainers.pretrain.")
    flags.DEFINE_enum("augment_on", "host", PLACEMENTS, "Where part 1 augments its views.")
    flags.DEFINE_integer("train_batch_size", 16, "Images per training step of part 1.", 2)
    flags.DEFINE_integer("train_steps", 3, "Minimum steps per measurement of part 1.", 1)
    flags.DEFINE_float("train_seconds", 10.0, "Minimum seconds per measurement of part 1.", 0)
    flags.DEFINE_list("placements", list(PLACEMENTS), "Where parts 2 and 3 augment their views.")
    flags.DEFINE_list("cores", [], "Numbers of host cores. Default: 1, 2, 4 … up to all.")
    flags.DEFINE_list("accelerators", ACCELERATORS, "Accelerators to simulate, NAME=IMAGES/S.")
    flags.DEFINE_integer("batch_size", 32, "Images per step of parts 2 and 3.", 2)
    flags.DEFINE_integer("steps", 5, "Minimum steps per measurement of parts 2 and 3.", 1)
    flags.DEFINE_float("seconds", 2.5, "Minimum seconds per measurement of parts 2 and 3.", 0)
    command.run(main)
