"""Speed of making views, beside torchvision's transforms: `python -m benchmarks.input_pipeline`.

Both make the paper's two views, 224 × 224, of the same JPEG files of about 500 × 375, cut from the
two photographs that come with scikit-learn. All contestants take turns in one run, with as many
threads (tf.data) or worker processes (DataLoader) as there are cores. Nothing else should be
running on the machine. torchvision is optional.
"""

import dataclasses
import functools
import itertools
import multiprocessing
import os
import pathlib
import random
import statistics
import tempfile
import time

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from benchmarks.report import MOST_THREADS, aligned, available_cores, machine
from benchmarks.turns import in_turns
from trainers.cli import command
from trainers.runs.fields import Settings, setting

# TensorFlow is imported inside functions: DataLoader's workers import this file without needing it.
PACKAGES = ("keras_bt", "keras", "keras-cv", "tensorflow", "pillow", "torch", "torchvision")
# In the order of both recipes, and each per source image, that is, for both of its views.
OPERATIONS = ("Decode", "Crops", "Flip", "Jitter", "Gray", "Blur", "Solarize", "Normalize")
TORCHVISION = "torchvision, DataLoader"
_BLOCK = 8  # images per call of a layer, as in `pretraining_views`


def write_photographs(folder, number):
    """Writes JPEG files of 500 × 375 or 375 × 500: crops of two photographs, all different.

    Returns their paths, sorted.
    """
    from sklearn.datasets import load_sample_images

    originals = [Image.fromarray(image) for image in load_sample_images().images]
    generator = np.random.default_rng(0)
    paths = []
    for i in range(number):
        photograph = originals[i % len(originals)]
        width, height = (500, 375) if generator.random() < 0.8 else (375, 500)
        # Crops are almost never enlarged, because that gives smooth images and small files.
        scale = min(photograph.width / width, photograph.height / height)
        scale *= generator.uniform(0.85, 1)
        left = generator.uniform(0, photograph.width - scale * width)
        top = generator.uniform(0, photograph.height - scale * height)
        box = (left, top, left + scale * width, top + scale * height)
        part = photograph.resize((width, height), Image.Resampling.BICUBIC, box)
        if generator.random() < 0.5:
            part = ImageOps.mirror(part)
        paths.append(pathlib.Path(folder) / f"{i:05}.jpg")
        part.save(paths[-1], quality=90)
    return paths


def keras_bt_batches(folder, image_size, batch_size, cores, **placement):
    """Returns an endless stream of batches of two views of the files in `folder`."""
    import tensorflow as tf

    from keras_bt import data
    from keras_bt.augmentations import barlow_twins_views

    # No cache: these few files stand for more than fits in memory.
    source, _ = data.open_source(f"folder:{folder}", cache_bytes=0)
    views = barlow_twins_views(image_size)
    batches = data.pretraining_views(source, *views, batch_size, seed=0, **placement)
    options = tf.data.Options()
    options.threading.private_threadpool_size = cores
    return batches.with_options(options)


def gaussian_blur(image):
    """Blurs with Pillow and a random σ, as in the published recipe."""
    return image.filter(ImageFilter.GaussianBlur(random.uniform(0.1, 2.0)))


def torchvision_recipe(image_size):
    """Returns the published transforms of the two views, lists with all `OPERATIONS` but Decode."""
    from torchvision import transforms

    def operations(blur, solarize):
        sometimes = transforms.RandomApply
        bicubic = transforms.InterpolationMode.BICUBIC
        normalize = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        return [
            transforms.RandomResizedCrop(image_size, interpolation=bicubic),
            transforms.RandomHorizontalFlip(0.5),
            sometimes([transforms.ColorJitter(0.4, 0.4, 0.2, 0.1)], 0.8),
            transforms.RandomGrayscale(0.2),
            sometimes([gaussian_blur], blur),
            sometimes([ImageOps.solarize], solarize),
            transforms.Compose([transforms.ToTensor(), normalize]),
        ]

    return operations(blur=1.0, solarize=0.0), operations(blur=0.1, solarize=0.2)


def decode_with_pillow(path):
    """Decodes a file as torchvision's ImageFolder does."""
    return Image.open(path).convert("RGB")


class PhotographPairs:
    """A PyTorch data set: item i is two views of file i."""

    def __init__(self, paths, image_size):
        self.paths, self.recipe = paths, torchvision_recipe(image_size)

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, i):
        photograph, views = decode_with_pillow(self.paths[i]), []
        for operations in self.recipe:
            view = photograph
            for operation in operations:
                view = operation(view)
            views.append(view)
        return tuple(views)


def torchvision_batches(paths, image_size, batch_size, cores, batches):
    """Returns a DataLoader of `batches` batches of two views, one worker of one thread per core."""
    import torch

    pairs = PhotographPairs(paths, image_size)
    return torch.utils.data.DataLoader(
        pairs,
        batch_size,
        sampler=torch.utils.data.RandomSampler(pairs, num_samples=batches * batch_size),
        num_workers=cores,
        # Not "fork", which would not copy this process's threads.
        multiprocessing_context="forkserver",
    )


def images_per_second(batches, batch_size, steps, cores):
    """Measures the throughput of batches in the steady state.

    Args:
        batches: Iterable of at least steps + 3 · cores batches.
        batch_size: Source images per batch.
        steps: Number of batches to measure, rounded up to a multiple of cores, because worker
            processes deliver that many at about the same time.
        cores: Number of threads or processes that make the batches.

    Returns:
        Source images per second, and CPU milliseconds per image.
    """
    steps = -(-steps // cores) * cores
    iterator = iter(batches)
    # The consumer always waits, so no buffered batches from before the measurement count in it.
    # The first batches include compilation.
    for _ in range(2 * cores):
        next(iterator)
    start, cpu_start = time.perf_counter(), cpu_seconds()
    for _ in range(steps):
        next(iterator)
    seconds, busy = time.perf_counter() - start, cpu_seconds() - cpu_start
    images = steps * batch_size
    return images / seconds, 1000 * busy / images


def cpu_seconds():
    """Returns the CPU time so far of this process and, on Linux, of its worker processes."""
    seconds = time.process_time()
    for worker in multiprocessing.active_children():
        stat = pathlib.Path(f"/proc/{worker.pid}/stat")
        if stat.exists():
            user, system = stat.read_text().rpartition(")")[2].split()[11:13]
            seconds += (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
    return seconds


def cpu_milliseconds(function, times):
    """Measures the CPU time of one call in milliseconds, over all threads of this process."""
    function()
    start = time.process_time()
    for _ in range(times):
        function()
    return 1000 * (time.process_time() - start) / times


def keras_bt_operations(folder, image_size, images):
    """Measures CPU ms per source image of each operation: two lists, plain and compiled.

    Every operation runs in tf.data on a single thread, on real images or crops. XLA supports
    neither decoding nor shapes that vary between images, so the first two are never compiled.
    """
    import tensorflow as tf

    from keras_bt import data
    from keras_bt.augmentations import barlow_twins_views

    encoded, decoded = (
        data.open_source(f"folder:{folder}", cache_bytes=cache)[0].cached() for cache in (0, 2**30)
    )
    views = barlow_twins_views(image_size)

    def milliseconds(function, copies=1):
        options = tf.data.Options()
        options.threading.private_threadpool_size = 1
        options.threading.max_intra_op_parallelism = 1
        numbers = tf.data.Dataset.range(encoded.num_examples).repeat()
        iterator = iter(numbers.map(function).with_options(options))
        return cpu_milliseconds(lambda: next(iterator), -(-images // copies)) / copies

    def crops(i):
        image, seed = decoded.decode(i)[0], tf.stack([i, i])
        return [view.crop({"images": image, "seed": seed})["images"] for view in views]

    copying = milliseconds(lambda i: decoded.decode(i)[0])
    plain = [milliseconds(lambda i: encoded.decode(i)[0]), milliseconds(crops) - copying]
    compiled = list(plain)
    numbers = tf.range(_BLOCK, dtype=tf.int64) % encoded.num_examples
    block = tf.stack([crops(i)[0] for i in numbers])
    for layers in zip(*(view.rest.layers for view in views), strict=True):

        def both(i, layers=layers):
            inputs = {"images": block, "seed": tf.stack([i, i])}
            return [layer(inputs)["images"] for layer in layers]

        plain.append(milliseconds(both, _BLOCK))
        compiled.append(milliseconds(tf.function(both, jit_compile=True), _BLOCK))
    return plain, compiled


def torchvision_operations(paths, image_size, images):
    """Measures CPU milliseconds per source image of each of torchvision's operations: a list."""
    import torch

    torch.set_num_threads(1)
    paths = list(itertools.islice(itertools.cycle(paths), images))
    photographs = [decode_with_pillow(path) for path in paths[:256]]
    decode = cpu_milliseconds(lambda: [decode_with_pillow(path) for path in paths], 1) / len(paths)
    views, result = [photographs, photographs], [decode]
    for operations in zip(*torchvision_recipe(image_size), strict=True):
        # Each operation works on the views of the one before.
        start = time.process_time()
        views = [list(map(*pair)) for pair in zip(operations, views, strict=True)]
        result.append(1000 * (time.process_time() - start) / len(photographs))
    return result


def contestants(folder, paths, image_size, batch_size, steps, cores):
    """Returns, by name, functions that start a stream of at least steps + 3 · cores batches."""
    ours = functools.partial(keras_bt_batches, folder, image_size, batch_size, cores)
    result = {
        "keras_bt, host, compiled": functools.partial(ours, compile_views=True),
        "keras_bt, host, plain": functools.partial(ours, compile_views=False),
        "keras_bt, device: the host's part": functools.partial(ours, augment_on="device"),
    }
    try:
        import torchvision.transforms  # noqa: F401

        result[TORCHVISION] = functools.partial(
            torchvision_batches, paths, image_size, batch_size, cores, steps + 4 * cores
        )
    except (ImportError, RuntimeError) as error:  # not installed, or not for this PyTorch
        print(f"torchvision is left out: {error}.")
    return result


def speed_table(measured):
    """Formats a row per contestant from its measurements: images per second, and CPU ms."""
    medians = {
        name: [statistics.median(values) for values in zip(*turns, strict=True)]
        for name, turns in measured.items()
    }
    rows = []
    for name, (rate, cpu) in medians.items():
        rates = [rate for rate, _ in measured[name]]
        ratio = f"{rate / medians[TORCHVISION][0]:.2f}" if TORCHVISION in medians else "–"
        speeds = (f"{x:.0f}" for x in (rate, min(rates), max(rates)))
        rows.append([name, *speeds, ratio, f"{cpu:.2f}"])
    header = ["", "images/s, median", "least", "greatest", "× torchvision", "CPU ms per image"]
    return aligned(header, rows)


def operations_table(columns):
    """Formats a row per operation; `columns` are lists of milliseconds, by column title."""
    rows = zip((*OPERATIONS, "Sum"), *([*x, sum(x)] for x in columns.values()), strict=True)
    cells = [[title, *(f"{x:.2f}" for x in numbers)] for title, *numbers in rows]
    return aligned(["CPU ms per image", *columns], cells)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputPipelineSettings(Settings):
    """The flags."""

    images: int = setting(
        400, "Files to write, and images per measurement.", least=1, most=1_000_000
    )
    rounds: int = setting(3, "Measurements of each contestant.", least=1)
    batch_size: int = setting(64, "Source images per batch.", least=2, most=2**20)
    image_size: int = setting(224, "Side of the views, in pixels.", least=1, most=4096)
    cores: int | None = setting(
        None,
        "Threads or worker processes. Default: one per core.",
        least=1,
        most=MOST_THREADS,
    )


def print_measured(args):
    """Measures and prints."""
    with command.quiet_start():
        import tensorflow as tf

    cores = args.cores or available_cores()
    print(machine(cores, PACKAGES))
    with tempfile.TemporaryDirectory() as folder, tf.device("CPU:0"):
        paths = write_photographs(folder, args.images)
        kilobytes = sum(path.stat().st_size for path in paths) / len(paths) / 1000
        print(f"{len(paths)} JPEG files of 500 × 375, {kilobytes:.0f} kB on average;", end=" ")
        size, steps = args.image_size, -(-args.images // args.batch_size)
        print(f"two views of {size} × {size} each, batches of {args.batch_size}\n")
        starts = contestants(folder, paths, size, args.batch_size, steps, cores)

        def turn(start):
            return images_per_second(start(), args.batch_size, steps, cores)

        turns = {name: functools.partial(turn, start) for name, start in starts.items()}
        print(speed_table(in_turns(turns, args.rounds)), end="\n\n")
        plain, compiled = keras_bt_operations(folder, size, args.images)
        columns = {"keras_bt, plain": plain, "keras_bt, compiled": compiled}
        if TORCHVISION in starts:
            columns["torchvision"] = torchvision_operations(paths, size, args.images)
        print(operations_table(columns))


def main():
    """Runs the command."""
    command.run(print_measured, InputPipelineSettings)


if __name__ == "__main__":
    main()
